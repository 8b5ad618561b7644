"""Waiting without a command to wait for. Loaded where that can be."""

from __future__ import annotations

import select
import time

from spawnhelper.command import STOPS
from spawnhelper.outcome import STOPPED, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import signal
    from collections.abc import Iterable
else:
    import _signal as signal
    import posix as os

NSEC_PER_MSEC = 1_000_000
LONGEST_PAUSE = 3_600_000  # milliseconds; poll(2) takes no more than an int of them


def until_ready(descriptor: int, event: int, deadline: int) -> bool:
    """Whether the event of poll(2) comes before the deadline, in nanoseconds of CLOCK_MONOTONIC.

    Raises Refusal when the unit is stopped meanwhile.
    """
    return bool(until_any([(descriptor, event)], deadline, "the client"))


def until_any(awaited: Iterable[tuple[int, int]], deadline: int | None, what: str) -> list[int]:
    """The descriptors whose events of poll(2) have come, none where the deadline came first.

    what: is waited for, in a sentence. Raises Refusal when the unit is stopped meanwhile.
    """
    poll = select.poll()
    for descriptor, event in awaited:
        poll.register(descriptor, event)
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    poll.register(woken, select.POLLIN)
    before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    usual = [signal.signal(number, lambda *_: None) for number in STOPS]
    try:
        while True:
            left = LONGEST_PAUSE
            if deadline is not None:  # no earlier than it says
                left = -((time.monotonic_ns() - deadline) // NSEC_PER_MSEC)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            ready = [descriptor for descriptor, _ in poll.poll(min(LONGEST_PAUSE, max(0, left)))]
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
            if _heard(woken):  # also one that came after what is ready
                raise Refusal(STOPPED, os.EX_OK, f"stopped while waiting for {what}")
            if ready or left <= 0:
                return ready
    finally:
        for number, handler in zip(STOPS, usual, strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        os.close(woken)
        os.close(wake)


def _heard(woken: int) -> bool:
    """Whether a signal has come."""
    try:
        return bool(os.read(woken, 4096))
    except BlockingIOError:
        return False
