"""What the helper itself spends a connection on, stage by stage. In the machine.

The helper runs as ever, but from a program that notes the time as each of its stages ends.
"""

from __future__ import annotations

import itertools
import subprocess
import time
from pathlib import Path

from benchmark import client
from benchmark.servers import INTERPRETER, Server

COUNT = 40  # connections
REST = 0.1  # seconds
PROGRAM, NOTES = Path("/run/bench-stages.py"), Path("/run/bench-stages")
DROP_IN = Path("/run/systemd/system/spawn@.service.d/bench-stages.conf")
START = f"[Service]\nExecStart=\nExecStart={INTERPRETER} {PROGRAM} %n\n"
WATCH = f"""
import posix, sys, time
notes = []
def note(name):
    notes.append((name, time.clock_gettime_ns(time.CLOCK_PROCESS_CPUTIME_ID)))
def watch(module, name, said):
    function = getattr(module, name)
    def watched(*arguments, **named):
        result = function(*arguments, **named)
        note(said)
        return result
    setattr(module, name, watched)
note("")
sys.path.insert(0, "/usr/lib/spawnhelper")
from spawnhelper import LIBRARIES
sys.path += LIBRARIES
from spawnhelper.doors import one
note("loading the path's modules")
from spawnhelper.conf import service
from spawnhelper.doors import inherited
from spawnhelper.stages import command, identity
watch(inherited, "take", "taking the connection")
watch(service, "load", "the service file")
watch(identity, "resolve", "the user")
watch(command, "find", "finding the program")
watch(command, "start", "fork")
def give_way(process):
    usual(process)
    note("letting the command go first")
    from spawnhelper import record
    from spawnhelper.doors import dropped
    from spawnhelper.stages import delivery, supervise, traffic
    note("loading what the wait and the record need")
    watch(supervise.Supervision, "until_end", "the wait")
    watch(delivery.Delivery, "deliver", "sweeping, and the delivery")
    watch(record, "of_end", "counting")
    watch(record, "write", "the record, with its library")
    watch(dropped, "say", "whether connections were dropped")
usual, command.Process.give_way = command.Process.give_way, give_way
status = one.main(sys.argv[1:])
with open({str(NOTES)!r}, "a") as out:
    print(*(f"{{name}}={{used}}" for name, used in notes), sep="\\t", file=out)
posix._exit(status)
"""


def watched(server: Server) -> dict[str, list[float]]:
    """Seconds of processor time of each connection, by stage."""
    PROGRAM.write_text(WATCH)
    NOTES.unlink(missing_ok=True)
    DROP_IN.parent.mkdir(exist_ok=True)
    DROP_IN.write_text(START)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    try:
        for _ in range(COUNT):
            time.sleep(REST)
            client.visit(server.address(), 1, 1)
        time.sleep(REST)
        found: dict[str, list[float]] = {}
        for line in NOTES.read_text().splitlines():
            notes = [note.split("=") for note in line.split("\t")]
            for (_, before), (name, now) in itertools.pairwise(notes):
                found.setdefault(name, []).append((int(now) - int(before)) / 1e9)
        return found
    finally:
        DROP_IN.unlink()
        subprocess.run(["systemctl", "daemon-reload"], check=True)
