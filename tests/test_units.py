"""The units and the generator: what systemctl, the journal and a restart show of them."""

from __future__ import annotations

import itertools
import os
import re
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import (
    PATIENCE,
    Installed,
    connect,
    connection_units,
    free_port,
    in_machine,
    journal,
    read_all,
    run,
    stop_connection,
    systemd_version,
    until,
    until_over,
)

pytestmark = in_machine

ECHO = "User=nobody\nArgv=/bin/cat"


def lines_of(unit: str) -> list[str]:
    """What the unit's own processes printed."""
    return [entry["MESSAGE"] for entry in journal(f"_SYSTEMD_UNIT={unit}")]


def test_enable_now_and_disable(service: Callable[..., Installed]) -> None:
    there = service(ECHO, start=False)
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--now", there.socket_unit)
    wants = Path("/etc/systemd/system/sockets.target.wants") / there.socket_unit
    assert wants.is_symlink()
    assert there.talk(b"here") == b"here"
    run("systemctl", "disable", "--now", there.socket_unit)
    assert not wants.is_symlink()
    assert there.state() == "inactive"


def test_a_service_without_a_file_does_not_start_and_says_so() -> None:
    unit = "spawn@missing.socket"
    run("systemctl", "daemon-reload")
    assert run("systemctl", "start", unit, check=False).returncode != 0
    sentence = (
        "/etc/spawn/missing.conf: there is no such service file; create it, see spawn.conf(5)"
    )
    assert sentence in lines_of(unit)
    assert sentence in run("systemctl", "status", unit, check=False).stdout
    rearm = "spawn-rearm@missing.service"
    # Nobody tries again what cannot work.
    until(lambda: run("systemctl", "show", "-P", "ActiveState", rearm).stdout == "inactive\n")
    run("systemctl", "reset-failed")


def test_a_file_that_systemd_has_not_seen(service: Callable[..., Installed]) -> None:
    there = service(ECHO, start=False)
    assert run("systemctl", "start", there.socket_unit, check=False).returncode != 0
    assert lines_of(there.socket_unit) == [
        f"{there.file}: systemd has not seen this service file yet; run systemctl daemon-reload"
    ]


def test_the_socket_section_is_passed_through(service: Callable[..., Installed]) -> None:
    there = service(
        ECHO,
        address="/run/spawn-passed.sock",
        socket_section="SocketMode=0600\nMaxConnections=\\\n# a comment in between\n  7\nX=1",
    )
    assert Path("/run/spawn-passed.sock").stat().st_mode & 0o777 == 0o600
    shown = run("systemctl", "show", "-P", "MaxConnections", there.socket_unit).stdout
    assert shown == "7\n"
    source = run("systemctl", "show", "-P", "SourcePath", there.socket_unit).stdout
    assert source == f"{there.file}\n"
    assert there.talk(b"here") == b"here"
    run("systemctl", "stop", there.socket_unit)
    assert not Path("/run/spawn-passed.sock").exists(), "RemoveOnStop="


def test_a_broken_file_does_not_keep_the_others_out(service: Callable[..., Installed]) -> None:
    bad = service(ECHO, socket_section="Accept=maybe", start=False)
    good = service(ECHO)
    assert good.talk(b"here") == b"here"
    assert run("systemctl", "start", bad.socket_unit, check=False).returncode != 0
    folder = Path("/run/systemd/generator")
    assert not (folder / f"{bad.socket_unit}.d").exists()
    assert (folder / f"{good.socket_unit}.d/50-spawn.conf").read_text() == (
        f"# Made by spawn-generator(8) from {good.file}\n"
        f"[Unit]\nSourcePath={good.file}\n\n"
        "[Socket]\nListenStream=\nExecStartPre=\n"
        "ListenStream={}:{}\n".format(*good.address)
    )


def test_the_generator_complains_to_the_kernel_log(service: Callable[..., Installed]) -> None:
    """A container's kernel log is a dead end; a pipe stands for it here."""
    bad = service(ECHO, socket_section="Accept=maybe", start=False)
    log = Path("/run/spawn-kmsg")
    log.unlink(missing_ok=True)
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    made = not os.path.exists("/dev/kmsg")
    if made:
        Path("/dev/kmsg").touch()
    run("mount", "--bind", str(log), "/dev/kmsg")
    try:
        run("systemctl", "daemon-reload")
    finally:
        run("umount", "/dev/kmsg")
        if made:
            Path("/dev/kmsg").unlink()
    said = os.read(reader, 65536).decode()
    os.close(reader)
    assert (
        f"<3>spawn-generator: {bad.file}:3: Accept=maybe is neither yes, a unit for each "
        f"connection, nor no, a server for all; {bad.socket_unit} will not listen\n" in said
    )


