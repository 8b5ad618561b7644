"""spawnctl list, status, log and stats of a service with Accept=no, and the board of its server."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Installed, in_machine, main_pid, run, until

from spawnhelper import board, manager

CAT = "User=nobody\nArgv=/bin/cat\n"
STANDING = "Accept=no"
SYSTEM = Path("/run/systemd/system")
Change = Callable[[str], None]


def unit(service: Installed) -> str:
    return f"spawn-server@{service.name}.service"


def status(service: Installed) -> dict[str, Any]:
    done = run("spawnctl", "status", "--json", service.name, check=False)
    said: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if said["serves"] else 3)
    return said


def text(service: Installed) -> list[str]:
    """What status says to a person, line by line, without columns."""
    shown = run("spawnctl", "status", service.name, check=False).stdout
    return [re.sub(r"  +", "  ", line.strip()) for line in shown.splitlines()]


def row(service: Installed) -> str:
    """The service's line of the list."""
    lines = run("spawnctl", "list", check=False).stdout.splitlines()
    (line,) = [line for line in lines if line.startswith(f"{service.name} ")]
    return re.sub(r"  +", "  ", line.strip())


def counts(service: Installed) -> tuple[int, int, int, int]:
    said = status(service)
    return said["live"], said["accepted"], said["dropped"], said["server"]["busy"]


@contextlib.contextmanager
def talking(service: Installed) -> Iterator[Any]:
    """A client whose command has answered, and goes on."""
    with service.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        yield client


