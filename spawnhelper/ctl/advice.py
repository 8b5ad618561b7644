"""What works, and is still worth a word from `spawnctl check`."""

from __future__ import annotations

import socket
import subprocess

from spawnhelper import files, listeners
from spawnhelper.outcome import Problem, shown
from spawnhelper.service import Service

UNIX_NAMES_SINCE = 258  # a connection's unit has a socket cookie in its name (systemd.socket(5))


def of(settings: Service, file: str) -> list[Problem]:
    """What to think about before this service is enabled."""
    return [*_collisions(file), *_queue(settings)]


def _collisions(file: str) -> list[Problem]:
    """Other services at paths, whose connections systemd cannot always tell from this one's."""
    mine = [each for each in listeners.claimed(file) if each.family == socket.AF_UNIX]
    if not mine or systemd() >= UNIX_NAMES_SINCE:
        return []
    name = files.name_of(file)
    others = [
        other
        for other in files.installed()
        if other != name
        and any(each.family == socket.AF_UNIX for each in listeners.claimed(files.file_of(other)))
    ]
    if not others:
        return []
    names = " or ".join(map(shown, others))
    sentence = (
        f"a client process that connects to {names}, too, can have a connection reset before "
        f"systemd {UNIX_NAMES_SINCE}; listen on TCP at 127.0.0.1 instead, or upgrade"
    )
    return [Problem(mine[0].file, mine[0].line, sentence)]


def _queue(settings: Service) -> list[Problem]:
    """A limit that is never reached."""
    if settings.max_commands is None or settings.max_commands < settings.max_connections:
        return []
    sentence = (
        f"MaxCommands={settings.max_commands} has nobody wait, for MaxConnections= is "
        f"{settings.max_connections}; raise that in [Socket]"
    )
    return [settings.problem("MaxCommands", sentence)]


def systemd() -> int:
    """The version of the systemd that is installed; that of the future where there is none."""
    try:
        told = subprocess.run(["systemctl", "--version"], check=False, capture_output=True)
        return int(told.stdout.split()[1])
    except (OSError, LookupError, ValueError):
        return UNIX_NAMES_SINCE
