"""What comes at the worst moment: a stop in the middle of something else, a shortage, a fault."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import doors
import pytest
from conftest import (
    Installed,
    both_doors,
    fill_journal,
    frozen,
    groups_of,
    in_machine,
    journal,
    journald_stuck,
    main_pid,
    no_stream,
    python,
    read_all,
    run,
    stop_connection,
    stopped,
    until,
    until_over,
    workers,
)

from spawnhelper import board
from spawnhelper.doors.lobby import Lobby

pytestmark = in_machine

SCRATCH = Path("/srv/accidents")
PACKAGE = Path(doors.PACKAGE)
ACCOUNTS = Path("/run/userdb")
CAT = "User=games\nArgv=/bin/cat\n"
STANDING = "Accept=no\n"
STUBBORN = (
    "import signal, sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('x', flush=True)\nsys.stdin.read()\n"
)


@pytest.fixture(scope="module", autouse=True)
def places() -> Iterator[None]:
    SCRATCH.mkdir(exist_ok=True)
    SCRATCH.chmod(0o755)
    yield
    run("rm", "-r", str(SCRATCH))


@contextmanager
def changed(path: Path, old: str, new: str) -> Iterator[None]:
    """Has another line in a module of ours."""
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    run("systemctl", "stop", "spawn-server@*.service")
    try:
        yield
    finally:
        path.write_text(text)
        run("systemctl", "stop", "spawn-server@*.service")


def server_of(there: Installed) -> int:
    return main_pid(f"spawn-server@{there.name}.service")


def trials(server: int) -> list[int]:
    """The children that only try whether the program can be executed."""
    found = []
    for pid in doors.children(server):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if b"--try" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def has_to_stop(pid: int) -> bool:
    """Whether a stop waits for a process."""
    pending = Path(f"/proc/{pid}/status").read_text().partition("\nShdPnd:")[2].split()[0]
    return bool(int(pending, 16) >> signal.SIGTERM - 1 & 1)


def is_over(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    return True


def test_a_stop_while_a_program_is_tried(service: Callable[..., Installed]) -> None:
    """It reaches the server together with the end of the trial."""
    line = "        return os.EX_OK if arguments[1:] == [str(handover.FORMAT)]"
    slower = f"        time.sleep(2)\n{line}"
    with changed(PACKAGE / "doors/server.py", line, slower):
        there = service(CAT, socket_section=STANDING)
        stop_while_trying(there)


def stop_while_trying(there: Installed) -> None:
    with there.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        server = server_of(there)
        os.kill(server, signal.SIGHUP)
        tried = until(lambda: trials(server))
        with stopped(server):
            until(lambda: all(is_over(pid) for pid in tried))
            os.kill(server, signal.SIGTERM)
        assert client.recv(1) == b""
    assert there.record()["SPAWN_RESULT"] == "stopped"
    until(lambda: not Path(f"/proc/{server}").exists())


def test_records_have_their_time_after_a_stop(service: Callable[..., Installed]) -> None:
    """However long the commands have taken to end."""
    keys = f"User=games\nKillDelay=6s\n{python(SCRATCH, STUBBORN)}"
    there = service(keys, socket_section=STANDING)
    with there.connect() as client:
        assert client.recv(1) == b"x"
        server = server_of(there)
        (worker,) = workers(there, board.BUSY)
        with journald_stuck():
            fill_journal()
            os.kill(server, signal.SIGTERM)
            until(lambda: worker not in doors.children(server))
    assert there.records(1)[0]["SPAWN_RESULT"] == "stopped"


def test_a_stop_before_a_worker_takes_its_connection(service: Callable[..., Installed]) -> None:
    there = service(CAT, socket_section=f"{STANDING}MaxConnections=1")
    assert there.talk(b"x") == b"x"
    assert there.record()["SPAWN_RESULT"] == "success"
    (worker,) = until(lambda: workers(there), holds=lambda pids: len(pids) == 1)
    with there.connect() as client:
        with frozen(worker):
            client.sendall(b"x")
            until(lambda: workers(there, board.BUSY) == [worker])
            server = server_of(there)
            os.kill(server, signal.SIGTERM)
            until(lambda: has_to_stop(worker))
        assert read_all(client) in (b"", b"x")  # it can have been about to take it
    assert there.record()["SPAWN_RESULT"] == "stopped"


@pytest.mark.parametrize("door", doors.BOTH, indirect=True, ids=["Accept-yes", "Accept-no"])
def test_an_account_that_is_there_later(service: Callable[..., Installed]) -> None:
    """And of which no file of the machine tells that it has come."""
    there = service("User=spawn-late\nArgv=/bin/cat\n")
    assert there.talk(b"x") == b""
    assert there.record()["SPAWN_RESULT"] == "config"
    ACCOUNTS.mkdir(exist_ok=True)
    file = ACCOUNTS / "spawn-late.user"
    file.write_text('{"userName": "spawn-late", "uid": 61111, "gid": 60, "disposition": "regular"}')
    try:
        until(lambda: run("getent", "passwd", "spawn-late", check=False).stdout)
        until(lambda: there.talk(b"x") == b"x")
    finally:
        file.unlink()


@both_doors
def test_the_program_goes_while_a_connection_waits(service: Callable[..., Installed]) -> None:
    program = SCRATCH / "program"
    program.write_text("#!/bin/sh\nexec cat\n")
    program.chmod(0o755)
    there = service(f"User=games\nMaxCommands=1\nArgv={program}\n")
    with there.connect() as first:
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        second = there.connect()
        until(lambda: doors.now.in_line(there.name) == 2)
        program.unlink()
        first.shutdown(socket.SHUT_WR)
        assert read_all(first) == b""
    with second:
        assert read_all(second) == b""
    (record,) = (each for each in there.records(2) if each["SPAWN_RESULT"] != "success")
    assert record["SPAWN_RESULT"] == "config"
    assert f"Argv= {program}: No such file or directory" in record["MESSAGE"]


@both_doors
def test_a_fault_of_ours_leaves_nobody(service: Callable[..., Installed]) -> None:
    """Once a command runs."""
    line = "self._ended = os.pidfd_open(process.pid)"
    with changed(PACKAGE / "stages/supervise.py", line, "raise RuntimeError('a test')"):
        there = service("User=games\nArgv=/bin/sleep 1000\n")
        assert there.talk() == b""
        record = there.record()
        assert record["SPAWN_RESULT"] == "resources"
        assert "RuntimeError: a test" in record["MESSAGE"]
        until(lambda: run("pgrep", "-U", "games", "sleep", check=False).stdout == "")


def test_a_birth_that_fails_leaves_no_control_group(service: Callable[..., Installed]) -> None:
    there = service(CAT, socket_section=STANDING)
    assert there.talk(b"x") == b"x"
    until_over()
    server = server_of(there)
    until(lambda: workers(there))
    limits = resource.prlimit(server, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{server}/fd")}
    room = next(number for number in range(len(used) + 1) if number not in used)
    resource.prlimit(server, resource.RLIMIT_NOFILE, (room, limits[1]))
    try:
        for pid in workers(there):
            os.kill(pid, signal.SIGKILL)
        said = until(lambda: journal(f"_PID={server}", "PRIORITY=3"))
        assert "no worker can be made: Too many open files" in said[0]["MESSAGE"]
    finally:
        resource.prlimit(server, resource.RLIMIT_NOFILE, limits)
    until(lambda: there.talk(b"x") == b"x")
    until(lambda: len(groups_of(there)) == len(doors.children(server)))


@pytest.mark.parametrize("more", ["LimitCPU=1h\n", "LimitCPU=1h\nSizeLimit=1K\n", "SizeLimit=1K\n"])
def test_a_command_that_cannot_be_forked_leaves_no_descriptor(
    service: Callable[..., Installed], more: str
) -> None:
    there = service(CAT + more, socket_section=STANDING, start=False)
    drop_ins = Path(f"/run/systemd/system/spawn-server@{there.name}.service.d")
    drop_ins.mkdir(parents=True)
    (drop_ins / "test.conf").write_text("[Service]\nLimitNPROC=1\n")  # for who is not root
    try:
        there.start()
        assert there.talk() == b""
        why = "no process can be started: Resource temporarily unavailable"
        assert why in there.record()["MESSAGE"]
        until_over()
        idle = until(lambda: workers(there))
        before = {pid: os.listdir(f"/proc/{pid}/fd") for pid in idle}
        for _ in range(len(idle) + 1):
            assert there.talk() == b""
            until_over()
        after = {pid: os.listdir(f"/proc/{pid}/fd") for pid in workers(there)}
        both = before.keys() & after.keys()
        assert both
        assert all(after[pid] == before[pid] for pid in both)
    finally:
        run("rm", "-r", str(drop_ins))
        run("systemctl", "daemon-reload")


def test_a_worker_that_dies_with_its_turn(service: Callable[..., Installed]) -> None:
    """Its connection is not another one's: it may have taken something of it."""
    there = service(f"{CAT}MaxCommands=1\n", socket_section=STANDING)
    with there.connect() as first:
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        second = there.connect()
        until(lambda: doors.NO.in_line(there.name) == 2)
        busy = workers(there, board.BUSY)
        (waits,) = (pid for pid in busy if not doors.children(pid))
        with frozen(waits):
            first.shutdown(socket.SHUT_WR)
            assert read_all(first) == b""
            there.records(1)
            os.kill(waits, signal.SIGKILL)
    with second:
        assert read_all(second) == b""
    results = sorted(record["SPAWN_RESULT"] for record in there.records(2))
    assert results == ["resources", "success"]
    (said,) = (r["MESSAGE"] for r in there.records(2) if r["SPAWN_RESULT"] == "resources")
    assert "its worker did not come to the end of it: killed by SIGKILL" in said
    assert there.talk(b"y") == b"y"