@pytest.fixture
def server_change() -> Iterator[Change]:
    """Changes spawn-server@.service by a drop-in, until the test is over."""
    folder = SYSTEM / "spawn-server@.service.d"

    def change(text: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(f"[Service]\n{text}\n")
        run("systemctl", "daemon-reload")

    yield change
    (folder / "test.conf").unlink(missing_ok=True)
    run("systemctl", "daemon-reload")


@in_machine
def test_both_kinds_alike(service: Callable[..., Installed]) -> None:
    """The same keys and columns, and the same of each connection."""
    standing = service(CAT, socket_section=f"{STANDING}\nMaxConnections=3")
    usual = service(CAT, socket_section="MaxConnections=3")
    place = "{}:{}".format(*standing.address)
    assert "no, " not in row(standing)
    said = status(standing)
    assert (said["listening"], said["live"], said["connections"]) == ([place], 0, [])
    assert said["server"]["state"] == "inactive"
    assert f"Server  {unit(standing)}, inactive; the next connection starts it" in text(standing)
    assert status(usual)["server"] is None
    with talking(standing) as one, talking(standing) as two, talking(usual):
        said, other = status(standing), status(usual)
        assert said.keys() == other.keys()
        assert (said["live"], said["accepted"], said["dropped"], said["most"]) == (2, 2, 0, 3)
        assert said["server"] == {
            "unit": unit(standing),
            "state": "active",
            "pid": main_pid(unit(standing)),
            "busy": 2,
            "idle": said["server"]["idle"],  # one is in reserve, or will be
            "trouble": None,
        }
        (like,) = other["connections"]
        for client, shown in zip((one, two), said["connections"], strict=True):
            assert shown.keys() == like.keys()
            assert shown["client"] == "{}:{}".format(*client.getsockname())
            assert (shown["unit"], shown["command"]) == (unit(standing), "/bin/cat")
            assert os.readlink(f"/proc/{shown['pid']}/exe") == "/usr/bin/cat"
            assert shown["age_usec"] >= 0
        assert said["connections"][0]["age_usec"] > said["connections"][1]["age_usec"]
        assert "Connections  2 live of at most 3, 2 accepted, 0 dropped" in text(standing)
        assert row(standing) == f"{standing.name}  disabled  {place}  2  2  0"
    standing.records(2)
    until(lambda: counts(standing) == (0, 2, 0, 0))
    shown = next(line for line in text(standing) if line.startswith("Server"))
    assert re.fullmatch(rf"Server  {unit(standing)}, active, 0 workers busy, \d idle", shown)
    assert re.fullmatch(
        rf"{standing.name}  disabled  {place}  0  2  0  \w+ \d\d [\d:]+  success", row(standing)
    )


@in_machine
def test_log_and_stats_alike(service: Callable[..., Installed]) -> None:
    standing, usual = service(CAT, socket_section=STANDING), service(CAT)
    lines, numbers = [], []
    for each in (standing, usual):
        assert each.talk(b"word") == b"word"
        each.record()
        (line,) = run("spawnctl", "log", each.name).stdout.splitlines()
        shown = re.sub(r"\S+ \d\d [\d:]+ +\S+|[\d.]+ms|\d+", "N", line)
        lines.append(shown.split())  # how wide a column is depends on what was measured
        (group,) = json.loads(run("spawnctl", "stats", "--json", each.name).stdout)["groups"]
        numbers.append(group)
    assert lines[0] == lines[1]
    assert numbers[0].keys() == numbers[1].keys()
    assert [each["connections"] for each in numbers] == [1, 1]
    assert [each["bytes_in"] for each in numbers] == [numbers[1]["bytes_in"]] * 2


@in_machine
def test_who_waits_has_no_command(service: Callable[..., Installed]) -> None:
    turns = service(f"{CAT}MaxCommands=1\n", socket_section=STANDING)
    with talking(turns), turns.connect():
        said = until(lambda: status(turns), holds=lambda said: said["live"] == 2)
        first, second = said["connections"]
        assert (first["command"], second["command"]) == ("/bin/cat", "")
        assert os.stat(f"/proc/{second['pid']}").st_uid == pwd.getpwnam("nobody").pw_uid


@in_machine
def test_clients_of_a_path_and_those_refused(service: Callable[..., Installed]) -> None:
    limited = f"{STANDING}\nMaxConnectionsPerSource=1"
    path = service(CAT, address="/run/spawn-standing", socket_section=limited)
    with talking(path), path.connect() as second:
        assert second.recv(1) == b""
        (shown,) = status(path)["connections"]
        assert shown["client"] == f"pid {os.getpid()} of uid 0"
        until(lambda: counts(path) == (1, 1, 1, 1))


@in_machine
def test_who_is_refused_without_a_worker_is_counted(service: Callable[..., Installed]) -> None:
    wrong = service("User=nobody\nArgv=/bin/cat\nNoKey=1\n", socket_section=STANDING)
    assert wrong.talk() == b""
    wrong.record()
    until(lambda: counts(wrong) == (0, 1, 0, 0))
    assert status(wrong)["server"]["idle"] == 0


@in_machine
def test_what_a_user_may_see(service: Callable[..., Installed]) -> None:
    """All of it, but for the journal; and he can change nothing of it."""
    cat = service(CAT, socket_section=STANDING)
    nobody = ("runuser", "-u", "nobody", "--")
    with talking(cat) as client:
        said = json.loads(run(*nobody, "spawnctl", "status", "--json", cat.name).stdout)
        (shown,) = said["connections"]
        assert shown["client"] == "{}:{}".format(*client.getsockname())
        assert shown["command"] == "/bin/cat"
    done = run(*nobody, "sh", "-c", f": >>{board.file_of(cat.name)}", check=False)
    assert done.returncode != 0


@in_machine
def test_counts_go_on_behind_a_restart(service: Callable[..., Installed]) -> None:
    """Those of the socket, which goes on; not behind a stop of it."""
    cat = service(CAT, socket_section=STANDING)
    with talking(cat) as client:
        killed = main_pid(unit(cat))
        os.kill(killed, signal.SIGKILL)
        assert client.recv(1) == b""
        until(lambda: counts(cat) == (0, 1, 0, 0) and main_pid(unit(cat)) != killed)
    with talking(cat):
        assert counts(cat) == (1, 2, 0, 1)
    run("systemctl", "stop", cat.socket_unit)
    assert not Path(board.file_of(cat.name)).exists()
    cat.start()
    with talking(cat):
        assert counts(cat) == (1, 1, 0, 1)


@in_machine
def test_places_outlive_a_reload(service: Callable[..., Installed]) -> None:
    cat = service(CAT, socket_section=STANDING)
    assert cat.talk() == b""
    with talking(cat) as client:
        (before,) = status(cat)["connections"]
        cmdline = Path(f"/proc/{main_pid(unit(cat))}/cmdline")
        run("systemctl", "reload", unit(cat))
        from spawnhelper.doors import handover  # needs python3-prctl, as the machine has

        until(lambda: handover.RESUME in cmdline.read_text().split("\0"))
        until(lambda: counts(cat) == (1, 2, 0, 1))
        (after,) = status(cat)["connections"]
        assert (after["client"], after["pid"]) == (before["client"], before["pid"])
        assert after["age_usec"] > before["age_usec"]
        assert client.send(b"y") == 1
        assert client.recv(1) == b"y"
    until(lambda: counts(cat) == (0, 2, 0, 0))


@in_machine
def test_a_stuck_server(service: Callable[..., Installed], server_change: Change) -> None:
    server_change("WatchdogSec=0")  # else it would be ended
    cat = service(CAT, socket_section=STANDING)
    with talking(cat) as client:
        pid = main_pid(unit(cat))
        os.kill(pid, signal.SIGSTOP)
        try:
            said = until(lambda: status(cat), holds=lambda said: said["server"]["trouble"])
            assert re.fullmatch(
                r"it has done nothing for [\d.]+s; systemd starts it anew after a while, "
                rf"systemctl restart {unit(cat)} at once; its connections end",
                said["server"]["trouble"],
            )
            (shown,) = said["connections"]  # what it last did
            assert shown["client"] == "{}:{}".format(*client.getsockname())
            assert "(server stuck)" in row(cat)
            assert any(line.startswith("it has done nothing for ") for line in text(cat))
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: status(cat)["server"]["trouble"] is None)


