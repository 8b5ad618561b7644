"""Show what became of connections, one line each.

The oldest comes first. Without a name the records of all services are shown.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Iterable

from spawnhelper import outcome
from spawnhelper.conf import addresses, files, quantities
from spawnhelper.ctl import check, journal, terminal, times
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.ctl.records import Record, Records
from spawnhelper.outcome import printable, shown
from spawnhelper.record import MESSAGE_IDS, span

FOLLOWED = 10  # lines before those to come
Wanted = Callable[[Record], bool]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("service", nargs="*", metavar="NAME", help="a service")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    parser.add_argument("-n", "--lines", type=int, metavar="N", help="show the last N")
    times.add_arguments(parser)
    parser.add_argument(
        "--result",
        action="append",
        choices=tuple(MESSAGE_IDS),
        metavar="RESULT",
        help=f"only these results; may be repeated: {', '.join(MESSAGE_IDS)}",
    )
    parser.add_argument("--failed", action="store_true", help="only what is of warning or above")
    parser.add_argument(
        "--from",
        dest="source",
        action="append",
        metavar="PREFIX",
        help="only clients with these addresses, or `unix`; may be repeated",
    )
    parser.add_argument("--user", metavar="NAME", help="only commands that ran as this user")
    parser.add_argument(
        "--slower-than", metavar="SPAN", help="only commands that took longer, as in 1.5s"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "-o", "--output", choices=[*times.FORMATS, *WHOLE], default="short", help="how to show it"
    )
    form.add_argument(
        "--json", dest="output", action="store_const", const="json", help="the same as -o json"
    )
    parser.add_argument("--utc", action="store_true", help="times in UTC")
    parser.add_argument("--no-pager", action="store_true", help="no pager on a terminal")
    journal.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Shows the records; an exit status of sysexits.h."""
    if options.follow and options.until is not None:
        raise Complaint(os.EX_USAGE, "--follow goes on for ever; leave out --until")
    if options.lines is not None and options.lines < 0:
        raise Complaint(os.EX_USAGE, f"--lines={options.lines} is below 0; write a number of lines")
    if options.user is not None and not options.user.isprintable():
        raise Complaint(os.EX_USAGE, f"--user={shown(options.user)} is no name of a user")
    names = [check.name_of(word) for word in options.service]
    since, until = times.limits(options)
    wanted = _filter(options)
    records = Records(names, options, results=options.result or (), user=options.user)
    with terminal.paged(wanted=not (options.follow or options.no_pager)) as out:
        chosen = _chosen(records, options, wanted, since, until)
        known = [each.service for each in chosen] if isinstance(chosen, list) else names
        show = _form(options, known or files.installed())
        some = False
        try:
            for record in chosen:
                some = True
                print(show(record), file=out, flush=options.follow)
        except KeyboardInterrupt:  # how --follow ends
            records.report()
            raise
        if not some and options.output in times.FORMATS:
            print("-- No entries --", file=out)
    return records.report()


def _chosen(
    records: Records,
    options: argparse.Namespace,
    wanted: Wanted,
    since: int | None,
    until: int | None,
) -> Iterable[Record]:
    if options.follow:
        records.report()
        last = options.lines
        if last is None and since is None:
            last = FOLLOWED
        return records.follow(last, wanted, since)
    if options.lines is None:
        return filter(wanted, records.forward(since, until))
    newest = filter(wanted, records.backward(since, until))
    return list(itertools.islice(newest, min(options.lines, sys.maxsize)))[::-1]


def _filter(options: argparse.Namespace) -> Wanted:
    """What the journal cannot select by itself."""
    tests: list[Wanted] = []
    if options.failed:
        tests.append(lambda record: record.failed)
    if options.source:
        try:
            sources = addresses.proxies(" ".join(options.source))
        except ValueError as error:
            raise Complaint(os.EX_USAGE, f"--from {error}") from None
        tests.append(lambda record: _is_from(record, sources))
    if options.slower_than is not None:
        try:
            limit = quantities.time_span(options.slower_than)
        except ValueError as error:
            raise Complaint(os.EX_USAGE, f"--slower-than={options.slower_than} {error}") from None
        least = math.inf if limit is None else limit
        tests.append(lambda record: record.duration is not None and record.duration > least)
    return lambda record: all(test(record) for test in tests)


def _is_from(record: Record, sources: list[addresses.Prefix]) -> bool:
    if record.address is None:
        return record.uid is not None and any(not each.width for each in sources)
    try:
        return addresses.best(sources, addresses.numbered(record.address)) is not None
    except (OSError, ValueError):  # it is none; a NUL in it is a ValueError
        return False


def _form(options: argparse.Namespace, names: Iterable[str]) -> Callable[[Record], str]:
    """How a record is shown: as -o says. names: the services that are to be expected."""
    if whole := WHOLE.get(options.output):
        return whole
    stamp = times.FORMATS[options.output]
    paint = terminal.painter(colours=terminal.coloured(sys.stdout))
    width = max(map(len, names), default=0)

    def line(record: Record) -> str:
        nonlocal width
        width = max(width, len(record.service))
        when = stamp(times.local(record.usec, utc=options.utc))
        took = "" if record.duration is None else span(record.duration)
        text = record.detail
        if record.result in outcome.ENDED:
            text = text.removesuffix(f" after {took}")
        columns = f"{when}  {record.service:{width}}  {record.result:12}  {took:>9}"
        return paint(printable(f"{columns}  {record.client:21}  {text}"), record.priority)

    return line


def _verbose(record: Record) -> str:
    when = times.FORMATS["short-full"](times.local(record.usec))
    lines = [f"{when} [{record.entry.cursor.decode()}]"]
    for name, value in record.fields.items():
        values = [value] if isinstance(value, str) else value
        lines += [f"    {printable(f'{name}={each}')}" for each in values]
    return "\n".join(lines)


def _object(record: Record) -> dict[str, str | list[str]]:
    """The entry as journalctl -o json has it."""
    return {
        "__CURSOR": record.entry.cursor.decode(),
        "__REALTIME_TIMESTAMP": str(record.usec),
        "__MONOTONIC_TIMESTAMP": str(record.entry.get_monotonic_usec()),
        **record.fields,
    }


WHOLE: dict[str, Callable[[Record], str]] = {
    "json": lambda record: json.dumps(_object(record)),
    "json-pretty": lambda record: json.dumps(_object(record), indent=8),
    "verbose": _verbose,
    "cat": lambda record: printable(record.message),
}
