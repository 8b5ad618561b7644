"""List the services: enabled, listening where, live connections, dropped ones, the last record.

DROPPED counts connections above MaxConnections= or MaxConnectionsPerSource=, since the socket
listens; with Accept=no those above the latter alone, for the others wait. The exit status is 3 if a
service does not serve whose socket is enabled or has been started.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import IO, Any

from spawnhelper.ctl import health, servers, terminal, times, units
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.ctl.records import Record, Records
from spawnhelper.ctl.table import Column, Table
from spawnhelper.outcome import ERR, WARNING


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("service", nargs="*", metavar="NAME", help="a service")
    parser.add_argument("--json", action="store_true", help="one object a service, for programs")
    parser.add_argument("--no-pager", action="store_true", help="no pager on a terminal")


def run(options: argparse.Namespace) -> int:
    """Shows every service that has a file or a loaded socket unit; 3 if one is dead, otherwise an
    exit status of sysexits.h."""
    known = units.named(options.service)
    kernel = health.Kernel()
    states = {each.name: health.of(each, kernel) for each in known}
    try:
        records: Records | None = Records()
    except Complaint as complaint:  # what systemd says is worth something without a journal, too
        print(f"spawnctl: {complaint}", file=sys.stderr)
        records = None
    latest = {each.name: records.latest(each.name) if records else None for each in known}
    if options.json:
        objects = [
            listener_object(each, states[each.name]) | {"last": record_object(latest[each.name])}
            for each in known
        ]
        print(json.dumps(objects, indent=2))
    else:
        with terminal.paged(wanted=not options.no_pager) as out:
            terminal.show(_table(known, states, latest), out)
            _remedies(states, out)
    status = records.report() if records else 0
    return units.SILENT if any(each.dead for each in states.values()) else status


def _table(
    known: list[units.Listener],
    states: dict[str, health.Health],
    latest: dict[str, Record | None],
) -> Table:
    table = Table(
        Column("SERVICE"),
        Column("ENABLED", spare=1),
        Column("LISTENING"),
        Column("LIVE", right=True),
        Column("ACCEPTED", right=True, spare=3),
        Column("DROPPED", right=True),
        Column("LAST", spare=2),
        Column("RESULT"),
    )
    for each in known:
        record, state = latest[each.name], states[each.name]
        table.add(
            each.name,
            each.enabled,
            listening(each, state),
            str(each.live),
            str(each.accepted),
            str(each.dropped),
            times.FORMATS["short"](times.local(record.usec)) if record else "",
            record.result if record else "",
            priority=ERR if state.dead else WARNING if state.word and state.wanted else None,
        )
    return table


def listening(listener: units.Listener, state: health.Health) -> str:
    """Where it listens, or why not; and what else is wrong."""
    if state.places:
        where = " ".join(state.places)
        return f"{where} ({state.word})" if state.word else where
    return f"no ({state.word or listener.state})"


def _remedies(states: dict[str, health.Health], out: IO[str]) -> None:
    """What to do, a line a service."""
    told = [(name, each) for name, each in states.items() if each.word and each.wanted]
    if told:
        print(file=out)
    for name, each in told:
        print(terminal.wrapped(f"{name}: {each.word}: {each.remedy}", rest="    "), file=out)


def listener_object(listener: units.Listener, state: health.Health) -> dict[str, Any]:
    """A listener as --json shows it. server: None with Accept=yes. trouble: what is wrong, None
    where nothing is; remedy: what to do about it."""
    return {
        "service": listener.name,
        "enabled": listener.enabled,
        "state": listener.state,
        "listening": state.places,
        "serves": state.serves,
        "trouble": state.word or None,
        "remedy": state.remedy or None,
        "live": listener.live,
        "most": listener.most,
        "accepted": listener.accepted,
        "dropped": listener.dropped,
        "server": None if listener.server is None else server_object(listener.server),
    }


def server_object(server: servers.Server) -> dict[str, Any]:
    """A standing server as --json shows it."""
    return {
        "unit": server.unit,
        "state": server.state,
        "pid": server.pid or None,
        "busy": len(server.busy),
        "idle": server.idle,
        "trouble": server.trouble or None,
    }


def record_object(record: Record | None) -> dict[str, Any] | None:
    """A record as --json shows it."""
    if record is None:
        return None
    return {"usec": record.usec, "result": record.result, "message": record.message}
