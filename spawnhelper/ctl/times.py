"""Points in time, in systemd's words: systemd.time(7) to read them, journalctl(1) to show them."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime

from spawnhelper.conf.quantities import USEC_PER_SEC
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.outcome import shown

PARSER = "systemd-analyze"  # systemd's own: nobody else's knows all of its words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares from when to when, in journalctl's words."""
    for short, option, which in (
        ("-S", "--since", "at or after"),
        ("-U", "--until", "at or before"),
    ):
        told = f"only {which} this time, as in yesterday, -1h or '2026-11-22 10:30'"
        parser.add_argument(short, option, metavar="TIME", help=told)


def limits(options: argparse.Namespace) -> tuple[int | None, int | None]:
    """From when to when, in microseconds since the epoch; None for no limit."""
    since = None if options.since is None else moment("--since", options.since)
    until = None if options.until is None else moment("--until", options.until)
    if since is not None and until is not None and since > until:
        raise Complaint(os.EX_USAGE, "--since is after --until; there is no time between them")
    return since, until


def moment(option: str, text: str) -> int:
    """A point in time in microseconds since the epoch; option: whose value the text is.

    Raises Complaint for what is none.
    """
    try:
        done = subprocess.run(
            [PARSER, "timestamp", "--", text],
            check=False,
            capture_output=True,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
            text=True,
            errors="replace",
        )
    except OSError as error:
        sentence = f"{option} needs {PARSER}, which cannot be run: {error.strerror}"
        raise Complaint(os.EX_UNAVAILABLE, sentence) from None
    found = re.search(r"UNIX seconds: @(\d+)(?:\.(\d+))?", done.stdout)
    if done.returncode != 0 or not found:
        right = "write for example yesterday, -1h, 10:30 or 2026-11-22 10:30 (systemd.time(7))"
        raise Complaint(os.EX_USAGE, f"{option}={shown(text)} is not a time; {right}")
    return int(found[1]) * USEC_PER_SEC + int((found[2] or "").ljust(6, "0"))


def local(usec: int, *, utc: bool = False) -> datetime:
    """The moment in the local time zone, or in UTC."""
    seconds, rest = divmod(usec, USEC_PER_SEC)
    at = datetime.fromtimestamp(seconds, UTC)
    return (at if utc else at.astimezone()).replace(microsecond=rest)


# journalctl's -o, as far as it is about the time.
FORMATS: dict[str, Callable[[datetime], str]] = {
    "short": lambda at: at.strftime("%b %d %H:%M:%S"),
    "short-precise": lambda at: at.strftime("%b %d %H:%M:%S.%f"),
    "short-iso": lambda at: at.isoformat(timespec="seconds"),
    "short-iso-precise": lambda at: at.isoformat(timespec="microseconds"),
    "short-full": lambda at: at.strftime("%a %Y-%m-%d %H:%M:%S %Z"),
    "short-unix": lambda at: f"{int(at.timestamp())}.{at.microsecond:06}",
}
