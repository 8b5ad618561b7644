"""What a terminal gets, and a pipe does not: colours, a pager, tables as wide as it is."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING

from spawnhelper.outcome import ERR, NOTICE, WARNING

if TYPE_CHECKING:
    from rich.console import Console

    from spawnhelper.ctl.table import Table

PAGERS = ("pager", "less", "more")
LESS = "FRSXMK"  # as systemctl(1) has it
NO = ("0", "no", "false", "off", "n", "f")
WIDE = 10_000  # columns; a pipe has no edge
LEAST = 40  # columns, below which nothing looks well
BOLD = -1  # for a heading
# As journalctl(1) shows them.
STYLES = {BOLD: "bold", ERR: "bold red", WARNING: "bold yellow"}


def coloured(stream: IO[str]) -> bool:
    """Whether the stream is for colours: a terminal, unless $SYSTEMD_COLORS, $NO_COLOR or $TERM
    has another opinion."""
    wish = os.environ.get("SYSTEMD_COLORS")
    if wish is not None:
        return wish.lower() not in NO
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def painter(*, colours: bool) -> Callable[[str, int], str]:
    """A function that gives a line the colour of its priority."""
    if not colours:
        return lambda line, _: line
    from rich.style import Style

    styles = {priority: Style.parse(style) for priority, style in STYLES.items()}

    def paint(line: str, priority: int) -> str:
        style = styles.get(priority if priority == BOLD else max(priority, ERR))
        return style.render(line) if style else line

    return paint


def console(stream: IO[str]) -> Console:
    """Rich's console on the stream: standard error, standard output, or a pager before it."""
    from rich.console import Console

    shown = stream if stream is sys.stderr else sys.stdout
    colours = coloured(shown)
    return Console(
        file=stream,
        color_system="standard" if colours else None,
        force_terminal=colours,
        width=width(),
        highlight=False,
        markup=False,
        emoji=False,
    )


def width() -> int:
    """How many columns standard output has; a pipe has no edge."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE


def show(table: Table, out: IO[str]) -> None:
    """A table in the manner of systemctl, on standard output or in a pager before it."""
    paint = painter(colours=coloured(sys.stdout))
    for number, (line, priority) in enumerate(table.lines(width())):
        shown = BOLD if number == 0 else NOTICE if priority is None else priority
        print(paint(line, shown), file=out)
    if left_out := table.left_out(width()):
        print(f"-- no room for {', '.join(left_out)}; --json has all --", file=out)


def wrapped(text: str, *, first: str = "", rest: str = "") -> str:
    """A sentence in lines that standard output has room for, with something before each."""
    if width() == WIDE:
        return first + text
    return textwrap.fill(
        text,
        max(width(), LEAST),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


@contextlib.contextmanager
def paged(*, wanted: bool = True, at_end: bool = False) -> Iterator[IO[str]]:
    """Where the output goes: on a terminal through a pager, as journalctl(1) has it. at_end:
    whether less(1) is to begin there."""
    command = _pager() if wanted and sys.stdout.isatty() else None
    if command is None:
        yield sys.stdout
        return
    less = os.environ.get("SYSTEMD_LESS", LESS) + (" +G" if at_end else "")
    environment = os.environ | {"LESS": less}
    environment["LESSCHARSET"] = os.environ.get("SYSTEMD_LESSCHARSET", "utf-8")
    if _secure():
        environment["LESSSECURE"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the pager, which the user still reads
    pager = subprocess.Popen(
        command, stdin=subprocess.PIPE, env=environment, text=True, errors="replace"
    )
    assert pager.stdin is not None
    try:
        yield pager.stdin
    finally:
        with contextlib.suppress(BrokenPipeError):
            pager.stdin.close()
        pager.wait()


def _pager() -> list[str] | None:
    named = os.environ.get("SYSTEMD_PAGER", os.environ.get("PAGER"))
    if named is not None and not _elevated():
        words = shlex.split(named)
        return words if words and words != ["cat"] else None
    pagers = ("less",) if _elevated() else PAGERS
    return next(([pager] for pager in pagers if shutil.which(pager)), None)


def _secure() -> bool:
    """Whether less must not run commands or open other files ($SYSTEMD_PAGERSECURE)."""
    wish = os.environ.get("SYSTEMD_PAGERSECURE")
    return _elevated() if wish is None else wish.lower() not in NO


def _elevated() -> bool:
    """Whether somebody else runs this as root by sudo(8) or pkexec(1)."""
    return any(os.environ.get(name, "0") != "0" for name in ("SUDO_UID", "PKEXEC_UID"))
