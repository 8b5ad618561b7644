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
    for each in options.service or service.installed():
        file = each if "/" in each or each.endswith(service.SUFFIX) else service.file_of(each)
        refusal = examine(file)
        if refusal is None:
            print(f"{file}: ok")
            continue
        for problem in refusal.problems:
            print(problem, file=sys.stderr)
        status = status or refusal.status
    return status


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
    problems += listeners.of_file(file)[1] + listeners.conflicts(file)
    return misconfigured(*problems, status=status or os.EX_CONFIG) if problems else None
