"""What a standing server is doing, in a file that anybody can read and that asks nothing of it.

So nobody can hold a server up by asking, and one that is stuck is seen at once. The file has a line
for the server, and one for each place that a worker can have. All are of one length, so that each
is written anew by itself, and each has a sum that tells a half-written one.
"""

from __future__ import annotations

import binascii
import contextlib
import os
import sys
import time
from collections.abc import Collection
from typing import NamedTuple

from spawnhelper import manager

LINE = 128  # octets, of which the sum and the line end take ten
NSEC_PER_USEC = 1_000
# What a worker does. A place without one is gone; it has its count of connections still.
BEGINS, IDLE, BUSY, GONE = "begins", "idle", "busy", "gone"
STATES = (BEGINS, IDLE, BUSY, GONE)
MOST_READINGS = 20


class Place(NamedTuple):
    """A worker's. since: when it began what it does, CLOCK_MONOTONIC in microseconds. had: how
    many connections workers in this place have had. client: of its connection."""

    state: str
    pid: int
    since: int
    had: int
    client: str


class Seen(NamedTuple):
    """A board as it was read. alive: when the server last said that it is, and due: by when it was
    to say so again, as above. accepted and dropped count connections since the socket listens;
    dropped are those above MaxConnectionsPerSource=. pending have ended well and are in no record
    yet (Log=summary)."""

    alive: int
    due: int
    accepted: int
    dropped: int
    pending: int
    places: list[Place]

    def those(self, state: str) -> list[Place]:
        """The places of workers that do this."""
        return [place for place in self.places if place.state == state]


class Board:
    """The board as its server has it. dropped, turned_away: how many connections it has closed for
    MaxConnectionsPerSource=, and refused without a worker. It counts on from what an earlier server
    of the same socket has left. A server without a board says so once, and serves all the same.

    kept: the pids of workers that an earlier server has handed on. They keep their places.
    """

    def __init__(self, name: str, kept: Collection[int] = ()) -> None:
        self.dropped = self.turned_away = 0
        self.pending = 0
        self._due = 0
        self._counts: list[int] = []
        self._taken: dict[int, int] = {}
        self._free: list[int] = []
        before: Seen | None = None
        with contextlib.suppress(OSError):
            before = read(name)
        self._file: int | None = None
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            self._file = os.open(file_of(name), flags, 0o644)
        except OSError as error:
            self._lost(error)
        if before is not None:
            self._go_on(before, kept)
        self.beat(time.monotonic_ns())

    def beat(self, due: int) -> None:
        """Says that the server is alive. due: by when it does again, CLOCK_MONOTONIC in
        nanoseconds."""
        self._due = due
        counts = f"{self.turned_away} {self.dropped} {self.pending}"
        self._write(0, f"{_now()} {due // NSEC_PER_USEC} {counts}")

    def pend(self, count: int) -> None:
        """How many connections have ended well, and are in no record yet (Log=summary)."""
        self.pending = count
        self.beat(self._due)

    def note(self, pid: int, state: str, client: str = "") -> None:
        """What a worker does from now on. One that is busy has one connection more."""
        place = self._taken.get(pid)
        if place is None:
            place = self._taken[pid] = self._free.pop() if self._free else self._added()
        had = self._counts[place] = self._counts[place] + (state == BUSY)
        self._show(place, state, pid, _now(), had, client)
        if state == GONE:
            self._free.append(self._taken.pop(pid))

    def _go_on(self, before: Seen, kept: Collection[int]) -> None:
        self.dropped, self.turned_away = before.dropped, before.accepted
        self.pending = before.pending
        for each in before.places:
            if each.pid in kept and each.state != GONE:
                place = self._taken[each.pid] = self._added()
                self._counts[place] = each.had
                self.turned_away -= each.had
                self._show(place, *each)

    def _show(self, place: int, state: str, pid: int, since: int, had: int, client: str) -> None:
        """The line of a place, whose fields are those of Place."""
        self._write(place + 1, f"{state} {pid} {since} {had} {client}")

    def _added(self) -> int:
        self._counts.append(0)
        return len(self._counts) - 1

    def _write(self, line: int, text: str) -> None:
        if self._file is None:
            return
        octets = text.encode(errors="replace")[: LINE - 10].ljust(LINE - 10)
        try:
            os.pwrite(self._file, b"%s %08x\n" % (octets, binascii.crc32(octets)), line * LINE)
        except OSError as error:
            os.ftruncate(self._file, 0)
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        self._file = None
        print(f"<4>spawnctl cannot see what this does: {error.strerror}", file=sys.stderr)


def file_of(name: str) -> str:
    """The board of a service's server, in the RuntimeDirectory= of spawn-server@.service."""
    return f"{manager.now.runtime}/servers/{name}/board"


def read(name: str) -> Seen | None:
    """What is on it, None where that cannot be told: it is being made, or is that of a server of
    another version. Raises OSError where there is none."""
    with open(file_of(name), "rb") as file:
        for _ in range(MOST_READINGS):
            file.seek(0)
            octets = file.read()
            lines = [_sound(octets[at : at + LINE]) for at in range(0, len(octets), LINE)]
            if lines and None not in lines:
                break
        else:
            return None
    try:
        alive, due, turned_away, dropped, pending = map(int, str(lines[0]).split())
        places = [_place(str(line)) for line in lines[1:]]
    except ValueError:
        return None
    accepted = turned_away + sum(place.had for place in places)
    return Seen(alive, due, accepted, dropped, pending, places)


def _sound(octets: bytes) -> str | None:
    """The text of a line, None where it is half-written."""
    text, total = octets[: LINE - 10], octets[LINE - 10 :]
    whole = total == b" %08x\n" % binascii.crc32(text)
    return text.decode().rstrip() if whole else None


def _place(line: str) -> Place:
    state, pid, since, had, *client = line.split(" ", 4)
    return Place(state, int(pid), int(since), int(had), "".join(client))


def _now() -> int:
    return time.monotonic_ns() // NSEC_PER_USEC
