"""The text of a service file to its assignments, by the rules of systemd.syntax(7)."""

from __future__ import annotations

from spawnhelper.conf.values import NAME_CHARACTERS, consists_of
from spawnhelper.outcome import Problem, Refusal, misconfigured, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

WHITESPACE = " \t"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Assignment:
    """One `key=value` of a section, its continued lines made one."""

    __slots__ = ("file", "key", "line", "section", "value")

    def __init__(self, section: str, key: str, value: str, file: str, line: int) -> None:
        self.section = section
        self.key = key
        self.value = value
        self.file = file
        self.line = line


def strict_lines(text: bytes, file: str) -> list[str]:
    """The lines of a service file; a Refusal for text that systemd could take for something else
    than we do: what is not UTF-8, or has a NUL or a carriage return."""

    def refusal(at: int, what: str) -> Refusal:
        return misconfigured(Problem(file, text.count(b"\n", 0, at) + 1, f"the line {what}"))

    for octet, what in (
        (b"\0", "has a NUL byte; a service file is plain text"),
        (b"\r", "has a carriage return; save the file with Unix line ends"),
    ):
        if octet in text:
            raise refusal(text.index(octet), what)
    text = text.removeprefix(BYTE_ORDER_MARK)
    if BYTE_ORDER_MARK in text:  # systemd takes one away from the start of any line
        raise refusal(text.index(BYTE_ORDER_MARK), "has a byte order mark; remove it")
    try:
        return text.decode().split("\n")
    except UnicodeDecodeError as error:
        raise refusal(error.start, "is not UTF-8; save the file in that encoding") from None


def lenient_lines(text: bytes) -> list[str]:
    """The lines of a service file as far as they can be made out."""
    lines = text.removeprefix(BYTE_ORDER_MARK).decode(errors="replace").split("\n")
    return [line.replace("\r", "") for line in lines]


def parse(
    lines: list[str], file: str, sections: tuple[str, ...]
) -> tuple[list[Assignment], list[Problem]]:
    """The assignments of the named sections in their order, and every problem on the way to them.

    A section whose name begins with X- is passed over. No problem shows a line: what makes none of
    sense can be a piece of the value above, and that a secret.
    """
    assignments: list[Assignment] = []
    problems: list[Problem] = []

    def problem(line: int, sentence: str) -> None:
        problems.append(Problem(file, line, sentence))

    section: str | None = None  # None: before the first header, or in a section without meaning
    headed = False
    for first, whole in _joined(lines):
        if not whole:
            continue
        if whole[0] == "[":
            headed = True
            section = None
            if whole[-1] != "]":
                problem(first, "the section header does not end with ]")
            elif whole[1:-1] in sections:
                section = whole[1:-1]
            elif not whole.startswith("[X-"):
                which = f" {shown(whole)}" if consists_of(whole[1:-1], NAME_CHARACTERS) else ""
                likely = [each for each in sections if each.lower() == whole[1:-1].strip().lower()]
                # What stands below it is read as what it was meant for: one mistake, one sentence.
                section = likely[0] if likely else None
                right = f"this file can have {_listed(sections, 'and')}"
                if likely:
                    right = f"write [{likely[0]}]"
                problem(first, f"unknown section{which}; {right}")
            continue
        if section is None:
            if not headed:
                right = f"put it below {_listed(sections, 'or')}"
                problem(first, f"the line stands before any section header; {right}")
            continue
        key, equals, value = whole.partition("=")
        key = key.rstrip(WHITESPACE)
        if not equals or not key:
            problem(first, "the line is not an assignment; write KEY=VALUE")
            continue
        value = value.lstrip(WHITESPACE)
        assignments.append(Assignment(section, key, value, file, first))
    return assignments, problems


def _listed(sections: tuple[str, ...], conjunction: str) -> str:
    """The headers of sections, as a sentence has them."""
    *others, last = (f"[{name}]" for name in sections)
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def _joined(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Lines without comments, continued ones made one: the first one's number, and the text."""
    first = 0
    pieces: list[str] = []
    for number, raw in enumerate(lines, 1):
        line = raw.lstrip(WHITESPACE)
        if line[:1] in ("#", ";"):  # also between the lines of a continued value
            continue
        first = first or number
        if continues(line):
            pieces += (line[:-1], " ")
            continue
        pieces.append(line)
        yield first, "".join(pieces).strip(WHITESPACE)
        first, pieces = 0, []
    if pieces:
        yield first, "".join(pieces).strip(WHITESPACE)


def continues(line: str) -> bool:
    """Whether the line ends with a backslash that is not itself escaped."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1
