"""What spawn-rearm@.service runs when a socket unit has failed: the listener comes back, or it is
said why it cannot.

Clients are refused until then, so that nothing is loaded before that is not needed for it.
"""

from __future__ import annotations

import sys
import time

if __name__ == "__main__":
    sys.path.append(__file__.rpartition("/spawnhelper/")[0])  # as in __main__.py

from spawnhelper import files
from spawnhelper.outcome import CANNOT_LISTEN, LISTENING_AGAIN, misconfigured

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
else:
    import posix as os

NSEC_PER_USEC = 1_000


def main(arguments: list[str]) -> int:
    """Starts spawn@NAME.socket. 0: it listens; EX_CONFIG: it never will, as things stand;
    EX_TEMPFAIL: worth another try."""
    (name,) = arguments
    unit = f"spawn@{name}.socket"
    try:
        os.stat(f"{files.GENERATED}/{unit}.d/{files.DROP_IN}")
    except OSError:
        return os.EX_CONFIG  # its service file is no good, and the socket unit has said so already
    begun = time.monotonic_ns() // NSEC_PER_USEC
    started = start(unit)

    from spawnhelper import record

    if started:
        if int(shown(unit, "ActiveEnterTimestampMonotonic")) >= begun:  # else somebody was faster
            record.write(record.of_listener(name, unit, LISTENING_AGAIN), foreground=False)
        return 0
    if shown(unit, "Job") not in ("", "0"):
        return 0  # it is just being stopped, and that is what counts

    from spawnhelper import listeners

    problems = listeners.conflicts(files.file_of(name))
    if problems:
        refusal = misconfigured(*problems)
        record.write(record.of_refusal(unit, None, name, None, refusal), foreground=False)
        return refusal.status
    if shown(f"spawn-rearm@{name}.service", "NRestarts") == "0":
        record.write(record.of_listener(name, unit, CANNOT_LISTEN), foreground=False)
    return os.EX_TEMPFAIL


def start(unit: str) -> bool:
    """Whether the unit is active now. It is not started against a stop that is on its way."""
    command = ["/usr/bin/systemctl", "start", "--quiet", "--job-mode=fail", unit]
    null = [(os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)]
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=null)
    return os.waitpid(pid, 0)[1] == 0


def shown(unit: str, name: str) -> str:
    """A property of a unit, as systemctl shows it."""
    import subprocess

    command = ["systemctl", "show", f"--property={name}", "--value", unit]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
