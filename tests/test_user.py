"""Services of one's own: the same in the manager of a user, by whom nobody else is concerned."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import doors
import pytest
from conftest import (
    Address,
    both_doors,
    connect,
    free_port,
    in_machine,
    journal,
    read_all,
    run,
    silent,
    systemd_version,
    until,
)
from test_identity import PATH, SELF, Seen
from users import LoggedIn, Own, User

pytestmark = [in_machine, both_doors]

CAT = "Argv=/bin/cat\nStandardError=journal\n"
ROOTS_OWN = "root's own manager has no services, for no command runs as root; use the system's"
_numbers = itertools.count()
Make = Callable[..., Own]


@pytest.fixture(scope="module")
def lingering() -> Iterator[User]:
    made = User("spawn-one")
    yield made
    made.end()


@pytest.fixture(scope="module")
def login() -> Iterator[User]:
    made = LoggedIn("spawn-two")
    yield made
    made.end()


@pytest.fixture
def user(request: pytest.FixtureRequest) -> User:
    """Whose the services are."""
    found: User = request.getfixturevalue(getattr(request, "param", "lingering"))
    return found


both_managers = pytest.mark.parametrize("user", ["lingering", "login"], indirect=True)


@pytest.fixture
def own(user: User, door: doors.Accept) -> Iterator[Make]:
    """Makes services of a user's, as the fixture service does those of the system."""
    made: list[Own] = []

    def make(
        spawn: str = CAT,
        *,
        user: User = user,
        name: str = "",
        address: Address | None = None,
        socket_section: str = "",
        start: bool = True,
    ) -> Own:
        name = name or f"u{os.getpid()}-{next(_numbers)}"
        there = Own(user, name, address or ("127.0.0.1", free_port()), door)
        made.append(there)
        there.write(spawn, socket_section)
        if start:
            there.start()
        return there

    yield make
    for there in made:
        there.remove()


def pair(client: socket.socket, word: bytes = b"x") -> None:
    """Has cat answer, which is running then."""
    client.sendall(word)
    assert client.recv(len(word)) == word


@both_managers
@pytest.mark.parametrize("path", [False, True], ids=["tcp", "path"])
def test_from_enable_to_disable(own: Make, user: User, path: bool) -> None:
    there = own(address="%t/own.sock" if path else None, start=False)
    there.systemctl("daemon-reload")
    there.systemctl("enable", "--now", there.socket_unit)
    if path:
        there.address = f"{user.runtime}/own.sock"
    assert there.talk(b"hello") == b"hello"
    record = there.record()
    unit = there.door.template.replace("@", f"@{there.name}")
    assert record["SPAWN_RESULT"] == "success"
    assert record["SPAWN_USER"] == user.name
    assert record["_UID"] == str(user.uid)
    assert record["OBJECT_SYSTEMD_USER_UNIT"] == [f"spawn@{there.name}.{k}" for k in KINDS]
    assert "OBJECT_SYSTEMD_UNIT" not in record
    # journald does not always know the unit of a process that has ended since.
    assert record.get("_SYSTEMD_USER_UNIT", record["SPAWN_UNIT"]) == record["SPAWN_UNIT"]
    assert there.door is doors.YES or record["SPAWN_UNIT"] == unit
    assert there.ctl("check", there.name).stdout == f"{there.file}: ok\n"
    (line,) = there.ctl("log", there.name).stdout.splitlines()
    assert f"{there.name}  success" in line
    assert f"/bin/cat as {user.name}: exit status 0" in line
    shown = there.user.run("journalctl", "-q", "-o", "cat", f"--user-unit={there.socket_unit}")
    assert record["MESSAGE"] in shown.stdout.splitlines()
    (listed,) = json.loads(there.ctl("list", "--json", there.name).stdout)
    assert (listed["enabled"], listed["accepted"], listed["serves"]) == ("enabled", 1, True)
    counted = json.loads(there.ctl("stats", "--json", there.name).stdout)
    assert counted["all"]["connections"] == 1
    assert f"{there.file}\n" in there.ctl("status", there.name).stdout
    assert there.ctl("health", there.name).stdout.startswith("SPAWN OK - all services serve")
    metrics = there.ctl("metrics").stdout
    assert f'spawn_results_total{{result="success",service="{there.name}"}} 1.0' in metrics
    with there.connect() as client:
        pair(client)
        assert there.ctl("stop", there.name, "--all").stdout.startswith("stopped ")
        assert read_all(client) == b""
    assert there.record()["SPAWN_RESULT"] == "stopped"
    there.systemctl("disable", "--now", there.socket_unit)
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        there.connect()


