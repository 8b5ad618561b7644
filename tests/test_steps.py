"""One step for what takes several: spawnctl new, show, check --as, edit, apply, stop."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import doors
import pytest
from conftest import (
    FOLDER,
    Installed,
    both_doors,
    connect,
    free_port,
    in_machine,
    read_all,
    run,
    until,
    until_over,
)

from spawnhelper.conf.values import words
from spawnhelper.ctl.new import quoted

pytestmark = in_machine

CAT = "User=nobody\nArgv=/bin/cat\n"


def ctl(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return run("spawnctl", *arguments, check=False, **options)


def invocations(unit: str) -> str:
    return run("systemctl", "show", "--property=InvocationID,NAccepted", unit).stdout


def reloads() -> int:
    """Something that is another after systemd has read its files."""
    return os.stat("/run/systemd/generator").st_ctime_ns


@pytest.fixture
def name() -> Iterator[str]:
    """Of a service that is gone afterwards."""
    made = f"steps{os.getpid()}"
    yield made
    run("systemctl", "disable", "-q", "--now", f"spawn@{made}.socket", check=False)
    (FOLDER / f"{made}.conf").unlink(missing_ok=True)
    run("systemctl", "daemon-reload")


@both_doors
def test_a_service_in_two_steps(name: str, door: doors.Accept) -> None:
    port = free_port()
    server = ["--server"] if door is doors.NO else []
    command = ["--", "/bin/sh", "-c", "echo $SPAWN_SERVICE"]
    new = ["new", name, "--listen", f"127.0.0.1:{port}", "--user", "nobody", *server, *command]
    dry = ctl("new", name, "--dry-run", *new[2:])
    assert not (FOLDER / f"{name}.conf").exists()
    done = ctl(*new)
    file = FOLDER / f"{name}.conf"
    said = f"{file}: written; spawnctl apply --enable {name} has it listen\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    assert file.read_text() == dry.stdout
    assert os.stat(file).st_mode & 0o777 == 0o644
    assert ctl("check", name).stderr == ""
    done = ctl("apply", "--enable", name)
    place = f"127.0.0.1:{port}"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{name}: [Socket] or [Service] has changed",
        "ran: systemctl daemon-reload",
        f"ran: systemctl enable --now spawn@{name}.socket",
        f"{name}: listens at {place}",
    ]
    with connect(("127.0.0.1", port)) as client:
        assert read_all(client) == f"{name}\n".encode()
    assert ctl("apply", "--enable", name).stdout == "nothing to do\n"
    again = ctl(*new)
    assert again.returncode == os.EX_CANTCREAT
    assert again.stderr == f"spawnctl: {file} is there already; spawnctl edit {name}\n"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--listen", "ftp"], "ListenStream=ftp"),
        (["--user", "root"], "User= is uid 0"),
        (["--user", "nosuch"], "nosuch"),
        (["--time-limit", "long"], "TimeLimit=long is not a time span"),
        (["--allow-from", "mx.example"], "AllowFrom=mx.example has"),
        (["--max-connections", "1\nUser=root"], "is more than one line"),
        (["--allow-from", "127.0.0.1\\"], "cannot stand in a service file"),
    ],
)
def test_a_new_service_that_would_be_wrong(name: str, options: list[str], sentence: str) -> None:
    given = {"--listen": f"127.0.0.1:{free_port()}", "--user": "nobody"} | {options[0]: options[1]}
    done = ctl("new", name, *(word for pair in given.items() for word in pair), "--", "/bin/cat")
    assert done.returncode in (os.EX_CONFIG, os.EX_USAGE, os.EX_NOUSER)
    assert sentence in done.stderr
    assert not (FOLDER / f"{name}.conf").exists()


def test_a_new_service_at_a_used_address(service: Callable[..., Installed], name: str) -> None:
    there = service(CAT)
    place = "{}:{}".format(*there.address)
    done = ctl("new", name, "--listen", place, "--user", "nobody", "--", "/bin/cat")
    assert done.returncode == os.EX_CONFIG
    assert f"ListenStream={place} is where {there.name} listens" in done.stderr
    port = free_port()
    listen = ["socat", f"TCP-LISTEN:{port},bind=127.0.0.1", "-"]
    with subprocess.Popen(listen, stdin=subprocess.PIPE) as other:
        until(lambda: str(port) in run("ss", "-ltnH").stdout)
        done = ctl("new", name, "--listen", str(port), "--user", "nobody", "--", "/bin/cat")
        other.terminate()
    assert done.returncode == os.EX_CONFIG
    holder = f"{port} is in use by socat (pid {other.pid}); choose another address, or end that"
    assert holder in done.stderr


def test_names_that_are_none() -> None:
    done = ctl("new", "a b", "--listen", "1", "--user", "nobody", "--", "/bin/cat")
    assert done.returncode == os.EX_USAGE
    right = "a service is named with letters, digits, - _ and ., the first no - or ."
    assert done.stderr == f"spawnctl: a b is no name for a service; {right}\n"


@pytest.mark.parametrize(
    "word", ["", "a b", 'say "x"', "it's", "back\\slash", "tab\there", "é%i$X"]
)
def test_words_are_quoted_as_they_are_read(word: str) -> None:
    assert words(f"{quoted(word)} {quoted('next')}") == [word, "next"]


def test_what_holds(service: Callable[..., Installed]) -> None:
    there = service(
        f"{CAT}Environment=A=1 B=2\nEnvironment=C=3\nTimeLimit=1h\nNice=\n", start=False
    )
    folder = Path(f"{there.file}.d")
    folder.mkdir()
    defaults = Path("/etc/spawn.conf")
    try:
        (folder / "x.conf").write_text("[Spawn]\nTimeLimit=2h\n[Socket]\nMaxConnections=5\n")
        defaults.write_text("[Spawn]\nUMask=027\nTimeLimit=3h\n")
        shown = ctl("show", there.name).stdout.splitlines()
        place = "{}:{}".format(*there.address)
        assert [re.sub("  +", "  ", line) for line in shown] == [
            "[Socket]",
            f"ListenStream={place}  {there.file}:2",
            f"MaxConnections=5  {folder}/x.conf:4",
            "",
            "[Spawn]",
            f"UMask=027  {defaults}:2",
            f"TimeLimit=2h  {folder}/x.conf:2",
            f"User=nobody  {there.file}:5",
            f"Argv=/bin/cat  {there.file}:6",
            f"Environment=A=1 B=2  {there.file}:7",
            f"Environment=C=3  {there.file}:8",
        ]
        values = json.loads(ctl("show", "--json", "--defaults", there.name).stdout)
        held = {(each["section"], each["key"]): each for each in values}
        assert held["Spawn", "TimeLimit"]["value"] == "2h"
        assert held["Spawn", "TimeLimit"]["file"] == f"{folder}/x.conf"
        assert held["Spawn", "KillDelay"] == {
            "section": "Spawn",
            "key": "KillDelay",
            "value": "5s",
            "file": None,
            "line": None,
        }
        assert held["Socket", "Accept"]["value"] == "yes"
        assert re.search(
            r"^KillDelay=5s +default$", ctl("show", "--defaults", there.name).stdout, re.M
        )
        (folder / "x.conf").write_text("[Spawn]\nTimeLimt=2h\n")
        done = ctl("show", there.name)
        assert done.returncode == os.EX_CONFIG
        assert done.stderr == (
            f"{folder}/x.conf:2: unknown key TimeLimt= in [Spawn]; did you mean TimeLimit=?\n"
        )
    finally:
        defaults.unlink(missing_ok=True)
        (folder / "x.conf").unlink()
        folder.rmdir()


def test_a_text_is_checked_as_what_it_is_to_be(
    service: Callable[..., Installed], tmp_path: Path
) -> None:
    there = service(CAT)
    other = tmp_path / ".source.conf"  # as programs name what they have not put in place yet
    other.write_text(there.file.read_text())
    other.chmod(0o666)
    done = ctl("check", "--as", there.name, str(other))
    assert (done.returncode, done.stdout) == (0, f"{other} as {there.file}: ok\n")
    other.write_text(there.file.read_text() + "Nice=99\n")
    done = ctl("check", "--as", there.name, str(other))
    assert done.returncode == os.EX_CONFIG
    assert done.stderr.startswith(f"{there.file}:8: Nice=99 ")
    done = ctl("check", "--as", there.name, "-", input=other.read_text())
    assert done.stderr.startswith(f"{there.file}:8: Nice=99 ")
    done = ctl("check", "--as", "not-there-yet", "-", input=there.file.read_text())
    assert f"is where {there.name} listens ({there.file}:2)" in done.stderr
    done = ctl("check", "--as", there.name, "-", input="#" * ((1 << 20) + 1))
    assert done.stderr.endswith("the service file is longer than 1 MiB; shorten it\n")
    done = ctl("check", "--as", there.name)
    right = "--as is for one file; name it, or write - for standard input"
    assert (done.returncode, done.stderr) == (os.EX_USAGE, f"spawnctl: {right}\n")
    done = ctl("check", "--as", "a b", str(other))
    assert "a service is named with letters, digits, - _ and ., the first no - or ." in done.stderr
    odd = tmp_path / f"{'x' * 90} .conf"
    odd.write_text(there.file.read_text())
    assert ctl("check", str(odd)).stderr == (
        f"{odd}: a service is named with letters, digits, - _ and ., the first no - or .; rename "
        "the file, or check it as what it is to be: spawnctl check --as NAME FILE\n"
    )
    done = ctl("check", "--as", there.name, "/nowhere")
    assert done.returncode == os.EX_NOINPUT


@both_doors
def test_apply_does_what_is_needed(service: Callable[..., Installed]) -> None:
    there = service(CAT)
    with there.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        before, at = invocations(there.socket_unit), reloads()
        assert ctl("apply", there.name).stdout == "nothing to do\n"
        there.write(f"{CAT}TimeLimit=1h\n")  # [Spawn] alone
        assert ctl("apply", there.name).stdout == "nothing to do\n"
        assert reloads() == at
        there.write(CAT, "MaxConnections=7")
        dry = ctl("apply", "--dry-run", there.name).stdout
        assert dry.splitlines()[-1] == "would run: systemctl daemon-reload"
        assert reloads() == at
        done = ctl("apply", there.name)
        place = "{}:{}".format(*there.address)
        assert done.stdout.splitlines() == [
            f"{there.name}: [Socket] or [Service] has changed",
            "ran: systemctl daemon-reload",
            f"{there.name}: listens at {place}",
        ]
        assert reloads() != at
        assert invocations(there.socket_unit) == before  # and the connection goes on
        client.sendall(b"y")
        assert client.recv(1) == b"y"
        client.close()
    until_over()
    there.address = ("127.0.0.1", free_port())
    there.write(CAT, "MaxConnections=7")
    done = ctl("apply", there.name)
    place = "{}:{}".format(*there.address)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [
        "ran: systemctl daemon-reload",
        f"ran: systemctl restart {there.socket_unit}",
        f"{there.name}: listens at {place}",
    ]
    assert there.talk(b"here") == b"here"
    assert ctl("apply", there.name).stdout == "nothing to do\n"


@both_doors
def test_apply_mends_what_a_reload_has_left(service: Callable[..., Installed]) -> None:
    there = service(CAT)
    there.address = ("127.0.0.1", free_port())
    there.write(CAT)
    run("systemctl", "daemon-reload")
    done = ctl("apply")
    assert f"ran: systemctl restart {there.socket_unit}" in done.stdout
    assert there.talk(b"here") == b"here"


def test_a_draft_is_in_nobodys_way(service: Callable[..., Installed]) -> None:
    there, draft = service(CAT), service(CAT, start=False)
    draft.file.write_text("nonsense\n")
    there.write(CAT, "MaxConnections=7")
    done = ctl("apply")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{there.name}: [Socket] or [Service] has changed\n")


@both_doors
def test_apply_changes_nothing_where_a_file_is_wrong(service: Callable[..., Installed]) -> None:
    there, wrong = service(CAT), service(CAT)
    at = reloads()
    there.write(CAT, "MaxConnections=7")
    wrong.write(f"{CAT}Nice=99\n")
    done = ctl("apply", there.name, wrong.name)
    assert done.returncode == os.EX_CONFIG
    assert done.stderr.splitlines()[-1] == "nothing has been changed"
    assert f"{wrong.file}:" in done.stderr
    assert (done.stdout, reloads()) == ("", at)
    wrong.file.write_text("nonsense\n")  # of which a reload would take the socket away
    done = ctl("apply", there.name)
    assert done.returncode == os.EX_CONFIG
    start = f"spawnctl: a reload would close the socket of {wrong.name}, whose file is wrong: "
    assert done.stderr.startswith(start)
    assert reloads() == at
    wrong.address = ("127.0.0.1", free_port())
    wrong.write(CAT)
    done = ctl("apply", there.name)
    assert done.stderr == (
        f"spawnctl: a reload would close the socket of {wrong.name}, which has changed, too; apply "
        f"all of them: spawnctl apply {there.name} {wrong.name}\n"
    )
    assert ctl("apply", there.name, wrong.name).returncode == 0
    assert wrong.talk(b"here") == b"here"


def test_apply_says_what_does_not_listen(service: Callable[..., Installed]) -> None:
    there = service(CAT, start=False)
    done = ctl("apply", there.name)
    again = f"spawnctl apply --enable {there.name}"
    assert done.stdout.splitlines()[-1] == f"{there.name}: does not listen; {again} has it do so"
    assert done.returncode == 0
    holder = service(CAT)
    there.address = holder.address
    there.write(CAT)
    done = ctl("apply", "--enable", there.name)
    assert done.returncode == os.EX_CONFIG
    assert f"is where {holder.name} listens" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence", "status"),
    [
        (["apply", "--enable"], "--enable is for the services that are named; name them", 64),
        (
            ["edit", "nosuch"],
            f"there is no service file {FOLDER}/nosuch.conf; see spawnctl new",
            66,
        ),
        (["stop", "nosuch", "--all"], f"there is no service file {FOLDER}/nosuch.conf", 4),
    ],
)
def test_what_cannot_be_done(arguments: list[str], sentence: str, status: int) -> None:
    done = ctl(*arguments)
    assert (done.returncode, done.stderr) == (status, f"spawnctl: {sentence}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["apply"], "to apply needs root; --dry-run does not"),
        (["edit", "hello"], "to edit a service needs root"),
        (
            ["new", "x", "--listen", "1", "--user", "nobody", "--", "x"],
            "to write a service file needs root; --dry-run does not",
        ),
    ],
)
def test_what_needs_root(arguments: list[str], sentence: str) -> None:
    done = run("runuser", "-u", "nobody", "--", "spawnctl", *arguments, check=False)
    assert (done.returncode, done.stderr) == (os.EX_NOPERM, f"spawnctl: {sentence}\n")


def test_apply_of_a_server_whose_section_has_changed(service: Callable[..., Installed]) -> None:
    there = service(CAT, socket_section="Accept=no")
    assert there.talk(b"x") == b"x"
    until_over()
    text = there.file.read_text()
    there.file.write_text(f"{text}[Service]\nProtectHostname=yes\n")
    server = f"spawn-server@{there.name}.service"
    assert f"ran: systemctl try-restart {server}\n" in ctl("apply", there.name).stdout
    with there.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        there.file.write_text(f"{text}[Service]\nProtectHostname=no\n")
        done = ctl("apply", there.name)
        assert (
            f"{there.name}: [Service] holds when its server starts anew; systemctl restart "
            f"{server} ends 1 connection\n"
        ) in done.stdout
        client.sendall(b"y")
        assert client.recv(1) == b"y"
        there.address = ("127.0.0.1", free_port())
        there.write(CAT, "Accept=no")
        done = ctl("apply", there.name)
        assert f"{there.name}: a restart ends 1 connection of its server\n" in done.stdout


@contextlib.contextmanager
def editor(tmp_path: Path, *scripts: str) -> Iterator[dict[str, str]]:
    """An environment with an editor that does one of these things after the other."""
    count, program = tmp_path / "count", tmp_path / "editor"
    cases = "".join(f"{at}) {script};; " for at, script in enumerate(scripts))
    count.write_text("0")
    program.write_text(
        f"#!/bin/sh\nn=$(cat {count}); echo $((n + 1)) >{count}\nf=$2\ncase $n in {cases}esac\n"
    )
    program.chmod(0o755)
    yield os.environ | {"EDITOR": "/bin/false", "VISUAL": f"{program} --wait"}


def typed(environment: dict[str, str], answers: str, *command: str) -> tuple[int, str]:
    """A person at a terminal: the exit status, and what was to be read there."""
    line = ["script", "-qec", f"{shlex.join(command)} 2>&1", "/dev/null"]
    done = subprocess.run(
        line, check=False, capture_output=True, text=True, env=environment, input=answers
    )
    return done.returncode, done.stdout.replace("\r\n", "\n")


def test_edit(service: Callable[..., Installed], tmp_path: Path) -> None:
    there = service(CAT)
    there.file.chmod(0o600)
    before = there.file.read_text()
    port = free_port()
    move = f"sed -i s/{there.address[1]}/{port}/ $f"
    with editor(tmp_path, "true", "sed -i s/nobody/nosuch/ $f", "exit 3", move) as environment:
        done = ctl("edit", there.name, env=environment)
        assert (done.returncode, done.stdout) == (0, f"{there.file}: unchanged\n")
        done = ctl("edit", there.name, env=environment, stdin=subprocess.DEVNULL)
        assert done.returncode == os.EX_CONFIG
        assert done.stderr.endswith(f"{there.file}: left as it was\n")
        assert "nosuch" in done.stderr
        assert there.file.read_text() == before
        done = ctl("edit", there.name, env=environment)
        assert done.returncode == os.EX_UNAVAILABLE
        assert done.stderr == (
            "spawnctl: the editor ended with 3, and the file is left as it was\n"
        )
        done = ctl("edit", there.name, env=environment)
        assert done.returncode == 0
        assert done.stdout.startswith(f"{there.file}: saved\n")
        assert f"{there.name}: listens at 127.0.0.1:{port}\n" in done.stdout
    there.address = ("127.0.0.1", port)
    assert there.talk(b"here") == b"here"
    assert os.stat(there.file).st_mode & 0o777 == 0o600
    done = ctl("edit", there.name, env=os.environ | {"SUDO_EDITOR": "/nowhere/ed"})
    assert done.stderr == (
        "spawnctl: the editor /nowhere/ed cannot be run: No such file or directory\n"
    )


def test_edit_keeps_a_link_and_an_owner(service: Callable[..., Installed], tmp_path: Path) -> None:
    """And what was typed, whatever becomes of the file."""
    there = service(CAT, start=False)
    elsewhere = Path("/etc/spawn-elsewhere.conf")
    there.file.rename(elsewhere)
    there.file.symlink_to(elsewhere)
    try:
        shutil.chown(elsewhere, "root", "games")
        with editor(tmp_path, "echo Nice=9 >>$f", "echo Nice=8 >>$f") as environment:
            done = ctl("edit", "--no-apply", there.name, env=environment)
            assert done.stdout == f"{there.file}: saved\n"
            assert there.file.is_symlink()
            assert elsewhere.read_text().endswith("Nice=9\n")
            assert elsewhere.group() == "games"
            goes = f"#!/bin/sh\necho Nice=8 >>$1\nrm {there.file}\n"
            program = tmp_path / "goes"
            program.write_text(goes)
            program.chmod(0o755)
            done = ctl("edit", there.name, env=os.environ | {"SUDO_EDITOR": str(program)})
        assert done.returncode == os.EX_NOINPUT
        assert "there is no such service file" in done.stderr
        kept = Path(done.stderr.strip().rpartition("your copy is ")[2])
        assert kept.read_text().endswith("Nice=8\n")
        kept.unlink()
    finally:
        elsewhere.unlink()


def test_edit_asks_a_person(service: Callable[..., Installed], tmp_path: Path) -> None:
    there = service(CAT)
    before = there.file.read_text()
    wrong, right = "echo Nice=99 >>$f", "sed -i s/Nice=99/Nice=9/ $f"
    with editor(tmp_path, wrong, right, wrong, wrong) as environment:
        status, text = typed(environment, "?\ne\n", "spawnctl", "edit", "--no-apply", there.name)
        assert status == 0
        assert text.count("e to edit it again, x to leave the file as it was: ") == 2
        assert f"{there.file}:8: Nice=99 " in text
        assert text.endswith(f"{there.file}: saved\n")
        assert there.file.read_text() == f"{before}Nice=9\n"
        there.file.write_text(before)
        status, text = typed(environment, "x\n", "spawnctl", "edit", there.name)
        assert status == os.EX_CONFIG
        assert there.file.read_text() == before


def test_two_people_at_one_file(service: Callable[..., Installed], tmp_path: Path) -> None:
    there = service(CAT)
    both = f"echo Nice=9 >>$f; echo Nice=8 >>{there.file}"
    with editor(tmp_path, both) as environment:
        done = ctl("edit", there.name, env=environment)
    assert done.returncode == os.EX_TEMPFAIL
    start = f"spawnctl: {there.file} has changed meanwhile; your copy is "
    assert done.stderr.startswith(start)
    copy = Path(done.stderr.removeprefix(start).strip())
    assert copy.read_text().endswith("Nice=9\n")
    assert there.file.read_text().endswith("Nice=8\n")
    copy.unlink()


def test_edit_of_what_a_package_brought(service: Callable[..., Installed], tmp_path: Path) -> None:
    there = service(CAT)
    vendor = Path("/usr/lib/spawn") / there.file.name
    there.file.rename(vendor)
    try:
        with editor(tmp_path, "echo Nice=9 >>$f") as environment:
            done = ctl("edit", there.name, env=environment)
        assert done.stdout.startswith(f"{there.file}: saved\n")
        assert there.file.read_text() == vendor.read_text() + "Nice=9\n"
    finally:
        vendor.unlink()


def answered(there: Installed) -> socket.socket:
    """A client that has been answered, and stays."""
    client = there.connect()
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    return client


@both_doors
def test_stop_of_a_client_at_a_path(service: Callable[..., Installed]) -> None:
    """Whose connections have all the same name."""
    there = service(CAT, address=f"/run/spawn-stop-{os.getpid()}")
    with contextlib.ExitStack() as clients:
        first, second = (clients.enter_context(answered(there)) for _ in range(2))
        done = ctl("stop", there.name, "")
        assert done.returncode == os.EX_NOINPUT
        live = json.loads(ctl("status", "--json", there.name).stdout)["connections"]
        done = ctl("stop", there.name, str(live[0]["pid"]))
        assert done.stdout == f"stopped {live[0]['client']}\n"
        assert first.recv(1) == b""
        second.sendall(b"y")
        assert second.recv(1) == b"y"


@both_doors
def test_stop(service: Callable[..., Installed]) -> None:
    """One by its client, one by its pid, the rest; and the listener goes on."""
    there = service(CAT)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(there.connect()) for _ in range(5)]
        for client in clients:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        ends = ["{}:{}".format(*client.getsockname()) for client in clients]
        live = json.loads(ctl("status", "--json", there.name).stdout)["connections"]
        pids = {each["client"]: str(each["pid"]) for each in live}
        units = {each["client"]: each["unit"] for each in live}
        assert ctl("stop", there.name, ends[0]).stdout == f"stopped {ends[0]}\n"
        assert clients[0].recv(1) == b""
        assert ctl("stop", there.name, pids[ends[1]]).stdout == f"stopped {ends[1]}\n"
        if len(set(units.values())) > 1:
            verbose = ctl("status", "-v", there.name).stdout
            assert re.search(
                rf"  {re.escape(ends[2])} +{re.escape(units[ends[2]])}  /bin/cat", verbose
            )
            assert ctl("stop", there.name, units[ends[2]]).stdout == f"stopped {ends[2]}\n"
        done = ctl("stop", there.name)
        assert done.returncode == os.EX_USAGE
        assert done.stderr == (
            "spawnctl: write which connections to stop, or --all; spawnctl status "
            f"{there.name} lists them\n"
        )
        done = ctl("stop", there.name, "192.0.2.1")
        assert done.returncode == os.EX_NOINPUT
        assert done.stderr == (
            f"spawnctl: {there.name} has no 192.0.2.1; spawnctl status -v {there.name} lists its "
            "connections\n"
        )
        clients[3].sendall(b"y")
        assert clients[3].recv(1) == b"y"
        rest = ctl("stop", there.name, "127.0.0.1").stdout.split()[1::2]
        assert {*rest} >= {*ends[3:]}
    assert [each["SPAWN_RESULT"] for each in there.records(5)] == ["stopped"] * 5
    until_over()
    done = ctl("stop", there.name, "--all")
    assert (done.returncode, done.stderr) == (0, f"{there.name} has no connection\n")
    assert there.talk(b"here") == b"here"


def test_a_configuration_manager_checks_before_it_copies(
    service: Callable[..., Installed], tmp_path: Path
) -> None:
    """ansible's copy module, which has a temporary file of another name checked."""
    if not shutil.which("ansible"):
        pytest.skip("needs ansible-core")
    there = service(CAT)
    good, bad = tmp_path / "good", tmp_path / "bad"
    text = there.file.read_text()
    good.write_text(f"{text}Nice=9\n")
    bad.write_text(f"{text}Nice=99\n")
    for source, status in ((bad, 2), (good, 0)):
        copy = f"src={source} dest={there.file} validate='spawnctl check --as {there.name} %s'"
        environment = os.environ | {"HOME": str(tmp_path), "ANSIBLE_LOCALHOST_WARNING": "False"}
        ansible = ["ansible", "localhost", "-m", "copy", "-a", copy]
        done = run(*ansible, check=False, env=environment)
        assert done.returncode == status, done.stdout + done.stderr
        assert (status == 0) or f"{there.file}:8: Nice=99 " in done.stdout + done.stderr
    assert there.file.read_text() == good.read_text()


def test_a_folder_that_cannot_be_written(name: str) -> None:
    mount = "mount --bind /etc/spawn /etc/spawn; mount -o remount,bind,ro /etc/spawn; "
    new = f"spawnctl new {name} --listen 127.0.0.1:{free_port()} --user nobody -- /bin/cat"
    done = run("unshare", "--mount", "sh", "-c", f"{mount}exec {new}", check=False)
    assert done.returncode == os.EX_CANTCREAT
    file = FOLDER / f"{name}.conf"
    assert done.stderr == f"spawnctl: {file} cannot be written: Read-only file system\n"
