"""How many workers are made at once, where connections come faster than workers get free."""

from __future__ import annotations

import os
import time

MOST_AT_ONCE = 4
# Where commands that end have so much of the processors, more workers get nobody served sooner, and
# take time that commands would have. But those that wait may be for commands that do not end.
FULL = 0.3
WINDOW, SLOW_WINDOW = 50_000_000, 200_000_000  # nanoseconds
NSEC_PER_USEC = 1_000


class Pace:
    """Goes by the processor time of the commands that have ended."""

    def __init__(self) -> None:
        self._processors = len(os.sched_getaffinity(0))  # whatever CPUQuota= leaves of them
        self.begin()

    def begin(self) -> None:
        """Knows nothing of what was before."""
        self._since = time.monotonic_ns()
        self._spent = 0
        self._full = False

    def spend(self, usec: int) -> None:
        """A command has ended that took so much."""
        self._spent += usec

    @property
    def due(self) -> int:
        """When it is decided anew: CLOCK_MONOTONIC in nanoseconds."""
        return self._since + (SLOW_WINDOW if self._full else WINDOW)

    def most(self, serving: int) -> int:
        """How many to make now: as many again as are at work, and one. Where the processors are
        taken, once in a slow window."""
        now = time.monotonic_ns()
        turn = now >= self.due
        if turn:
            share = self._spent * NSEC_PER_USEC / (now - self._since) / self._processors
            self._since, self._spent, self._full = now, 0, share > FULL
        return min(MOST_AT_ONCE, 1 + serving) if turn or not self._full else 0