KINDS = ("socket", "service")


@pytest.mark.parametrize(("line", "no_new"), [("", "1"), ("NoNewPrivileges=no\n", "0")])
def test_everything_is_as_it_was(own: Make, lingering: User, line: str, no_new: str) -> None:
    """Of a service of one's own nothing is dropped, and nothing added."""
    run("groupadd", "-f", "spawn-more")
    run("usermod", "--append", "--groups=spawn-more", lingering.name)
    run("systemctl", "restart", f"user@{lingering.uid}.service")
    usual = ("systemd-run", "--user", "--quiet", "--pipe", "--wait", "cat", "/proc/self/status")
    before = dict(
        re.findall(r"^(Uid|Gid|Groups):\s+(.*\S)\s*$", lingering.run(*usual).stdout, re.M)
    )
    there = own(line + SELF)
    seen = Seen(there.talk())
    nothing = "0000000000000000"
    assert seen.identity() == {
        "Umask": "0022",
        **{key: " ".join(value.split()) for key, value in before.items()},
        "NoNewPrivs": no_new,
        **{f"Cap{name}": nothing for name in ("Inh", "Prm", "Eff", "Amb")},
        **{f"Sig{name}": nothing for name in ("Blk", "Ign", "Cgt")},
    }
    assert len(before["Groups"].split()) == 2
    pid, pgrp, session, terminal = (seen.stat[at] for at in (0, 4, 5, 6))
    assert (pgrp, session, terminal) == (pid, pid, "0")


