"""spawnctl(1): one file a verb, each with add_arguments() and run()."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import signal
import sys
from collections.abc import Iterable
from typing import NoReturn

from spawnhelper import __version__, manager
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.outcome import Refusal, shown

# The file of each verb. None but the one that runs is loaded: libraries take their time.
VERBS = {
    "apply": "apply",
    "check": "check",
    "edit": "edit",
    "health": "verdict",
    "import": "moving_in",
    "list": "listing",
    "log": "log",
    "metrics": "metrics",
    "new": "new",
    "run": "run",
    "show": "show",
    "stats": "stats",
    "status": "status",
    "stop": "stop",
}
# Their values can begin with a hyphen, which argparse takes for another option.
TIMES = ("-S", "--since", "-U", "--until")
BOOTS = ("-b", "--boot")  # their value can be left out, too
BOOT = re.compile(r"[+-]?\d{1,4}|[0-9a-f]{32}")


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes end with a status of sysexits.h, and in words of ours."""

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            import difflib

            known = [str(each) for each in action.choices]
            near = difflib.get_close_matches(str(value), known, 1, 0.6)
            hint = f"; did you mean {near[0]}?" if near else f"; write one of {', '.join(known)}"
            option = "".join(f"{each}=" for each in action.option_strings[-1:])
            what = "a verb" if action.dest == "verb" else "known here"
            self.error(f"{option}{shown(str(value))} is not {what}{hint}")

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, and how to find out what would be right."""
        self.exit(os.EX_USAGE, f"spawnctl: {message}; see {self.prog} --help\n")


def parser(names: Iterable[str] = tuple(VERBS)) -> argparse.ArgumentParser:
    """The command line of spawnctl, as far as it is about these verbs."""
    top = Parser(
        prog="spawnctl", description="Write, apply, try and review the services of spawnhelper(8)."
    )
    top.add_argument(
        manager.OPTION, action="store_true", dest="own", help="services of one's own, before VERB"
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
        if words[:1] == [manager.OPTION] and os.geteuid() == 0:
            raise Complaint(os.EX_NOPERM, manager.ROOTS_OWN)
        words = manager.chosen(words)
        options = parser(words[:1] if words and words[0] in VERBS else VERBS).parse_args(words)
        status: int = options.run(options)
    except (Complaint, Refusal) as complaint:
        print(f"spawnctl: {complaint}", file=sys.stderr)
        return complaint.status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return status


def _joined(arguments: list[str]) -> list[str]:
    """The arguments, with a time like -1h, or a boot like -1, as part of its option."""
    joined: list[str] = []
    for argument in arguments:
        before = joined[-1] if joined else ""
        if before in TIMES and argument.startswith("-"):
            joined[-1] += f"={argument}" if before.startswith("--") else argument
        elif before in BOOTS and BOOT.fullmatch(argument):
            joined[-1] = f"--boot={argument}"
        else:
            if before in BOOTS:
                joined[-1] = "--boot=0"
            joined.append(argument)
    if joined and joined[-1] in BOOTS:
        joined[-1] = "--boot=0"
    return joined
