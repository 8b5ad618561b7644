"""A service file in the making, and what is to be said about it."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from spawnhelper.conf import files
from spawnhelper.conf.settings import SETTINGS
from spawnhelper.conf.values import NAME_CHARACTERS
from spawnhelper.moving.source import Found, Given, Place
from spawnhelper.moving.traps import LOSS, NOTE, REFUSAL, Trap
from spawnhelper.outcome import printable, shown

WIDTH = 100  # columns of a comment
LONGEST_LINE = 200  # characters of a source's line in a comment
LONGEST_PIECE = 300  # of a sentence
PLAIN = NAME_CHARACTERS + "-+=/.,:@%^~!?*()[]{}<>|&$#;`"  # what needs no quotes
LETTERS = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", '"': '\\"'}
# What became of a service of the source.
CONVERTED, LOSSY, REFUSED = "converted", "converted with losses", "not converted"
OFF, FOREIGN = "switched off", "not ours"


@dataclass(frozen=True)
class Remark:
    """One trap that a service of the source ran into. what: the piece of the source."""

    place: Place
    what: str
    trap: Trap
    means: str
    do: str

    def __str__(self) -> str:
        remedy = f"; {self.do}" if self.do else ""
        return f"{self.what}: {self.means}{remedy}"


@dataclass(frozen=True)
class Line:
    """One assignment of a service file."""

    section: str
    key: str
    value: str


class Draft:
    """A service of the source on its way to a file of ours. name: of the service here. waits: what
    the machine still lacks for it. into: whose file it shares, if it has none of its own. merged:
    those that share this one's."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.name = service_name(found.name)
        self.lines: list[Line] = []
        self.remarks: list[Remark] = []
        self.waits: list[str] = []
        self.into: Draft | None = None
        self.merged: list[Draft] = []

    def set(self, key: str, value: str) -> None:
        """Adds a line to [Spawn]."""
        self.lines.append(Line("Spawn", key, value))

    def socket(self, key: str, value: str) -> None:
        """Adds a line to [Socket]."""
        self.lines.append(Line("Socket", key, value.replace("%", "%%")))

    def values(self, key: str) -> list[str]:
        """What lines of this key have."""
        return [each.value for each in self.lines if each.key == key]

    def say(self, trap: Trap, given: Given | None = None, **pieces: object) -> None:
        """Remarks that the service ran into a trap, at an attribute or as a whole."""
        place = given.place if given else self.found.place
        what = shown(given.text) if given else shown(self.found.name)
        means, do = trap.sentence(**{name: _piece(each) for name, each in pieces.items()})
        remark = Remark(place, what, trap, means, do)
        if remark not in self.remarks:
            self.remarks.append(remark)

    def has(self, weight: str) -> bool:
        """Whether there is a remark of this weight."""
        return any(each.trap.weight == weight for each in self.remarks)

    @property
    def told(self) -> list[Remark]:
        """The remarks that matter: where there are reasons to refuse it, no others do."""
        if self.state != REFUSED:
            return self.remarks
        return [each for each in self.remarks if each.trap.weight == REFUSAL]

    @property
    def state(self) -> str:
        """What became of the service."""
        if self.found.foreign:
            return FOREIGN
        if self.found.off:
            return OFF
        if self.has(REFUSAL):
            return REFUSED
        return LOSSY if self.has(LOSS) else CONVERTED

    @property
    def is_file(self) -> bool:
        """Whether there is a service file for it."""
        return self.state in (CONVERTED, LOSSY) and self.into is None

    def text(self, source: str) -> str:
        """The service file. source: what the command line calls the source."""
        made: list[str] = []
        for each in (self, *self.merged):
            made.append(f"# {each.found.place} (spawnctl import {source})")
            made += [f"#   {_bounded(text)}" for _, text in each.found.lines]
        keys = {each.key for each in self.lines}
        remarks = [remark for each in (self, *self.merged) for remark in each.remarks]
        for remark in remarks:
            if remark.trap.key not in keys:
                made += _comment(remark)
        order = {setting.key: at for at, setting in enumerate(SETTINGS)}
        for section in ("Socket", "Spawn"):
            lines = [each for each in self.lines if each.section == section]
            lines.sort(key=lambda each: order.get(each.key, 0))
            made += ["", f"[{section}]"]
            told: set[str] = set()
            for line in lines:
                for remark in remarks:
                    if remark.trap.key == line.key and line.key not in told:
                        made += _comment(remark)
                told.add(line.key)
                made.append(f"{line.key}={line.value}")
        return "\n".join(made) + "\n"


def service_name(name: str) -> str:
    """A name that a service can have here, as near as possible to that of the source."""
    allowed = NAME_CHARACTERS + "-."
    made = re.sub(r"-+", "-", "".join(letter if letter in allowed else "-" for letter in name))
    made = made.strip("-.")[: files.LONGEST_NAME // 2]
    return made.removesuffix(files.SUFFIX) or "service"


def quoted(word: str) -> str:
    """One word of a value, quoted as in systemd.syntax(7)."""
    if word and not word.strip(PLAIN):
        return word
    made = "".join(
        LETTERS.get(letter) or (letter if letter.isprintable() else _escape(letter))
        for letter in word
    )
    return f'"{made}"'


def command_line(words: list[str]) -> str:
    """Several words as a value."""
    return " ".join(map(quoted, words))


def speaks(text: str) -> bool:
    """Whether a value can have the text at all: it is UTF-8, and has no NUL."""
    return "\0" not in text and not any(0xDC80 <= ord(each) <= 0xDCFF for each in text)


def _escape(letter: str) -> str:
    return f"\\U{ord(letter):08x}"


def _piece(value: object) -> str:
    return shown(value, LONGEST_PIECE) if isinstance(value, str) else str(value)


def _bounded(text: str) -> str:
    shortened = text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}..."
    return printable(shortened.replace("\t", " "))


def _comment(remark: Remark) -> list[str]:
    mark = "# Note: " if remark.trap.weight == NOTE else "# "
    return textwrap.wrap(
        f"{remark.place}: {remark}",
        WIDTH,
        initial_indent=mark,
        subsequent_indent="#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )
