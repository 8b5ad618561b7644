"""Whether who connects to a service is served: what its file says, what systemd was told at its
last reload, and where the kernel listens, beside each other."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from spawnhelper import manager, sockets
from spawnhelper.conf import dropins, files, listeners
from spawnhelper.ctl import examination, units
from spawnhelper.outcome import Refusal, printable

SYSTEMD = 1  # its pid
TAKEN = "address in use"
# Of a standing server: what keeps its clients waiting.
HOLDS_UP = ("failing", "stuck")


class Health(NamedTuple):
    """places: where the kernel listens for it. wanted: whether it should, because its socket is
    enabled or has been started. serves: whether who connects there gets its command. word: what is
    wrong, and remedy: what to do about it; both are empty where there is nothing to be done."""

    places: tuple[str, ...]
    wanted: bool
    serves: bool
    word: str
    remedy: str

    @property
    def dead(self) -> bool:
        """Whether somebody should do something now."""
        return self.wanted and not self.serves


class Kernel:
    """Where it listens. For root that is where systemd has it listen; without root another
    program's listener at the same address cannot be told from systemd's."""

    def __init__(self) -> None:
        self._found = sockets.listening()
        self._ours = sockets.held_by(SYSTEMD) if os.geteuid() == 0 else None

    def has(self, place: str) -> bool:
        """Whether it listens at an address as systemd shows it."""
        try:
            _, host, port = listeners.address(place)
        except ValueError:
            return True  # with an interface in it, which systemd knows about
        return any(
            (each.host, each.port) == (host, port)
            and (self._ours is None or each.inode in self._ours)
            for each in self._found
        )

    def taken(self, wanted: listeners.Listener) -> str:
        """Who listens where a service means to, as a sentence; "" where that is nobody, or systemd
        for it."""
        for each in self._found:
            other = (each.family, each.host, each.port)
            if wanted.overlaps_address(*other) and each.inode not in (self._ours or ()):
                return f"{wanted.place} is in use by {_who(each)}"
        return ""


def _who(each: sockets.Listening) -> str:
    found = sockets.holder(each.inode)
    if found is not None:
        return f"{printable(found[1])} (pid {found[0]})"
    return "another program" if each.uid is None else f"a program of uid {each.uid}"


def of(listener: units.Listener, kernel: Kernel, *, thorough: bool = False) -> Health:
    """How a service is. thorough: whether its own user is asked, too, if root asks."""
    name, unit = listener.name, f"spawn@{listener.name}.socket"
    file = files.file_of(name)
    systemctl = manager.now.words("systemctl")
    places = tuple(each for each in listener.places if kernel.has(each))
    on = listener.state == "active"
    wanted = on or listener.state == "failed" or listener.enabled not in units.OFF
    word = remedy = ""
    serves = bool(places)
    if name not in files.installed():
        word, serves = "no service file", False
        remedy = f"write {file}, or {systemctl} disable --now {unit}"
    elif problems := _problems(file, thorough=thorough):
        word, serves = _counted(problems), False
        remedy = f"{file}; {manager.now.words('spawnctl')} check {name}"
    elif on and len(places) < len(listener.places):
        word, serves = "address changed", False
        remedy = f"{systemctl} restart {unit}"
    elif listener.state == "failed":
        word, remedy = "failed", _why(listener, file, kernel)
    elif _changed(name, file) and wanted:
        word = "file changed"
        remedy = "systemd goes by [Socket] as it was at its last reload; "
        remedy += f"{manager.now.words('spawnctl')} apply {name}"
    elif wanted and not on:
        word, remedy = listener.state, f"{systemctl} start {unit}"
    elif not wanted and (taken := _taken(file, kernel)):
        word, remedy = TAKEN, f"{taken}; it could not listen there"
    elif listener.server is not None and listener.server.trouble:
        word, remedy = f"server {listener.server.word}", listener.server.trouble
        serves = listener.server.word not in HOLDS_UP
    return Health(places, wanted, serves, word, remedy)


def _problems(file: str, *, thorough: bool) -> int:
    """How many problems the service file has; none where this user may not read it."""
    try:
        closed = not all(os.access(each, os.R_OK) for each in files.sources(file))
    except Refusal:  # a folder is closed to this user, or broken for everybody
        closed = os.geteuid() != manager.now.uid
    if closed:
        return 0
    refusal = examination.examine(file, thorough=thorough)
    return 0 if refusal is None else len(refusal.problems)


def _changed(name: str, file: str) -> bool:
    """Whether systemd has been told something else than the file has now."""
    try:
        return dropins.made(file) != dropins.told(name)
    except Refusal:  # it is not open to this user
        return False


def _why(listener: units.Listener, file: str, kernel: Kernel) -> str:
    """Why a socket unit has failed, and what starts it again."""
    unit = f"spawn@{listener.name}.socket"
    why = (
        _taken(file, kernel)
        or f"{listener.result}; {manager.now.words('systemctl')} status {unit} says why"
    )
    return f"{why}; it is tried again every 10s"


def _taken(file: str, kernel: Kernel) -> str:
    """Who listens where the service means to, if somebody else does."""
    holders: Iterable[str] = filter(None, map(kernel.taken, listeners.claimed(file)))
    return next(iter(holders), "")


def _counted(problems: int) -> str:
    return f"{problems} problem" if problems == 1 else f"{problems} problems"
