"""The records of a standing server: what became of each connection, whoever knows it."""

from __future__ import annotations

import os

from spawnhelper import record
from spawnhelper.board import Board
from spawnhelper.conf.service import Service
from spawnhelper.doors.inherited import Connection
from spawnhelper.doors.pool import Held
from spawnhelper.doors.summaries import Summaries
from spawnhelper.outcome import EXEC_FAILED, HEALTH_CHECK, SUCCESS, Refusal
from spawnhelper.post import Outbox
from spawnhelper.stages import command, reasons
from spawnhelper.stages.serve import Ended

MOST_EXPLAINING = 4
SUMMED = "summary"  # of Log=


class Registrar:
    """explaining: the pids of processes that find out why a command did not start, which can take
    its time, and record it."""

    def __init__(self, name: str, outbox: Outbox, board: Board) -> None:
        self.name = name
        self.unit = f"spawn-server@{name}.service"
        self.outbox = outbox
        self.explaining: set[int] = set()
        self.summaries = Summaries(name, self.unit, outbox, board)

    def reported(self, held: Held, ended: Ended | Refusal) -> None:
        """Records what a worker has said."""
        settings = held.plan.service
        if isinstance(ended, Refusal):
            told = "" if ended.problems or ended.result != EXEC_FAILED else ended.sentence
            if not told or not self._explain(held, told):
                self.refused(held.connection, settings, ended)
        elif settings.log == SUMMED and ended.result == SUCCESS:
            self.summaries.add(held, ended)
        elif record.wanted(settings.log, ended.result):
            who = held.plan.who.user
            fields = record.of_end(self.unit, held.connection, settings, who, ended)
            if held.worker is not None and held.worker.group is not None:
                # The server's unit has the lines of all commands, and this tells whose one is.
                fields.append(f"SPAWN_WORKER={held.worker.group.rpartition('/')[2]}")
            self.outbox.put(fields)

    def refused(self, connection: Connection, settings: Service | None, refusal: Refusal) -> None:
        """Records why there was no command."""
        if settings is not None and settings.log == SUMMED and refusal.result == HEALTH_CHECK:
            self.summaries.check(settings)
        elif settings is None or record.wanted(settings.log, refusal.result):
            fields = record.of_refusal(self.unit, connection, self.name, settings, refusal)
            self.outbox.put(fields)

    def failed(self, held: Held, refusal: Refusal) -> None:
        """Records that a worker said nothing more."""
        settings = held.plan.service
        if record.wanted(settings.log, refusal.result):
            fields = record.of_refusal(self.unit, held.connection, self.name, settings, refusal)
            fields.append(f"SPAWN_COMMAND={settings.argv[0]}")
            fields.append(f"SPAWN_USER={held.plan.who.user}")
            self.outbox.put(fields)

    def too_many(self, settings: Service, count: int) -> None:
        """Records that so many connections were above MaxConnectionsPerSource=."""
        self.outbox.put(record.of_dropped(settings, count))

    def _explain(self, held: Held, told: str) -> bool:
        """Has a process of its own record it; whether there can be one."""
        if not held.known or len(self.explaining) >= MOST_EXPLAINING:
            return False
        try:
            pid = os.fork()
        except OSError:
            return False
        if pid == 0:
            try:
                command.reset_signals()
                os.closerange(3, 0x7FFFFFFF)  # who is still connected is to see the end
                self._record_reason(held, told)
            finally:
                os._exit(0)
        self.explaining.add(pid)
        return True

    def _record_reason(self, held: Held, told: str) -> None:
        settings, connection = held.plan.service, held.connection
        refusal = reasons.refusal(settings, told)
        fields = record.of_refusal(self.unit, connection, self.name, settings, refusal)
        record.write(fields, foreground=False)
