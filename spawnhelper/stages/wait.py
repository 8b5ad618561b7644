"""Waiting for descriptors, a deadline, and a stop. Loaded where there is something to wait for."""

from __future__ import annotations

import select
import time

from spawnhelper.outcome import STOPPED, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from spawnhelper.signals import Signals
else:
    import posix as os

NSEC_PER_MSEC = 1_000_000
LONGEST_PAUSE = 3_600_000  # milliseconds; poll(2) takes no more than an int of them


def until_ready(descriptor: int, event: int, deadline: int, signals: Signals) -> bool:
    """Whether the event of poll(2) comes before the deadline, in nanoseconds of CLOCK_MONOTONIC.

    Raises Refusal when the unit is stopped meanwhile.
    """
    return bool(until_any([(descriptor, event)], deadline, "the client", signals))


def until_any(
    awaited: Iterable[tuple[int, int]], deadline: int | None, what: str, signals: Signals
) -> list[int]:
    """The descriptors whose events of poll(2) have come, none where the deadline came first.

    what: is waited for, in a sentence. Raises Refusal when the unit is stopped meanwhile, or was.
    """
    poll = select.poll()
    for descriptor, event in awaited:
        poll.register(descriptor, event)
    poll.register(signals.descriptor, select.POLLIN)
    while not signals.stopped:
        timeout = LONGEST_PAUSE if deadline is None else milliseconds_until(deadline)
        ready = [descriptor for descriptor, _ in poll.poll(timeout)]
        if signals.descriptor in ready:
            signals.hear()
        elif ready or not timeout:
            return ready
    raise Refusal(STOPPED, os.EX_OK, f"stopped while waiting for {what}")


def milliseconds_until(deadline: int) -> int:
    """For poll(2): it does not wake before the deadline, in nanoseconds of CLOCK_MONOTONIC."""
    left = deadline - time.monotonic_ns()
    return min(max(0, -(-left // NSEC_PER_MSEC)), LONGEST_PAUSE)
