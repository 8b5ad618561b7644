"""A service of inetd on its way to a draft."""

from __future__ import annotations

from spawnhelper.moving.draft import Draft
from spawnhelper.moving.job import Job
from spawnhelper.moving.machine import Machine


class InetdJob(Job):
    """dialect: the inetd whose rules count."""

    def __init__(self, draft: Draft, machine: Machine) -> None:
        super().__init__(draft, machine)
        self.dialect = machine.inetd()

    def of(self, field: str) -> str:
        """What a field of the line has."""
        found = self.draft.found.of(field)
        return found.value if found else ""
