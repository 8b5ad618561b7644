"""Show what holds for a service, value by value, and which line of which file says so.

Defaults of /etc/spawn.conf and drop-ins are in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import NamedTuple

from spawnhelper.conf import service
from spawnhelper.conf.settings import SETTINGS
from spawnhelper.ctl import terminal, words
from spawnhelper.outcome import Refusal, printable

# What spawn@.socket says where the service file does not.
OF_THE_SOCKET = {"Accept": "yes", "MaxConnections": str(service.MAX_CONNECTIONS)}


class Value(NamedTuple):
    """One that holds. file, line: what says so; None for a default."""

    section: str
    key: str
    value: str
    file: str | None
    line: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("service", metavar="NAME|FILE", help="a service, or a file")
    parser.add_argument("--defaults", action="store_true", help="what no file says, too")
    parser.add_argument("--json", action="store_true", help="one object a value, for programs")
    parser.add_argument("--no-pager", action="store_true", help="no pager on a terminal")


def run(options: argparse.Namespace) -> int:
    """Shows them; an exit status of sysexits.h."""
    file = words.file_of(options.service)
    try:
        values = _values(file, defaults=options.defaults)
    except Refusal as refusal:
        for problem in refusal.problems:
            print(problem, file=sys.stderr)
        return refusal.status
    if options.json:
        print(json.dumps([each._asdict() for each in values], indent=2))
        return 0
    width = max(len(each.key) + len(printable(each.value)) + 1 for each in values)
    section = ""
    with terminal.paged(wanted=not options.no_pager) as out:
        for each in values:
            if each.section != section:
                print(f"{chr(10) if section else ''}[{each.section}]", file=out)
                section = each.section
            place = "default" if each.file is None else f"{printable(each.file)}:{each.line}"
            given = printable(f"{each.key}={each.value}")
            print(f"{given:{width}}  {place}".rstrip(), file=out)
    return 0


def _values(file: str, *, defaults: bool) -> list[Value]:
    """All that holds, section by section. Raises Refusal where the file is not good."""
    settings = service.load(file)
    held: dict[tuple[str, str], list[Value]] = {}
    for each in service.read(file)[0]:
        at = held.setdefault((each.section, each.key), [])
        if not each.value:  # an empty value resets
            at.clear()
        elif each.section != "Spawn":
            at.append(Value(each.section, each.key, each.value, each.file, each.line))
    for setting in SETTINGS:
        given = settings.given.get(setting.key, [])
        counts = given if setting.repeats else given[-1:]
        found = [Value("Spawn", setting.key, g.value, g.file, g.line) for g in counts]
        default = [Value("Spawn", setting.key, setting.default_text or "", None, None)]
        held["Spawn", setting.key] = found or (default if defaults else [])
    for key, value in OF_THE_SOCKET.items():
        if defaults and not held.get(("Socket", key)):
            held["Socket", key] = [Value("Socket", key, value, None, None)]
    order = ("Socket", "Service", "Spawn")
    return sorted(
        (each for values in held.values() for each in values),
        key=lambda each: order.index(each.section),
    )
