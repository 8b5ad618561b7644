"""One direction of the relay, between two pipes: no machine is needed."""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Iterator

import pytest

from spawnhelper.stages import relay

Pipe = tuple[int, int]


@pytest.fixture
def pipes() -> Iterator[tuple[Pipe, Pipe]]:
    made = os.pipe2(os.O_NONBLOCK), os.pipe2(os.O_NONBLOCK)
    yield made
    for descriptor in (*made[0], *made[1]):
        try:
            os.close(descriptor)
        except OSError:
            pass  # the test has closed it


def test_it_moves_what_there_is_and_then_waits_for_more(pipes: tuple[Pipe, Pipe]) -> None:
    (source, put), (get, target) = pipes
    pump = relay.Pump(source, target)
    os.write(put, b"some")
    assert pump.move()
    assert (os.read(get, 10), pump.moved) == (b"some", 4)
    assert (pump.awaited, pump.event) == (source, select.POLLIN)
    assert pump.move(), "there is nothing, but there can be"
    assert (pump.awaited, pump.event) == (source, select.POLLIN)
    os.close(put)
    assert not pump.move(), "nor can there be"


def test_it_moves_no_more_than_it_may(pipes: tuple[Pipe, Pipe]) -> None:
    (source, put), (get, target) = pipes
    os.write(put, b"12345")
    assert relay.Pump(source, target).move(3)
    assert os.read(get, 10) == b"123"


def test_it_waits_for_room(pipes: tuple[Pipe, Pipe]) -> None:
    (source, put), (get, target) = pipes
    pump = relay.Pump(source, target)
    os.write(target, bytes(fcntl.fcntl(target, fcntl.F_GETPIPE_SZ)))
    os.write(put, b"x")
    assert pump.move()
    assert (pump.awaited, pump.event, pump.moved) == (target, select.POLLOUT, 0)
    os.close(get)
    assert not pump.move(), "nobody takes it any more"


def test_a_pipe_that_is_ready_and_not_ready_does_not_make_it_spin(
    pipes: tuple[Pipe, Pipe],
) -> None:
    """A command can take from its own pipe what was just seen there."""
    (source, put), (_, target) = pipes
    pump = relay.Pump(source, target)
    for _ in range(relay.FRUITLESS):
        assert pump.move()
    assert pump.rest == 0
    assert pump.move()
    assert pump.rest > 0
    os.write(put, b"x")
    assert pump.move()
    first = pump.rest
    assert pump.move()
    assert pump.rest == first, "a byte makes up for it"
