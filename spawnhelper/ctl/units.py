"""What systemd says about listeners and live connections.

By way of systemctl(1), and of busctl(1) for what that does not say (org.freedesktop.systemd1(5)).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from spawnhelper import manager
from spawnhelper.conf import files
from spawnhelper.ctl import servers, words
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.outcome import printable, shown

SILENT, UNKNOWN = 3, 4  # as systemctl(1) has them
NUMBERS = ("MaxConnections", "NAccepted", "NConnections", "NRefused")
PROPERTIES = (
    "Id",
    "ActiveState",
    "ActiveEnterTimestamp",
    "Listen",
    *NUMBERS,
    "Result",
    "Triggers",
    "UnitFileState",
)
MANAGER = (
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
)
OFF = ("disabled", "masked", "masked-runtime", "bad", "")  # UnitFileState= of what does not start
UNIX_STREAM = " (Stream)"  # what systemctl writes behind an address

Properties = dict[str, list[str]]


class Listener(NamedTuple):
    """A service's socket unit. enabled: systemctl's word for it; state: its ActiveState; result:
    why it failed. places: where it listens, if it does. connections: the units of live ones.
    accepted and dropped count since it listens; dropped are those above MaxConnections=, or above
    MaxConnectionsPerSource=. server: who serves all of them, with Accept=no."""

    name: str
    enabled: str
    state: str
    result: str
    since: str
    places: tuple[str, ...]
    most: int
    accepted: int
    live: int
    dropped: int
    connections: tuple[str, ...]
    server: servers.Server | None


class Process(NamedTuple):
    """A process of a connection or of a server, as systemd has it. group: the last part of its
    control group's name."""

    group: str
    pid: int
    command: str


def listeners(names: Sequence[str]) -> list[Listener]:
    """The socket units of these services, and of all others that are loaded."""
    sockets = _shown(PROPERTIES, ["spawn@*.socket", *(f"spawn@{name}.socket" for name in names)])
    standing = [
        unit for each in sockets for unit in _triggers(each) if unit.startswith(words.SERVER)
    ]
    states = _shown(servers.PROPERTIES, standing) if standing else []
    by_name = {_instance(_first(each, "Id")): each for each in states}
    found = [_listener(each, by_name) for each in sockets]
    return [each for _, each in sorted({each.name: each for each in found}.items())]


def named(names: Sequence[str]) -> list[Listener]:
    """The socket units of these services, or of all that have a file or are loaded. Raises
    Complaint for a name that is none of these."""
    wanted = [words.name_of(name) for name in names]
    known = listeners([name for name in wanted or files.installed() if files.is_name(name)])
    if not wanted:
        return known
    by_name = {each.name: each for each in known}
    for name in wanted:
        if name not in by_name:
            raise Complaint(UNKNOWN, f"{shown(name)} is no service; {files.NAMED}")
        if name not in files.installed() and by_name[name].state == "inactive":
            raise Complaint(UNKNOWN, f"there is no service file {files.file_of(name)}")
    return [by_name[name] for name in dict.fromkeys(wanted)]


def claiming(names: Iterable[str]) -> set[str]:
    """Those of the services whose sockets are enabled, or are not off; all of them where there is
    no systemd to tell."""
    wanted = sorted(names)
    try:
        found = _shown(
            ("Id", "ActiveState", "UnitFileState"), [f"spawn@{n}.socket" for n in wanted]
        )
    except Complaint:
        return set(wanted)
    return {
        _instance(_first(each, "Id"))
        for each in found
        if _first(each, "ActiveState") != "inactive" or _first(each, "UnitFileState") not in OFF
    }


def processes(listener: Listener) -> list[Process]:
    """The processes of its live connections, or of its server. Raises Complaint where systemd does
    not tell."""
    if listener.server is not None:
        return _processes(listener.server.unit) if listener.server.busy else []
    if not listener.connections:
        return []
    show = ["show", "--property=Slice", "--value", listener.connections[0]]
    found = _processes(_output("systemctl", *show).strip())
    return [process for process in found if process.group in listener.connections]


def _processes(unit: str) -> list[Process]:
    call = ["--json=short", "call", *MANAGER, "GetUnitProcesses", "s", unit]
    reply = json.loads(_output("busctl", *call))
    return [Process(group.rpartition("/")[2], pid, line) for group, pid, line in reply["data"][0]]


def systemctl(*words: str) -> None:
    """Has systemctl(1) do something. Raises Complaint with what it says where it cannot."""
    _output("systemctl", *words)


def client(unit: str) -> str:
    """Who called, from the name of the connection's unit: COUNT-[COOKIE-]LOCAL-REMOTE, or
    COUNT-[COOKIE-]PID[_PIDFD]-UID (systemd.socket(5), Accept=)."""
    head, _, last = _instance(unit).rpartition("-")
    host, colon, port = last.rpartition(":")
    if not colon:
        pid, _, _ = head.rpartition("-")[2].partition("_")
        return f"pid {pid} of uid {last}"
    return f"[{host}]:{port}" if ":" in host else last


def ordinal(unit: str) -> int:
    """Which connection of its listener it is, from the name of its unit."""
    return int(_instance(unit).partition("-")[0])


def _instance(unit: str) -> str:
    return unit.partition("@")[2].rpartition(".")[0]


def _shown(properties: Sequence[str], units: Sequence[str]) -> list[Properties]:
    """What systemd has for each of these units; a property can be there more than once."""
    found = []
    show = ["show", f"--property={','.join(properties)}", *units]
    for block in _output("systemctl", *show).split("\n\n"):
        shown: Properties = {}
        for line in block.splitlines():
            key, _, value = line.partition("=")
            shown.setdefault(key, []).append(value)
        if shown:
            found.append(shown)
    return found


def _first(shown: Properties, key: str) -> str:
    return shown.get(key, [""])[0]


def _triggers(shown: Properties) -> list[str]:
    return [unit for unit in _first(shown, "Triggers").split() if unit.endswith(".service")]


def _listener(shown: Properties, states: dict[str, Properties]) -> Listener:
    """states: the units of standing servers, by the names of their services."""
    active = _first(shown, "ActiveState") == "active"
    name = _instance(_first(shown, "Id"))
    most, accepted, live, dropped = (int(_first(shown, key) or 0) for key in NUMBERS)
    server = None
    if name in states:
        state = {key: _first(states[name], key) for key in servers.PROPERTIES}
        server = servers.server(name, state)
        # Those of systemd's are from before the service had a server.
        accepted += server.accepted
        live += len(server.busy)
        dropped += server.dropped
    return Listener(
        name,
        _first(shown, "UnitFileState") or "disabled",
        _first(shown, "ActiveState"),
        _first(shown, "Result"),
        _first(shown, "ActiveEnterTimestamp"),
        tuple(each.removesuffix(UNIX_STREAM) for each in shown.get("Listen", ()) if active),
        most,
        accepted,
        live,
        dropped,
        () if server else tuple(_triggers(shown)),
        server,
    )


def _output(program: str, *words: str) -> str:
    try:
        done = subprocess.run(
            [program, *manager.now.option, *words],
            check=False,
            capture_output=True,
            text=True,
            errors="surrogateescape",
        )
    except OSError as error:
        raise Complaint(os.EX_UNAVAILABLE, f"{program} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        said = printable(done.stderr.strip()) or f"{program} says nothing"
        what = "does not tell" if words[0] in ("show", "--json=short") else f"cannot {words[0]}"
        raise Complaint(os.EX_UNAVAILABLE, f"systemd {what}: {said}")
    return done.stdout
