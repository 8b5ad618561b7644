"""Count connections: results, percentiles of duration, processor time and bytes, busiest clients.

Percentiles are interpolated between the two nearest values.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from spawnhelper import manager
from spawnhelper.ctl import journal, terminal, times, words
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.ctl.records import Record, Records
from spawnhelper.ctl.table import Column, Table, numbers
from spawnhelper.ctl.tally import Group, Tally, total_size
from spawnhelper.outcome import CONNECTION_LIMIT, DENIED, printable
from spawnhelper.record import span

BY = ("service", "from", "result", "hour")
BUSIEST = 10
MOST_GROUPS = 50  # in a table; --json has all of them
ROWS = 24  # of the plot
BAR = 30  # columns
EIGHTHS = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
UNITS = {
    "duration": "duration_usec",
    "cpu": "cpu_usec",
    "bytes_in": "bytes_in",
    "bytes_out": "bytes_out",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("service", nargs="*", metavar="NAME", help="a service")
    times.add_arguments(parser)
    parser.add_argument(
        "--by", choices=BY, default="service", help="what makes a group (service if not given)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one object, for programs")
    form.add_argument(
        "--html", metavar="FILE", type=Path, help="write a page with plots that needs nothing else"
    )
    parser.add_argument("--no-pager", action="store_true", help="no pager on a terminal")
    journal.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Counts, and shows it; an exit status of sysexits.h."""
    if options.html is not None:
        _write(options.html, "")  # rather now than after the work
    names = words.services_of(options, options.service)
    since, until = times.limits(options)
    records = Records(names, options)
    tally, apart = Tally(), Apart()
    with _progress() as progress:
        for record in records.scan(since, until, progress):
            if record.of_connection:
                tally.add(record)
            else:
                apart.add(record)
    if options.json:
        print(json.dumps(_object(tally, options.by, apart, records.unread()), indent=2))
    elif options.html is not None:
        try:
            from spawnhelper.ctl import page
        except ImportError as error:
            sentence = f"a page needs a library: {error}; install python3-jinja2 and python3-pygal"
            raise Complaint(os.EX_UNAVAILABLE, sentence) from None
        text = page.render(tally, options.by, names, apart.sentences(), records.unread())
        _write(options.html, text)
    else:
        with terminal.paged(wanted=not options.no_pager) as out:
            known = words.named if journal.is_own(options) else str
            _show(tally, options.by, apart, out, known)
    return records.report()


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")  # as it says of itself
    except OSError as error:
        sentence = f"--html={printable(str(file))}: {error.strerror}"
        raise Complaint(os.EX_CANTCREAT, sentence) from None


class Apart:
    """What the journal has beside connections. dropped: connections above a limit, of which each
    record stands for several; failures: of listeners; dropping: how many records the former are."""

    def __init__(self) -> None:
        self.dropped = self.dropping = self.failures = 0

    def add(self, record: Record) -> None:
        """One more record of a listener."""
        if record.result == CONNECTION_LIMIT:
            self.dropping += 1
            self.dropped += record.dropped or 0
        else:
            self.failures += 1

    def sentences(self) -> list[str]:
        """It in words, with how to see more of it."""
        said = []
        log = f"{manager.now.words('spawnctl')} log"
        if self.dropping:
            were = "connection was" if self.dropped == 1 else "connections were"
            see = f"{log} --result connection-limit"
            said.append(f"{self.dropped} more {were} dropped above a limit: {see}")
        if self.failures:
            often = "once" if self.failures == 1 else f"{self.failures} times"
            see = f"{log} --result listening-again --result cannot-listen"
            said.append(f"Listeners failed {often}: {see}")
        return said


def _show(tally: Tally, by: str, apart: Apart, out: IO[str], known: Callable[[str], str]) -> None:
    """known: a client as a person knows it."""
    extent = tally.span()
    if extent is None:
        print("-- No entries --", file=out)
    else:
        whole = tally.whole()
        first, last = (times.FORMATS["short-full"](times.local(usec)) for usec in extent)
        counted = f"{whole.connections} connections, {whole.failed} failed, {_denied(whole)} denied"
        print(terminal.wrapped(f"{counted}, {first} to {last}"), file=out)
        groups = tally.groups(by)
        shown = groups[-MOST_GROUPS:] if by == "hour" else groups[:MOST_GROUPS]
        tables = [_groups(shown, by, whole, known if by == "from" else str)]
        if by != "result":
            tables.append(_results(whole))
        if by != "from":
            tables.append(_clients(tally, known))
        tables.append(_over_time(tally))
        for number, table in enumerate(tables):
            print(file=out)
            terminal.show(table, out)
            if number == 0 and len(groups) > len(shown):
                print(f"... and {len(groups) - len(shown)} more; --json has all of them", file=out)
    if sentences := apart.sentences():
        print(file=out)
        for sentence in sentences:
            print(terminal.wrapped(sentence), file=out)


