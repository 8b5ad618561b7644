"""What spawn-rearm@.service runs when a socket unit has failed: the listener comes back, or it is
said why it cannot."""

from __future__ import annotations

import os
import subprocess
import sys

from spawnhelper import files, listeners, record
from spawnhelper.outcome import CANNOT_LISTEN, LISTENING_AGAIN, Refusal, misconfigured


def main(arguments: list[str]) -> int:
    """Starts spawn@NAME.socket. 0: it listens; EX_CONFIG: it never will, as things stand;
    EX_TEMPFAIL: worth another try."""
    (name,) = arguments
    unit = f"spawn@{name}.socket"
    file = files.file_of(name)
    if systemctl("is-active", unit) == "active":
        return 0  # somebody was faster
    try:
        listeners.checked_section(file)
    except Refusal:
        return os.EX_CONFIG  # the socket unit has said so already
    start = ["systemctl", "start", unit]
    if subprocess.run(start, stderr=subprocess.DEVNULL, check=False).returncode == 0:
        record.write(record.of_listener(name, unit, LISTENING_AGAIN), foreground=False)
        return 0
    problems = listeners.conflicts(file)
    if problems:
        refusal = misconfigured(*problems)
        record.write(record.of_refusal(unit, None, name, None, refusal), foreground=False)
        return refusal.status
    if systemctl("show", "--property=NRestarts", "--value", f"spawn-rearm@{name}.service") == "0":
        record.write(record.of_listener(name, unit, CANNOT_LISTEN), foreground=False)
    return os.EX_TEMPFAIL


def systemctl(*arguments: str) -> str:
    """What systemctl answers."""
    command = ["systemctl", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
