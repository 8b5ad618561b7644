"""Say what is wrong with service files, and where.

Without an argument every service that has a file is checked, and the defaults for all of them. The
exit status is 0 if all is well; a note about what is well, and has its limits, does not change it.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import TypeVar

from spawnhelper.conf import files, listeners, service
from spawnhelper.ctl import advice
from spawnhelper.outcome import Problem, Refusal, misconfigured, printable
from spawnhelper.stages import banner, command, executables, identity, reasons

T = TypeVar("T")
DROP_INS = f"{files.SUFFIX}.d"
SERVER = "spawn-server@"
UNIT = "check"  # any name that a connection's unit could have


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("service", nargs="*", metavar="NAME|FILE", help="a service, or a file")


def run(options: argparse.Namespace) -> int:
    """Checks each service; the status of the first that has a problem."""
    status = 0
    try:
        _see_as_the_helper()
        wanted = options.service or files.installed()
    except Refusal as refusal:
        print(refusal, file=sys.stderr)
        return refusal.status
    if not wanted:
        sentence = f"there is no service file in {files.DIRECTORY} or {files.VENDOR}"
        print(f"spawnctl: {sentence}", file=sys.stderr)
    if not options.service and os.path.lexists(files.DEFAULTS):
        wanted.insert(0, files.DEFAULTS)
    for each in wanted:
        file = file_of(each)
        found = examine(file)
        if found is None:
            print(f"{file}: ok")
            if file != files.DEFAULTS:
                for hint in advice.of(service.load(file), file):
                    print(
                        f"{printable(hint.file)}:{hint.line}: note: {hint.sentence}",
                        file=sys.stderr,
                    )
            continue
        for problem in found.problems:
            print(problem, file=sys.stderr)
        status = status or found.status
    return status


def _see_as_the_helper() -> None:
    """Gives up root's way around permissions, which spawn@.service does not have either."""
    if os.geteuid() == 0:
        try:
            import prctl
        except ImportError as error:
            raise command.without_library(error) from None
        prctl.cap_effective.dac_override = False
        prctl.cap_effective.dac_read_search = False


def rehearse(settings: service.Service, who: identity.Identity, program: str) -> list[Problem]:
    """What only the command's own user can tell: whether the program and the folder are open to it,
    and all that the program needs.

    Needs root. The sentences are those of a connection's record.
    """
    found = (
        reasons.of_program(settings, who, program, allowed_capabilities(settings.template)),
        reasons.of_folder(settings, who),
    )
    return [problem for problem in found if problem is not None]


@cache
def allowed_capabilities(template: str) -> int:
    """What a file can give to a command, as bits: of what this machine has, what the unit that
    serves connections has as it is installed."""
    unit = template.replace("@", f"@{UNIT}")
    ask = ["systemctl", "show", "--property=CapabilityBoundingSet", unit]
    try:
        told = subprocess.run(ask, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return executables.bounding_set()  # there is no systemd to ask
    return executables.bits(told.partition("=")[2]) & executables.bounding_set()


def file_of(wanted: str) -> str:
    """The file of a service that is named by it, by a drop-in, by its name, or by a unit of
    its."""
    if "/" in wanted or wanted.endswith(files.SUFFIX):
        wanted = os.path.abspath(wanted)
        folder, base = os.path.split(os.path.dirname(wanted))
        if not base.endswith(DROP_INS):
            return wanted
        file = os.path.join(folder, base.removesuffix(".d"))
        ours = folder in (files.DIRECTORY, files.VENDOR)
        return files.file_of(files.name_of(file)) if ours else file
    return files.file_of(name_of(wanted))


def name_of(wanted: str) -> str:
    """The service that is named by its name, its socket unit, its server's, or its file."""
    name = files.name_of(wanted)
    if name.startswith(SERVER):
        return name.removeprefix(SERVER).removesuffix(".service")
    return name.removeprefix("spawn@").removesuffix(".socket")


def examine(file: str) -> Refusal | None:
    """Everything that a connection, the generator or the kernel would refuse about this file, or
    None: by the same functions that refuse it there."""
    found = Findings()
    if file == files.DEFAULTS:
        found.of(service.check_defaults)
        return found.refusal()
    if found.of(service.read, file) is None:  # nothing is to be said of what it has in it
        return found.refusal()
    settings = found.of(service.load, file)
    if settings is not None:
        who = found.of(identity.resolve, settings)
        program = found.of(command.find, settings)
        for key, path in (("Banner", settings.banner), ("BannerRefused", settings.banner_refused)):
            if path is not None:
                found.of(banner.text, settings, key, path)
        kinds = {each.family == socket.AF_UNIX for each in listeners.claimed(file)}
        if kinds == {True}:
            found.of(service.check_rules, settings)
        for unix in kinds:
            found.of(partial(service.check_idle_limit, settings, tcp=not unix))
            found.of(partial(service.check_proxies, settings, tcp=not unix))
        if who and program and os.geteuid() == 0:
            found.problems += rehearse(settings, who, program)
    found.of(listeners.checked_sections, file)
    found.problems += found.of(listeners.conflicts, file) or []
    found.problems += found.of(listeners.unknown_owners, file) or []
    return found.refusal()


class Findings:
    """What one stage after the other refuses. status: the first one's."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.status = 0

    def of(self, stage: Callable[..., T], *arguments: object) -> T | None:
        """What the stage makes of its arguments, None where it refuses them."""
        try:
            return stage(*arguments)
        except Refusal as refusal:
            known = [str(problem) for problem in self.problems]
            self.problems += [each for each in refusal.problems if str(each) not in known]
            self.status = self.status or refusal.status
            return None

    def refusal(self) -> Refusal | None:
        """All of it, None where there is nothing."""
        if not self.problems:
            return None
        return misconfigured(*self.problems, status=self.status or os.EX_CONFIG)
