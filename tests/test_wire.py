"""What a server believes of a worker, which is the command's user. No machine is needed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from spawnhelper.doors import wire
from spawnhelper.doors.inherited import Connection
from spawnhelper.outcome import DENIED, NEVER_RAN, Problem, Refusal
from spawnhelper.stages.serve import Ended


@pytest.fixture
def connection() -> Iterator[Connection]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Connection(ours, "wire")


def ended(**changes: object) -> Ended:
    found = Ended()
    usual = {"result": "success", "status": 0, "childless": True, "sending": False}
    numbers = dict.fromkeys(wire.MEASURES, 5)
    for name, value in {**usual, **numbers, **changes}.items():
        setattr(found, name, value)
    return found


def test_what_is_reported_comes_back(connection: Connection) -> None:
    message = wire.report(connection, ended(came=None), wire.READY)
    back = wire.reported(message, connection, proxied=False)
    assert isinstance(back, Ended)
    assert (back.result, back.status, back.out, back.came) == ("success", 0, 5, None)


@pytest.mark.parametrize("then", [wire.STAYS, wire.READY, wire.SPENT])
def test_what_comes_next_is_reported_with_it(connection: Connection, then: bytes) -> None:
    message = wire.report(connection, ended(), then)
    wire.reported(message, connection, proxied=False)
    assert wire.next_of(message) == then


@pytest.mark.parametrize("remote", [None, ("192.0.2.1", 5), ("fe80::1%lo", 65535)])
def test_a_task_comes_with_its_connection(remote: tuple[str, int] | None) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, socket.socket() as client:
        wire.hand_over(ours, wire.Task(client.fileno(), client.family, remote))
        task = wire.take_over(theirs)
        assert isinstance(task, wire.Task)
        with socket.socket(fileno=task.descriptor) as taken:
            assert taken.family == client.family == task.family
            assert os.path.sameopenfile(taken.fileno(), client.fileno())
        assert task.remote == remote
        ours.send(wire.TURN)
        assert wire.take_over(theirs) == wire.TURN
        ours.send(b"?")
        assert wire.take_over(theirs) == b""
        ours.close()
        assert wire.take_over(theirs) == b""


def test_a_refusal_keeps_its_problems(connection: Connection) -> None:
    problem = Problem("/etc/spawn/wire.conf", 7, "DenyFrom=192.0.2.0/24 has 192.0.2.1")
    told = Refusal(DENIED, 0, problems=(problem,))
    back = wire.reported(wire.report(connection, told, wire.READY), connection, proxied=False)
    assert isinstance(back, Refusal)
    assert (back.result, str(back)) == (DENIED, str(told))
    assert DENIED in NEVER_RAN


def test_who_the_client_is_only_a_proxy_can_tell(connection: Connection) -> None:
    other = Connection(connection.socket, "wire")
    other.proxy, other.remote, other.local = ("", 0), ("198.51.100.1", 1), ("192.0.2.1", 2)
    message = wire.report(other, ended(), wire.READY)
    with pytest.raises(wire.Garbled):
        wire.reported(message, connection, proxied=False)
    assert connection.remote is None
    wire.reported(message, connection, proxied=True)
    assert connection.remote == ("198.51.100.1", 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda message: message[:-1],
        lambda message: message + b"x",
        lambda message: message[:20],
        lambda message: message[:1] + b"\x7f" + message[2:],
        lambda message: message[:2] + b"\x7f" + message[3:],
        lambda message: message[:2] + b"\xff" * 8 + message[10:],
    ],
)
def test_what_no_worker_says(connection: Connection, change: object) -> None:
    assert callable(change)
    with pytest.raises(wire.Garbled):
        wire.reported(
            change(wire.report(connection, ended(), wire.READY)), connection, proxied=False
        )


@pytest.mark.parametrize("name", ["duration", "pid", "killed"])
def test_what_it_must_say(connection: Connection, name: str) -> None:
    message = wire.report(connection, ended(**{name: None}), wire.READY)
    with pytest.raises(wire.Garbled):
        wire.reported(message, connection, proxied=False)
