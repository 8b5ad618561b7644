"""Say what is wrong with service files, and where.

Without an argument every service in /etc/spawn is checked. The exit status is 0 if all is well.
"""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
from typing import Any

from spawnhelper import command, identity, listeners, service
from spawnhelper.outcome import Problem, Refusal, misconfigured, shown


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


def rehearse(settings: service.Service, who: identity.Identity, program: str) -> list[Problem]:
    """What only the command's own user can tell: whether the program and the folder are open to it.

    Needs root. The sentences are those of a connection's record.
    """

    def may(test: str, path: str) -> bool:
        account: dict[str, Any] = {"user": who.uid, "group": who.gid, "extra_groups": who.groups}
        return subprocess.run(["/usr/bin/test", test, path], check=False, **account).returncode == 0

    problems = []
    if not may("-x", program):
        why = command.NOT_RUN[errno.EACCES].format(user=who.user)
        problems.append(settings.problem("Argv", f"Argv={shown(program)}: {why}"))
    directory = settings.working_directory
    folder = who.home if directory.home else directory.path
    if not directory.optional and not (may("-d", folder) and may("-x", folder)):
        why = os.strerror(errno.EACCES if os.path.exists(folder) else errno.ENOENT)
        sentence = f"WorkingDirectory={shown(folder)}: {why}"
        problems.append(settings.problem("WorkingDirectory", sentence))
    return problems


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
        who = program = None
        try:
            who = identity.resolve(settings)
        except Refusal as refusal:
            problems += refusal.problems
            status = refusal.status
        try:
            program = command.find(settings)
        except Refusal as refusal:
            problems += refusal.problems
            status = status or refusal.status
        if who and program and os.geteuid() == 0:
            problems += rehearse(settings, who, program)
    try:
        listeners.checked_section(file)
    except Refusal as refusal:
        problems += [each for each in refusal.problems if str(each) not in map(str, problems)]
    problems += listeners.conflicts(file)
    return misconfigured(*problems, status=status or os.EX_CONFIG) if problems else None
