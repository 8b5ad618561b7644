"""Say in one line whether all is well, with the exit status of a plugin of Nagios.

0: all is well; 1: a warning; 2: a service that should listen does not serve, or too many
connections failed; 3: it cannot be told.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from typing import NamedTuple

from spawnhelper.ctl import health, times, units, words
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.ctl.records import Records
from spawnhelper.outcome import Refusal, printable, shown

OK, WARNING, CRITICAL, UNKNOWN = range(4)
WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


class Finding(NamedTuple):
    """Something that is not well, and how bad that is."""

    status: int
    sentence: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("service", nargs="*", metavar="NAME", help="a service")
    parser.add_argument(
        "-S", "--since", metavar="TIME", default="-1h", help="count failures since then (-1h)"
    )
    for short, option, default, told in (
        ("-w", "--warning", "10", "share of failures, in percent, that is worth a warning (10)"),
        ("-c", "--critical", "50", "share of failures that is critical (50)"),
        ("-l", "--load", "90", "share of MaxConnections= that is worth a warning (90)"),
    ):
        parser.add_argument(short, option, metavar="PERCENT", default=default, help=told)


def run(options: argparse.Namespace) -> int:
    """Says it; the status of the worst that there is."""
    try:
        findings, numbers = _look(options)
    except (Complaint, Refusal) as complaint:
        print(f"SPAWN {WORDS[UNKNOWN]} - {complaint}")
        return UNKNOWN
    status = max((each.status for each in findings), default=OK)
    said = "; ".join(each.sentence for each in findings if each.status == status)
    print(f"SPAWN {WORDS[status]} - {said or 'all services serve'} | {numbers}")
    return status


def _look(options: argparse.Namespace) -> tuple[list[Finding], str]:
    """What is not well, and the numbers for those who draw them. Raises Complaint."""
    warning, critical, load = (
        _percent(f"--{name}", getattr(options, name)) for name in ("warning", "critical", "load")
    )
    names = [words.name_of(word) for word in options.service]
    since = times.moment("--since", options.since)
    known = units.named(names)
    kernel = health.Kernel()
    findings, numbers = [], []
    for each in known:
        state = health.of(each, kernel)
        if state.dead:
            findings.append(Finding(CRITICAL, f"{each.name}: {state.word}: {state.remedy}"))
        elif state.wanted and state.word:
            findings.append(Finding(WARNING, f"{each.name}: {state.word}: {state.remedy}"))
        if each.most and 100 * each.live >= load * each.most:
            sentence = f"{each.name}: {each.live} of {each.most} connections"
            findings.append(Finding(WARNING, sentence))
        numbers.append(f"'{each.name}'={each.live};{each.most * load // 100};;0;{each.most}")
    all_of, failed = _counted(names, since)
    for name, count in failed.items():
        share = 100 * count / all_of[name]
        status = CRITICAL if share >= critical else WARNING if share >= warning else OK
        if status != OK:
            sentence = f"{printable(name)}: {count} of {all_of[name]} connections failed"
            findings.append(Finding(status, sentence))
    numbers.append(f"'connections'={sum(all_of.values())} 'failed'={sum(failed.values())}")
    return findings, " ".join(numbers)


def _counted(names: list[str], since: int) -> tuple[Counter[str], Counter[str]]:
    """How many connections there were of each service, and how many of them failed. Raises
    Complaint where not all of the journal can be read."""
    every: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    records = Records(names)
    for record in records.forward(since):
        every[record.service] += since_then(record.connections, record.begun, record.usec, since)
        failed[record.service] += record.failed and record.of_connection
    if unread := records.unread():
        raise Complaint(os.EX_IOERR, unread[0])
    return every, +failed


def since_then(connections: int, begun: int | None, ended: int, since: int) -> int:
    """How many of a record's connections count that are since then: of a summary that began before
    as many as there is of its time. begun: None where the record is no summary."""
    if begun is None or not begun < since < ended:
        return connections
    return round(connections * (ended - since) / (ended - begun))


def _percent(option: str, text: str) -> int:
    if text.isascii() and text.isdecimal() and int(text) <= 100:
        return int(text)
    raise Complaint(os.EX_USAGE, f"{option}={shown(text)} is no percentage; write 0 to 100")
