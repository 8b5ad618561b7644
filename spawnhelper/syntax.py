"""The text of a service file to its assignments, by the rules of systemd.syntax(7)."""

from __future__ import annotations

from spawnhelper.outcome import Problem, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

WHITESPACE = " \t"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Assignment:
    """One `key=value` of a section; source holds its lines as they stand in the file."""

    __slots__ = ("key", "line", "section", "source", "value")

    def __init__(self, section: str, key: str, value: str, line: int, source: list[str]) -> None:
        self.section = section
        self.key = key
        self.value = value
        self.line = line
        self.source = source


def parse(
    text: bytes, file: str, sections: tuple[str, ...]
) -> tuple[list[Assignment], list[Problem]]:
    """The assignments of the named sections in their order, and every problem on the way to them.

    A section whose name begins with X- is passed over. Text that is not UTF-8, or has a NUL or a
    carriage return, gives no assignment at all: what it means to systemd and to us could differ.
    """
    assignments: list[Assignment] = []
    problems: list[Problem] = []

    def problem(line: int, sentence: str) -> None:
        problems.append(Problem(file, line, sentence))

    lines = _lines(text, problem)
    section: str | None = None  # None: before the first header, or in a section without meaning
    headed = False
    pending = ""
    source: list[str] = []
    first = 0
    for number, raw in enumerate(lines, 1):
        line = raw.lstrip(WHITESPACE)
        if line[:1] in ("#", ";"):  # also between the lines of a continued value
            continue
        if not source:
            first = number
        source.append(raw)
        pending += line
        if _continues(pending) and number < len(lines):
            pending = pending[:-1] + " "
            continue
        whole, pending = pending.strip(WHITESPACE), ""
        mine, source = source, []
        if not whole:
            continue
        if whole[0] == "[":
            headed = True
            section = None
            if whole[-1] != "]":
                problem(first, f"the section header {shown(whole)} does not end with ]")
            elif whole[1:-1] in sections:
                section = whole[1:-1]
            elif not whole.startswith("[X-"):
                known = " and ".join(f"[{name}]" for name in sections)
                problem(first, f"unknown section {shown(whole)}; a service file has {known}")
            continue
        if section is None:
            if not headed:
                problem(
                    first, f"{shown(whole)} stands before any section header; put it below [Spawn]"
                )
            continue
        key, equals, value = whole.partition("=")
        key = key.rstrip(WHITESPACE)
        if not equals or not key:
            problem(first, f"{shown(whole)} is not an assignment; write KEY=VALUE")
            continue
        assignments.append(Assignment(section, key, value.lstrip(WHITESPACE), first, mine))
    return assignments, problems


def _lines(text: bytes, problem: Callable[[int, str], None]) -> list[str]:
    if text.startswith(BYTE_ORDER_MARK):
        text = text[len(BYTE_ORDER_MARK) :]
    for byte, what in (
        (b"\0", "a NUL byte; a service file is plain text"),
        (b"\r", "a carriage return; save the file with Unix line ends"),
    ):
        at = text.find(byte)
        if at >= 0:
            problem(text.count(b"\n", 0, at) + 1, f"the line has {what}")
            return []
    try:
        return text.decode().split("\n")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        problem(line, "the line is not UTF-8; save the file in that encoding")
        return []


def _continues(line: str) -> bool:
    """Whether the line ends with a backslash that is not itself escaped."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1
