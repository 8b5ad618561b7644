"""What a standing server says on its board, and what systemd says about it (spawn-server(8))."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from spawnhelper import board, manager
from spawnhelper.conf.quantities import USEC_PER_SEC
from spawnhelper.record import span

PROPERTIES = ("Id", "ActiveState", "SubState", "MainPID", "Result")
NSEC_PER_USEC = 1_000
LATE = 10 * USEC_PER_SEC  # a machine can be slow
AGAIN = "auto-restart"


class Server(NamedTuple):
    """A standing service's server. state: its ActiveState. accepted, dropped: of the board. idle:
    workers without a connection; busy: those with one. trouble: what is wrong with it, and what to
    do; word: the same in one word. Both are empty where all is well."""

    unit: str
    state: str
    pid: int
    accepted: int
    dropped: int
    busy: tuple[board.Place, ...]
    idle: int
    trouble: str
    word: str


def server(name: str, shown: Mapping[str, str]) -> Server:
    """The server of a service. shown: its unit's PROPERTIES."""
    unit, state, pid = shown["Id"], shown["ActiveState"], int(shown["MainPID"])
    seen, hidden = None, ""
    try:
        seen = board.read(name)
    except OSError as error:
        hidden = f"{board.file_of(name)}: {error.strerror}"
    word, trouble = _trouble(shown, seen, hidden)
    accepted, dropped = (seen.accepted, seen.dropped) if seen else (0, 0)
    busy = tuple(seen.those(board.BUSY)) if seen and pid else ()
    idle = len(seen.those(board.IDLE)) if seen and pid else 0
    return Server(unit, state, pid, accepted, dropped, busy, idle, trouble, word)


def _trouble(shown: Mapping[str, str], seen: board.Seen | None, hidden: str) -> tuple[str, str]:
    """What is wrong, in a word and in a sentence. hidden: why its board cannot be read."""
    unit, state = shown["Id"], shown["ActiveState"]
    systemctl = manager.now.words("systemctl")
    if state == "failed" or shown["SubState"].startswith(AGAIN):
        why = f"it does not run ({shown['Result']}), and clients wait"
        return "failing", f"{why}; {manager.now.journalctl(unit)} says why"
    if state != "active":
        return "", ""
    if seen is None:
        why = f"it does not say what it does: {hidden or 'its board is not one of this version'}"
        return "silent", f"{why}; can its unit write there? {systemctl} cat {unit}"
    now = time.monotonic_ns() // NSEC_PER_USEC
    if now - seen.due <= LATE:
        return "", ""
    why = f"it has done nothing for {span(now - seen.alive)}; systemd starts it anew after a while"
    return "stuck", f"{why}, {systemctl} restart {unit} at once; its connections end"
