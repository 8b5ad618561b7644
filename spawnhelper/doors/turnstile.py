"""The turns of MaxCommands=, as the standing server gives them: to whoever has waited longest."""

from __future__ import annotations

from collections import deque

from spawnhelper.doors.pool import NEVER, Held

NSEC_PER_USEC = 1_000


class Turnstile:
    """Who has a turn and who waits for one. turns: how many have one."""

    def __init__(self) -> None:
        self.turns = 0
        self._waiting: deque[Held] = deque()

    def wait(self, held: Held, now: int) -> None:
        """Lines a connection up, for as long as its service lets it wait (QueueLimit=)."""
        limit = held.plan.service.queue_limit
        held.waits_until = NEVER if limit is None else now + limit * NSEC_PER_USEC
        self._waiting.append(held)

    def take_back(self, held: Held) -> None:
        """Has a connection wait that waited before, behind those that have been taken back."""
        if held.turn:
            self.turns += 1
        if held.waits_until is not None:
            self._waiting.append(held)

    def next(self) -> Held | None:
        """The connection whose turn it is, which has it from now on; None where it is nobody's."""
        if not self._waiting:
            return None
        most = self._waiting[0].plan.service.max_commands
        if most is not None and self.turns >= most:
            return None
        held = self._waiting.popleft()
        held.waits_until = None
        held.turn = True
        self.turns += 1
        return held

    def overdue(self, now: int) -> list[Held]:
        """Those who have waited in vain; they wait no more."""
        late = [each for each in self._waiting if (each.waits_until or 0) <= now]
        for held in late:
            self._forget(held)
        return late

    def due(self) -> int:
        """When the next one will have waited in vain."""
        return min((each.waits_until or 0 for each in self._waiting), default=NEVER)

    def leave(self, held: Held) -> None:
        """Takes back the turn of a connection, or its place among those that wait."""
        if held.turn:
            held.turn = False
            self.turns -= 1
        elif held.waits_until is not None:
            self._forget(held)

    def waiting(self) -> list[Held]:
        """Those who wait, in order."""
        return list(self._waiting)

    def _forget(self, held: Held) -> None:
        held.waits_until = None
        self._waiting.remove(held)
