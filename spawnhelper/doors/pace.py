"""How many workers are made at once, where connections come faster than workers get free.

To join a control group takes a grace period of the kernel, some 10 ms, in which nobody on the
machine can start a process (cgroup-v2.rst, favordynmods); those that join together share it.
"""

from __future__ import annotations

import os
import time

MOST_AT_ONCE = 4
# Where the service has the processors already, more workers get nobody served sooner, and each
# takes of the time that commands would have. But its commands may be such as never end.
FULL = 0.5  # of the processors, for clients on this machine have some, too
WINDOW = 50_000_000  # nanoseconds
NSEC_PER_USEC = 1_000


class Pace:
    """group: the server's control group, None where nobody counts what its processes use."""

    def __init__(self, group: str | None) -> None:
        self._counter: int | None = None
        if group is not None:
            self._counter = os.open(f"{group}/cpu.stat", os.O_RDONLY | os.O_CLOEXEC)
        self._processors = len(os.sched_getaffinity(0))
        self.begin()

    def begin(self) -> None:
        """Knows nothing of what was before."""
        self._since = time.monotonic_ns()
        self._used = self._usage()
        self._full = False

    @property
    def due(self) -> int:
        """When it is told anew: CLOCK_MONOTONIC in nanoseconds."""
        return self._since + WINDOW

    def most(self, serving: int) -> int:
        """How many may be on their way now: as many again as are at work, and one. Where the
        processors are taken, one in each window."""
        now = time.monotonic_ns()
        span = now - self._since
        turn = span >= WINDOW
        if turn:
            used = self._usage()
            share = (used - self._used) * NSEC_PER_USEC / span / self._processors
            self._since, self._used, self._full = now, used, share > FULL
        return int(turn) if self._full else min(MOST_AT_ONCE, 1 + serving)

    def _usage(self) -> int:
        """Microseconds of processor time that the service has had (cgroups(7), cpu.stat)."""
        if self._counter is None:
            return 0
        return int(os.pread(self._counter, 64, 0).split(maxsplit=2)[1])
