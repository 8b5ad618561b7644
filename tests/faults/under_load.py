"""Faults, each under a running load."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import load
import nested
import pytest
from conftest import Installed, connection_units, in_machine, journal, read_all, run, until
from load import CAT, ROOM

pytestmark = in_machine

UNIT = "/usr/lib/systemd/system/spawn@.service"
STOP_JOURNALD = ("systemd-journald.socket", "systemd-journald-dev-log.socket")


@pytest.fixture
def cat(service: Callable[..., Installed]) -> Installed:
    return service(CAT, socket_section=ROOM)


def helper_of(there: Installed) -> int:
    """The helper of the service's one connection."""
    record = f":{there.address[1]}-"
    (unit,) = (each for each in connection_units() if record in each)
    return int(run("systemctl", "show", "--property=MainPID", "--value", unit).stdout)


def family(pid: int) -> list[int]:
    """A process and its children."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


STAGES = {
    "waiting for a PROXY header": ("ProxyProtocol=any\nProxyFrom=127.0.0.1\n", b""),
    "waiting for its turn": ("MaxCommands=1\n", b""),
    "while the command runs": ("", b"x"),
    "while it hands bytes on": ("SizeLimit=1G\n", b"x" * 100_000),
    "between SIGTERM and SIGKILL": ("TimeLimit=100ms\nKillDelay=30s\n", b"x"),
    "after SizeLimit=, for the answer": ("SizeLimit=10\n", b"x" * 100),
}


@pytest.mark.parametrize("stage", STAGES)
def test_the_helper_is_killed(
    stage: str,
    cat: Installed,
    service: Callable[..., Installed],
    promise: Callable[[str], None],
) -> None:
    """The helper is killed with SIGKILL: the client sees the end, nothing of the command is left,
    systemd says it, and the next connection is served."""
    keys, octets = STAGES[stage]
    stubborn = "Argv=/bin/sh -c 'trap : TERM; while :; do sleep 0.1; done'\n"
    argv = stubborn if "KillDelay" in keys or "answer" in stage else "Argv=/bin/cat\n"
    there = service(f"User=nobody\n{argv}{keys}")
    with load.running(cat) as others:
        first = there.connect() if "turn" in stage else None
        if first is not None:
            first.sendall(b"x")
            assert first.recv(1) == b"x"
            before = helper_of(there)
        with there.connect() as client:
            client.sendall(octets)
            time.sleep(0.5)
            if first is not None:
                (unit,) = (each for each in connection_units() if served(each, there, before))
                show = ["systemctl", "show", "--property=MainPID", "--value", unit]
                pids = family(int(run(*show).stdout))
            else:
                pids = family(helper_of(there))
            begun = time.monotonic()
            os.kill(pids[0], signal.SIGKILL)
            read_all(client)
            took = time.monotonic() - begun
        assert until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
        said = [each["MESSAGE"] for each in journal("_PID=1", "UNIT_RESULT=signal")]
        assert any(f":{there.address[1]}-" in each for each in said)
        if first is not None:
            first.close()
        there.write(CAT)
        assert there.talk(b"next") == b"next"
        others.end()
    promise(f"{stage}: {took * 1000:.0f} ms")
    assert took < 1


def test_the_holder_of_a_turn_is_killed(
    cat: Installed, service: Callable[..., Installed], promise: Callable[[str], None]
) -> None:
    """The helper whose turn it is, with MaxCommands=, is killed with SIGKILL: the next in line has
    its turn at once."""
    there = service(f"{CAT}MaxCommands=1\n")
    with load.running(cat) as others, there.connect() as first:
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        holder = helper_of(there)
        with there.connect() as second:
            second.sendall(b"y")
            time.sleep(0.5)
            begun = time.monotonic()
            os.kill(holder, signal.SIGKILL)
            assert second.recv(1) == b"y"
            took = time.monotonic() - begun
        others.end()
    promise(f"{took * 1000:.0f} ms")
    assert took < 1


def served(unit: str, there: Installed, before: int) -> bool:
    """Whether the unit is a connection of the service, and not the one with that helper."""
    show = ["systemctl", "show", "--property=MainPID", "--value", unit]
    return f":{there.address[1]}-" in unit and int(run(*show).stdout) != before


def test_the_command_is_killed(cat: Installed, promise: Callable[[str], None]) -> None:
    """The command is killed with SIGKILL: the client sees the end at once, and the record has the
    signal."""
    with load.running(cat) as others, cat.connect() as client:
        client.sendall(b"x")
        client.recv(1)
        port = client.getsockname()[1]
        (unit,) = (each for each in connection_units() if each.endswith(f":{port}.service"))
        show = ["systemctl", "show", "--property=MainPID", "--value", unit]
        _, command = family(int(run(*show).stdout))
        begun = time.monotonic()
        os.kill(command, signal.SIGKILL)
        assert read_all(client) == b""
        took = time.monotonic() - begun
        found = until(lambda: journal(f"SPAWN_SERVICE={cat.name}", f"SPAWN_REMOTE_PORT={port}"))
        others.end()
    assert found[0]["SPAWN_RESULT"] == "signal"
    assert found[0]["EXIT_STATUS"] == "KILL"
    promise(f"{took * 1000:.0f} ms")


def test_journald_is_restarted(cat: Installed, promise: Callable[[str], None]) -> None:
    """journald is restarted ten times: no connection is lost, nor its record."""
    with load.running(cat) as others:
        for _ in range(10):
            run("systemctl", "restart", "systemd-journald")
            run("systemctl", "reset-failed", "systemd-journald")
            time.sleep(0.2)
        told = others.end()
    count = load.COUNT + others.made
    assert len(cat.records(count)) == count
    promise(f"{told}, {count} records")


def test_journald_is_stopped(cat: Installed, promise: Callable[[str], None]) -> None:
    """journald is stopped for two seconds: connections are served meanwhile."""
    with load.running(cat) as others:
        run("systemctl", "stop", *STOP_JOURNALD, "systemd-journald.service", check=False)
        made = others.made
        time.sleep(2)
        meanwhile = others.made - made
        run("systemctl", "start", *STOP_JOURNALD, "systemd-journald.service")
        told = others.end()
    assert meanwhile > 10
    promise(f"{told}, {meanwhile} of them meanwhile")


def test_journald_is_stuck(cat: Installed, promise: Callable[[str], None]) -> None:
    """journald does not move for two seconds, and its queue is full: connections are served
    meanwhile, as fast as ever."""
    show = ("systemctl", "show", "-P", "MainPID", "systemd-journald.service")
    stuck = int(run(*show).stdout)
    with load.running(cat) as others:
        os.kill(stuck, signal.SIGSTOP)
        try:
            fill_queue()
            others.slowest, made = 0.0, others.made
            time.sleep(2)
            meanwhile, slowest = others.made - made, others.slowest
        finally:
            os.kill(stuck, signal.SIGCONT)
        told = others.end()
    promise(f"{told}, {meanwhile} of them meanwhile, the slowest {slowest * 1000:.0f} ms")
    assert meanwhile > 10
    assert slowest < 0.5


def fill_queue() -> None:
    """Sends journald more than it takes at the moment."""
    for _ in range(100):  # of senders, each of which has a limit of its own, too
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.connect("/run/systemd/journal/socket")
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while sender.send(b"MESSAGE=to fill the queue\nPRIORITY=7\n"):
                    sent += 1
        if sent == 0:
            return
    raise AssertionError("the queue has no end")


def test_the_journals_disk_is_full(cat: Installed, promise: Callable[[str], None]) -> None:
    """The disk of the journal is full: connections are served, and are recorded again once there
    is room."""
    run("mount", "-t", "tmpfs", "-o", "size=20M", "none", "/run/log/journal")
    try:
        run("systemctl", "restart", "systemd-journald")
        cat.talk()
        with load.running(cat) as others:
            fill = Path("/run/log/journal/full")
            with fill.open("wb") as file:
                try:
                    while True:
                        file.write(b"x" * 65536)
                        file.flush()
                except OSError:
                    pass
            time.sleep(2)
            fill.unlink()
            told = others.end()
        cat.talk(b"again")
        assert until(lambda: journal(f"SPAWN_SERVICE={cat.name}"))
    finally:
        run("umount", "-l", "/run/log/journal")
        run("systemctl", "restart", "systemd-journald")
    promise(told)


@pytest.mark.parametrize("verb", ["daemon-reload", "daemon-reexec"])
def test_systemd_reloads(verb: str, cat: Installed, promise: Callable[[str], None]) -> None:
    """systemctl daemon-reload, daemon-reexec, ten of each: no connection is lost, nor its
    record."""
    with load.running(cat) as others:
        for _ in range(10):
            run("systemctl", verb)
        told = others.end()
    count = load.COUNT + others.made
    assert len(cat.records(count)) == count
    promise(f"{verb}: {told}, the slowest {others.slowest * 1000:.0f} ms")


def test_a_broken_file_among_good_ones(
    cat: Installed, service: Callable[..., Installed], promise: Callable[[str], None]
) -> None:
    """The generator meets a broken service file: that service alone does not start, and says
    why."""
    with load.running(cat) as others:
        bad = service(CAT, socket_section="Accept=no", start=False)
        good = service(CAT)
        assert good.talk(b"here") == b"here"
        assert run("systemctl", "start", bad.socket_unit, check=False).returncode != 0
        why = [each["MESSAGE"] for each in journal(f"_SYSTEMD_UNIT={bad.socket_unit}")]
        told = others.end()
    assert len(why) == 1
    promise(f"{told}; {len(why)} sentence")
    assert re.search(r"\.conf:3: Accept= is set by spawnhelper", why[0])


def test_the_service_file_is_replaced(
    service: Callable[..., Installed], promise: Callable[[str], None]
) -> None:
    """The service file is replaced again and again while it is read: every connection gets the one
    or the other."""
    words = [f"{number} {'x' * 500} {number}" for number in range(2)]
    there = service(f"User=nobody\nArgv=/bin/echo {words[0]}\n", socket_section=ROOM)
    text = there.file.read_text()
    over = threading.Event()
    replaced = 0

    def replace() -> None:
        nonlocal replaced
        while not over.is_set():
            for word in words:
                draft = there.file.with_suffix(".new")
                draft.write_text(text.replace(words[0], word))
                draft.rename(there.file)
                replaced += 1

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        answers = [there.talk() for _ in range(200)]
    finally:
        over.set()
        writer.join()
    assert set(answers) == {f"{word}\n".encode() for word in words}
    promise(f"200 connections, {replaced} times replaced")


def test_the_user_is_deleted(
    cat: Installed, service: Callable[..., Installed], promise: Callable[[str], None]
) -> None:
    """The user is deleted: its service says so, the command that runs goes on, and all is well
    when the user is back."""
    run("useradd", "--system", "leaving")
    there = service("User=leaving\nArgv=/bin/cat\n")
    try:
        with load.running(cat) as others, there.connect() as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            run("sed", "-i.kept", "/^leaving:/d", "/etc/passwd")
            assert there.talk() == b""
            record = there.record()
            assert record["SPAWN_RESULT"] == "config"
            client.sendall(b"y")
            assert client.recv(1) == b"y"
            shutil.move("/etc/passwd.kept", "/etc/passwd")
            assert there.talk(b"z") == b"z"
            told = others.end()
    finally:
        run("userdel", "leaving", check=False)
    sentence = record["MESSAGE"].partition("run: ")[2].partition(", client")[0]
    promise(f"{told}; “{sentence.rpartition('/')[2]}”")


def test_the_name_service_is_stuck(
    cat: Installed, service: Callable[..., Installed], promise: Callable[[str], None]
) -> None:
    """A name service that does not answer: services of local users do not notice, and the one that
    waits for it keeps nobody else waiting."""
    folder = Path("/run/systemd/userdb")
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "org.example.stuck"
    there = service("User=remote\nArgv=/bin/true\n")
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(place))
        place.chmod(0o666)
        stuck.listen(100)
        try:
            with load.running(cat) as others, there.connect() as client:
                client.settimeout(1.5)
                with pytest.raises(TimeoutError):
                    client.recv(1)
                slowest = others.slowest
                told = others.end()
        finally:
            place.unlink()
    assert until(lambda: there.records(1))
    assert there.record()["SPAWN_RESULT"] == "config"
    promise(f"{told}, the slowest {slowest * 1000:.0f} ms")


SHORTAGES = {
    "no process": ["SystemCallFilter=~clone clone3 fork vfork\nSystemCallErrorNumber=EAGAIN"],
    "descriptors, from 3 to 12": [f"LimitNOFILE={count}" for count in range(3, 13)],
    "memory, from 6 to 40 MiB": [f"LimitAS={count}M" for count in range(6, 41, 2)],
}


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_something_runs_out(
    shortage: str,
    cat: Installed,
    unit_change: Callable[[str], None],
    promise: Callable[[str], None],
) -> None:
    """Processes, descriptors or memory run out for new connections: each of them is served, or
    ends and says why; those that run go on, and all is well afterwards."""
    told: Counter[str] = Counter()
    slowest = 0.0
    with load.running(cat) as others:
        others.pause()
        for limit in SHORTAGES[shortage]:
            unit_change(f"[Service]\n{limit}")
            known = set(connection_units())
            seen = len(journal(f"SPAWN_SERVICE={cat.name}"))
            begun = time.monotonic()
            served = asked_once(cat)
            slowest = max(slowest, time.monotonic() - begun)
            assert until(partial(nothing_but, known))
            records = journal(f"SPAWN_SERVICE={cat.name}")[seen:]
            last = "journalctl -q -o cat --since=-5s _PID=1 + SYSLOG_IDENTIFIER=spawn"
            lines = run(*last.split()).stdout
            if served:
                told["served"] += 1
            elif records:
                told[f"recorded as {records[0]['SPAWN_RESULT']}"] += 1
                assert records[0]["SPAWN_RESULT"] != "success"
            else:
                told["said by systemd"] += 1
                assert re.search(r"spawn@.*: (Failed|Main process exited)", lines), (limit, lines)
        unit_change("")
        assert cat.talk(b"again") == b"again"
        held = others.end().partition(" and ")[0]
    if shortage == "no process":
        assert told == {"recorded as resources": 1}
    counted = ", ".join(f"{number} {what}" for what, number in sorted(told.items()))
    promise(f"{shortage}: {counted}; the slowest {slowest * 1000:.0f} ms, {held}")


def nothing_but(known: set[str]) -> bool:
    """Whether no connection is there that was not known."""
    return set(connection_units()) <= known


def asked_once(there: Installed) -> bool:
    """Whether one connection is served; it ends, in whatever way."""
    try:
        return there.talk(b"x") == b"x"
    except OSError:
        return False


def test_the_machine_is_rebooted(
    tmp_path_factory: pytest.TempPathFactory, promise: Callable[[str], None]
) -> None:
    """The machine is rebooted with 50 connections open: each is ended and recorded as stopped, and
    the service listens again."""
    with nested.pristine(tmp_path_factory.mktemp("work")) as machine:
        machine.install(nested.BUILT.glob("*.deb"))
        shutil.copy(UNIT, f"{machine.root}{UNIT}")  # as it is here, for counterproof.py
        text = f"[Socket]\nListenStream=127.0.0.1:10023\n{ROOM}\n[Spawn]\n{CAT}"
        (machine.root / "etc/spawn/echo.conf").write_text(text)
        machine.run(
            "mkdir -p /var/log/journal; systemctl restart systemd-journald; journalctl --flush; "
            "systemctl daemon-reload; systemctl enable --now spawn@echo.socket"
        )
        opened = "socat -t 100 EXEC:'sleep 100' TCP:127.0.0.1:10023 >/dev/null 2>&1 &"
        machine.run(f"for i in $(seq 50); do setsid {opened} done")
        count = "spawnctl list --json | grep -o '\"live\": [0-9]*'"
        assert until(lambda: "50" in machine.run(count).stdout)
        begun = time.monotonic()
        machine.reboot()
        took = time.monotonic() - begun
        read = "spawnctl log --json --result stopped echo | grep -c SPAWN_RESULT"
        stopped = int(machine.run(read, check=False).stdout)
        assert machine.run("printf x | socat -t 5 - TCP:127.0.0.1:10023").stdout == "x"
    promise(f"{stopped} of 50 recorded as stopped, back after {took:.0f} s")
    assert stopped == 50
