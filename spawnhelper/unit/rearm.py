"""What spawn-rearm@.service runs when a socket unit has failed: the listener comes back, or it is
said that it cannot, and tried again.

Clients are refused until then, so that nothing is loaded before that is not needed for it.
"""

from __future__ import annotations

import sys
import time

if __name__ == "__main__":  # as in __main__.py
    sys.path.insert(0, __file__.rpartition("/spawnhelper/")[0])
    from spawnhelper import LIBRARIES

    sys.path += LIBRARIES

from spawnhelper import manager
from spawnhelper.conf import files
from spawnhelper.outcome import CANNOT_LISTEN, LISTENING_AGAIN, misconfigured

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import socket

    from spawnhelper.conf.listeners import Listener
else:
    import _socket as socket
    import posix as os

NSEC_PER_USEC = 1_000
PAUSE = 10  # seconds between two attempts; record.py says it, too
# To step aside by: one would only be in the way of the next connection, and ten services that step
# by the same number meet again.
FEWEST_STEPS, STEPS = 2, 8


def main(arguments: list[str]) -> int:
    """Starts spawn@NAME.socket, again and again. 0: it listens; EX_CONFIG: it never will, as things
    stand."""
    (name,) = manager.chosen(arguments)
    status = attempt(name, first=True)
    while status == os.EX_TEMPFAIL:
        time.sleep(PAUSE)
        status = attempt(name, first=False)
    return status


def attempt(name: str, *, first: bool) -> int:
    """Starts the socket unit once. 0: it listens; EX_CONFIG: it never will, as things stand;
    EX_TEMPFAIL: worth another try. first: whether that has still to be said."""
    unit = f"spawn@{name}.socket"
    try:
        os.stat(files.drop_in(unit))
    except OSError:
        return os.EX_CONFIG  # its service file is no good, and the socket unit has said so already
    begun = time.monotonic_ns() // NSEC_PER_USEC
    starting = start(unit)

    # While systemd is at it.
    from spawnhelper import record
    from spawnhelper.conf import listeners

    file = files.file_of(name)
    claimed = [] if listeners.has_server(name) else listeners.claimed(file)
    if os.waitpid(starting, 0)[1] == 0:
        step_aside(claimed)
        since = int(shown(unit, "ActiveEnterTimestampMonotonic") or 0)
        if since >= begun:  # else somebody was faster
            record.write(record.of_listener(name, unit, LISTENING_AGAIN), foreground=False)
        return 0
    if shown(unit, "Job") not in ("", "0"):
        return 0  # it is just being stopped, and that is what counts
    problems = [
        problem
        for other, problem in listeners.conflicts(file)
        if other == name or shown(f"spawn@{other}.socket", "ActiveState") == "active"
    ]
    if problems:
        refusal = misconfigured(*problems)
        record.write(record.of_refusal(unit, None, name, None, refusal), foreground=False)
        return refusal.status
    if first:
        fields = record.of_listener(name, unit, CANNOT_LISTEN, taken(listeners.claimed(file)))
        record.write(fields, foreground=False)
    return os.EX_TEMPFAIL


def taken(claimed: list[Listener]) -> str:
    """Which of these addresses somebody else listens at, and how to find out who; "" where nobody
    does. The name of that process only root with all of its rights can see."""
    from spawnhelper import sockets

    for wanted in claimed:
        for each in sockets.listening():
            if wanted.overlaps_address(each.family, each.host, each.port):
                whose = "another program" if each.uid is None else f"a program of uid {each.uid}"
                return f"{wanted.place} is in use by {whose}, which ss -lnpxt names"
    return ""


def start(unit: str) -> int:
    """The process that has the unit started, but not against a stop that is on its way."""
    command = [
        "/usr/bin/systemctl",
        *manager.now.option,
        "start",
        "--quiet",
        "--job-mode=fail",
        unit,
    ]
    null = [(os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)]
    return os.posix_spawn(command[0], command, os.environ, file_actions=null)


def step_aside(claimed: list[Listener]) -> None:
    """Has systemd count a few connections more, where one of the listeners is at a path.

    Before systemd 258 a connection's unit is named after how many the socket unit has accepted and
    after the client process, so that a process collides that is at two services with the same
    count. Where it always goes from one to the other, it would each time.
    """
    places = [each.host for each in claimed if each.family == socket.AF_UNIX]
    for place in places[:1] * (FEWEST_STEPS + os.urandom(1)[0] % STEPS):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            client.bind(files.COUNTED % os.getpid())
            client.connect(f"\0{place[1:]}" if place.startswith("@") else place)
        except OSError:
            pass  # then the next collision is the next chance
        client.close()


def shown(unit: str, name: str) -> str:
    """A property of a unit, as systemctl shows it."""
    import subprocess

    command = ["systemctl", *manager.now.option, "show", f"--property={name}", "--value", unit]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
