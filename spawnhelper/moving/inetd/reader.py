"""Reads inetd.conf (inetd(8)), in the words of Debian's two and of the BSDs."""

from __future__ import annotations

import os
import shlex

from spawnhelper.moving.machine import INETUTILS
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

FILE = "/etc/inetd.conf"
FOLDER = "/etc/inetd.d"  # of inetutils
FIELDS = ("service", "socktype", "protocol", "wait", "user", "server")
SOCKET_TYPES = ("stream", "dgram", "raw", "rdm", "seqpacket", "tli")
OFF = "#<off>#"  # update-inetd(8)
BLANKS = " \t"


def load(file: str = FILE, *, dialect: str = "") -> Reading:
    """Reads inetd.conf, or each file of a folder of such; of inetutils both where nothing else is
    named. Unreadable where there is nothing to read. dialect: the inetd whose rules count, by the
    name of its package."""
    reading = Reading()
    files = _files(file)
    if dialect == INETUTILS and file == FILE and os.path.isdir(FOLDER):
        files += _files(FOLDER)
    for each in files:
        try:
            text = read(each)
        except Unreadable as error:
            if len(files) == 1:
                raise
            text = Text(each, b"\n")
            reading.texts.append(text)
            reading.stray(text, [1], f"the file {error}")
            continue
        reading.texts.append(text)
        _lines(text, reading, dialect)
    return reading


def _files(file: str) -> list[str]:
    if not os.path.isdir(file):
        return [file]
    try:
        names = sorted(os.listdir(file))
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    return [path for name in names if os.path.isfile(path := os.path.join(file, name))]


def _lines(text: Text, reading: Reading, dialect: str) -> None:
    host = ""  # the one that is set for all further lines
    lines = list(enumerate(text.lines, 1))
    while lines:
        number, line = lines.pop(0)
        off = line.startswith(OFF)
        if off:
            line = line.removeprefix(OFF)
        elif line.lstrip().startswith("#") or not line.strip():
            text.mark([number], EMPTY)
            continue
        numbers = [number]
        while not off and dialect != INETUTILS and lines and lines[0][1][:1] in (" ", "\t"):
            further, more = lines.pop(0)
            numbers.append(further)
            line += " " + more
        words = _words(line, dialect)
        if len(words) == 1 and words[0].endswith(":") and not off:
            host = words[0][:-1]
            text.mark(numbers, SETTING)
            continue
        if why := _fault(line, words):
            if off:
                text.mark(numbers, EMPTY)
            else:
                reading.stray(text, numbers, why)
            continue
        text.mark(numbers, SERVICE)
        found = _found(text, numbers, words, host)
        found.off = f"{OFF} stands before it" if off else ""
        reading.services.append(found)


def _words(line: str, dialect: str) -> list[str]:
    """The fields of a line. Quotes group where the dialect says so."""
    if dialect == INETUTILS:
        lexer = shlex.shlex(line, posix=True)
        lexer.whitespace_split = True
        lexer.commenters = lexer.escape = ""
        lexer.whitespace = BLANKS
        try:
            return list(lexer)
        except ValueError:  # a quote that is not closed is a letter like others
            pass
    return [word for word in line.replace("\t", " ").split(" ") if word]


def _fault(line: str, words: list[str]) -> str:
    if "\0" in line:
        return "it has a NUL byte"
    if len(words) < len(FIELDS):
        return f"a service has {len(FIELDS)} fields and more, and this line has {len(words)}"
    if words[1] not in SOCKET_TYPES:
        return f"its second field is none of {', '.join(SOCKET_TYPES)}"
    return ""


def _found(text: Text, numbers: list[int], words: list[str], host: str) -> Found:
    place = Place(text.file, numbers[0])
    lines = [(number, text.lines[number - 1]) for number in numbers]
    found = Found(words[0], place, lines, mode=text.mode)
    for word, value in zip(FIELDS, words, strict=False):
        found.given.append(Given(word, [value], place, f"{word} {value}"))
    arguments = words[len(FIELDS) :]
    told = " ".join(("arguments", *arguments))
    found.given.append(Given("arguments", arguments, place, told))
    if host:
        found.given.insert(0, Given("host", [host], place, f"{host}:"))
    return found