@in_machine
def test_a_server_that_cannot_start(
    service: Callable[..., Installed], server_change: Change
) -> None:
    server_change("ExecStart=\nExecStart=/bin/false\nRestartSec=1h")
    cat = service(CAT, socket_section=STANDING)
    with cat.connect():
        trouble = until(lambda: status(cat)["server"]["trouble"])
        assert trouble == (
            f"it does not run (exit-code), and clients wait; journalctl -u {unit(cat)} says why"
        )
        assert "(server failing)" in row(cat)
        assert trouble in text(cat)


@in_machine
def test_a_server_without_a_board(service: Callable[..., Installed], server_change: Change) -> None:
    """It serves all the same, and says so once."""
    server_change("RuntimeDirectory=")
    cat = service(CAT, socket_section=STANDING)
    with talking(cat):
        trouble = status(cat)["server"]["trouble"]
        assert trouble == (
            f"it does not say what it does: {board.file_of(cat.name)}: No such file or directory; "
            f"can its unit write there? systemctl cat {unit(cat)}"
        )
        assert "(server silent)" in row(cat)
        assert trouble in text(cat)
    lines = run("journalctl", "-q", "-o", "cat", "-u", unit(cat)).stdout.splitlines()
    assert lines.count("spawnctl cannot see what this does: No such file or directory") == 1


@in_machine
def test_the_board_of_a_locked_up_server(
    service: Callable[..., Installed], server_change: Change
) -> None:
    server_change("ProtectSystem=strict")
    cat = service(CAT, socket_section=STANDING)
    with talking(cat):
        assert counts(cat) == (1, 1, 0, 1)
        assert status(cat)["server"]["trouble"] is None


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> board.Board:
    """A board of nobody's, where anybody can write."""
    monkeypatch.setattr(manager.now, "runtime", str(tmp_path))
    (tmp_path / "servers/some").mkdir(parents=True)
    return board.Board("some")


def seen() -> board.Seen:
    found = board.read("some")
    assert found is not None
    return found


