"""The end of a connection: what the command has written reaches the client, whatever it has sent.

To close a connection that has bytes unread resets it (RFC 1122, 4.2.2.13), and a reset takes away
what has not arrived yet. So what the client has sent is read on and thrown away, until its side has
acknowledged the whole answer. Loaded after the fork.
"""

from __future__ import annotations

import select
import time

from spawnhelper.outcome import IDLE_LIMIT, TIME_LIMIT, Refusal
from spawnhelper.stages.wait import NSEC_PER_MSEC, milliseconds_until, until_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from spawnhelper.doors.inherited import Connection
    from spawnhelper.signals import Signals
    from spawnhelper.stages.relay import Relay
    from spawnhelper.stages.supervise import Supervision
    from spawnhelper.stages.traffic import Meter

NSEC_PER_USEC = 1_000
NSEC_PER_SEC = 1_000_000_000
# Without a byte taken, acknowledged or sent. A client may be busy with something else for a while;
# a minute is what web servers give it to take an answer.
STALLED = 60 * NSEC_PER_SEC
# What a client takes a byte a minute of would never end. The 4 MiB that the kernel holds of an
# answer at most (tcp(7), tcp_wmem) take nine minutes at 64 kbit/s.
LONGEST = 900 * NSEC_PER_SEC
# The same where the command was ended at its TimeLimit= or IdleLimit=, which is the client's, too.
OVER_TIME = 5 * NSEC_PER_SEC
# For what is on its way when the unit is stopped: without progress, and in all.
LAST_MOMENT, LAST_MOMENTS = 1 * NSEC_PER_SEC, 10 * NSEC_PER_SEC
FIRST_PAUSE, LONGEST_PAUSE = 1 * NSEC_PER_MSEC, 100 * NSEC_PER_MSEC
# Of what nobody wants. A client that writes first has sent all by then, or never will have: it is
# four times what a socket holds.
MOST_DISCARDED = 16 << 20


class Bound:
    """How long somebody is read on who has got all that there is for him. quiet: without a byte,
    longest: in all, in nanoseconds; most: bytes."""

    __slots__ = ("longest", "most", "quiet")

    def __init__(self, quiet: int, longest: int, most: int) -> None:
        self.quiet = quiet
        self.longest = longest
        self.most = most


# A client that is still sending has its next bytes here within a round trip, or, where two packets
# of a kind are lost, three seconds (RFC 6298).
AFTER_ANSWER = Bound(5 * NSEC_PER_SEC, 30 * NSEC_PER_SEC, MOST_DISCARDED)
# Who is refused is not to hold one of MaxConnections= for long.
AFTER_REFUSAL = Bound(500 * NSEC_PER_MSEC, 500 * NSEC_PER_MSEC, 1 << 20)


class Delivery:
    """The delivery of one answer, once nothing of the command is left.

    read: bytes of the client that were thrown away. patience: nanoseconds without progress after
    which the client counts as gone. waits: is called once, before it waits for the client at all.
    """

    def __init__(
        self,
        connection: Connection,
        relay: Relay | None,
        meter: Meter,
        supervision: Supervision,
        waits: Callable[[], None],
    ) -> None:
        self.read = 0
        self._waits = waits
        self.patience = STALLED
        idle_limit = supervision.service.idle_limit
        if idle_limit is not None:
            self.patience = min(STALLED, idle_limit * NSEC_PER_USEC)
        self._over_time = supervision.result in (TIME_LIMIT, IDLE_LIMIT)
        if self._over_time:
            self.patience = min(self.patience, OVER_TIME)
        self._connection = connection
        self._relay = relay
        self._meter = meter
        self._client = connection.socket.fileno()
        self._signals = supervision.signals
        self._open = True  # the client may send more
        self._waiting = False

    def deliver(self) -> int:
        """Hands on what is left of the answer, ends it, and waits until it has arrived: how many
        bytes have not, where the client went away, took none for too long, or the unit is stopped.
        """
        begun = moved_on = time.monotonic_ns()
        last: object = None
        stopped: int | None = None
        pause = FIRST_PAUSE
        while True:
            self._send()
            self._read_on()
            owed, settled = self._meter.owed()
            now = time.monotonic_ns()
            if stopped is None and self._signals.stopped:
                stopped = now
            # Who goes on sending is no further with the answer, but may have to end that first.
            busy = self.read if stopped is None and not self._over_time else 0
            state = (self._handed_on(), owed, busy)
            # Nearly always all has arrived by now, and nothing came that a reset would be for.
            settled = settled or (last is None and not owed and not self.read)
            if state != last:
                last, moved_on, pause = state, now, FIRST_PAUSE
            patience = self.patience if stopped is None else LAST_MOMENT
            late = now - moved_on >= patience or now - begun >= LONGEST
            late = late or (stopped is not None and now - stopped >= LAST_MOMENTS)
            if self._ended() and (settled or late):
                return self._lost() + owed
            if late and self._relay is not None:
                self._relay.end_output()  # what is in the pipe nobody will take any more
                continue
            if not self._waiting:
                self._waiting = True
                self._waits()
            self._connection.take_back()
            self._pause(now + pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    @property
    def sending(self) -> bool:
        """Whether the client has sent what nobody wanted, and may go on."""
        over = self._relay is not None and self._relay.over
        return self._open and (self.read > 0 or over)

    def _ended(self) -> bool:
        """Whether the client's side has been sent all that it will be."""
        return self._relay is None or self._relay.output.awaited is None

    def _handed_on(self) -> int:
        return 0 if self._relay is None else self._relay.output.moved

    def _lost(self) -> int:
        return 0 if self._relay is None else self._relay.lost

    def _send(self) -> None:
        if self._relay is None or self._ended():
            return
        output = self._relay.output
        before = output.moved
        self._relay.send()
        if output.moved == before and output.awaited == output.source:
            self._relay.end_output()  # who may still hold the pipe is not the command

    def _read_on(self) -> None:
        while self._open and self.read < MOST_DISCARDED and (count := self._discard()):
            self.read += count

    def _discard(self) -> int:
        count = self._connection.read_on()
        self._open = count is not None
        return count or 0

    def _pause(self, deadline: int) -> None:
        """Sleeps until there is something to do, but not for long: nobody tells when the client's
        side has acknowledged something."""
        awaited: dict[int, int] = {}
        if self._open and self.read < MOST_DISCARDED:
            awaited[self._client] = select.POLLIN
        if not self._ended():
            awaited[self._client] = awaited.get(self._client, 0) | select.POLLOUT
        poll = select.poll()
        for descriptor, event in awaited.items():
            poll.register(descriptor, event)
        if not self._signals.stopped:
            poll.register(self._signals.descriptor, select.POLLIN)
        poll.poll(milliseconds_until(deadline))
        self._signals.hear()


def linger(connection: Connection, bound: Bound, signals: Signals) -> None:
    """Reads on until the client ends, the bound is reached, or the unit is stopped."""
    begun = heard = time.monotonic_ns()
    read = 0
    while read < bound.most:
        count = connection.read_on()
        if count is None:
            return
        now = time.monotonic_ns()
        if count:
            read += count
            heard = now
        deadline = min(heard + bound.quiet, begun + bound.longest)
        client = connection.socket.fileno()
        try:
            if now >= deadline or not until_ready(client, select.POLLIN, deadline, signals):
                return
        except Refusal:
            return
