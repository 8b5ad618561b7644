"""What the command has written reaches the client whole, though a part of the request is unread.
The suite of faults has many more sizes, clients and settings; see faults/delivery.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import clients
import far
import pytest
from clients import Case, Got
from conftest import Installed, free_port, in_machine

pytestmark = in_machine

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
