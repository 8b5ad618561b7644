"""A service of xinetd on its way to a draft."""

from __future__ import annotations

from spawnhelper.moving.draft import Draft
from spawnhelper.moving.job import Job
from spawnhelper.moving.machine import Machine
from spawnhelper.moving.source import Given
from spawnhelper.moving.traps import refusal

MOST_NUMBER = 2**31 - 1
YES, NO = "yes", "no"
UNLIMITED = "unlimited"
DISABLED = refusal("xinetd does not start the service for this value", "correct the source")


class XinetdJob(Job):
    """given: what counts for the service, by word. flags: in capitals."""

    def __init__(self, draft: Draft, machine: Machine) -> None:
        super().__init__(draft, machine)
        self.given: dict[str, Given] = {}

    def word(self, name: str) -> str:
        """The value of an attribute, "" where it is not given."""
        return self.given[name].value if name in self.given else ""

    @property
    def flags(self) -> list[str]:
        """The flags of the service."""
        return self.word("flags").upper().split()

    def boolean(self, given: Given) -> bool:
        """Whether the value is yes; a remark where it is neither yes nor no."""
        if given.value.lower() not in (YES, NO):
            self.say(DISABLED, given)
        return given.value.lower() == YES

    def number(self, given: Given) -> int | None:
        """A number, None for UNLIMITED, and a remark for what is neither."""
        text = given.value
        if text.lower() == UNLIMITED:
            return None
        if not text.isascii() or not text.isdigit() or int(text[:12]) > MOST_NUMBER:
            self.say(DISABLED, given)
            return None
        return int(text)