def test_what_a_killed_worker_had_sent_arrives(service: Callable[..., Installed]) -> None:
    """The server ends the connection then, with bytes of the client unread, which must not take
    away what is on its way; the client has ended its own side."""
    code = (
        "import os, signal, socket, sys\n"
        "client = socket.socket(fileno=0)\n"
        "client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)\n"
        "client.recv(1)\n"
        "client.sendall(b'y' * 30_000)\n"
        "os.kill(os.getppid(), signal.SIGKILL)\n"
    )
    there = service(f"User=games\n{python(SCRATCH, code)}", socket_section=STANDING)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(there.address)
        client.sendall(b"xx")
        client.shutdown(socket.SHUT_WR)
        until(lambda: workers(there) and not workers(there, board.BUSY))
        came = 0
        while part := client.recv(65536):
            came += len(part)
    assert came == 30_000
    assert there.record()["SPAWN_RESULT"] == "resources"


def test_a_command_that_waits_for_the_journal_has_no_more_time(
    service: Callable[..., Installed],
) -> None:
    """And its worker hears of its limits meanwhile."""
    keys = "StandardError=journal\nTimeLimit=1s\nKillDelay=0\n"
    there = service(f"{CAT}{keys}", socket_section=STANDING)
    assert there.talk(b"x") == b"x"
    with journald_stuck(), no_stream():
        assert there.talk(b"x") == b""
    results = [record["SPAWN_RESULT"] for record in there.records(2)]
    assert results == ["success", "time-limit"]


