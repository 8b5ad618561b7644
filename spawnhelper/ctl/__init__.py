"""spawnctl(1): one file a verb, each with add_arguments() and run()."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import NoReturn

from spawnhelper import __version__
from spawnhelper.ctl import check, listing, log, run, stats, status
from spawnhelper.ctl.complaint import Complaint

VERBS = {
    "check": check,
    "list": listing,
    "log": log,
    "run": run,
    "stats": stats,
    "status": status,
}
TIMES = ("-S", "--since", "-U", "--until")


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes end with a status of sysexits.h."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, and how to find out what would be right."""
        self.exit(os.EX_USAGE, f"spawnctl: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The command line of spawnctl."""
    top = Parser(
        prog="spawnctl", description="Check, try and review the services of spawnhelper(8)."
    )
    top.add_argument("--version", action="version", version=f"spawnctl {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        summary = (verb.__doc__ or "").partition("\n")[0]
        verb.add_arguments(verbs.add_parser(name, help=summary, description=verb.__doc__))
    return top


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; an exit status of sysexits.h."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever read the output has seen enough
    try:
        options = parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
        result: int = VERBS[options.verb].run(options)
    except Complaint as complaint:
        print(f"spawnctl: {complaint}", file=sys.stderr)
        return complaint.status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return result


def _joined(arguments: list[str]) -> list[str]:
    """The arguments, with a time like -1h as part of its option: argparse takes it for another."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in TIMES and argument.startswith("-"):
            joined[-1] += f"={argument}" if joined[-1].startswith("--") else argument
        else:
            joined.append(argument)
    return joined
