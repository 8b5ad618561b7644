"""Show services: their listeners, their live connections, and their last failures.

Without a name all services are shown. The exit status is 0 if each of them listens and serves, 3 if
one does not, and 4 if there is no such service.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, NamedTuple

from spawnhelper import board
from spawnhelper.conf import files, service
from spawnhelper.conf.quantities import USEC_PER_SEC
from spawnhelper.ctl import health, listing, servers, terminal, times, units, words
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.ctl.output import Output
from spawnhelper.ctl.records import Record, Records
from spawnhelper.outcome import ENDED, Refusal, printable
from spawnhelper.record import span

NSEC_PER_USEC = 1_000
LISTENS = 0  # as systemctl(1) has it
LABEL = 14  # columns
TICKS_PER_SEC = os.sysconf("SC_CLK_TCK")


class Live(NamedTuple):
    """A live connection. pid: of its command, or of the helper where there is none yet, None
    where it has just ended; age: in microseconds. place: of its worker, None where it has a unit of
    its own."""

    client: str
    unit: str
    pid: int | None
    age: int | None
    command: str
    place: board.Place | None = None


class Birth(NamedTuple):
    """Whose child a process is, and its age in microseconds."""

    parent: int
    age: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("service", nargs="*", metavar="NAME", help="a service")
    parser.add_argument("-v", "--verbose", action="store_true", help="the unit of each connection")
    parser.add_argument("--json", action="store_true", help="one object a service, for programs")
    parser.add_argument("--no-pager", action="store_true", help="no pager on a terminal")


def run(options: argparse.Namespace) -> int:
    """Shows them; 0 if all serve, 3 if not, 4 if there is no such service."""
    known = units.named(options.service)
    kernel = health.Kernel()
    states = [health.of(each, kernel, thorough=True) for each in known]  # forks: no threads yet
    trouble: dict[str, None] = {}
    status = LISTENS
    objects = []
    # systemd takes its time to list many processes.
    with ThreadPoolExecutor() as pool, terminal.paged(wanted=not options.no_pager) as out:
        asked = [pool.submit(units.processes, listener) for listener in known]
        for listener, state, processes in zip(known, states, asked, strict=True):
            last, unread = _last_failure(listener.name)
            trouble |= dict.fromkeys(unread)
            live = live_of(listener, processes.result())
            status = status if state.serves and listener.state == "active" else units.SILENT
            if options.json:
                objects.append(_object(listener, state, live, last))
            else:
                print(end="" if listener is known[0] else "\n", file=out)
                _show(listener, state, live, last, out, verbose=options.verbose)
        if options.json:
            one = len(options.service) == 1
            print(json.dumps(objects[0] if one else objects, indent=2), file=out)
    for sentence in trouble:
        print(f"spawnctl: {sentence}", file=sys.stderr)
    return status


def live_of(listener: units.Listener, processes: list[units.Process]) -> list[Live]:
    """The live connections, the oldest first."""
    born = {process.pid: birth for process in processes if (birth := _birth(process.pid))}
    if listener.server is not None:
        unit, now = listener.server.unit, time.monotonic_ns() // NSEC_PER_USEC
        held = sorted(listener.server.busy, key=lambda place: place.since)
        return [
            Live(each.client, unit, *_command(each.pid, processes, born, now - each.since), each)
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


class Failure(NamedTuple):
    """The newest record of a failure. lines: what its command wrote to standard error at last;
    where: where that went instead, as a sentence, if it is not in the journal."""

    record: Record
    lines: list[str]
    where: str


def _last_failure(name: str) -> tuple[Failure | None, list[str]]:
    """The service's last failure, and what could not be read."""
    try:
        records = Records()
        record = records.latest(name, failed=True)
        lines = [] if record is None else Output().last(record)
    except Complaint as complaint:
        return None, [str(complaint)]
    if record is None:
        return None, records.unread()
    where = "" if lines or record.result not in ENDED else _whither(name)
    return Failure(record, lines, where), records.unread()


def _whither(name: str) -> str:
    """Where standard error goes, if that is not the journal."""
    try:
        goes = service.load(files.file_of(name)).standard_error
    except Refusal:
        return ""
    places = {"socket": "goes to the client", "null": "is thrown away"}
    if goes not in places:
        return ""
    return f"standard error {places[goes]}; StandardError=journal keeps it for here"


def _show(
    listener: units.Listener,
    state: health.Health,
    live: list[Live],
    failure: Failure | None,
    out: IO[str],
    *,
    verbose: bool,
) -> None:
    def tell(label: str, text: str) -> None:
        head = f"{label:{LABEL}}"
        print(terminal.wrapped(text, first=head, rest=" " * LABEL), file=out)

    word = listener.state if listener.state != "failed" else f"failed ({listener.result})"
    tell("Service", f"{listener.name}, {files.file_of(listener.name)}")
    tell("Socket", f"spawn@{listener.name}.socket, {listener.enabled}, {word}")
    if (server := listener.server) is not None:
        tell("Server", f"{server.unit}, {server.state}{_workers(server)}")
    tell("Listening", listing.listening(listener, state))
    if state.remedy:
        tell("", state.remedy)
    if state.places:
        tell("Since", listener.since)
    tell(
        "Connections",
        f"{listener.live} live of at most {listener.most}, {listener.accepted} accepted, "
        f"{listener.dropped} dropped",
    )
    if failure is not None:
        when = times.FORMATS["short-full"](times.local(failure.record.usec))
        tell("Last failure", f"{when}, {failure.record.result}")
        tell("", printable(failure.record.message))
        for line in failure.lines:
            print(f"{'':{LABEL}}| {line}", file=out)
        if failure.where:
            tell("", failure.where)
    if live:
        more = ["UNIT"] if verbose else []
        print(f"\n{_line('AGE', 'PID', 'CLIENT', *more, 'COMMAND')}", file=out)
    for each in live:
        age = "-" if each.age is None else span(each.age)
        pid = "-" if each.pid is None else str(each.pid)
        more = [each.unit] if verbose else []
        who = words.named(each.client)
        print(_line(age, pid, who, *more, printable(each.command)), file=out)


def _workers(server: servers.Server) -> str:
    if not server.pid:
        return "" if server.trouble else "; the next connection starts it"
    return f", {len(server.busy)} workers busy, {server.idle} idle"


def _line(age: str, pid: str, client: str, *rest: str) -> str:
    return "  ".join((f"{age:>12}", f"{pid:>7}", f"{client:21}", *rest)).rstrip()


def _object(
    listener: units.Listener, state: health.Health, live: list[Live], failure: Failure | None
) -> dict[str, Any]:
    last = None
    if failure is not None:
        last = {**(listing.record_object(failure.record) or {}), "standard_error": failure.lines}
    return {
        **listing.listener_object(listener, state),
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
        "last_failure": last,
    }
