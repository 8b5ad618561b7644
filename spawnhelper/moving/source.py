"""What there is to move: the text of a source, what became of each of its lines, and its services
as plain values."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

from spawnhelper.outcome import printable

LONGEST = 16 << 20  # bytes of a file; no administrator writes more
# What a line of a source can be.
EMPTY = "empty"  # nothing, or a comment
SERVICE = "service"  # a piece of a service
SETTING = "setting"  # for services: defaults, an address, another file
UNREAD = "unread"  # nothing that the reader knows


class Unreadable(Exception):
    """A source cannot be read; str() is the end of a sentence that began with its name."""


class Text:
    """One file of a source. lines: without their ends, and what is not UTF-8 as surrogates. ended:
    whether the last one has an end. mode: its permission bits. kinds: what each line is, None as
    long as nobody has said so."""

    def __init__(self, file: str, content: bytes, mode: int = 0o644) -> None:
        self.file = file
        self.mode = mode
        self.ended = not content or content.endswith(b"\n")
        lines = content.decode(errors="surrogateescape").split("\n")
        if not lines[-1]:
            del lines[-1]
        self.lines = [line.removesuffix("\r") for line in lines]
        self.kinds: list[str | None] = [None] * len(self.lines)

    def mark(self, numbers: Sequence[int], kind: str) -> None:
        """Says what lines are, by their numbers from 1."""
        for number in numbers:
            self.kinds[number - 1] = kind

    def counts(self) -> dict[str, int]:
        """How many lines there are of each kind."""
        return {kind: self.kinds.count(kind) for kind in (EMPTY, SERVICE, SETTING, UNREAD)}


def read(file: str) -> Text:
    """The text of a regular file; Unreadable where it is none, or longer than LONGEST bytes."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise Unreadable(f"cannot be opened: {_reason(error)}") from None
    with open(descriptor, "rb") as opened:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable("is not a regular file; name one")
        try:
            content = opened.read(LONGEST + 1)
        except OSError as error:
            raise Unreadable(f"cannot be read: {_reason(error)}") from None
    if len(content) > LONGEST:
        raise Unreadable("is longer than 16 MiB; split it")
    return Text(file, content, stat.S_IMODE(found.st_mode))


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@dataclass(frozen=True)
class Place:
    """A line of a source."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{printable(self.file)}:{self.line}"


@dataclass
class Given:
    """One attribute of a service as the source has it. words: its value, cut up as the original
    server does. text: as a person finds it in the file. operator: how the words are assigned."""

    word: str
    words: list[str]
    place: Place
    text: str = ""
    operator: str = "="

    @property
    def value(self) -> str:
        """The words as one."""
        return " ".join(self.words)


@dataclass
class Found:
    """One service of a source. name: as the source has it. lines: its lines by number and text.
    given: its attributes in the order of the file. off: why it is not in force, if so. foreign:
    whose it is, where it is not one that runs a command for each connection."""

    name: str
    place: Place
    lines: list[tuple[int, str]]
    given: list[Given] = field(default_factory=list)
    off: str = ""
    foreign: str = ""
    mode: int = 0o644

    def of(self, word: str) -> Given | None:
        """The attribute of this name, if there is one."""
        return next((each for each in self.given if each.word == word), None)


@dataclass
class Stray:
    """A line that is no part of any service, and should perhaps be one. why: a sentence."""

    place: Place
    text: str
    why: str


@dataclass
class Reading:
    """All that was read of a source. notes: what is to be known about that, as sentences."""

    texts: list[Text] = field(default_factory=list)
    services: list[Found] = field(default_factory=list)
    strays: list[Stray] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def stray(self, text: Text, numbers: Sequence[int], why: str) -> None:
        """Notes lines that make no sense here."""
        text.mark(numbers, UNREAD)
        place = Place(text.file, numbers[0])
        self.strays.append(Stray(place, text.lines[numbers[0] - 1], why))
