"""End connections of a service, each with its record.

The listener goes on. A command gets SIGTERM, and SIGKILL after KillDelay=, as at its TimeLimit=.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time

from spawnhelper import board, manager
from spawnhelper.ctl import status, units, words
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.outcome import shown

LONGEST_END = 120.0  # seconds; KillDelay= is up to a minute


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("service", metavar="NAME", help="a service")
    parser.add_argument(
        "connection",
        nargs="*",
        metavar="CLIENT|PID|UNIT",
        help="as `spawnctl status -v` has it; an address without a port is all from there",
    )
    parser.add_argument("--all", action="store_true", help="all connections of the service")


def run(options: argparse.Namespace) -> int:
    """Ends them, and returns when they have ended; an exit status of sysexits.h."""
    spawnctl = manager.now.words("spawnctl")
    (listener,) = units.named([options.service])
    if options.all == bool(options.connection):
        right = f"{spawnctl} status {listener.name} lists them"
        raise Complaint(os.EX_USAGE, f"write which connections to stop, or --all; {right}")
    live = status.live_of(listener, units.processes(listener))
    chosen = live
    if not options.all:
        chosen = [each for each in live if any(_is(each, word) for word in options.connection)]
        for word in options.connection:
            if not any(_is(each, word) for each in live):
                right = f"{spawnctl} status -v {listener.name} lists its connections"
                raise Complaint(os.EX_NOINPUT, f"{listener.name} has no {shown(word)}; {right}")
    if not chosen:
        print(f"{listener.name} has no connection", file=sys.stderr)
        return 0
    if listener.server is None:
        units.systemctl("stop", *(each.unit for each in chosen))
    else:
        _stop_workers(listener.name, [each.place for each in chosen if each.place is not None])
    for each in chosen:
        print(f"stopped {each.client}")
    return 0


def _is(live: status.Live, word: str) -> bool:
    host = live.client.rpartition(":")[0].strip("[]")  # of one at a path there is none
    names = (live.client, host, str(live.pid or ""), live.unit, live.unit.removesuffix(".service"))
    return word in filter(None, names)


def _stop_workers(name: str, places: list[board.Place]) -> None:
    """Has the workers in these places stop their commands, and waits for them."""
    workers = []
    for place in places:
        try:
            worker = os.pidfd_open(place.pid)
        except ProcessLookupError:
            continue  # it has just ended
        # Its number is its own for as long as this is open; so it has to be so still.
        again = board.read(name)
        if again is not None and place in again.places:
            signal.pidfd_send_signal(worker, signal.SIGTERM)
            workers.append(worker)
        else:
            os.close(worker)
    deadline = time.monotonic() + LONGEST_END
    for worker in workers:
        ended = select.poll()
        ended.register(worker, select.POLLIN)
        if not ended.poll(max(0, deadline - time.monotonic()) * 1000):
            right = (
                f"{manager.now.words('systemctl')} restart {words.SERVER}{name} ends all of them"
            )
            raise Complaint(os.EX_TEMPFAIL, f"a connection of {name} does not end; {right}")
        os.close(worker)
