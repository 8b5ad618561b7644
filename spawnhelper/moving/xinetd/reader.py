"""Reads xinetd.conf (xinetd.conf(5)) and what it includes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from spawnhelper.moving.source import (
    EMPTY,
    SERVICE,
    SETTING,
    Found,
    Given,
    Place,
    Reading,
    Text,
    Unreadable,
    read,
)
from spawnhelper.outcome import shown

FILE = "/etc/xinetd.conf"
MOST_FILES = 1000
OPERATORS = ("=", "+=", "-=")
SECRET = "env"  # no sentence has its value
BROKEN = ""  # the word of what makes xinetd pass over a service
KEYWORDS = ("service", "defaults", "include", "includedir")


@dataclass
class Xinetd:
    """All that xinetd reads. defaults: its section of this name. before: how many lines of that
    had been read, by the place of each service. incomplete: that there is no such section, nor a
    xinetd.conf where one is expected."""

    reading: Reading = field(default_factory=Reading)
    defaults: list[Given] = field(default_factory=list)
    before: dict[Place, int] = field(default_factory=dict)
    incomplete: bool = False


class _Reader:
    """Follows one file into those that it includes. inside: the real paths that led here."""

    def __init__(self) -> None:
        self.made = Xinetd()
        self.inside: list[str] = []
        self.has_defaults = False
        self.defaults_only = False

    def file(self, file: str) -> None:
        """Reads one file; Unreadable where it cannot be."""
        real = os.path.realpath(file)
        if real in self.inside:
            raise Unreadable("includes itself; remove the line")
        if len(self.made.reading.texts) >= MOST_FILES:
            raise Unreadable(f"is one more than {MOST_FILES} files; read it alone")
        text = read(file)
        if not self.defaults_only:
            self.made.reading.texts.append(text)
        text.kinds = [EMPTY] * len(text.lines)
        self.inside.append(real)
        self._sections(text)
        self.inside.pop()

    def _sections(self, text: Text) -> None:
        lines = [(number, line) for number, line in enumerate(text.lines, 1) if _means(line)]
        while lines:
            number, line = lines.pop(0)
            words = line.split()
            keyword = words[0].lower()
            if keyword in ("include", "includedir") and len(words) == 2:
                self._include(text, number, keyword, words[1])
            elif keyword == "defaults" and len(words) == 1:
                self._defaults(text, number, lines)
            elif keyword == "service" and len(words) >= 2:
                self._service(text, number, line, lines)
            else:
                why = f"it is outside of any section, and none of {', '.join(KEYWORDS)}"
                self._stray(text, [number], why)

    def _stray(self, text: Text, numbers: list[int], why: str) -> None:
        if not self.defaults_only:
            self.made.reading.stray(text, numbers, why)

    def _include(self, text: Text, number: int, keyword: str, path: str) -> None:
        if self.defaults_only:
            return
        place = self._place(text, number, path)
        try:
            files = [place] if keyword == "include" else folder(place)
        except Unreadable as error:
            self._stray(text, [number], f"the folder {shown(path)} {error}")
            return
        text.mark([number], SETTING)
        for file in files:
            try:
                self.file(file)
            except Unreadable as error:
                self._stray(text, [number], f"the file {shown(file)} {error}")

    def _place(self, text: Text, number: int, path: str) -> str:
        """Where an included file or folder is: in a copy of a whole configuration beside the file
        that names it."""
        here = os.path.dirname(text.file)
        beside = os.path.join(here, os.path.basename(path.rstrip("/")))
        if os.path.isabs(path) and os.path.exists(beside):
            if os.path.realpath(beside) != os.path.realpath(path):
                place = Place(text.file, number)
                note = f"{place}: {shown(path)} is taken for {shown(beside)}, which lies beside it"
                self.made.reading.notes.append(note)
            return beside
        return os.path.join(here, path)

    def _defaults(self, text: Text, number: int, lines: list[tuple[int, str]]) -> None:
        numbers, given, why = _block(text, lines)
        if self.has_defaults or why:
            sentence = why or "there is a section of defaults already, and xinetd has but one"
            self._stray(text, [number, *numbers], sentence)
            return
        self.has_defaults = True
        self.made.defaults += given
        text.mark([number, *numbers], SETTING)

    def _service(self, text: Text, number: int, line: str, lines: list[tuple[int, str]]) -> None:
        words = line.split()
        opened = words[-1] == "{" and len(words) > 2
        numbers, given, why = _block(text, lines, opened=opened)
        if self.defaults_only:
            return
        place = Place(text.file, number)
        every = [number, *numbers]
        text.mark(every, SERVICE)
        found = Found(words[1], place, [(each, text.lines[each - 1]) for each in every])
        found.mode = text.mode
        found.given = given
        if why:
            found.given = [Given(BROKEN, [why], place, line.strip())]
        self.made.before[place] = len(self.made.defaults)
        self.made.reading.services.append(found)


def load(path: str = FILE) -> Xinetd:
    """Reads a xinetd.conf, or a file or folder that it would include, with the defaults of the
    xinetd.conf above that; Unreadable where there is nothing to read."""
    reader = _Reader()
    is_folder = os.path.isdir(path)
    for file in folder(path) if is_folder else [path]:
        reader.file(file)
    if not reader.has_defaults and not os.path.basename(path).startswith("xinetd.conf"):
        _borrow_defaults(reader, path if is_folder else os.path.dirname(path) or ".")
    return reader.made


def _borrow_defaults(reader: _Reader, place: str) -> None:
    """Reads the defaults of the xinetd.conf that includes this folder."""
    place = place.rstrip("/")
    above = os.path.join(os.path.dirname(place), os.path.basename(FILE))
    candidates = (f"{place.removesuffix('.d')}.conf", above)
    whole = next((each for each in candidates if os.path.isfile(each)), "")
    reader.defaults_only = True
    try:
        reader.file(whole)
    except Unreadable:
        reader.made.incomplete = True
    for each in reader.made.before:
        reader.made.before[each] = len(reader.made.defaults)


def folder(path: str) -> list[str]:
    """The files of a folder that includedir reads: no names with a dot, or with a ~ at the end."""
    try:
        names = sorted(os.listdir(path), key=os.fsencode)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    wanted = [name for name in names if "." not in name and not name.endswith("~")]
    return [file for name in wanted if os.path.isfile(file := os.path.join(path, name))]


def _means(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _block(
    text: Text, lines: list[tuple[int, str]], *, opened: bool = False
) -> tuple[list[int], list[Given], str]:
    """What is between { and }: the numbers of its lines, its attributes, and what makes xinetd pass
    over all of it, "" for nothing. What was read is taken from the lines."""
    numbers: list[int] = []
    given: list[Given] = []
    why = "there is no line with { alone behind its name" if opened else ""
    if not opened:
        if not lines or lines[0][1].strip() != "{":
            return numbers, given, "there is no line with { alone behind its name"
        numbers.append(lines.pop(0)[0])
    while lines:
        number, line = lines.pop(0)
        numbers.append(number)
        if line.strip() == "}":
            return numbers, given, why
        attribute = _attribute(line, Place(text.file, number))
        if isinstance(attribute, str):
            why = why or f"line {number} {attribute}"
        else:
            given.append(attribute)
    return numbers, given, why or "there is no line with } alone at its end"


def _attribute(line: str, place: Place) -> Given | str:
    """An attribute, or what is wrong with the line."""
    if "\0" in line:
        return "has a NUL byte"
    word, _, rest = line.strip().replace("\t", " ").partition(" ")
    rest = rest.lstrip()
    operator = next((each for each in OPERATORS if rest.startswith(each)), "")
    if not operator or word[-1] in "=+-":
        return "has no blank and operator, as in NAME = VALUE"
    words = rest[len(operator) :].split()
    name = word.lower()
    text = name if name == SECRET else f"{name} {operator} {' '.join(words)}"
    return Given(name, words, place, text.rstrip(), operator)
