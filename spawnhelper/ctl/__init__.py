"""spawnctl(1): one file a verb, each with add_arguments() and run()."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Iterable
from typing import NoReturn

from spawnhelper import __version__
from spawnhelper.ctl.complaint import Complaint

# The file of each verb. None but the one that runs is loaded: libraries take their time.
VERBS = {
    "check": "check",
    "list": "listing",
    "log": "log",
    "run": "run",
    "stats": "stats",
    "status": "status",
}
TIMES = ("-S", "--since", "-U", "--until")


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes end with a status of sysexits.h."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, and how to find out what would be right."""
        self.exit(os.EX_USAGE, f"spawnctl: {message}; see {self.prog} --help\n")


def parser(names: Iterable[str] = tuple(VERBS)) -> argparse.ArgumentParser:
    """The command line of spawnctl, as far as it is about these verbs."""
    top = Parser(
        prog="spawnctl", description="Check, try and review the services of spawnhelper(8)."
    )
    top.add_argument("--version", action="version", version=f"spawnctl {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name in names:
        verb = importlib.import_module(f"spawnhelper.ctl.{VERBS[name]}")
        summary = (verb.__doc__ or "").partition("\n")[0]
        made = verbs.add_parser(name, help=summary, description=verb.__doc__)
        verb.add_arguments(made)
        made.set_defaults(run=verb.run)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; its exit status."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever read the output has seen enough
    if isinstance(sys.stdout, io.TextIOWrapper):  # its encoding may not have all that a record has
        sys.stdout.reconfigure(errors="backslashreplace")
    words = _joined(sys.argv[1:] if arguments is None else arguments)
    try:
        options = parser(words[:1] if words and words[0] in VERBS else VERBS).parse_args(words)
        status: int = options.run(options)
    except Complaint as complaint:
        print(f"spawnctl: {complaint}", file=sys.stderr)
        return complaint.status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return status


def _joined(arguments: list[str]) -> list[str]:
    """The arguments, with a time like -1h as part of its option: argparse takes it for another."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in TIMES and argument.startswith("-"):
            joined[-1] += f"={argument}" if joined[-1].startswith("--") else argument
        else:
            joined.append(argument)
    return joined
