"""What spawn-rearm@.service runs when a socket unit has failed: the listener comes back, or it is
said why it cannot."""

from __future__ import annotations

import os
import subprocess
import sys

from spawnhelper import listeners, record, service
from spawnhelper.outcome import Refusal, misconfigured


def main(arguments: list[str]) -> int:
    """Starts spawn@NAME.socket. 0: it listens; EX_CONFIG: it never will, as things stand;
    EX_TEMPFAIL: worth another try."""
    (name,) = arguments
    unit = f"spawn@{name}.socket"
    file = service.file_of(name)
    try:
        service.load_socket(file)
    except Refusal:
        return os.EX_CONFIG  # the socket unit has said so already
    start = ["systemctl", "start", unit]
    if subprocess.run(start, stderr=subprocess.DEVNULL, check=False).returncode == 0:
        record.write(record.of_rearming(name, unit), foreground=False)
        return 0
    problems = listeners.conflicts(file)
    if problems:
        refusal = misconfigured(*problems)
        record.write(record.of_refusal(unit, None, name, refusal), foreground=False)
        return refusal.status
    return os.EX_TEMPFAIL


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