def test_capabilities_of_the_manager_are_not_the_commands(
    own: Make, login: User, door: doors.Accept
) -> None:
    text = "[Service]\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"
    folder = Path(f"/run/systemd/system/user@{login.uid}.service.d")
    folder.mkdir()
    (folder / "test.conf").write_text(text)
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", f"user@{login.uid}.service")
    handed_on = login.write(f".config/systemd/user/{door.template}.d/test.conf", text)
    try:
        there = own(f"StandardError=journal\n{SELF}", user=login)
        with own(user=login).connect() as client:
            pair(client)
            serving = run("pgrep", "-u", login.name, "-f", "spawnhelper/(__main__|doors)").stdout
            statuses = [Path(f"/proc/{pid}/status").read_text() for pid in serving.split()]
            assert any("CapAmb:\t0000000000000400" in status for status in statuses)
        found = Seen(there.talk()).identity()
        assert {found[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Amb")} == {16 * "0"}
    finally:
        handed_on.unlink()
        (folder / "test.conf").unlink()
        folder.rmdir()
        run("systemctl", "daemon-reload")
        run("systemctl", "restart", f"user@{login.uid}.service")


@pytest.mark.parametrize("standard_error", ["socket", "null", "journal"])
def test_descriptors_are_the_three_streams(own: Make, standard_error: str) -> None:
    every = " ".join(f"/proc/self/fd/{number}" for number in range(64))
    there = own(f"StandardError={standard_error}\nArgv=/usr/bin/readlink {every}")
    assert len(there.talk().decode().splitlines()) == 3


def test_the_environment_is_the_same_list(own: Make, lingering: User) -> None:
    lingering.run("systemctl", "--user", "set-environment", "SECRET=no", "TZ=Europe/Berlin")
    passed = "PassEnvironment=HOME XDG_RUNTIME_DIR DBUS_SESSION_BUS_ADDRESS\n"
    try:
        there = own(passed + SELF)
        seen = Seen(there.talk()).environment
        less = own(SELF)
        bare = Seen(less.talk()).environment
    finally:
        lingering.run("systemctl", "--user", "unset-environment", "SECRET", "TZ")
    connection = {name for name in seen if name.startswith(("TCP", "REMOTE_"))}
    assert {name: value for name, value in seen.items() if name not in connection} == {
        "PATH": PATH,
        "TZ": "Europe/Berlin",
        "LANG": seen.get("LANG", ""),
        "HOME": str(lingering.home),
        "XDG_RUNTIME_DIR": str(lingering.runtime),
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={lingering.runtime}/bus",
        "PROTO": "TCP",
        "SPAWN_SERVICE": there.name,
    }
    assert seen.keys() - bare.keys() == {"HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"}


@both_managers
@pytest.mark.parametrize(
    ("limit", "result"),
    [
        ("TimeLimit=300ms\n", "time-limit"),
        ("IdleLimit=300ms\n", "idle-limit"),
        ("SizeLimit=4\n", "size-limit"),
    ],
)
def test_limits(own: Make, limit: str, result: str) -> None:
    there = own(CAT + limit)
    with there.connect() as client:
        client.sendall(b"more than four")
        read_all(client)
    assert there.record()["SPAWN_RESULT"] == result


@both_managers
def test_resources(own: Make) -> None:
    limits = "Nice=5\nLimitNOFILE=100:200\nUMask=077\nOOMScoreAdjust=700\n"
    code = "umask; nice; ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj; pwd"
    there = own(f"{limits}WorkingDirectory=~\nArgv=/bin/sh -c '{code}'")
    home = str(there.user.home)
    assert there.talk().decode().split() == ["0077", "5", "100", "200", "700", home]


@both_managers
def test_a_relay_counts(own: Make) -> None:
    there = own(f"{CAT}SizeLimit=1M\n")
    assert there.talk(200_000 * b"x") == 200_000 * b"x"
    record = there.record()
    assert (record["SPAWN_BYTES_IN"], record["SPAWN_BYTES_OUT"]) == ("200000", "200000")


@both_managers
def test_turns(own: Make) -> None:
    there = own(f"{CAT}MaxCommands=1\n")
    with there.connect() as first:
        pair(first)
        second = there.connect()
        second.sendall(b"y")
        assert silent(second)
        first.shutdown(socket.SHUT_WR)
        assert read_all(first) == b""
        assert second.recv(1) == b"y"
    port = str(second.getsockname()[1])
    second.close()
    # The first helper gives up its turn before it writes its record.
    (record,) = (each for each in there.records(2) if each["SPAWN_REMOTE_PORT"] == port)
    assert int(record["SPAWN_WAITED_USEC"]) >= 100_000


@both_managers
def test_a_change_of_the_file(own: Make) -> None:
    there = own("Argv=/bin/echo one\n")
    assert there.talk() == b"one\n"
    there.write("Argv=/bin/echo two\n")
    assert there.talk() == b"two\n"
    old = there.address
    there.address = ("127.0.0.1", free_port())
    there.write("Argv=/bin/echo two\n")
    done = there.ctl("apply", there.name)
    assert done.returncode == 0, done.stderr
    assert f"ran: systemctl --user restart {there.socket_unit}\n" in done.stdout
    assert there.talk() == b"two\n"
    with pytest.raises(ConnectionRefusedError):
        connect(old)


def test_a_wrong_file_is_said(own: Make) -> None:
    there = own(start=False)
    there.write("Argv=/bin/cat\nTimeLimt=1\n")
    there.systemctl("daemon-reload")
    said = until(lambda: there.ctl("check", there.name).stderr)
    sentence = "unknown key TimeLimt= in [Spawn]; did you mean TimeLimit=?"
    assert said == f"{there.file}:{6 + there.shifted}: {sentence}\n"
    there.start()
    assert there.talk() == b""
    assert sentence in there.record()["MESSAGE"]


def test_a_socket_without_a_file_says_why(own: Make, lingering: User) -> None:
    there = own(start=False)
    there.systemctl("start", there.socket_unit, check=False)
    why = f"{there.file}: systemd has not seen this service file yet; run systemctl --user "
    said = until(lambda: journal(f"_UID={lingering.uid}", f"MESSAGE={why}daemon-reload"))
    assert said


def test_an_enabled_socket_without_a_file_does_not_hold_up_the_manager(
    own: Make, login: User
) -> None:
    there = own(user=login)
    there.systemctl("enable", there.socket_unit)
    there.file.unlink()
    run("systemctl", "restart", f"user@{login.uid}.service")
    until(lambda: there.systemctl("is-active", "default.target", check=False) == "active\n")
    assert there.state() == "failed"
    why = f"{there.file}: there is no such service file; create it, see spawn.conf(5)"
    said = until(lambda: journal(f"_UID={login.uid}", f"MESSAGE={why}"))
    assert len(said) < 10


@both_managers
def test_a_burst(own: Make) -> None:
    there = own("Argv=/bin/echo here\n", socket_section="MaxConnections=500")
    clients = [there.connect() for _ in range(300)]
    assert [read_all(client) for client in clients] == [b"here\n"] * 300
    for client in clients:
        client.close()
    assert there.state() == "active"
    assert len(there.records(300)) == 300


@both_managers
def test_what_is_dropped_is_said(own: Make) -> None:
    limit = "MaxConnections=2" if doors.now is doors.YES else "MaxConnectionsPerSource=2"
    full = own(socket_section=limit)
    with full.connect() as one, full.connect() as two:
        pair(one)
        pair(two)
        with full.connect() as three:
            assert read_all(three) == b""
    found = until(lambda: [r for r in full.records(2) if "SPAWN_DROPPED" in r])
    assert found[0]["MESSAGE"] == f"{full.name}: 1 connection was dropped above {limit}"
    (listed,) = json.loads(full.ctl("list", "--json", full.name).stdout)
    assert listed["dropped"] == 1


@both_managers
def test_collisions(own: Make) -> None:
    """One process at two paths, with the same count at both: before systemd 258 the second socket
    fails, and is there again."""
    pair_of = [own(address=f"%t/both-{number}.sock") for number in range(2)]
    for there in pair_of:
        there.address = str(there.address).replace("%t", str(there.user.runtime))
    with pair_of[0].connect() as first:
        pair(first)
        try:
            with pair_of[1].connect() as second:
                pair(second)
        except OSError:
            assert systemd_version() < 258
    until(lambda: pair_of[1].state() == "active")
    until(lambda: answers(pair_of[1]))
    falls = systemd_version() < 258 and doors.now is doors.YES
    until(lambda: "listening-again" in results(pair_of[1]) or not falls)
    assert ("listening-again" in results(pair_of[1])) == falls


def results(there: Own) -> list[str]:
    return [each["SPAWN_RESULT"] for each in there.records(1)]


def answers(there: Own) -> bool:
    try:
        return there.talk(b"z") == b"z"
    except OSError:
        return False


NEEDS_ROOT = {
    "Group=games": "needs root; remove the line, for the command has the groups that you have",
    "SupplementaryGroups=games": "needs root; remove the line, for the command has the groups that "
    "you have",
    "RootDirectory=/srv": "needs root; remove the line",
    "User=root": "is uid 0; no command runs as root, name another account, or see SERVICES THAT "
    "NEED ROOT in spawnhelper(8)",
    "User=games": "is not you, and a service of one's own runs as oneself; remove the line",
    "User=spawn-one:games": "gives gid 60, and yours is {gid}; leave out the group",
    "Nice=-1": "=-1 needs root; write 0 or more",
    "OOMScoreAdjust=-1": "=-1 needs root; write {oom} or more",
    "LimitNOFILE=infinity": "=infinity is more than you may have; write at most {files}",
}


@pytest.mark.parametrize("line", NEEDS_ROOT)
def test_keys_that_need_root(own: Make, lingering: User, line: str) -> None:
    there = own(start=False)
    there.write(f"{CAT}{line}\n")
    key = line.partition("=")[0]
    show = there.systemctl("show", "-p", "OOMScoreAdjust,LimitNOFILE", "spawn@check.service")
    values = dict(each.split("=") for each in show.split())
    facts = {"gid": lingering.gid, "oom": values["OOMScoreAdjust"], "files": values["LimitNOFILE"]}
    why = NEEDS_ROOT[line].format(**facts)
    sentence = f"{key}{why}" if why[0] == "=" else f"{key}= {why}"
    expected = f"{there.file}:{7 + there.shifted}: {sentence}"
    done = there.ctl("check", there.name)
    assert done.stderr == f"{expected}\n"
    assert done.returncode == os.EX_CONFIG
    there.write(CAT)
    there.start()
    there.write(f"{CAT}{line}\n")
    assert there.talk() == b""
    assert expected in there.record()["MESSAGE"]


IN_SOCKET = {
    "SocketUser=games": "SocketUser= needs root; remove the line, for the socket is yours",
    "SocketGroup=games": "SocketGroup= needs root; remove the line, for the socket is yours",
    "Transparent=yes": "Transparent= needs root; remove the line",
    "Mark=1": "Mark= needs root; remove the line",
    "ListenStream=80": "ListenStream=80 needs root; write a port from 1024 on",
}


@pytest.mark.parametrize("line", IN_SOCKET)
def test_what_a_socket_needs_root_for(own: Make, line: str) -> None:
    there = own(socket_section=line, start=False)
    done = there.ctl("check", there.name)
    assert done.stderr == f"{there.file}:3: {IN_SOCKET[line]}\n"


def test_a_namespace_of_the_journal_is_for_the_system(own: Make, door: doors.Accept) -> None:
    if door is doors.YES:
        pytest.skip("[Service] is for a server")
    there = own(f"{CAT}[Service]\nLogNamespace=mine\n", start=False)
    sentence = "LogNamespace= is for the system's services; remove the line"
    assert there.ctl("check", there.name).stderr == f"{there.file}:8: {sentence}\n"


def test_what_is_good_has_no_note(own: Make) -> None:
    """Of what a check notes for the system some is no matter between services of one user."""
    secret = f"{CAT}Environment=TOKEN=x\n"
    for there in (own(secret, start=False), own(secret, start=False)):
        there.write(f"{secret}[Service]\nStateDirectory=mine\n" * (doors.now is doors.NO) or secret)
        done = there.ctl("check", there.name)
        assert (done.stdout, done.stderr) == (f"{there.file}: ok\n", "")


def test_directives_that_systemd_does_not_know(own: Make, lingering: User) -> None:
    there = own(socket_section="Unheard=of", start=False)
    note = "systemd does not know Unheard=; systemd.socket(5), systemd.service(5)"
    assert f"{there.file}:3: note: {note}" in there.ctl("check", there.name).stderr
    there = own(user=lingering, start=False)
    elsewhere = "XDG_RUNTIME_DIR=/run/nowhere"
    asked = ("env", elsewhere, "spawnctl", "--user", "check", there.name)
    said = lingering.run(*asked, check=False).stderr
    why = "[Socket] cannot be told, for systemd-analyze ended with 1: Failed to "
    assert f"{there.file}: note: whether systemd knows all of {why}" in said


def test_one_may_name_oneself(own: Make, lingering: User) -> None:
    there = own(f"User={lingering.name}:{lingering.gid}\n{CAT}")
    assert there.talk(b"me") == b"me"


def test_files_of_the_administrator_and_of_vendors(own: Make, lingering: User) -> None:
    """One's own counts more than the administrator's, and that more than a vendor's; drop-ins come
    from all."""
    name, port = "shared", free_port()
    text = f"[Socket]\nListenStream=127.0.0.1:{port}\n[Spawn]\nArgv=/bin/echo {{}}\n"
    places = [Path("/usr/lib/spawn/user"), Path("/etc/spawn/user"), lingering.folder]
    there = own(name=name, address=("127.0.0.1", port), start=False)
    there.file.unlink()
    try:
        for place in places:
            (place / f"{name}.conf").write_text(text.format(place))
            there.start()
            assert there.talk().decode() == f"{place}\n"
        drop_ins = Path(f"/etc/spawn/user/{name}.conf.d")
        drop_ins.mkdir()
        (drop_ins / "a.conf").write_text("[Spawn]\nArgv=/bin/echo dropped in\n")
        assert there.talk() == b"dropped in\n"
        (drop_ins / "a.conf").unlink()
        drop_ins.rmdir()
        defaults = lingering.write(".config/spawn.conf", "[Spawn]\nEnvironment=FROM=defaults\n")
        there.file.write_text(text.replace("/bin/echo {}", "/usr/bin/printenv FROM"))
        assert there.talk() == b"defaults\n"
        defaults.unlink()
    finally:
        for place in places:
            (place / f"{name}.conf").unlink(missing_ok=True)


def test_two_users_do_not_know_of_each_other(own: Make, login: User) -> None:
    name = f"same{os.getpid()}-{next(_numbers)}"
    mine, theirs = own(name=name), own(name=name, user=login)
    assert (mine.talk(b"one"), theirs.talk(b"two")) == (b"one", b"two")
    for there in (mine, theirs):
        assert there.record()["SPAWN_USER"] == there.user.name
        (line,) = there.ctl("log", name).stdout.splitlines()
        assert f" as {there.user.name}: " in line
        (listed,) = json.loads(there.ctl("list", "--json", name).stdout)
        assert listed["accepted"] == 1
    assert run("spawnctl", "log", name, check=False).returncode == os.EX_NOINPUT
    mine.systemctl("stop", mine.socket_unit)
    assert theirs.talk(b"three") == b"three"


def test_root_sees_the_services_of_users(own: Make, lingering: User, login: User) -> None:
    name = f"seen{os.getpid()}-{next(_numbers)}"
    for there in (own(name=name), own(name=name, user=login)):
        there.talk(b"x")
        there.record()
    run("journalctl", "--sync")
    both = [f"{lingering.name}/{name}", f"{login.name}/{name}"]
    assert services("log", f"--user-unit=spawn@{name}.socket") == both
    assert services("log", f"--user-unit={name}", f"--user={login.name}") == both[1:]
    counted = json.loads(run("spawnctl", "stats", "--json", f"--user-unit={name}").stdout)
    assert sorted(each["service"] for each in counted["groups"]) == both
    wrong = run("spawnctl", "log", f"--user-unit={name}", "--user=nobody-here", check=False)
    assert wrong.stderr == "spawnctl: --user=nobody-here is no account of this machine\n"
    mixed = run("spawnctl", "log", "other", f"--user-unit={name}", check=False)
    assert mixed.stderr == (
        "spawnctl: --user-unit is for services of users' own; leave out it, or the other names\n"
    )


def services(*words: str) -> list[str]:
    """Whose records spawnctl shows, line by line."""
    shown = run("spawnctl", *words).stdout.splitlines()
    return sorted(re.split(" {2,}", line)[1] for line in shown)


FORGED = """
import sys
from systemd import journal
journal.send("there: /bin/cat as {user}: exit status 0 after 1ms, client 127.0.0.1:1",
    MESSAGE_ID="fcaaa835aa6a4e84a066789e1b15fc45", PRIORITY="5", SPAWN_RESULT="success",
    SPAWN_SERVICE="{service}", SPAWN_USER="{user}", SPAWN_UNIT="spawn@x.service",
    OBJECT_SYSTEMD_UNIT="spawn@{service}.socket", OBJECT_SYSTEMD_USER_UNIT="spawn@{service}.socket",
    _UID="0", _SYSTEMD_UNIT="spawn@{service}.service")
"""


def test_a_forged_record_is_the_forgers(own: Make, lingering: User, login: User) -> None:
    """Neither the system's view nor another user's has it, and root sees whose it is."""
    there = own()
    there.talk(b"x")
    there.record()
    code = FORGED.format(user=lingering.name, service=there.name)
    login.run("python3", "-c", code)
    until(lambda: journal(f"SPAWN_SERVICE={there.name}", f"_UID={login.uid}"))
    assert len(there.ctl("log", there.name).stdout.splitlines()) == 1
    assert there.name not in run("spawnctl", "log").stdout
    system = ("journalctl", "-q", "-o", "cat", f"--unit={there.socket_unit}")
    assert run(*system).stdout == ""
    of_both = ("log", f"--user-unit={there.name}")
    honest = f"{lingering.name}/{there.name}"
    assert services(*of_both) == [honest, f"{login.name}/{there.name}"]
    assert services(*of_both, f"--user={lingering.name}") == [honest]


def test_what_others_can_write_is_not_followed(own: Make, lingering: User, login: User) -> None:
    there = own(start=False)
    remedy = "make yourself the owner"
    os.chown(there.file, login.uid, login.gid)
    assert there.ctl("check", there.name).stderr == (
        f"{there.file}: it belongs to uid {login.uid}; {remedy}\n"
    )
    os.chown(there.file, lingering.uid, lingering.gid)
    there.file.chmod(0o666)
    assert there.ctl("check", there.name).stderr == (
        f"{there.file}: others than yourself can write it; chmod go-w it\n"
    )
    there.file.unlink()
    theirs = login.write("theirs.conf", "[Socket]\nListenStream=1\n[Spawn]\nArgv=/bin/true\n")
    login.home.chmod(0o755)
    there.file.symlink_to(theirs)
    os.chown(there.file, lingering.uid, lingering.gid, follow_symlinks=False)
    said = there.ctl("check", there.name).stderr
    assert said == f"{there.file}: it belongs to uid {login.uid}; {remedy}\n"
    there.file.unlink()
    there.file.symlink_to("/etc/shadow")
    said = there.ctl("check", there.name).stderr
    assert said == f"{there.file}: the service file cannot be opened: Permission denied\n"


def test_roots_tools_do_nothing_for_a_user(own: Make, lingering: User) -> None:
    """Whatever root's environment has from a user, root's tools look at the system's places."""
    there = own(name="trap")
    assert there.talk(b"x") == b"x"
    theirs = {
        "HOME": str(lingering.home),
        "XDG_CONFIG_HOME": str(lingering.folder.parent),
        "XDG_RUNTIME_DIR": str(lingering.runtime),
    }
    done = run("spawnctl", "list", "--json", env=os.environ | theirs, check=False)
    assert "trap" not in done.stdout
    run("systemctl", "daemon-reload")
    assert not Path("/run/systemd/generator/spawn@trap.socket.d").exists()
    for verb in (["list"], ["check"], ["log"]):
        done = run("spawnctl", "--user", *verb, env=os.environ | theirs, check=False)
        assert (done.returncode, done.stderr) == (os.EX_NOPERM, f"spawnctl: {ROOTS_OWN}\n")


@pytest.mark.one_door
def test_root_has_no_services_of_its_own(tmp_path: Path) -> None:
    generator = "/usr/lib/systemd/user-generators/spawn-generator"
    done = run(generator, *[str(tmp_path)] * 3)
    assert (done.stdout, done.stderr, list(tmp_path.iterdir())) == ("", "", [])
    done = run(generator, "--explain", "x", check=False)
    assert (done.returncode, done.stderr) == (1, f"{ROOTS_OWN}\n")


@pytest.mark.one_door
def test_roots_generator_does_nothing_for_a_user(lingering: User) -> None:
    """What it writes for a user, that user could have written."""
    file = Path("/etc/spawn/of-root.conf")
    file.write_text("[Socket]\nListenStream=7007\n[Spawn]\nUser=nobody\nArgv=/bin/true\n")
    generator = "/usr/lib/systemd/system-generators/spawn-generator"
    place = Path("/run/systemd/generator/spawn@of-root.socket.d")
    try:
        lingering.run(generator, "out", "out", "out")
        made = list((lingering.home / "out").rglob("*"))
        assert {each.stat().st_uid for each in made} == {lingering.uid}
        lingering.run(generator, *[str(place.parent)] * 3, check=False)
        assert not place.exists()
    finally:
        file.unlink()


def test_the_tools_write_and_edit(own: Make, lingering: User, door: doors.Accept) -> None:
    server = [] if door is doors.YES else ["--server"]
    port = free_port()
    there = own(name="written", address=("127.0.0.1", port), start=False)
    there.file.unlink()
    command = ("--listen", f"127.0.0.1:{port}", *server, "--", "/bin/echo", "written")
    done = there.ctl("new", "written", *command)
    assert done.stdout == (
        f"{there.file}: written; spawnctl --user apply --enable written has it listen\n"
    )
    assert "User=" not in there.file.read_text().split("[Spawn]")[1]
    assert there.file.stat().st_uid == lingering.uid
    done = there.ctl("apply", "--enable", "written")
    assert f"ran: systemctl --user enable --now {there.socket_unit}\n" in done.stdout
    assert there.talk() == b"written\n"
    editor = lingering.write("editor", "#!/bin/sh\nsed -i s/written/edited/ $1\n")
    editor.chmod(0o755)
    edit = ("env", f"EDITOR={editor}", "spawnctl", "--user", "edit", "written")
    assert lingering.run(*edit).stdout == f"{there.file}: saved\nnothing to do\n"
    assert there.talk() == b"edited\n"
    shown = json.loads(there.ctl("show", "--json", "written").stdout)
    assert {each["file"] for each in shown} == {str(there.file)}


def test_run_in_the_foreground(own: Make, lingering: User) -> None:
    port = free_port()
    there = own(f"{CAT}MaxCommands=1\n", address=("127.0.0.1", port), start=False)
    serving = lingering.command("timeout", "60", "spawnctl", "--user", "run", there.name)
    with subprocess.Popen(serving) as served:
        try:
            assert until(lambda: answered(there)) == b"here"
        finally:
            served.terminate()


def answered(there: Own) -> bytes:
    try:
        return there.talk(b"here")
    except ConnectionRefusedError:
        return b""


@pytest.mark.one_door
def test_import(lingering: User) -> None:
    line = f"7 stream tcp nowait {lingering.name} /bin/cat cat\n"
    source = lingering.write("inetd.conf", line.replace("7", str(free_port()), 1))
    folder = lingering.home / "imported"
    lingering.run("mkdir", "-p", str(folder))
    done = lingering.run(
        "spawnctl", "--user", "import", "inetd", str(source), f"--to={folder}", check=False
    )
    assert f"# The files count in {lingering.folder}:" in done.stdout
    assert "systemctl --user daemon-reload\n# Once nobody else listens there:\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("systemctl --user enable --now spawn@")


def test_a_failure_shows_what_the_command_said(own: Make) -> None:
    there = own("Argv=/bin/sh -c 'echo no good >&2; exit 3'\nStandardError=journal\n")
    there.talk()
    there.record()
    lines = there.ctl("status", there.name).stdout.splitlines()
    assert any(line.endswith("| no good") for line in lines), lines
    shown = there.ctl("log", there.name, "--output-of-command").stdout
    assert shown.splitlines()[-1] == "    | no good"


@both_managers
def test_a_server_is_reloaded_and_restarted(own: Make) -> None:
    """Accept=no: a connection outlives a reload; and a server that is killed is there again."""
    there = own()
    if doors.now is doors.YES:
        with there.connect() as client:
            pair(client)
            there.systemctl("daemon-reload")
            there.systemctl("daemon-reexec")
            pair(client)
        return
    unit = f"spawn-server@{there.name}.service"
    with there.connect() as client:
        pair(client)
        before = there.main_pid(unit)
        there.systemctl("reload", unit)
        pair(client, b"still")
        assert there.main_pid(unit) == before
        (listed,) = json.loads(there.ctl("list", "--json", there.name).stdout)
        assert (listed["live"], listed["server"]["busy"]) == (1, 1)
    os.kill(before, signal.SIGKILL)
    until(lambda: there.main_pid(unit) != before)
    assert there.talk(b"again") == b"again"


def test_a_volatile_journal(own: Make) -> None:
    """journald has no file for each user there, and none of the others is open to them."""
    there = own()
    drop_in = Path("/run/systemd/journald.conf.d/volatile.conf")
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("[Journal]\nStorage=volatile\n")
    run("mount", "-t", "tmpfs", "none", "/var/log/journal")  # what is kept is out of sight
    try:
        run("systemctl", "restart", "systemd-journald")
        there.talk(b"x")
        there.records(1)
        done = there.ctl("log", there.name)
        assert (
            "Permission denied (not read); root reads it, and members of the groups adm and "
            in (done.stderr)
        )
        assert done.returncode == os.EX_NOPERM
    finally:
        drop_in.unlink()
        run("umount", "/var/log/journal")
        run("systemctl", "restart", "systemd-journald")
        run("journalctl", "--flush")
        for left in Path("/run/log/journal").iterdir():  # systemd 252 leaves what it has flushed
            shutil.rmtree(left)


@pytest.mark.one_door
def test_the_manual_page_is_true(lingering: User) -> None:
    """What its examples have one type does what it says, and the file is good."""
    page = (Path(__file__).parent.parent / "man/spawn-user.7.in").read_text().replace("\\-", "-")
    blocks = re.findall(r"\.EX\n(.*?)\.EE", page, re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    (file,) = [block for block in blocks if block.startswith("[")]
    lingering.write(".config/spawn/open.conf", file)
    answers = []
    try:
        for line in lines:
            prompt, _, command = line.partition(" ")
            if prompt == "$":
                answers.append(lingering.run("sh", "-c", command).stdout)
            elif prompt == "#":
                command = command.replace("alice", lingering.name)
                run("systemd-run", "--quiet", "--wait", "--pipe", "sh", "-c", command)
        assert "hello\n" in answers
        done = lingering.run("spawnctl", "--user", "check", "open")
        assert done.stdout == f"{lingering.folder}/open.conf: ok\n"
        lingering.run("spawnctl", "--user", "apply", "--enable", "open")
        with connect(f"{lingering.runtime}/open.sock") as client:
            assert read_all(client) in (b"running\n", b"degraded\n")
    finally:
        for name in ("hello", "notes", "open"):
            unit = f"spawn@{name}.socket"
            lingering.run("systemctl", "--user", "disable", "-q", "--now", unit, check=False)
            (lingering.folder / f"{name}.conf").unlink(missing_ok=True)
