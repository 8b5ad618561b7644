"""Which records `spawnctl log` shows: by result, client, user, time taken, sentence, boot."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from spawnhelper.conf import addresses, quantities
from spawnhelper.ctl import BOOT
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.ctl.records import Record
from spawnhelper.outcome import printable, shown
from spawnhelper.record import MESSAGE_IDS

NOT = "~"  # before a prefix, as in systemd's lists
THIS_BOOT = Path("/proc/sys/kernel/random/boot_id")
ID = re.compile(r"[0-9a-f]{32}")
Wanted = Callable[[Record], bool]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what a record can be chosen by."""
    parser.add_argument(
        "--result",
        action="append",
        choices=tuple(MESSAGE_IDS),
        metavar="RESULT",
        help=f"only these results; may be repeated: {', '.join(MESSAGE_IDS)}",
    )
    parser.add_argument(
        "--failed", action="store_true", help="only failures; to deny a client is none"
    )
    parser.add_argument(
        "--from",
        dest="source",
        action="append",
        metavar="PREFIX",
        help="only clients with these addresses, or `unix`; with ~ before it all others; "
        "may be repeated",
    )
    parser.add_argument("--user", metavar="NAME", help="only commands that ran as this user")
    parser.add_argument(
        "--slower-than", metavar="SPAN", help="only commands that took longer, as in 1.5s"
    )
    parser.add_argument(
        "-g", "--grep", metavar="PATTERN", help="only sentences with this regular expression"
    )
    parser.add_argument(
        "-b", "--boot", metavar="ID", help="only this boot, or that of an ID or an offset like -1"
    )


def lines(text: str) -> int:
    """A number of lines. Raises Complaint."""
    try:
        number = int(text)
    except ValueError:
        sentence = f"--lines={shown(text)} is no number; write how many lines to show"
        raise Complaint(os.EX_USAGE, sentence) from None
    if number < 0:
        raise Complaint(os.EX_USAGE, f"--lines={number} is below 0; write a number of lines")
    return number


def of(options: argparse.Namespace) -> Wanted:
    """What the journal cannot select by itself. Raises Complaint."""
    if options.user is not None and not options.user.isprintable():
        raise Complaint(os.EX_USAGE, f"--user={shown(options.user)} is no name of a user")
    tests: list[Wanted] = []
    if options.failed:
        tests.append(lambda record: record.failed)
    if options.source:
        tests.append(_source(options.source))
    if options.slower_than is not None:
        try:
            limit = quantities.time_span(options.slower_than)
        except ValueError as error:
            raise Complaint(os.EX_USAGE, f"--slower-than={options.slower_than} {error}") from None
        least = math.inf if limit is None else limit
        tests.append(lambda record: record.duration is not None and record.duration > least)
    if options.grep is not None:
        pattern = _pattern(options.grep)
        tests.append(lambda record: pattern.search(record.message) is not None)
    return lambda record: all(test(record) for test in tests)


def _source(words: Iterable[str]) -> Wanted:
    given = " ".join(words).split()
    try:
        wanted = addresses.proxies(" ".join(each for each in given if each[0] != NOT))
        others = addresses.proxies(" ".join(each[1:] for each in given if each[0] == NOT))
    except ValueError as error:
        raise Complaint(os.EX_USAGE, f"--from {error}") from None

    def test(record: Record) -> bool:
        fits = not wanted or _is_from(record, wanted)
        return fits and not (others and _is_from(record, others))

    return test


def _is_from(record: Record, sources: list[addresses.Prefix]) -> bool:
    if record.address is None:
        return record.uid is not None and any(not each.width for each in sources)
    try:
        return addresses.best(sources, addresses.numbered(record.address)) is not None
    except (OSError, ValueError):  # it is none; a NUL in it is a ValueError
        return False


def _pattern(text: str) -> re.Pattern[str]:
    """A pattern without a capital letter finds these, too, as journalctl(1) has it."""
    try:
        return re.compile(text, re.IGNORECASE if text == text.lower() else 0)
    except re.error as error:
        sentence = f"--grep={shown(text)} is no regular expression: {error}"
        raise Complaint(os.EX_USAGE, sentence) from None


def boot(options: argparse.Namespace) -> str | None:
    """The ID of the boot that is wanted, None for any. Raises Complaint."""
    wanted = options.boot
    if wanted is None:
        return None
    if not BOOT.fullmatch(wanted):
        right = "write an offset as 0 or -1, or an ID of journalctl --list-boots"
        raise Complaint(os.EX_USAGE, f"--boot={shown(wanted)} is no boot; {right}")
    if ID.fullmatch(wanted):
        return str(wanted)
    source = [f"--directory={options.directory}"] if options.directory is not None else []
    source += [f"--file={each}" for each in options.file or ()]
    source += ["--merge"] if options.merge else []
    source += [f"--namespace={options.namespace}"] if options.namespace is not None else []
    if int(wanted) == 0 and not source:
        return THIS_BOOT.read_text().strip().replace("-", "")
    ask = ["journalctl", "-q", "-n", "1", "-o", "json", f"--boot={wanted}", *source]
    done = subprocess.run(ask, check=False, capture_output=True, text=True, errors="replace")
    if not done.stdout.strip():
        why = printable(done.stderr.strip()) or "it has no entry"
        raise Complaint(os.EX_NOINPUT, f"--boot={wanted} is not there: {why}")
    return str(json.loads(done.stdout.splitlines()[0])["_BOOT_ID"])
