"""List the services: enabled, listening where, live connections, refused ones, the last record.

REFUSED counts connections above MaxConnections=, since the socket listens; with Accept=no those
above MaxConnectionsPerSource=, for the others wait.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from spawnhelper.conf import files
from spawnhelper.ctl import servers, terminal, times, units
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.ctl.records import Record, Records


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("--json", action="store_true", help="one object a service, for programs")
    parser.add_argument("--no-pager", action="store_true", help="no pager on a terminal")


def run(options: argparse.Namespace) -> int:
    """Shows every service that has a file or a loaded socket unit; an exit status of sysexits.h."""
    known = units.listeners([name for name in files.installed() if files.is_name(name)])
    try:
        records: Records | None = Records()
    except Complaint as complaint:  # what systemd says is worth something without a journal, too
        print(f"spawnctl: {complaint}", file=sys.stderr)
        records = None
    latest = {each.name: records.latest(each.name) if records else None for each in known}
    if options.json:
        objects = [
            listener_object(each) | {"last": record_object(latest[each.name])} for each in known
        ]
        print(json.dumps(objects, indent=2))
    else:
        with terminal.paged(wanted=not options.no_pager) as out:
            terminal.console(out).print(_table(known, latest))
    return records.report() if records else 0


def _table(known: list[units.Listener], latest: dict[str, Record | None]) -> Any:
    numbers = ("LIVE", "ACCEPTED", "REFUSED")
    table = terminal.table("SERVICE", "ENABLED", "LISTENING", *numbers, "LAST", right=numbers)
    for each in known:
        record = latest[each.name]
        when = times.FORMATS["short"](times.local(record.usec)) if record else ""
        table.add_row(
            each.name,
            each.enabled,
            _listening(each),
            str(each.live),
            str(each.accepted),
            str(each.refused),
            f"{when} {record.result}" if record else "",
            style="bold red" if each.state == "failed" or _trouble(each) else None,
        )
    return table


def _listening(listener: units.Listener) -> str:
    """Where it listens, or why not; and whether nobody serves who connects."""
    where = " ".join(listener.places) or f"no ({listener.state})"
    return f"{where} (server {word})" if (word := _trouble(listener)) else where


def _trouble(listener: units.Listener) -> str:
    return "" if listener.server is None else listener.server.word


def listener_object(listener: units.Listener) -> dict[str, Any]:
    """A listener as --json shows it. server: None with Accept=yes."""
    return {
        "service": listener.name,
        "enabled": listener.enabled,
        "state": listener.state,
        "listening": listener.places,
        "live": listener.live,
        "most": listener.most,
        "accepted": listener.accepted,
        "refused": listener.refused,
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
