"""The records of connections in the journal: which entries are ours, and what they say.

spawnhelper(8), "THE RECORD", has the fields.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from spawnhelper import files
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.ctl.journal import Journal
from spawnhelper.outcome import HARMLESS, LISTENER, shown
from spawnhelper.record import MESSAGE_IDS

if TYPE_CHECKING:
    from cysystemd.reader import JournalEntry

# Anybody can write the other fields. Those that begin with _ are journald's own, and no command
# runs as root.
TRUSTED = ("_UID", ["0"])
RESULTS = {message_id: result for result, message_id in MESSAGE_IDS.items()}


class Damaged(Exception):
    """An entry that lacks what a record has: it was cut short by damage to its file."""


class Record:
    """One connection's record, or that of a listener. usec: when it was written, since the epoch.
    duration and cpu are in microseconds; they and the bytes are None where nobody counted.

    Raises Damaged.
    """

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "cpu",
        "duration",
        "entry",
        "fields",
        "message",
        "priority",
        "result",
        "service",
        "usec",
    )

    def __init__(self, entry: JournalEntry) -> None:
        self.entry = entry
        self.usec: int = entry.get_realtime_usec()
        self.fields: Mapping[str, str] = entry.data
        try:
            self.result = RESULTS[self.fields["MESSAGE_ID"]]
            self.message = self.fields["MESSAGE"]
            self.priority = int(self.fields["PRIORITY"])
            self.duration = self._number("SPAWN_DURATION_USEC")
            self.cpu = self._number("SPAWN_CPU_USEC")
            self.bytes_in = self._number("SPAWN_BYTES_IN")
            self.bytes_out = self._number("SPAWN_BYTES_OUT")
        except (KeyError, TypeError, ValueError):
            raise Damaged from None
        self.service = self.fields.get("SPAWN_SERVICE", "")
        if not isinstance(self.message, str) or not isinstance(self.service, str):
            raise Damaged  # a field that is there twice is a list

    @property
    def failed(self) -> bool:
        """Whether somebody should look after it: it is of warning or above."""
        return self.result not in HARMLESS

    @property
    def of_connection(self) -> bool:
        """Whether it is about a connection, not about a listener."""
        return self.result not in LISTENER

    def _number(self, field: str) -> int | None:
        text = self.fields.get(field)
        return None if text is None else int(text)

    @property
    def source(self) -> str:
        """Who called, without the port or the pid: an address, or `uid N`; "" where nobody
        knows."""
        if address := self.fields.get("SPAWN_REMOTE_ADDR"):
            return address
        uid = self.fields.get("SPAWN_REMOTE_UID")
        return "" if uid is None else f"uid {uid}"

    @property
    def client(self) -> str:
        """Who called, as the sentence has it."""
        address, port = self.fields.get("SPAWN_REMOTE_ADDR"), self.fields.get("SPAWN_REMOTE_PORT")
        if address is not None:
            return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        if uid := self.source:
            return f"pid {self.fields.get('SPAWN_REMOTE_PID')} of {uid}"
        return ""

    @property
    def detail(self) -> str:
        """The sentence without what service and client say already."""
        text = self.message.removeprefix(f"{self.service}: ")
        return text.removesuffix(f", client {self.client}")


class Records:
    """The records in a journal, of some services or of all. Raises Complaint where there is no
    journal, or where a service is named that nobody ever heard of.

    options: of journal.add_arguments(); without them it is this machine's.
    """

    def __init__(
        self,
        names: Sequence[str] = (),
        options: argparse.Namespace | None = None,
        *,
        results: Iterable[str] = (),
        user: str | None = None,
    ) -> None:
        self._journal = Journal(options)
        self._damaged = 0
        installed = files.installed()
        for name in names:
            if name not in installed and not self._any_of(name):
                sentence = f"there is no service {shown(name)}, nor a record of one"
                raise Complaint(self._status() or os.EX_NOINPUT, sentence)
        self._select(names, results, user)

    def _select(
        self, names: Sequence[str], results: Iterable[str] = (), user: str | None = None
    ) -> None:
        ids = [MESSAGE_IDS[result] for result in results] or RESULTS
        terms: list[tuple[str, Iterable[str]]] = [TRUSTED, ("MESSAGE_ID", ids)]
        if names:
            terms.append(("SPAWN_SERVICE", names))
        if user is not None:
            terms.append(("SPAWN_USER", [user]))
        self._journal.only(*terms)

    def _any_of(self, name: str) -> bool:
        self._select([name])
        return next(self._journal.backward(), None) is not None

    def forward(self, since: int | None = None, until: int | None = None) -> Iterator[Record]:
        """From the oldest to the newest, between two times in microseconds since the epoch."""
        return self._intact(self._journal.forward(since, until))

    def backward(self, since: int | None = None, until: int | None = None) -> Iterator[Record]:
        """From the newest to the oldest."""
        return self._intact(self._journal.backward(since, until))

    def scan(
        self, since: int | None, until: int | None, progress: Callable[[float], None]
    ) -> Iterator[Record]:
        """In no particular order, but fast, and for the last time. progress: is told now and then
        how much of the whole is done."""
        return self._intact(self._journal.scan(since, until, progress))

    def follow(
        self, last: int | None, wanted: Callable[[Record], bool], since: int | None
    ) -> Iterator[Record]:
        """The wanted ones: the last few, or those since a time, and all that come."""

        def passes(entry: JournalEntry) -> bool:
            return any(wanted(record) for record in self._intact([entry]))

        return self._intact(self._journal.follow(last, passes, since))

    def latest(self, name: str, *, failed: bool = False) -> Record | None:
        """The service's newest record, or that of its newest failure. Selects for good."""
        self._select([name], [each for each in MESSAGE_IDS if each not in HARMLESS or not failed])
        return next(self.backward(), None)

    def unread(self) -> list[str]:
        """What could not be read, one sentence each."""
        said = [f"{each} (not read)" for each in self._journal.unread()]
        if damaged := self._damaged + self._journal.damaged:
            said.append(f"{damaged} damaged entries were left out")
        return said

    def report(self) -> int:
        """Says what could not be read, on standard error; an exit status."""
        for sentence in self.unread():
            print(f"spawnctl: {sentence}", file=sys.stderr)
        return self._status()

    def _status(self) -> int:
        unread = self._journal.unread()
        if self._damaged + self._journal.damaged or not all(each.forbidden for each in unread):
            return os.EX_IOERR
        return os.EX_NOPERM if unread else 0

    def _intact(self, entries: Iterable[JournalEntry]) -> Iterator[Record]:
        for entry in entries:
            try:
                record = Record(entry)
            except Damaged:
                self._damaged += 1
            else:
                yield record
