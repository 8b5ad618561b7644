"""The journals that servers with LogNamespace= in [Service] write to (systemd.exec(5))."""

from __future__ import annotations

from spawnhelper.conf import files, service
from spawnhelper.outcome import Refusal


def of_services() -> list[str]:
    """The namespaces of all servers whose files can be followed, sorted."""
    found = {of(name) for name in files.installed()}
    return sorted(found - {""})


def of(name: str) -> str:
    """The namespace of this service's server, "" where it writes to the machine's own journal."""
    try:
        sections, _ = service.unit_sections(files.file_of(name))
    except Refusal:
        return ""
    values = [
        each.value for each in sections if (each.section, each.key) == ("Service", "LogNamespace")
    ]
    return values[-1] if values and service.is_standing(sections) else ""
