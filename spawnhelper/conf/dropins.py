"""What systemd is told about a service: drop-ins for spawn@NAME.socket and
spawn-server@NAME.service, which spawn-generator(8) writes."""

from __future__ import annotations

from spawnhelper.conf import files, listeners, service
from spawnhelper.outcome import Refusal

# What spawn@.socket has for a service without a drop-in gives way to the service's own.
LISTENS = ("ListenStream=", "ExecStartPre=")
# The trigger limit keeps a server that cannot start from being started without an end, where
# Restart= does not (systemd.socket(5)).
HAS_SERVER = ("Accept=no", "Service=spawn-server@%i.service", "TriggerLimitIntervalSec=2s")
# Likewise spawn-server@.service. What fails is started again, and clients wait in the backlog.
IS_SERVER = ("ExecStartPre=", "Restart=on-failure")


def made(file: str) -> dict[str, str]:
    """What systemd is told about the service's units, by their names; a Refusal where the file is
    not good."""
    sections = listeners.checked_sections(file)
    name = files.name_of(file)
    # What Accept= comes to has been decided, by rules for an empty value that systemd has not.
    socket = [
        f"{each.key}={each.value}"
        for each in sections
        if each.section == "Socket" and each.key != "Accept"
    ]
    unit = f"spawn@{name}.socket"
    if not service.is_standing(sections):
        return {unit: _drop_in(file, "Socket", *LISTENS, *socket)}
    server = [f"{each.key}={each.value}" for each in sections if each.section == "Service"]
    return {
        unit: _drop_in(file, "Socket", *LISTENS, *HAS_SERVER, *socket),
        f"spawn-server@{name}.service": _drop_in(file, "Service", *IS_SERVER, *server),
    }


def _drop_in(file: str, section: str, *lines: str) -> str:
    head = f"# Made by spawn-generator(8) from {file}\n[Unit]\nSourcePath={file}\n\n[{section}]\n"
    return head + "".join(f"{line}\n" for line in lines)


def told(name: str) -> dict[str, str]:
    """The same as systemd was told it at the last reload; empty where it was told nothing."""
    found = {}
    for unit in (f"spawn@{name}.socket", f"spawn-server@{name}.service"):
        try:
            found[unit] = files.text(files.drop_in(unit)).decode(errors="surrogateescape")
        except Refusal:
            continue
    return found