def test_a_client_in_the_lobby_that_listens() -> None:
    """A command can have its socket do so, once it has disconnected it."""
    with select.epoll() as poll, socket.create_server(("127.0.0.1", 0)) as odd:
        lobby = Lobby(poll)
        lobby.keep(odd)
        lobby.hear(odd.fileno())
        assert not lobby


@both_doors
@pytest.mark.parametrize("keys", ["", "SizeLimit=infinity\n", "TimeLimit=500ms\n"])
def test_who_never_takes_the_answer_holds_up_no_stop(
    service: Callable[..., Installed], keys: str
) -> None:
    """Whatever he goes on sending; nor an end at a limit."""
    there = service(f"User=games\nKillDelay=0\n{keys}Argv=/bin/cat /dev/zero\n")
    over = threading.Event()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(there.address)

        def sends() -> None:
            with suppress(OSError):
                while not over.wait(0.2):
                    client.send(b"x")

        sending = threading.Thread(target=sends)
        sending.start()
        try:
            if "TimeLimit" not in keys:
                stop_connection()
            (record,) = there.records(1)
        finally:
            over.set()
            sending.join()
    wanted = "time-limit" if "TimeLimit" in keys else "stopped"
    assert record["SPAWN_RESULT"] == wanted


def test_a_file_beside_those_of_a_service_changes_nothing(
    service: Callable[..., Installed],
) -> None:
    """Of a folder counts what a service has in there."""
    there = service(CAT, socket_section=STANDING)
    assert there.talk(b"x") == b"x"
    until_over()
    before = until(lambda: workers(there))
    beside = Path("/etc/spawn-beside")
    beside.touch()
    try:
        assert there.talk(b"x") == b"x"
        until_over()
        assert set(before) <= set(workers(there))
        drop_in = there.file.with_suffix(".conf.d")
        drop_in.mkdir()
        (drop_in / "other.conf").write_text("[Spawn]\nArgv=/bin/echo other\n")
        assert there.talk(b"x") == b"other\n"
        until(lambda: not set(before) & set(workers(there)))
        run("rm", "-r", str(drop_in))
        assert there.talk(b"x") == b"x"
    finally:
        beside.unlink()
