"""Say what is wrong with service files, and where.

Without an argument every service that has a file is checked, and the defaults for all of them. The
exit status is 0 if all is well; a note about what is well, and has its limits, does not change it.
"""

from __future__ import annotations

import argparse
import os
import sys

from spawnhelper import manager
from spawnhelper.conf import files, service
from spawnhelper.ctl import advice, drafts, examination, health, units, words
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.outcome import Problem, Refusal, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument(
        "service",
        nargs="*",
        metavar="NAME|FILE",
        help="a service, or a file; with --as - for input",
    )
    parser.add_argument(
        "--as", dest="name", metavar="NAME", help="check the file as what this service is to be"
    )


def run(options: argparse.Namespace) -> int:
    """Checks each service; the status of the first that has a problem."""
    if options.name is not None:
        return _as(options.name, options.service)
    status = 0
    try:
        with examination.as_the_helper():
            wanted = options.service or files.installed()
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return refusal.status
    if not wanted:
        sentence = f"there is no service file in {' or '.join(manager.now.folders)}"
        print(f"spawnctl: {sentence}", file=sys.stderr)
    if not options.service and os.path.lexists(manager.now.defaults):
        wanted.insert(0, manager.now.defaults)
    for each in wanted:
        file = words.file_of(each)
        with examination.as_the_helper():
            found = _say(file)
        status = status or found
        if not found and (sentence := _running(file)):
            print(sentence, file=sys.stderr)
    return status


def _as(name: str, given: list[str]) -> int:
    """Checks a text as the file of this service, wherever it is now, and whosever: so that a
    program can ask before it puts it there."""
    if len(given) != 1:
        raise Complaint(os.EX_USAGE, "--as is for one file; name it, or write - for standard input")
    name = words.name_of(name)
    file = files.new_file_of(name)
    try:
        files.drafts[file] = drafts.read(given[0])
        with examination.as_the_helper():
            return _say(file, of=given[0])
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return refusal.status


def _say(file: str, *, of: str = "") -> int:
    """Checks one file, and says what is to be said about it; an exit status. of: where its text is,
    if that is not there yet."""
    found = examination.examine(file)
    if found is not None:
        for problem in found.problems:
            print(problem, file=sys.stderr)
        return found.status
    print(f"{printable(of)} as {file}: ok" if of else f"{file}: ok")
    if file == manager.now.defaults:
        return 0
    notes = advice.of(service.load(file), file)
    notes += [_draft(*each) for each in examination.conflicts(file, drafts=True)]
    for note in notes:
        place = printable(note.file) if note.line is None else f"{printable(note.file)}:{note.line}"
        print(f"{place}: note: {note.sentence}", file=sys.stderr)
    return 0


def _draft(name: str, problem: Problem) -> Problem:
    """An address that a file has, too, of which nothing comes as long as it is a draft."""
    sentence = problem.sentence.replace(f" {name} listens ", f" {name} would listen ")
    return Problem(problem.file, problem.line, f"{sentence}, before it is enabled")


def _running(file: str) -> str:
    """What is wrong with the service that is on, though its file is good."""
    name = files.name_of(file)
    if file != files.file_of(name):
        return ""
    try:
        (listener,) = (each for each in units.listeners([name]) if each.name == name)
    except Complaint:
        return ""  # there is no systemd to ask
    state = health.of(listener, health.Kernel())
    told = state.word and (state.wanted or state.word == health.TAKEN)
    return f"spawn@{name}.socket: note: {state.word}: {state.remedy}" if told else ""