def test_places_are_used_again(made: board.Board) -> None:
    for pid in (7, 8):
        made.note(pid, board.BEGINS)
        made.note(pid, board.IDLE)
        made.note(pid, board.BUSY, f"[::1]:{pid}")
    assert [(place.pid, place.client) for place in seen().those(board.BUSY)] == [
        (7, "[::1]:7"),
        (8, "[::1]:8"),
    ]
    made.note(7, board.GONE)
    made.note(9, board.BEGINS)
    made.note(9, board.BUSY, "pid 3 of uid 4")
    assert seen().accepted == 3
    assert [(place.pid, place.client) for place in seen().places] == [
        (9, "pid 3 of uid 4"),
        (8, "[::1]:8"),
    ]


@in_machine
def test_records_in_a_journal_of_their_own(service: Callable[..., Installed]) -> None:
    there = service(CAT, socket_section=f"{STANDING}\n[Service]\nLogNamespace=spawntest")
    (note,) = there.check().stderr.splitlines()
    assert "journalctl --namespace=spawntest shows them, plain journalctl does not" in note
    assert there.talk(b"word") == b"word"
    match = f"SPAWN_SERVICE={there.name}"
    ask = ("journalctl", "-q", "-o", "cat", match)
    (sentence,) = until(lambda: run(*ask, "--namespace=spawntest").stdout.splitlines())
    assert run(*ask).stdout == ""
    named = run(*ask, "--namespace=+spawntest").stdout.splitlines()
    assert named == [sentence]
    for words in ([], ["--namespace=spawntest"], ["--namespace=+spawntest"], ["--namespace=*"]):
        (line,) = run("spawnctl", "log", there.name, *words).stdout.splitlines()
        assert "success" in line
        counted = json.loads(run("spawnctl", "stats", "--json", there.name, *words).stdout)
        assert counted["all"]["results"] == {"success": 1}
    done = run("spawnctl", "log", "--namespace=of-nobody", check=False)
    assert done.returncode == 66
    assert done.stderr == "spawnctl: there is no journal of the namespace of-nobody\n"
    assert "success" in row(there)


def test_a_new_board_counts_on(made: board.Board) -> None:
    made.note(7, board.BUSY, "127.0.0.1:9")
    made.dropped += 2
    made.turned_away += 1
    made.beat(time.monotonic_ns())
    board.Board("some")
    assert seen()[2:] == (2, 2, 0, [])


def test_kept_workers_keep_their_places(made: board.Board) -> None:
    for pid in (7, 8, 9):
        made.note(pid, board.BUSY, f"127.0.0.1:{pid}")
    made.note(7, board.GONE)
    before = seen().those(board.BUSY)
    again = board.Board("some", [7, 8])
    assert seen()[2:] == (3, 0, 0, before[:1])
    again.note(8, board.IDLE)
    again.note(8, board.BUSY, "127.0.0.1:10")
    again.note(10, board.BUSY, "127.0.0.1:11")
    assert seen().accepted == 5


def test_a_half_written_line_is_not_believed(made: board.Board) -> None:
    made.note(7, board.BUSY, "127.0.0.1:9")
    file = Path(board.file_of("some"))
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"127.0.0.1:9", b"127.0.0.2:9"))
    assert board.read("some") is None
    file.write_bytes(whole[:-1])
    assert board.read("some") is None
    file.write_bytes(whole)
    assert seen().accepted == 1


def test_a_board_of_another_version(made: board.Board) -> None:
    """It is as good as none, for spawnctl and for the next server."""
    made._write(0, "1 2 3 4")
    assert board.read("some") is None
    board.Board("some")
    assert seen()[2:] == (0, 0, 0, [])


def test_a_board_that_is_full_is_given_up(
    made: board.Board, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    made.note(7, board.BUSY, "127.0.0.1:9")
    made.note(7, board.IDLE)
    said = capsys.readouterr().err
    assert said == "<4>spawnctl cannot see what this does: No space left on device\n"
    assert board.read("some") is None
