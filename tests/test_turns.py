"""MaxCommands= and QueueLimit=: never more at a time, everybody in turn, and no turn lost."""

from __future__ import annotations

import operator
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import doors
import pytest
from conftest import (
    SLACK,
    Installed,
    both_doors,
    connect,
    connection_units,
    free_port,
    in_machine,
    read_all,
    reset,
    rests,
    silent,
    until,
)

pytestmark = [in_machine, both_doors]

FOLDER = Path(doors.TURNS)
CAT = "User=nobody\nArgv=/bin/cat\n"


def speak(client: socket.socket, word: bytes = b"x") -> None:
    """Has cat answer, which is running then."""
    client.sendall(word)
    assert client.recv(len(word)) == word


def waiting(there: Installed) -> int:
    """How many have their turn, or wait for it."""
    return doors.now.in_line(there.name)


def in_line(there: Installed, count: int) -> list[socket.socket]:
    """So many connections, each of which has its place before the next one comes."""
    clients: list[socket.socket] = []
    taken = waiting(there)
    while len(clients) < count:
        clients.append(there.connect())
        until(lambda: waiting(there) == taken + len(clients))
    return clients


def test_in_order_and_never_more(service: Callable[..., Installed]) -> None:
    there = service(f"{CAT}MaxCommands=2\n")
    clients = in_line(there, 5)
    for client in clients:
        client.sendall(b"x")
    for running in (0, 1, 2):
        for client in clients[running : running + 2]:
            assert client.recv(1) == b"x"
            client.sendall(b"x")
        assert all(silent(client) for client in clients[running + 2 :])
        clients[running].close()
    for client in clients[3:]:
        assert client.recv(1) == b"x"
        client.close()
    waited = [int(each["SPAWN_WAITED_USEC"]) for each in there.records(5)]
    assert max(waited[:2]) < min(waited[2:])
    until(lambda: waiting(there) == 0)


def test_a_turn_is_worth_having_at_once(service: Callable[..., Installed]) -> None:
    there = service(f"{CAT}MaxCommands=1\n")
    first, second = in_line(there, 2)
    speak(first)
    first.close()
    begun = time.monotonic()
    speak(second)
    assert time.monotonic() - begun < SLACK  # QueueLimit= is 60 s
    second.close()
    there.records(2)


def test_a_turn_ends_with_its_command(service: Callable[..., Installed]) -> None:
    """Not when its client has taken the answer, or has said all that it has to say."""
    there = service("User=nobody\nMaxCommands=1\nArgv=/bin/sh -c 'head -c 500000 /dev/zero'")
    slow = [there.connect() for _ in range(4)]  # whose helpers stay for a minute
    assert [client.recv(1) for client in slow] == [b"\0"] * 4
    until(lambda: [pid for pid in doors.now.helpers() if doors.children(pid)], holds=operator.not_)
    assert len(connection_units()) == 4
    there.write("User=nobody\nMaxCommands=1\nSizeLimit=10\nArgv=/usr/bin/wc -c")
    over = there.connect()  # whose helper reads on, as long as that comes to something
    over.sendall(b"x" * 30)
    assert read_all(over) == b"10\n"
    assert there.talk(b"12") == b"2\n"
    assert int(there.records(2)[-1]["SPAWN_WAITED_USEC"]) < 30_000_000
    for client in slow:
        assert len(read_all(client)) == 499_999
        client.close()
    over.close()
    assert len(there.records(6)) == 6


