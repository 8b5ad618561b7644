"""Say what is wrong with service files, and where.

Without an argument every service in /etc/spawn is checked. The exit status is 0 if all is well.
"""

from __future__ import annotations

import argparse
import os
import sys

from spawnhelper import command, identity, listeners, service
from spawnhelper.outcome import Problem, Refusal, misconfigured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("service", nargs="*", metavar="NAME|FILE", help="a service, or a file")


def run(options: argparse.Namespace) -> int:
    """Checks each service; the status of the first that has a problem."""
    status = 0
    wanted = options.service or service.installed()
    if not wanted:
        sentence = f"there is no service file in {service.DIRECTORY} (NAME{service.SUFFIX})"
        print(f"spawnctl: {sentence}", file=sys.stderr)
    for each in wanted:
        file = file_of(each)
        refusal = examine(file)
        if refusal is None:
            print(f"{file}: ok")
            continue
        for problem in refusal.problems:
            print(problem, file=sys.stderr)
        status = status or refusal.status
    return status


def file_of(wanted: str) -> str:
    """The file of a service that is named by it, by its name, or by its socket unit."""
    if "/" in wanted or wanted.endswith(service.SUFFIX):
        return wanted
    return service.file_of(wanted.removeprefix("spawn@").removesuffix(".socket"))


def examine(file: str) -> Refusal | None:
    """Everything that a connection, the generator or the kernel would refuse about this file, or
    None: by the same functions that refuse it there."""
    try:
        service.read(file)
    except Refusal as refusal:  # no service file: nothing to be said of what it has in it
        return refusal
    problems: list[Problem] = []
    status = 0
    try:
        settings = service.load(file)
    except Refusal as refusal:
        problems += refusal.problems
        status = refusal.status
    else:
        for stage in (identity.resolve, command.find):
            try:
                stage(settings)
            except Refusal as refusal:
                problems += refusal.problems
                status = status or refusal.status
    try:
        listeners.checked_section(file)
    except Refusal as refusal:
        problems += [each for each in refusal.problems if str(each) not in map(str, problems)]
    problems += listeners.conflicts(file)
    return misconfigured(*problems, status=status or os.EX_CONFIG) if problems else None
