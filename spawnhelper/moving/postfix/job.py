"""A service of spawn(8) on its way to a draft, with the main.cf that counts for it."""

from __future__ import annotations

from spawnhelper.moving.draft import Draft
from spawnhelper.moving.job import Job
from spawnhelper.moving.machine import Machine
from spawnhelper.moving.postfix.main_cf import Unknown
from spawnhelper.moving.postfix.reader import Postfix
from spawnhelper.moving.source import Given, Place
from spawnhelper.moving.traps import Trap, refusal

NOT_TOLD = Trap("it refers to {name}, which main.cf does not give; {default} is assumed", "")
NOT_KNOWN = refusal("it refers to {name}, which main.cf does not give", "write it without $")

NEVER_STARTED = refusal("Postfix ends with an error for it: {why}", "correct the line")


class PostfixJob(Job):
    """options: those of the line by the parameters that they set. parameters: of main.cf, with
    these. chroot: whether the command has a root of its own."""

    def __init__(self, draft: Draft, machine: Machine, source: Postfix) -> None:
        super().__init__(draft, machine)
        self.options = {each.words[0]: each for each in draft.found.given if each.word == "-o"}
        values = {name: each.words[1] for name, each in self.options.items()}
        self.parameters = source.parameters.with_options(values)
        self.missing = source.missing
        self.chroot = False

    def parameter(self, name: str, default: str | None = None) -> str:
        """The value of a parameter. default: what to do without it, None where that cannot be."""
        try:
            return self.parameters.get(name)
        except Unknown as unknown:
            given = self.given(name)
            if default is None:
                self.say(NOT_KNOWN, given, name=str(unknown))
                return ""
            self.say(NOT_TOLD, given, name=str(unknown), default=default)
            return default

    def given(self, name: str) -> Given:
        """A parameter as an attribute of the service, at the line that gives it, if one does."""
        if name in self.options:
            option = self.options[name]
            return Given(name, option.words[1:], option.place, option.text)
        place = self.draft.found.place
        if name in self.parameters.lines:
            place = Place(self.parameters.file, self.parameters.lines[name])
        value = self.parameters.values.get(name)
        return Given(name, [value or ""], place, name if value is None else f"{name} = {value}")

    def is_flag(self, given: Given) -> bool:
        """Whether a column has y, n or -; a remark where it has something else."""
        if given.value not in ("y", "n", "-"):
            self.say(NEVER_STARTED, given, why="this column has y, n or -")
            return False
        return True

    def of(self, column: str) -> str:
        """What a column of the line has."""
        found = self.draft.found.of(column)
        return found.value if found else ""