def test_who_waits_in_vain(service: Callable[..., Installed], readable: Path) -> None:
    banner = readable / "busy"
    banner.write_text("421 busy\r\n")
    keys = f"MaxCommands=1\nQueueLimit=1s\nBannerRefused={banner}\n"
    there = service(CAT + keys)
    (first,) = in_line(there, 1)
    speak(first)
    begun = time.monotonic()
    assert there.talk() == b"421 busy\r\n"
    assert 1 <= time.monotonic() - begun < 1 + SLACK
    record = there.record()
    assert record["SPAWN_RESULT"] == "queue-limit"
    assert record["PRIORITY"] == "4"
    assert record["CONFIG_FILE"] == str(there.file)
    assert record["CONFIG_LINE"] == "7"
    place = f"{there.file}:7: "
    sentence = f"{place}QueueLimit= was over while MaxCommands=1 commands ran, client "
    assert record["MESSAGE"].startswith(f"{there.name}: no command was run: {sentence}")
    there.write(CAT + keys.replace("1s", "0"))
    begun = time.monotonic()
    assert there.talk() == b"421 busy\r\n"
    assert time.monotonic() - begun < SLACK
    first.close()
    until(lambda: waiting(there) == 0)
    assert there.talk(b"y") == b"y", "with QueueLimit=0 as well, if it is one's turn"


def test_a_banner_is_for_those_whose_turn_it_is(
    service: Callable[..., Installed], readable: Path
) -> None:
    (readable / "hello").write_text("hello")
    there = service(f"{CAT}MaxCommands=1\nBanner={readable}/hello\n")
    first, second = in_line(there, 2)
    assert first.recv(5) == b"hello"
    assert silent(second)
    first.close()
    assert second.recv(5) == b"hello"
    second.close()
    there.records(2)


def test_a_dead_holder_gives_its_turn_back(service: Callable[..., Installed]) -> None:
    there = service(f"{CAT}MaxCommands=2\n")
    clients = in_line(there, 4)
    for client in clients[:2]:
        speak(client)
    os.kill(doors.now.helper_of(clients[0]), signal.SIGKILL)
    speak(clients[2])
    assert silent(clients[3])
    os.kill(doors.now.helper_of(clients[1]), signal.SIGKILL)
    speak(clients[3])
    # What those two could not take with them is noticed by who has to wait.
    late = in_line(there, 1)[0]
    assert silent(late)
    for client in clients:
        client.close()
    speak(late)
    late.close()
    until(lambda: waiting(there) == 0)


def test_who_is_killed_while_waiting_holds_nobody_up(service: Callable[..., Installed]) -> None:
    there = service(f"{CAT}MaxCommands=1\n")
    clients = in_line(there, 4)
    speak(clients[0])
    second, third = (doors.now.helper_of(client) for client in clients[1:3])
    os.kill(third, signal.SIGKILL)
    os.kill(second, signal.SIGKILL)
    assert silent(clients[3])
    clients[0].close()
    speak(clients[3])
    for client in clients:
        client.close()
    until(lambda: waiting(there) == 0)


def test_a_client_that_goes_away_leaves_the_line(service: Callable[..., Installed]) -> None:
    there = service(f"{CAT}MaxCommands=1\n")
    first, second, third = in_line(there, 3)
    speak(first)
    reset(second)
    record = there.record()
    assert record["SPAWN_RESULT"] == "queue-limit"
    assert "the client went away while MaxCommands=1 commands ran" in record["MESSAGE"]
    first.close()
    speak(third)
    third.close()


def test_a_stop_ends_the_wait(service: Callable[..., Installed]) -> None:
    there = service(f"{CAT}MaxCommands=1\n")
    first, second = in_line(there, 2)
    speak(first)
    begun = time.monotonic()
    os.kill(doors.now.helper_of(second), signal.SIGTERM)  # as systemd does
    record = there.record()
    assert time.monotonic() - begun < SLACK
    assert record["SPAWN_RESULT"] == "stopped"
    sentence = f"{there.name}: no command was run: stopped while waiting for its turn, client "
    assert record["MESSAGE"].startswith(sentence)
    first.close()


def test_many_at_once(service: Callable[..., Installed], readable: Path) -> None:
    """300 connections, 7 commands at a time: counted by the commands themselves."""
    readable.chmod(0o777)
    script = f"touch {readable}/$$; ls {readable} | wc -l; sleep 0.1; rm {readable}/$$"
    there = service(
        f"User=nobody\nArgv=/bin/sh -c '{script}'\nMaxCommands=7\nQueueLimit=infinity\n",
        socket_section="MaxConnections=400",
    )
    clients = [there.connect() for _ in range(300)]
    counts = [int(client.makefile().read()) for client in clients]
    assert max(counts) <= 7
    assert max(counts) >= 3
    results = [each["SPAWN_RESULT"] for each in there.records(300)]
    assert results == ["success"] * 300
    until(lambda: waiting(there) == 0)


