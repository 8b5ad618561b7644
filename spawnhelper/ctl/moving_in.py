"""Turn services of Postfix's spawn(8), inetd or xinetd into service files.

Without --to nothing is written: the service files go to standard output, and what became of each
service to standard error. The exit status is 0 if nothing is lost, 65 if something is, and 78 if
not one service could be read. spawn.conf-migration(7) has what becomes of each word.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from spawnhelper import manager
from spawnhelper.conf import files, service
from spawnhelper.ctl import drafts
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.moving import defaults, sources, steps, store
from spawnhelper.moving.job import BROKEN_FILE
from spawnhelper.moving.machine import Machine
from spawnhelper.moving.report import Report
from spawnhelper.moving.source import Unreadable
from spawnhelper.outcome import Refusal, printable, shown

GROUPS = ("Group", "SupplementaryGroups")  # those of a user are what they are


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("source", choices=sources.NAMES, help="where the services come from")
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="master.cf, inetd.conf, or xinetd.conf"
    )
    parser.add_argument("--to", metavar="DIR", help="write the service files to this folder")
    parser.add_argument("--force", action="store_true", help="with --to, replace files there")
    parser.add_argument(
        "--resolve", action="store_true", help="look up the addresses of names of hosts"
    )
    parser.add_argument("--json", action="store_true", help="all as one object, for programs")


def run(options: argparse.Namespace) -> int:
    """Imports one source; an exit status of sysexits.h."""
    if options.force and options.to is None:
        raise Complaint(os.EX_USAGE, "--force is about files that are there; add --to DIR")
    file = os.path.abspath(options.file or sources.DEFAULT_FILES[options.source])
    try:
        report = sources.imported(options.source, file, Machine(resolve=options.resolve))
    except Unreadable as error:
        raise Complaint(os.EX_CONFIG, f"{shown(file)} {error}") from None
    if manager.now.own:
        for draft in report.files:
            draft.lines = [each for each in draft.lines if each.key not in GROUPS]
    defaults.begin_anew(report.files, manager.now.defaults)
    _rehearse(report)
    written: list[str] = []
    if options.to is not None:
        try:
            written = store.write(report.files, report.source, options.to, force=options.force)
        except store.Failed as error:
            raise Complaint(os.EX_CANTCREAT, printable(str(error))) from None
    if options.json:
        print(json.dumps(report.object() | {"written": written}, indent=2))
        return report.status
    if options.to is None:
        _show(report)
    for line in report.lines():
        print(line, file=sys.stderr)
    for path in written:
        print(f"{printable(path)}: written")
    if written:
        print("\n".join(steps.steps(report, options.to)))
    return report.status


def _show(report: Report) -> None:
    """Each service file below its name."""
    for number, draft in enumerate(report.files):
        print(f"{'' if number == 0 else chr(10)}# {draft.name}{files.SUFFIX}")
        print(draft.text(report.source), end="")


def _rehearse(report: Report) -> None:
    """Has `spawnctl check` judge each service file as what it is to be: what the file cannot have,
    and what the machine does not have yet."""
    for draft in report.files:
        file = files.new_file_of(draft.name)
        text = draft.text(report.source).encode()
        if why := _broken(file, text):
            draft.say(BROKEN_FILE, why=why)
            continue
        found = drafts.judged(file, text)
        if found is not None:
            draft.waits += [
                f"{draft.name}{files.SUFFIX}:{each.line}: {each.sentence}"
                for each in found.problems
            ]


def _broken(file: str, text: bytes) -> str:
    """What keeps the text from being a service file at all, whatever the machine has."""
    files.drafts[file] = text
    try:
        service.load(file)
    except Refusal as refusal:
        return refusal.problems[0].sentence
    finally:
        del files.drafts[file]
    return ""
