"""What the command has written reaches the client whole, though a part of the request is unread.
The suite of faults has many more sizes, clients and settings; see faults/delivery.py."""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
from collections.abc import Callable, Iterator

import clients
import far
import pytest
from clients import Case, Got
from conftest import Installed, both_doors, free_port, helper, in_machine, reset, run, until

pytestmark = [in_machine, both_doors]

SIZE = 1 << 20  # bytes
CASES = [
    Case(SIZE, sent, how) for sent in (100, 300_000) for how in ("fast", "half-closed", "slow")
]
SPAWN = f"User=nobody\nArgv=/bin/sh {clients.SCRIPT}\n"


@pytest.fixture(scope="module", autouse=True)
def answers() -> Iterator[None]:
    clients.prepare()
    yield
    clients.remove()


@pytest.fixture(scope="module")
def far_away() -> Iterator[None]:
    with far.network():
        yield


def whole(count: int) -> list[Got]:
    return [Got(SIZE, clean=True)] * count


@pytest.mark.parametrize("keys", ["", "SizeLimit=1M\n"])
@pytest.mark.usefixtures("far_away")
def test_over_50_ms_of_round_trip(service: Callable[..., Installed], keys: str) -> None:
    there = service(SPAWN + keys, address=(far.HERE, free_port()))
    assert clients.ask(there.address, CASES, far.ENTER, len(CASES)) == whole(len(CASES))
    assert {each["SPAWN_RESULT"] for each in there.records(len(CASES))} == {"success"}


@pytest.mark.parametrize("keys", ["", "SizeLimit=1M\n", "SizeLimit=1M\nIdleLimit=1min\n"])
def test_at_a_path(service: Callable[..., Installed], keys: str) -> None:
    there = service(SPAWN + keys, address="/run/spawn/delivery.sock")
    assert clients.ask(there.address, CASES, (), len(CASES)) == whole(len(CASES))
    assert {each["SPAWN_RESULT"] for each in there.records(len(CASES))} == {"success"}


def test_to_a_slow_client_nearby(service: Callable[..., Installed]) -> None:
    there = service(SPAWN)
    assert clients.ask(there.address, [Case(SIZE, 100, "slow")], (), 1) == whole(1)


def at_rest(client: socket.socket) -> bool:
    """Whether all that is on its way to the client has been acknowledged, and the rest waits."""
    ours, theirs = (f":{each[1]}" for each in (client.getsockname(), client.getpeername()))
    shown = run("ss", "-Htin", "src", theirs, "dst", ours).stdout
    return "notsent:" in shown and "unacked:" not in shown


@pytest.mark.parametrize(
    ("keys", "address", "size"),
    [
        ("", None, SIZE),
        ("SizeLimit=1M\n", None, SIZE),
        ("SizeLimit=1M\n", "/run/spawn/delivery.sock", 300 << 10),  # the last in a pipe
    ],
)
def test_a_client_that_goes_away_is_told_of(
    service: Callable[..., Installed], keys: str, address: str | None, size: int
) -> None:
    """What arrived is what its side of the connection has acknowledged, be it read or not."""
    there = service(SPAWN + keys, address=address)
    with there.connect() as client:
        client.sendall(b"%d\n" % size + b"unread")
        assert len(client.recv(1)) == 1
        serving = str(helper())
        until(lambda: not run("pgrep", "--parent", serving, check=False).stdout)
        if address is None:  # what has come is acknowledged now, and not some time later
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            until(lambda: at_rest(client))
        arrived = 1 + int.from_bytes(fcntl.ioctl(client, termios.FIONREAD, bytes(4)), sys.byteorder)
        reset(client)
    record = there.record()
    assert (record["SPAWN_RESULT"], record["EXIT_STATUS"]) == ("undelivered", "0")
    missing = int(record["SPAWN_BYTES_UNDELIVERED"])
    assert missing == size - arrived > 0
    assert f"; {missing} bytes of the answer not delivered" in record["MESSAGE"]
