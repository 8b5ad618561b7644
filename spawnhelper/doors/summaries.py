"""The record of many connections, in each interval (Log=summary, SummaryInterval=)."""

from __future__ import annotations

import time

from spawnhelper.board import Board
from spawnhelper.conf.service import Service
from spawnhelper.doors.pool import Held
from spawnhelper.post import Outbox
from spawnhelper.stages.serve import Ended
from spawnhelper.summary import Summary, of_lost

NSEC_PER_USEC = 1_000


class Summaries:
    """due: when the next is to be written, CLOCK_MONOTONIC in nanoseconds; None while there is
    nothing to be.

    How many connections are in none yet stands on the board. So what a server that is killed had
    counted, the next one records.
    """

    def __init__(self, name: str, unit: str, outbox: Outbox, board: Board) -> None:
        self.name = name
        self.unit = unit
        self.due: int | None = None
        self._outbox = outbox
        self._board = board
        self._summary = Summary()
        self._since = 0
        self._settings: Service | None = None
        if board.pending:
            outbox.put(of_lost(name, unit, board.pending))
            board.pend(0)

    def add(self, held: Held, ended: Ended) -> None:
        """One more connection that ended well."""
        self._begin(held.plan.service)
        connection = held.connection
        client = ""
        if connection.remote is not None:
            client = connection.remote[0]
        elif connection.peer is not None:
            client = f"uid {connection.peer[1]}"
        measured = {
            "duration": ended.duration,
            "cpu": ended.cpu,
            "came": ended.came,
            "out": ended.out,
        }
        self._summary.add(measured, ended.peak, connection.waited or 0, client)
        self._board.pend(self._summary.count)

    def check(self, settings: Service) -> None:
        """One more health check."""
        self._begin(settings)
        self._summary.checks += 1

    def write(self) -> None:
        """Writes the record of what there is, if there is anything."""
        if self.due is None:
            return
        now = time.time_ns() // NSEC_PER_USEC
        fields = self._summary.fields(self.name, self.unit, self._settings, self._since, now)
        self._outbox.put(fields)
        self._summary, self.due = Summary(), None
        self._board.pend(0)

    def _begin(self, settings: Service) -> None:
        self._settings = settings
        if self.due is None:
            self._since = time.time_ns() // NSEC_PER_USEC
            # Intervals end at round times, so that those of an hour are of that hour.
            left = settings.summary_interval - self._since % settings.summary_interval
            self.due = time.monotonic_ns() + left * NSEC_PER_USEC