def test_a_lower_number_than_run_already(service: Callable[..., Installed]) -> None:
    """Who comes after the change waits until fewer run, whoever of them ends, and costs nothing
    meanwhile."""
    there = service(f"{CAT}MaxCommands=5\n")
    clients = in_line(there, 5)
    for client in clients:
        speak(client)
    there.write(f"{CAT}MaxCommands=2\nQueueLimit=infinity\n")
    late = in_line(there, 2)
    for client in late:
        until(partial(rests, doors.now.helper_of(client)))
    for client in clients[:4]:
        assert silent(late[0])
        client.close()
    speak(late[0])
    assert silent(late[1])
    late[0].close()
    speak(late[1])
    for client in (late[1], clients[4]):
        client.close()
    until(lambda: waiting(there) == 0)


def test_many_that_wait_do_not_wake_each_other(service: Callable[..., Installed]) -> None:
    there = service(f"{CAT}MaxCommands=1\nQueueLimit=infinity\n")
    clients = in_line(there, 40)
    speak(clients[0])
    most = [doors.now.helper_of(client) for client in clients[1:-1]]

    def switches() -> list[int]:
        texts = [Path(f"/proc/{helper}/status").read_text() for helper in most]
        return [int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in texts]

    def settled() -> list[int]:
        """What they are, once half a second changes nothing; else nothing."""
        before = switches()
        time.sleep(0.5)
        return before if switches() == before else []

    before = until(settled)
    late = in_line(there, 1)
    assert until(settled) == before
    for client in (*clients, *late):
        client.close()
    until(lambda: waiting(there) == 0)


def test_services_do_not_wait_for_each_other(service: Callable[..., Installed]) -> None:
    one, other = (service(f"{CAT}MaxCommands=1\n") for _ in range(2))
    with one.connect() as first, other.connect() as second:
        speak(first)
        speak(second)


def test_where_turns_cannot_be_kept(service: Callable[..., Installed]) -> None:
    there = service(f"{CAT}MaxCommands=1\n")
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / there.name).write_text("")
    try:
        assert there.talk() == b""
        record = there.record()
        assert record["SPAWN_RESULT"] == "resources"
        assert "MaxCommands= cannot be kept in /run/spawn/turns: Not a dir" in record["MESSAGE"]
    finally:
        (FOLDER / there.name).unlink()


@pytest.mark.parametrize("known", [False, True], ids=["nowhere", "run-user"])
def test_in_the_foreground(known: bool, readable: Path) -> None:
    place = readable / "run"
    place.mkdir()
    place.chmod(0o777)
    file = readable / "turn.conf"
    port = free_port()
    file.write_text(
        f"[Socket]\nListenStream=127.0.0.1:{port}\n"
        "[Spawn]\nUser=nobody\nArgv=/bin/echo hello\nMaxCommands=1\n"
    )
    nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    command = [*nobody, "env", f"XDG_RUNTIME_DIR={place if known else ''}", "spawnctl", "run"]
    with subprocess.Popen([*command, str(file)], stderr=subprocess.PIPE, text=True) as served:
        assert served.stderr is not None
        try:
            answer = until(lambda: greeting(port))
            said = served.stderr.readline()
        finally:
            served.terminate()
    assert answer == (b"hello\n" if known else b"-")
    assert known or "no command was run: MaxCommands= needs root, or $XDG_RUNTIME_DIR" in said
    assert not known or (place / "spawn/turns/turn").is_dir()


def greeting(port: int) -> bytes:
    """What the service says, "-" for nothing; b"" as long as it is not there."""
    try:
        with connect(("127.0.0.1", port)) as client:
            return read_all(client) or b"-"
    except ConnectionRefusedError:
        return b""
