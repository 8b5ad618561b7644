"""Count connections: results, percentiles of duration, processor time and bytes, busiest clients.

Percentiles are interpolated between the two nearest values.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from spawnhelper.ctl import check, journal, terminal, times
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.ctl.records import Records
from spawnhelper.ctl.tally import Group, Spread, Tally
from spawnhelper.outcome import printable
from spawnhelper.record import span

BY = ("service", "from", "result", "hour")
BUSIEST = 10
MOST_GROUPS = 50  # in a table; --json has all of them
ROWS = 24  # of the plot
BAR = 40  # columns
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
    names = [check.name_of(word) for word in options.service]
    since, until = times.limits(options)
    records = Records(names, options)
    tally, listeners = Tally(), 0
    with _progress() as progress:
        for record in records.scan(since, until, progress):
            if record.of_connection:
                tally.add(record)
            else:
                listeners += 1
    if options.json:
        print(json.dumps(_object(tally, options.by, listeners, records.unread()), indent=2))
    elif options.html is not None:
        from spawnhelper.ctl import page

        text = page.render(tally, options.by, names, listeners, records.unread())
        _write(options.html, text)
    else:
        with terminal.paged(wanted=not options.no_pager) as out:
            _show(tally, options.by, listeners, terminal.console(out))
    return records.report()


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")  # as it says of itself
    except OSError as error:
        sentence = f"--html={printable(str(file))}: {error.strerror}"
        raise Complaint(os.EX_CANTCREAT, sentence) from None


def _show(tally: Tally, by: str, listeners: int, console: Any) -> None:
    extent = tally.span()
    if extent is None:
        console.print("-- No entries --")
    else:
        whole = tally.whole()
        first, last = (times.FORMATS["short-full"](times.local(usec)) for usec in extent)
        console.print(
            f"{whole.connections} connections, {whole.failed} failed, {first} to {last}\n"
        )
        groups = tally.groups(by)
        shown = groups[-MOST_GROUPS:] if by == "hour" else groups[:MOST_GROUPS]
        console.print(_groups(shown, by, whole))
        if len(groups) > len(shown):
            console.print(f"... and {len(groups) - len(shown)} more; --json has all of them")
        if by != "result":
            console.print()
            console.print(_results(whole))
        if by != "from":
            console.print()
            console.print(_clients(tally))
        console.print()
        console.print(_over_time(tally))
    if listeners:
        console.print(f"Listeners failed {listeners} times: spawnctl log --result listening-again")


def _groups(groups: list[Group], by: str, whole: Group) -> Any:
    numbers = ("CONNECTIONS", "FAILED", "P50", "P95", "P99", "CPU", "IN", "OUT")
    table = terminal.table(by.upper(), *numbers, right=numbers)
    for group in groups:
        table.add_row(printable(group.key) or "-", *_cells(group))
    if len(groups) > 1:
        table.add_row("all", *_cells(whole), style="bold")
    return table


def _cells(group: Group) -> list[str]:
    duration, cpu = group.spreads["duration"], group.spreads["cpu"]
    percentiles = (duration.p50, duration.p95, duration.p99) if duration else ()
    return [
        str(group.connections),
        str(group.failed),
        *([span(value) for value in percentiles] or ["-"] * 3),
        span(cpu.total) if cpu else "-",
        *(_total_size(group.spreads[measure]) for measure in ("bytes_in", "bytes_out")),
    ]


def _total_size(spread: Spread | None) -> str:
    from rich.filesize import decimal

    return decimal(spread.total) if spread else "-"


def _results(whole: Group) -> Any:
    numbers = ("CONNECTIONS", "SHARE")
    table = terminal.table("RESULT", *numbers, right=numbers)
    for result, count in whole.results.items():
        table.add_row(result, str(count), f"{100 * count / whole.connections:.1f}%")
    return table


def _clients(tally: Tally) -> Any:
    numbers = ("CONNECTIONS", "FAILED")
    table = terminal.table("BUSIEST CLIENTS", *numbers, right=numbers)
    for client, connections, failed in tally.busiest(BUSIEST):
        table.add_row(printable(client), str(connections), str(failed))
    return table


def _over_time(tally: Tally) -> Any:
    from rich.bar import Bar

    numbers = ("CONNECTIONS", "FAILED")
    table = terminal.table("SINCE", *numbers, "", right=numbers)
    columns = tally.over_time(ROWS)
    most = max(connections for _, connections, _ in columns)
    for start, connections, failed in columns:
        when = times.FORMATS["short"](times.local(start))
        bar = Bar(most, 0, connections, width=BAR, color="blue")
        table.add_row(when, str(connections), str(failed), bar)
    return table


def _object(tally: Tally, by: str, listeners: int, unread: list[str]) -> dict[str, Any]:
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
        "listener_failures": listeners,
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
