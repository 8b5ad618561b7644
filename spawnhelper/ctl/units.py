"""What systemd says about listeners and live connections.

By way of systemctl(1), and of busctl(1) for what that does not say (org.freedesktop.systemd1(5)).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from spawnhelper.ctl.complaint import Complaint
from spawnhelper.outcome import printable

PROPERTIES = (
    "Id",
    "ActiveState",
    "ActiveEnterTimestamp",
    "Listen",
    "MaxConnections",
    "NAccepted",
    "NConnections",
    "NRefused",
    "Result",
    "Triggers",
    "UnitFileState",
)
MANAGER = (
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
)
UNIX_STREAM = " (Stream)"  # what systemctl writes behind an address


class Listener(NamedTuple):
    """A service's socket unit. enabled: systemctl's word for it; state: its ActiveState; result:
    why it failed. places: where it listens, if it does. connections: the units of live ones.
    accepted and refused count since it listens; refused are those above MaxConnections=."""

    name: str
    enabled: str
    state: str
    result: str
    since: str
    places: tuple[str, ...]
    most: int
    accepted: int
    live: int
    refused: int
    connections: tuple[str, ...]


class Process(NamedTuple):
    """A process of a connection's unit, as systemd has it."""

    unit: str
    pid: int
    command: str


def listeners(names: Sequence[str]) -> list[Listener]:
    """The socket units of these services, and of all others that are loaded."""
    units = [f"spawn@{name}.socket" for name in names]
    show = ["systemctl", "show", f"--property={','.join(PROPERTIES)}", "spawn@*.socket", *units]
    found = {}
    for block in _output(show).split("\n\n"):
        properties: dict[str, list[str]] = {}
        for line in block.splitlines():
            key, _, value = line.partition("=")
            properties.setdefault(key, []).append(value)
        if properties:
            listener = _listener(properties)
            found[listener.name] = listener
    return [found[name] for name in sorted(found)]


def processes(listener: Listener) -> list[Process]:
    """The processes of its live connections. Raises Complaint where systemd does not tell."""
    if not listener.connections:
        return []
    show = ["systemctl", "show", "--property=Slice", "--value", listener.connections[0]]
    call = ["busctl", "--json=short", "call", *MANAGER, "GetUnitProcesses", "s"]
    reply = json.loads(_output([*call, _output(show).strip()]))
    found = (Process(group.rpartition("/")[2], pid, line) for group, pid, line in reply["data"][0])
    return [process for process in found if process.unit in listener.connections]


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
    return unit.removeprefix("spawn@").removesuffix(".service")


def _listener(properties: dict[str, list[str]]) -> Listener:
    def first(key: str) -> str:
        return properties.get(key, [""])[0]

    def number(key: str) -> int:
        return int(first(key) or 0)

    active = first("ActiveState") == "active"
    return Listener(
        first("Id").removeprefix("spawn@").removesuffix(".socket"),
        first("UnitFileState") or "disabled",
        first("ActiveState"),
        first("Result"),
        first("ActiveEnterTimestamp"),
        tuple(each.removesuffix(UNIX_STREAM) for each in properties.get("Listen", ()) if active),
        number("MaxConnections"),
        number("NAccepted"),
        number("NConnections"),
        number("NRefused"),
        tuple(unit for unit in first("Triggers").split() if unit.endswith(".service")),
    )


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, errors="surrogateescape"
        )
    except OSError as error:
        raise Complaint(
            os.EX_UNAVAILABLE, f"{command[0]} cannot be run: {error.strerror}"
        ) from None
    if done.returncode != 0:
        said = printable(done.stderr.strip()) or f"{command[0]} says nothing"
        raise Complaint(os.EX_UNAVAILABLE, f"systemd does not tell: {said}")
    return done.stdout
