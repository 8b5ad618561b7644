"""Waiting for a client without a command to wait for. Loaded where that can be."""

from __future__ import annotations

import select
import time

from spawnhelper.command import STOPS
from spawnhelper.outcome import STOPPED, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import signal
else:
    import _signal as signal
    import posix as os

NSEC_PER_MSEC = 1_000_000
# Milliseconds between two looks for a stop, which is held back before and after the command.
SLICE = 200


def until_ready(descriptor: int, event: int, deadline: int) -> bool:
    """Whether the event of poll(2) comes before the deadline, in nanoseconds of CLOCK_MONOTONIC.

    Raises Refusal when the unit is stopped meanwhile.
    """
    poll = select.poll()
    poll.register(descriptor, event)
    while True:
        if not signal.sigpending().isdisjoint(STOPS):
            raise Refusal(STOPPED, os.EX_OK, "stopped while waiting for the client")
        left = (deadline - time.monotonic_ns()) // NSEC_PER_MSEC
        if poll.poll(min(SLICE, max(0, left))):
            return True
        if left <= 0:
            return False
