"""Whose a connection is, before systemd 257: nothing but its local address tells."""

from __future__ import annotations

from spawnhelper import manager
from spawnhelper.conf import files, listeners
from spawnhelper.outcome import Problem, Refusal, misconfigured

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import socket

    from spawnhelper.doors.inherited import Connection
else:
    import _socket as socket
    import posix as os

DEVICE_SIZE = 16  # IFNAMSIZ
LINK_LOCAL = ("fe8", "fe9", "fea", "feb")  # RFC 4291, 2.5.6
PREFIX, SUFFIX = "spawn@", ".socket.d"
ANSWER_TIME, RELOAD_TIME = 5, 20  # seconds
MOST_RELOADS = 5  # one after the other, as the installation of a package has them


def service_of(connection: Connection) -> str:
    """The one service that can be listening at the connection's local address, or a Refusal.

    That is what systemd was told at its last reload, and not what the files say since. Where that
    leaves more than one, as when a file is a copy of another, systemd is asked which is on. While
    systemd reloads, it has been told of none, and this waits for the end of that.
    """
    names = _listening(connection)
    for _ in range(MOST_RELOADS):
        if names or not _reloaded():
            break
        names = _listening(connection)
    if len(names) > 1:
        names = [name for name in names if not listeners.has_server(name)]
    if len(names) > 1:
        names = _active(names)
    if len(names) == 1:
        return names[0]
    raise _not_one(connection, names)


def _listening(connection: Connection) -> list[str]:
    """The services with a listener at the connection's local address."""
    octets = connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, DEVICE_SIZE)
    devices = [octets.rstrip(b"\0").decode()]
    family = connection.family
    host, port = _place(connection)
    if port and host.startswith(LINK_LOCAL):  # bound to its interface, whatever its listener was
        devices.append("")
    hosts = (host, listeners.WILDCARDS.get(family))
    found = {
        name: None
        for name in _told()
        for each in listeners.given(name)
        if (each.family, each.port) == (family, port)
        and each.host in hosts
        and each.device in devices
    }
    return list(found)


def _place(connection: Connection) -> tuple[str, int]:
    """Where the connection came in: an address and a port, or a path and 0."""
    if connection.local is None:
        return connection.path or "", 0
    host, port = connection.local
    return host.partition("%")[0], port


def _not_one(connection: Connection, names: list[str]) -> Refusal:
    """Why nobody can tell whose a connection is. names: whose it can be."""
    host, port = _place(connection)
    place = f"{host}:{port}" if port else host
    if names:
        sentence = (
            f"{' and '.join(names)} have the address {place}, and before systemd 257 nothing else "
            "tells whose a connection is; give each service an address of its own"
        )
        refusal = misconfigured(Problem(files.file_of(names[0]), None, sentence))
        refusal.services = tuple(names)
        return refusal
    reload = f"{manager.now.words('systemctl')} daemon-reload"
    sentence = (
        f"systemd has been told of no service with ListenStream={place}; run {reload}, and restart "
        "the socket unit, or stop it if its service is gone"
    )
    return misconfigured(Problem(manager.now.folders[0], None, sentence))


def _told() -> list[str]:
    """The services that systemd has been told of."""
    try:
        entries = os.listdir(manager.now.generated)
    except FileNotFoundError:
        return []
    return sorted(
        entry.removeprefix(PREFIX).removesuffix(SUFFIX)
        for entry in entries
        if entry.startswith(PREFIX) and entry.endswith(SUFFIX)
    )


def _reloaded() -> bool:
    """Whether systemd answers, which it does not while it reloads."""
    import subprocess

    ask = ["systemctl", *manager.now.option, "show", "--property=Version"]
    try:
        told = subprocess.run(ask, check=False, capture_output=True, timeout=RELOAD_TIME).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return told != b""


def _active(names: list[str]) -> list[str]:
    """Those of the services whose sockets are on; all of them where systemd does not tell, or has
    none."""
    import subprocess

    units = [f"spawn@{name}.socket" for name in names]
    ask = ["systemctl", *manager.now.option, "is-active", *units]
    try:
        told = subprocess.run(ask, check=False, capture_output=True, timeout=ANSWER_TIME).stdout
    except (OSError, subprocess.SubprocessError):
        return names
    states = told.decode(errors="replace").split()
    return [name for name, state in zip(names, states, strict=False) if state == "active"] or names
