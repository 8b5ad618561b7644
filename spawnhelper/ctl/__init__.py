"""spawnctl(1): one file a verb, each with add_arguments() and run()."""

from __future__ import annotations

import argparse

from spawnhelper import __version__
from spawnhelper.ctl import check, run

VERBS = {"check": check, "run": run}


def parser() -> argparse.ArgumentParser:
    """The command line of spawnctl."""
    top = argparse.ArgumentParser(
        prog="spawnctl", description="Check and try the services of spawnhelper(8)."
    )
    top.add_argument("--version", action="version", version=f"spawnctl {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        summary = (verb.__doc__ or "").partition("\n")[0]
        verb.add_arguments(verbs.add_parser(name, help=summary, description=verb.__doc__))
    return top


def main() -> int:
    """Runs one verb; an exit status of sysexits.h."""
    options = parser().parse_args()
    status: int = VERBS[options.verb].run(options)
    return status