def _denied(group: Group) -> int:
    return group.results.get(DENIED, 0)


def _groups(groups: list[Group], by: str, whole: Group, known: Callable[[str], str]) -> Table:
    table = Table(
        Column(by.upper()),
        *numbers("CONNECTIONS", "FAILED"),
        Column("DENIED", right=True, spare=2),
        *numbers("TIME P50", "P95", "P99"),
        Column("CPU", right=True, spare=1),
        Column("IN", right=True, spare=3),
        Column("OUT", right=True, spare=4),
    )
    for group in groups:
        table.add(printable(known(group.key)) or "-", *_cells(group))
    if len(groups) > 1:
        table.add("all", *_cells(whole), priority=terminal.BOLD)
    return table


def _cells(group: Group) -> list[str]:
    duration, cpu = group.spreads["duration"], group.spreads["cpu"]
    percentiles = (duration.p50, duration.p95, duration.p99) if duration else ()
    return [
        str(group.connections),
        str(group.failed),
        str(_denied(group)),
        *([span(value) for value in percentiles] or ["-"] * 3),
        span(cpu.total) if cpu else "-",
        *(total_size(group.spreads[measure]) for measure in ("bytes_in", "bytes_out")),
    ]


def _results(whole: Group) -> Table:
    table = Table(Column("RESULT"), *numbers("CONNECTIONS", "SHARE"))
    for result, count in whole.results.items():
        table.add(result, str(count), f"{100 * count / whole.connections:.1f}%")
    return table


def _clients(tally: Tally, known: Callable[[str], str]) -> Table:
    table = Table(Column("BUSIEST CLIENTS"), *numbers("CONNECTIONS", "FAILED"))
    for client, connections, failed in tally.busiest(BUSIEST):
        table.add(printable(known(client)), str(connections), str(failed))
    return table


def _over_time(tally: Tally) -> Table:
    table = Table(Column("SINCE"), *numbers("CONNECTIONS", "FAILED"), Column(""))
    columns = tally.over_time(ROWS)
    most = max(connections for _, connections, _ in columns)
    for start, connections, failed in columns:
        when = times.FORMATS["short"](times.local(start))
        table.add(when, str(connections), str(failed), _bar(connections / most))
    return table


def _bar(part: float) -> str:
    """A bar of eighths of a character, some of which is there for any part above 0."""
    eighths = math.ceil(part * BAR * 8)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8]


def _object(tally: Tally, by: str, apart: Apart, unread: list[str]) -> dict[str, Any]:
    """What --json shows: times in microseconds since the epoch, spans in microseconds."""
    extent = tally.span()
    return {
        "from_usec": extent[0] if extent else None,
        "to_usec": extent[1] if extent else None,
        "by": by,
        "groups": [{by: group.key} | _numbers(group) for group in tally.groups(by)],
        "all": _numbers(tally.whole()),
        "busiest_clients": [
            {"from": client, "connections": connections, "failed": failed}
            for client, connections, failed in tally.busiest(BUSIEST)
        ],
        "over_time": [
            {"from_usec": start, "connections": connections, "failed": failed}
            for start, connections, failed in tally.over_time(ROWS)
        ],
        "listener_failures": apart.failures,
        "dropped": apart.dropped,
        "unread": unread,
    }


def _numbers(group: Group) -> dict[str, Any]:
    spreads = {
        UNITS[measure]: None if spread is None else spread._asdict()
        for measure, spread in group.spreads.items()
    }
    return {
        "connections": group.connections,
        "failed": group.failed,
        "denied": _denied(group),
        "results": group.results,
        **spreads,
    }


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[float], None]]:
    """A progress bar on the terminal, for somebody who tells how much of the whole is done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    columns = ("reading the journal", BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.console(sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda part: bar.update(task, completed=part)
