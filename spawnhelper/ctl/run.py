"""Serve one service file in the foreground, to try it.

No root and no installed unit is needed: systemd-socket-activate(1) accepts the connections, and the
same helper serves them. Without root the service's User= has to be yourself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys

import spawnhelper
from spawnhelper.conf import listeners, service
from spawnhelper.ctl import words
from spawnhelper.outcome import Refusal
from spawnhelper.stages import command, identity

ACTIVATOR = "systemd-socket-activate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("file", metavar="NAME|FILE", help="a service, or a file")
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        help="listen here instead of at the file's ListenStream=; may be repeated",
    )


def run(options: argparse.Namespace) -> int:
    """Becomes the activator; returns only where that is not possible."""
    file = os.path.abspath(words.file_of(options.file))
    try:
        settings = service.load(file)
        identity.check_reach(settings, identity.resolve(settings))
        command.find(settings)
        listeners.checked_sections(file)
    except Refusal as refusal:
        for problem in refusal.problems:
            print(problem, file=sys.stderr)
        return refusal.status
    activator = shutil.which(ACTIVATOR)
    if activator is None:
        print(f"spawnctl: {ACTIVATOR} is missing; install systemd", file=sys.stderr)
        return os.EX_UNAVAILABLE
    addresses = options.listen or [each.place for each in listeners.claimed(file)]
    passed = [*command.EXPORTED, *settings.pass_environment]
    if settings.max_commands is not None:
        passed.append("XDG_RUNTIME_DIR")
    arguments = [
        ACTIVATOR,
        "--accept",
        *(f"--listen={address}" for address in addresses),
        *(f"--setenv={name}" for name in passed if name in os.environ),
        sys.executable,
        *("-I", "-X", "utf8"),  # no -S: in a tree or a virtual environment site finds libraries
        os.path.join(os.path.dirname(spawnhelper.__file__), "__main__.py"),
        "--file",
        file,
    ]
    print(f"{settings.name}: serving {file} on {', '.join(addresses)}; ^C ends it", flush=True)
    return os.execve(activator, arguments, os.environ | {"SYSTEMD_LOG_LEVEL": "warning"})
