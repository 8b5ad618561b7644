"""Show one service: its listener, its live connections, and its last failure.

The exit status is 0 if it listens, 3 if it does not, and 4 if there is no such service.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from spawnhelper.conf import files
from spawnhelper.conf.quantities import USEC_PER_SEC
from spawnhelper.ctl import check, listing, servers, terminal, times, units
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.ctl.records import Record, Records
from spawnhelper.outcome import printable, shown
from spawnhelper.record import span

NSEC_PER_USEC = 1_000
LISTENS, SILENT, UNKNOWN = 0, 3, 4  # as systemctl(1) has them
TICKS_PER_SEC = os.sysconf("SC_CLK_TCK")


class Live(NamedTuple):
    """A live connection. pid: of its command, or of the helper where there is none yet, None
    where it has just ended; age: in microseconds."""

    client: str
    unit: str
    pid: int | None
    age: int | None
    command: str


class Birth(NamedTuple):
    """Whose child a process is, and its age in microseconds."""

    parent: int
    age: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("service", metavar="NAME", help="a service")
    parser.add_argument("--json", action="store_true", help="one object, for programs")
    parser.add_argument("--no-pager", action="store_true", help="no pager on a terminal")


def run(options: argparse.Namespace) -> int:
    """Shows it; 0 if the service listens, 3 if not, 4 if there is none."""
    name = check.name_of(options.service)
    if not files.is_name(name):
        right = "a service is named with letters, digits, - _ and ."
        raise Complaint(UNKNOWN, f"{shown(name)} is no service; {right}")
    listener = next(each for each in units.listeners([name]) if each.name == name)
    if name not in files.installed() and not listener.places:
        raise Complaint(UNKNOWN, f"there is no service file {files.file_of(name)}")
    # systemd takes its time to list many processes.
    with ThreadPoolExecutor() as pool, terminal.paged(wanted=not options.no_pager) as out:
        processes = pool.submit(units.processes, listener)
        console = terminal.console(out)
        failure, trouble = _last_failure(name)
        live = _live(listener, processes.result())
        if options.json:
            print(json.dumps(_object(listener, live, failure), indent=2), file=out)
        else:
            _show(listener, live, failure, console)
    for sentence in trouble:
        print(f"spawnctl: {sentence}", file=sys.stderr)
    return LISTENS if listener.places else SILENT


def _live(listener: units.Listener, processes: list[units.Process]) -> list[Live]:
    """The live connections, the oldest first."""
    born = {process.pid: birth for process in processes if (birth := _birth(process.pid))}
    if listener.server is not None:
        unit, now = listener.server.unit, time.monotonic_ns() // NSEC_PER_USEC
        held = sorted(listener.server.busy, key=lambda place: place.since)
        return [
            Live(each.client, unit, *_command(each.pid, processes, born, now - each.since))
            for each in held
        ]
    families: dict[str, list[units.Process]] = {unit: [] for unit in listener.connections}
    for process in processes:
        families[process.group].append(process)
    found = [_connection(unit, family, born) for unit, family in families.items()]
    # The clock of processes ticks slowly; of those of one tick systemd's count knows the older.
    return sorted(found, key=lambda each: (-(each.age or 0), units.ordinal(each.unit)))


def _connection(unit: str, family: list[units.Process], born: dict[int, Birth]) -> Live:
    """One that has a unit. The helper is the process whose parent is none of the unit's: systemd
    started it, and what loses its parent in the unit becomes its child. That is the kernel's word,
    while a command has any name and any arguments that it likes."""
    client = units.client(unit)
    living = [process.pid for process in family if process.pid in born]
    helper = next((pid for pid in living if born[pid].parent not in living), None)
    if helper is None:
        return Live(client, unit, None, None, "")  # it has just ended
    return Live(client, unit, *_command(helper, family, born, born[helper].age))


def _command(
    parent: int, family: list[units.Process], born: dict[int, Birth], age: int
) -> tuple[int | None, int | None, str]:
    """The command of a helper or a worker, which is its first child: pid, age and words; without
    one, itself; None where it has just ended. age: of the connection."""
    for process in family:
        if process.pid in born and born[process.pid].parent == parent:
            return process.pid, age, process.command
    return parent if parent in born else None, age, ""


def _birth(pid: int) -> Birth | None:
    """The process's parent and its age; None where it has just ended (proc_pid_stat(5))."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            values = stat.read().rpartition(b")")[2].split()  # a name can have spaces
    except OSError:
        return None
    parent, ticks = int(values[1]), int(values[19])
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    return Birth(parent, round((since_boot - ticks / TICKS_PER_SEC) * USEC_PER_SEC))


def _last_failure(name: str) -> tuple[Record | None, list[str]]:
    """The service's newest record of a failure, and what could not be read."""
    try:
        records = Records()
    except Complaint as complaint:
        return None, [str(complaint)]
    return records.latest(name, failed=True), records.unread()


def _show(listener: units.Listener, live: list[Live], failure: Record | None, console: Any) -> None:
    told = terminal.table("", "")
    told.show_header = False
    state = listener.state if listener.state != "failed" else f"failed ({listener.result})"
    told.add_row("Service", f"{listener.name}, {files.file_of(listener.name)}")
    told.add_row("Socket", f"spawn@{listener.name}.socket, {listener.enabled}, {state}")
    if (server := listener.server) is not None:
        told.add_row("Server", f"{server.unit}, {server.state}{_workers(server)}")
        if server.trouble:
            told.add_row("", server.trouble)
    told.add_row("Listening", " ".join(listener.places) or "no")
    if listener.places:
        told.add_row("Since", listener.since)
    told.add_row(
        "Connections",
        f"{listener.live} live of at most {listener.most}, {listener.accepted} accepted, "
        f"{listener.refused} refused",
    )
    if failure is not None:
        when = times.FORMATS["short-full"](times.local(failure.usec))
        told.add_row("Last failure", f"{when}, {failure.result}")
        told.add_row("", printable(failure.message))
    console.print(told)
    if live:
        print(f"\n{_line('AGE', 'PID', 'CLIENT', 'COMMAND')}", file=console.file)
    for each in live:  # a table of Rich's costs as much as all the rest
        age = "-" if each.age is None else span(each.age)
        pid = "-" if each.pid is None else str(each.pid)
        print(_line(age, pid, each.client, printable(each.command)), file=console.file)


def _workers(server: servers.Server) -> str:
    if not server.pid:
        return "" if server.trouble else "; the next connection starts it"
    return f", {len(server.busy)} workers busy, {server.idle} idle"


def _line(age: str, pid: str, client: str, command: str) -> str:
    return f"{age:>12}  {pid:>7}  {client:21}  {command}"


def _object(listener: units.Listener, live: list[Live], failure: Record | None) -> dict[str, Any]:
    return {
        **listing.listener_object(listener),
        "connections": [
            {
                "client": each.client,
                "unit": each.unit,
                "pid": each.pid,
                "age_usec": each.age,
                "command": each.command,
            }
            for each in live
        ],
        "last_failure": listing.record_object(failure),
    }