def test_the_generator_by_hand_says_how_it_is_called() -> None:
    done = run("/usr/lib/systemd/system-generators/spawn-generator", check=False)
    assert done.returncode == os.EX_USAGE
    assert done.stderr == (
        "usage: spawn-generator NORMAL-DIR EARLY-DIR LATE-DIR\n"
        "       spawn-generator --explain NAME\n"
    )


def test_a_listener_that_failed_comes_back(service: Callable[..., Installed]) -> None:
    """Before systemd 258 one client process with connections to two AF_UNIX services, both with
    the same number, makes the second fail; later nothing fails, and both answer."""
    services = [service(ECHO, address=f"/run/spawn-twin-{number}.sock") for number in (1, 2)]
    assert isinstance(services[1].address, str)
    with services[0].connect() as first:
        first.sendall(b"here")
        assert first.recv(4) == b"here"
        with services[1].connect() as second:
            second.shutdown(socket.SHUT_WR)
            read_all(second)
        if systemd_version() < 258:
            (record,) = until(lambda: journal(f"SPAWN_SERVICE={services[1].name}"))
            assert record["MESSAGE"] == (
                f"{services[1].name}: {services[1].socket_unit} had failed and listens again; "
                "connections meanwhile were refused"
            )
        until(services[1].state, holds=lambda state: state == "active")
        assert services[1].talk(b"again") == b"again"


def test_a_listener_comes_back_when_its_address_is_free(
    service: Callable[..., Installed],
) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        there = service(ECHO, address=("127.0.0.1", port), start=False)
        run("systemctl", "daemon-reload")
        assert run("systemctl", "start", there.socket_unit, check=False).returncode != 0
        (record,) = until(lambda: journal(f"SPAWN_SERVICE={there.name}"))
        assert record["SPAWN_RESULT"] == "cannot-listen"
        assert record["MESSAGE"] == (
            f"{there.name}: {there.socket_unit} cannot listen: 127.0.0.1:{port} is in use by a "
            "program of uid 0, which ss -lnpxt names; it is tried again every 10s"
        )
    until(there.state, holds=lambda state: state == "active")  # ten seconds later
    assert len(there.records(2)) == 2
    assert there.talk(b"here") == b"here"
    results = [each["SPAWN_RESULT"] for each in there.records(3)]
    assert results == ["cannot-listen", "listening-again", "success"]


def test_a_listener_does_not_wait_for_its_address(service: Callable[..., Installed]) -> None:
    elsewhere = ("192.0.2.77", free_port())
    there = service(ECHO, address=elsewhere, socket_section="FreeBind=yes")
    assert there.state() == "active"


def test_the_manual_pages_plain_unit_for_root() -> None:
    page = (Path(__file__).parent.parent / "man/spawnhelper.8").read_text().replace("\\-", "-")
    section = page.partition(".SH SERVICES THAT NEED ROOT")[2].partition(".SH")[0]
    units = re.findall(r"\.EX\n(.*?)\.EE", section, re.S)
    names = ("who.socket", "who@.service")
    assert all(f"/etc/systemd/system/{name}" in section for name in names)
    files = [Path("/etc/systemd/system", name) for name in names]
    try:
        for file, text in zip(files, units, strict=True):
            file.write_text(text)
        run("systemctl", "daemon-reload")
        run("systemctl", "enable", "--now", "who.socket")
        with connect(("127.0.0.1", 10024)) as client:
            assert read_all(client).startswith(b"uid=0(root) gid=0(root)")
    finally:
        run("systemctl", "disable", "--now", "who.socket", check=False)
        for file in files:
            file.unlink()
        run("systemctl", "daemon-reload")


# What keeps a listener from starting, and how often systemd says so at an attempt.
CANNOT = {
    "an account that is missing": ("SocketUser=nosuch", 2),
    "a group that is missing": ("SocketGroup=nosuch", 2),
    "what is to run before fails": ("ExecStartPre=/bin/false", 1),
    "what is to run afterwards fails": ("ExecStartPost=/bin/false", 1),
    "an address that is missing": ("ListenStream=192.0.2.1:9", 3),
}
FAILED_START = "be02cf6855d2428ba40df7e9d022f03d"  # MESSAGE_ID: a job to start a unit has failed


