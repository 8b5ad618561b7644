"""Reads master.cf of Postfix (master(5)), and spawn(8)'s own arguments in it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from spawnhelper.moving.postfix import main_cf
from spawnhelper.moving.postfix.main_cf import Parameters, Unknown
from spawnhelper.moving.source import (
    EMPTY,
    SERVICE,
    Found,
    Given,
    Place,
    Reading,
    Text,
    Unreadable,
    read,
)
from spawnhelper.outcome import shown

FILE = "/etc/postfix/master.cf"
# The columns of master(5) by their names here; the words behind them are the daemon's own.
COLUMNS = ("service", "type", "private", "unpriv", "chroot", "wakeup", "maxproc", "command")
SPAWN = "spawn"
TYPES = ("inet", "unix", "fifo", "pass", "unix-dgram")
BLANKS = " \t"


@dataclass
class Postfix:
    """A master.cf. parameters: of the main.cf beside it. missing: why there are none, if so."""

    reading: Reading = field(default_factory=Reading)
    parameters: Parameters = field(default_factory=Parameters)
    missing: str = ""


def load(file: str = FILE) -> Postfix:
    """Reads master.cf and the main.cf beside it; Unreadable where there is no master.cf."""
    made = Postfix()
    text = read(file)
    made.reading.texts.append(text)
    beside = os.path.join(os.path.dirname(file), "main.cf")
    try:
        made.parameters = main_cf.parse(read(beside))
    except Unreadable as error:
        made.missing = f"{beside} {error}"
    _services(text, made)
    return made


def _services(text: Text, made: Postfix) -> None:
    text.kinds = [EMPTY] * len(text.lines)
    reading = made.reading
    last: dict[tuple[str, str], Found] = {}
    for numbers, line in main_cf.logical_lines(text):
        why = _fault(text, numbers, line)
        if why:
            reading.stray(text, numbers, why)
            continue
        text.mark(numbers, SERVICE)
        words = split(line)
        found = _found(text, numbers, words)
        key = (words[0], words[1])
        if key in last:
            last[key].off = f"line {numbers[0]} has the same name and type, and the last one counts"
        last[key] = found
        reading.services.append(found)
    for (name, kind), found in last.items():
        if not found.foreign and _disabled(made.parameters, name, kind):
            found.off = "master_service_disable in main.cf names it"


def _fault(text: Text, numbers: list[int], line: str) -> str:
    """Why a logical line is no service; "" where it is one."""
    if text.lines[numbers[0] - 1][:1] in BLANKS:
        return "it begins with white space, and there is no line before that it could continue"
    if "\0" in line:
        return "it has a NUL byte"
    words = split(line)
    if len(words) < len(COLUMNS):
        return f"a service has {len(COLUMNS)} columns, and this line has {len(words)}"
    if words[1] not in TYPES:
        return f"its second column is none of {', '.join(TYPES)}"
    return ""


def _found(text: Text, numbers: list[int], words: list[str]) -> Found:
    place = Place(text.file, numbers[0])
    lines = [(number, text.lines[number - 1]) for number in numbers]
    found = Found(words[0], place, lines, mode=text.mode)
    for word, value in zip(COLUMNS, words, strict=False):
        found.given.append(Given(word, [value], place, f"{word} {value}"))
    if words[len(COLUMNS) - 1] != SPAWN:
        found.foreign = f"{shown(words[len(COLUMNS) - 1])} of Postfix"
        return found
    _arguments(found, words[len(COLUMNS) :], place)
    return found


def _arguments(found: Found, words: list[str], place: Place) -> None:
    """What spawn(8) makes of its arguments: options as of getopt(3), then attributes, of which
    argv= is the last."""
    rest = list(words)

    def give(word: str, values: list[str], text: str) -> None:
        at = next((n for n, line in found.lines if text.split(" ")[0] in line), place.line)
        found.given.append(Given(word, values, Place(place.file, at), text))

    while rest and rest[0].startswith("-") and rest[0] != "-":
        option = rest.pop(0)
        if option == "--":
            break
        if option.startswith("-o"):
            assignment = option[2:] or (rest.pop(0) if rest else "")
            name, _, value = stripped(assignment).partition("=")
            give("-o", [name.strip(), value.strip()], f"-o {stripped(assignment)}")
        else:
            give(option, [], option)
    while rest:
        word, equals, value = rest.pop(0).partition("=")
        name = word.lower() if equals else ""
        if name == "argv":
            give("argv", [value, *map(stripped, rest)], f"argv={' '.join([value, *rest])}")
            return
        give(name if name == "user" else "", [value], f"{word}{equals}{value}")


def split(line: str) -> list[str]:
    """The words of a line: white space inside of braces divides none."""
    words: list[str] = []
    word, depth = "", 0
    for letter in line:
        if letter in BLANKS and not depth:
            if word:
                words.append(word)
            word = ""
            continue
        depth = max(0, depth + (letter == "{") - (letter == "}"))
        word += letter
    return [*words, word] if word else words


def stripped(word: str) -> str:
    """A word without the braces that it begins and ends with."""
    if word.startswith("{") and word.endswith("}"):
        return word[1:-1].strip()
    return word


def _disabled(parameters: Parameters, name: str, kind: str) -> bool:
    """Whether master_service_disable (postconf(5)) has the service: `type`, or `name/type`."""
    try:
        words = parameters.get("master_service_disable").replace(",", " ").split()
    except Unknown:
        return True  # what may be off stays off
    for word in words:
        if word.lstrip("!") in (kind, f"{name}/{kind}"):
            return not word.startswith("!")
    return False
