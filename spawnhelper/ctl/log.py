"""Show what became of connections, one line each.

The oldest comes first. Without a name the records of all services are shown.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator

from spawnhelper import outcome
from spawnhelper.conf import files
from spawnhelper.ctl import choice, journal, terminal, times, words
from spawnhelper.ctl.choice import Wanted
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.ctl.output import Output
from spawnhelper.ctl.records import Record, Records
from spawnhelper.outcome import printable
from spawnhelper.record import MESSAGE_IDS, span

FOLLOWED = 10  # lines before those to come
AT_THE_END = 1000  # lines that --pager-end reads, as journalctl(1) does
SOME = 1  # the exit status of --exit-code where there is an entry
LONGEST_RESULT = max(map(len, MESSAGE_IDS))
INDENT = "    "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("service", nargs="*", metavar="NAME", help="a service")
    parser.add_argument(
        "-u", "--unit", action="append", default=[], metavar="NAME", help="the same as NAME"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    parser.add_argument("-n", "--lines", type=choice.lines, metavar="N", help="show the last N")
    parser.add_argument("-r", "--reverse", action="store_true", help="the newest first")
    parser.add_argument(
        "-e", "--pager-end", action="store_true", help="begin at the end, in the pager"
    )
    times.add_arguments(parser)
    choice.add_arguments(parser)
    parser.add_argument(
        "--output-of-command",
        action="store_true",
        help="below each record what its command wrote to standard error at last",
    )
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 if there is an entry")
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
    """Shows the records; an exit status of sysexits.h, or 1 as --exit-code has it."""
    if options.follow and options.until is not None:
        raise Complaint(os.EX_USAGE, "--follow goes on for ever; leave out --until")
    if options.follow and options.reverse:
        raise Complaint(os.EX_USAGE, "--follow shows the newest last; leave out --reverse")
    if options.output_of_command and options.output not in times.FORMATS:
        sentence = f"--output-of-command is not for -o {options.output}; leave out one of the two"
        raise Complaint(os.EX_USAGE, sentence)
    if options.pager_end and options.lines is None:
        options.lines = AT_THE_END
    names = words.services_of(options, (*options.service, *options.unit))
    since, until = times.limits(options)
    wanted = choice.of(options)
    records = Records(
        names, options, results=options.result or (), user=options.user, boot=choice.boot(options)
    )
    paged = not (options.follow or options.no_pager)
    with terminal.paged(wanted=paged, at_end=options.pager_end) as out:
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
    return records.report() or (SOME if some and options.exit_code else 0)


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
    if options.lines is None and not options.reverse:
        return filter(wanted, records.forward(since, until))
    newest: Iterator[Record] = filter(wanted, records.backward(since, until))
    if options.lines is not None:
        newest = itertools.islice(newest, min(options.lines, sys.maxsize))
    return newest if options.reverse else list(newest)[::-1]


def _form(options: argparse.Namespace, names: Iterable[str]) -> Callable[[Record], str]:
    """How a record is shown: as -o says. names: the services that are to be expected."""
    if whole := WHOLE.get(options.output):
        return whole
    stamp = times.FORMATS[options.output]
    paint = terminal.painter(colours=terminal.coloured(sys.stdout))
    width = max(map(len, names), default=0)
    output = Output(options) if options.output_of_command else None
    own = journal.is_own(options)

    def line(record: Record) -> str:
        nonlocal width
        width = max(width, len(record.service))
        when = stamp(times.local(record.usec, utc=options.utc))
        took = "" if record.duration is None else span(record.duration)
        text = record.detail
        if record.result in outcome.ENDED:
            text = text.removesuffix(f" after {took}")
        head = f"{when}  {record.service:{width}}  {record.result:{LONGEST_RESULT}}  {took:>9}"
        client = words.named(record.client) if own else record.client
        shown = _folded(printable(f"{head}  {client:21}"), printable(text))
        lines = [paint(each, record.priority) for each in shown]
        lines += [f"{INDENT}| {each}" for each in (output.last(record) if output else ())]
        return "\n".join(lines)

    return line


def _folded(head: str, text: str) -> list[str]:
    """A record in lines that the terminal has room for: the sentence goes on below its columns."""
    if len(head) + 2 + len(text) <= terminal.width():
        return [f"{head}  {text}"]
    folded = terminal.wrapped(text, first=INDENT, rest=INDENT)
    return [re.sub(" +$", "", head), *folded.splitlines()]


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