def test_what_cannot_listen_is_tried_every_ten_seconds_in_few_lines(
    service: Callable[..., Installed],
) -> None:
    """Whatever the cause; the time between two attempts goes by systemd's own entries."""
    services = {cause: service(ECHO, start=False) for cause in CANNOT}
    for cause, there in services.items():
        there.write(ECHO, CANNOT[cause][0])
    run("systemctl", "daemon-reload")
    for there in services.values():
        run("systemctl", "start", "--no-block", there.socket_unit)

    def attempts(there: Installed) -> list[float]:
        failed = journal(f"UNIT={there.socket_unit}", f"MESSAGE_ID={FAILED_START}")
        return [int(each["__MONOTONIC_TIMESTAMP"]) / 1e6 for each in failed]

    def tried(there: Installed) -> bool:
        return len(attempts(there)) >= 4

    for there in services.values():
        until(partial(tried, there), 2 * PATIENCE)
    for cause, there in services.items():
        said = [
            entry
            for unit in (there.socket_unit, f"spawn-rearm@{there.name}.service")
            for entry in journal(f"UNIT={unit}", "+", f"_SYSTEMD_UNIT={unit}")
            if "CONFIG_FILE" not in entry  # 252 about a key that it does not know
        ]
        _by_hand, *rearmed = attempts(there)
        pauses = [after - before for before, after in itertools.pairwise(rearmed)]
        assert min(pauses) > 8, cause  # ten, less what journald was late with the entry before
        # With the one by hand, and one that may be under way; and our own record.
        most = CANNOT[cause][1] * (2 + len(rearmed)) + 1
        assert len(said) <= most, [each["MESSAGE"] for each in said]
        (record,) = journal(f"SPAWN_SERVICE={there.name}")
        assert record["SPAWN_RESULT"] == "cannot-listen"


def test_a_listener_that_fails_again_at_once_comes_back_each_time(
    service: Callable[..., Installed],
) -> None:
    """Here every connection but the first makes it fail, as soon as it listens again."""
    limit = "TriggerLimitIntervalSec=1h\nTriggerLimitBurst=1"
    there = service(ECHO, socket_section=limit)
    assert there.talk(b"here") == b"here"

    times = 20
    for _ in range(times):
        until(lambda: made_to_fail(there))
    matches = (f"SPAWN_SERVICE={there.name}", "SPAWN_RESULT=listening-again")
    until(lambda: len(journal(*matches)), holds=lambda count: count == times)
    until(there.state, holds=lambda state: state == "active")


def made_to_fail(there: Installed) -> bool:
    """Whether the connection was made, and systemd closed it with its listener."""
    try:
        with there.connect() as client:
            return client.recv(1) == b""
    except ConnectionRefusedError:
        return False
    except ConnectionResetError:
        return True


def test_a_restart_by_hand_is_no_failure(service: Callable[..., Installed]) -> None:
    """PartOf= starts a waiting rearm unit along with its socket."""
    there = service(ECHO)
    run("systemctl", "start", f"spawn-rearm@{there.name}.service")
    assert journal(f"SPAWN_SERVICE={there.name}") == []


def test_stopping_the_socket_ends_the_attempts(service: Callable[..., Installed]) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        there = service(ECHO, address=("127.0.0.1", port), start=False)
        run("systemctl", "daemon-reload")
        run("systemctl", "start", there.socket_unit, check=False)
        rearm = f"spawn-rearm@{there.name}.service"
        state = ("systemctl", "show", "-P", "SubState", rearm)
        until(lambda: journal(f"SPAWN_SERVICE={there.name}"))
        assert run(*state).stdout == "running\n"
        run("systemctl", "stop", there.socket_unit)
        until(lambda: run(*state).stdout, holds=lambda said: said == "dead\n")


@pytest.mark.parametrize("address", [None, "/run/spawn-restart.sock"])
def test_connections_cannot_be_restarted(
    service: Callable[..., Installed], address: str | None
) -> None:
    """A second command would get the rest of what the client sends, without the beginning."""
    there = service(ECHO, address=address)
    with there.connect() as client:
        client.sendall(b"one")
        assert client.recv(3) == b"one"
        (unit,) = connection_units()
        for verb in ("restart", "try-restart", "start"):
            done = run("systemctl", verb, unit, check=False)
            assert done.returncode != 0
            assert "it is configured to refuse manual start" in done.stderr
        client.sendall(b"two")
        assert client.recv(3) == b"two"
        stop_connection()
        assert read_all(client) == b""
    assert there.record()["SPAWN_RESULT"] == "stopped"


def test_connections_above_the_limit_are_said_once(service: Callable[..., Installed]) -> None:
    full = service(ECHO, socket_section="MaxConnections=2")
    for refused in (300, 1):
        with full.connect() as one, full.connect() as two:
            for client in (one, two):
                client.sendall(b"x")
                assert client.recv(1) == b"x"
            for _ in range(refused):
                with full.connect() as third:
                    assert read_all(third) == b""
        until_over()
        found = [each for each in journal(f"SPAWN_SERVICE={full.name}") if "SPAWN_DROPPED" in each]
        were = "connections were" if refused > 1 else "connection was"
        assert found[-1]["MESSAGE"] == (
            f"{full.name}: {refused} {were} dropped above MaxConnections=2"
        )
        assert found[-1]["SPAWN_RESULT"] == "connection-limit"
        assert found[-1]["SPAWN_DROPPED"] == str(refused)
        assert full.talk(b"next") == b"next"
        until_over()
    assert len(found) == 2
    assert [
        each for each in journal(f"UNIT={full.socket_unit}") if "Too many" in each["MESSAGE"]
    ] == []


def test_connections_above_the_limit_are_said_by_who_is_refused(
    service: Callable[..., Installed],
) -> None:
    silent = "ProxyProtocol=v1\nProxyFrom=127.0.0.1\nProxyTimeLimit=3s\n"
    full = service(f"{ECHO}\n{silent}", socket_section="MaxConnections=2")
    with full.connect() as one, full.connect() as two, full.connect() as three:
        assert [read_all(client) for client in (three, one, two)] == [b""] * 3
    found = full.records(3)
    results = sorted(each["SPAWN_RESULT"] for each in found)
    assert results == ["connection-limit", "denied", "denied"]
    assert [each["SPAWN_DROPPED"] for each in found if "SPAWN_DROPPED" in each] == ["1"]


@pytest.mark.parametrize("place", ["127.0.0.1", "[::1]", "/run/spawn-source.sock"])
def test_connections_above_the_limit_of_one_source(
    service: Callable[..., Installed], place: str
) -> None:
    """systemd is asked only when so many were open: that costs a process."""
    if place.startswith("/") and systemd_version() < 256:
        pytest.skip("systemd before 256 does not count the clients of a path")
    port = free_port()
    listen = place if place.startswith("/") else f"{place}:{port}"
    there = service(ECHO, start=False)
    section = f"[Socket]\nListenStream={listen}\nMaxConnectionsPerSource=2\n"
    there.file.write_text(f"{section}[Spawn]\n{ECHO}\n")
    there.start()

    def opened() -> socket.socket:
        if place.startswith("/"):
            return connect(place)
        return socket.create_connection((place.strip("[]"), port), timeout=PATIENCE)

    def served(client: socket.socket) -> bool:
        client.sendall(b"x")
        return client.recv(1) == b"x"

    for _ in range(3):
        with opened() as alone:
            assert served(alone)
        until_over()
    assert not Path(f"/run/spawn/dropped/{there.name}").exists()
    with opened() as one, opened() as two:
        assert served(one)
        assert served(two)
        with opened() as three:
            assert read_all(three) == b""
    (said,) = [each for each in there.records(6) if "SPAWN_DROPPED" in each]
    assert said["MESSAGE"] == (
        f"{there.name}: 1 connection was dropped above MaxConnections=256 or "
        "MaxConnectionsPerSource="
    )


def test_a_burst_is_answered_and_does_not_end_the_listener(
    service: Callable[..., Installed],
) -> None:
    there = service("User=nobody\nArgv=/bin/echo here", socket_section="MaxConnections=500")
    clients = [connect(there.address) for _ in range(300)]
    answers = [read_all(client) for client in clients]
    for client in clients:
        client.close()
    assert answers == [b"here\n"] * 300
    assert there.state() == "active"
    assert len(there.records(300)) == 300


def test_reload_while_connections_are_on(service: Callable[..., Installed]) -> None:
    there = service(ECHO)
    with there.connect() as client:
        client.sendall(b"one")
        assert client.recv(3) == b"one"
        run("systemctl", "daemon-reload")
        run("systemctl", "daemon-reexec")
        client.sendall(b"two")
        assert client.recv(3) == b"two"
        assert there.talk(b"three") == b"three"
        until(lambda: len(connection_units()) == 1)


def test_no_connection_leaves_a_unit(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nArgv=/bin/sh -c 'read n; exit $n'")
    for status in (b"0", b"7"):
        there.talk(status + b"\n")
    there.write("User=root\nArgv=/bin/true")
    there.talk()
    until_over()
    failed = run("systemctl", "list-units", "--failed", "--no-legend", "spawn@*.service").stdout
    assert failed == ""
