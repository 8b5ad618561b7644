"""The records of connections in the journal: which entries are ours, and what they say.

spawnhelper(8), "THE RECORD", has the fields.
"""

from __future__ import annotations

import argparse
import os
import pwd
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from spawnhelper import manager, summary
from spawnhelper.conf import files
from spawnhelper.conf.quantities import MOST_DIGITS
from spawnhelper.conf.values import DIGITS, consists_of
from spawnhelper.ctl import times, words
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.ctl.journal import Journal
from spawnhelper.outcome import HARMLESS, LISTENER, NO_FAILURE, NOTICE, SUMMARY, WARNING, shown
from spawnhelper.record import MESSAGE_IDS

if TYPE_CHECKING:
    from cysystemd.reader import JournalEntry

# Anybody can write the other fields. Those that begin with _ are journald's own: who wrote it, the
# manager's user or another. No command runs as root.
WRITER = "_UID"
SYSTEMS = str(manager.SYSTEM.uid)
RESULTS = {message_id: result for result, message_id in MESSAGE_IDS.items()}
PRIORITIES = {str(number) for number in range(8)}  # syslog(3)


MOST = 10  # services that one record can be of
LONGEST = 256  # characters of a field that is one word: no name or address has more
LONGEST_LIST = 1 << 16  # of one that is many
# What is measured of a connection, by the field that has it.
MEASURES = {
    "duration": "SPAWN_DURATION_USEC",
    "cpu": "SPAWN_CPU_USEC",
    "bytes_in": "SPAWN_BYTES_IN",
    "bytes_out": "SPAWN_BYTES_OUT",
}
T = TypeVar("T", int, str)


class Damaged(Exception):
    """An entry that is no record: it lacks what each of them has, or has it twice."""


class Summed(NamedTuple):
    """What connections came to that ended well, and how many health checks there were besides.
    totals, steps: of MEASURES, as far as somebody counted; steps has how many there are by a value
    that is within 3 % of theirs. clients: how many of each of the busiest, by their source."""

    connections: int
    checks: int
    totals: dict[str, int]
    steps: dict[str, dict[int, int]]
    clients: dict[str, int]


class Record:
    """One connection's record, or that of a listener. usec: when it was written, since the epoch.
    duration and cpu are in microseconds; they and the bytes are None where nobody counted, and
    where the record is about many connections. summed: what these came to; begun: since when, as
    usec. dropped: how many it says were dropped. name: of its service; service: the same, behind
    the name of the user whose manager's it is, where that is not the one that this is about.
    address, port, uid, pid: of the client, None where nobody knows. fields: the entry as it stands;
    one that is there twice is a list.

    A journal that came from elsewhere can have anything in a field. Here, and nowhere else, each is
    checked: odd has the names of those that are passed over, because they are there twice, or are
    no number where one belongs, or longer than any. Raises Damaged.
    """

    __slots__ = (
        "address",
        "begun",
        "bytes_in",
        "bytes_out",
        "cpu",
        "dropped",
        "duration",
        "entry",
        "fields",
        "message",
        "name",
        "odd",
        "pid",
        "port",
        "priority",
        "result",
        "service",
        "summed",
        "uid",
        "usec",
    )

    def __init__(self, entry: JournalEntry) -> None:
        self.entry = entry
        self.usec: int = entry.get_realtime_usec()
        self.fields: Mapping[str, str | list[str]] = entry.data
        self.odd: tuple[str, ...] = ()
        kind, message = self.fields.get("MESSAGE_ID"), self.fields.get("MESSAGE")
        if not isinstance(kind, str) or kind not in RESULTS or not isinstance(message, str):
            raise Damaged
        self.result = RESULTS[kind]
        self.message = message
        self.name = self._services()
        self.service = self._owner() + self.name
        self.priority = self._priority()
        self.dropped = self._number("SPAWN_DROPPED")
        self.summed = self._summed() if self.result == SUMMARY else None
        self.begun = self._number("SPAWN_SINCE_USEC") if self.summed else None
        measured = {} if self.summed else MEASURES
        self.duration = self._number(measured.get("duration"))
        self.cpu = self._number(measured.get("cpu"))
        self.bytes_in = self._number(measured.get("bytes_in"))
        self.bytes_out = self._number(measured.get("bytes_out"))
        self.address = self._word("SPAWN_REMOTE_ADDR")
        self.port = self._number("SPAWN_REMOTE_PORT")
        self.uid = self._number("SPAWN_REMOTE_UID")
        self.pid = self._number("SPAWN_REMOTE_PID")

    @property
    def failed(self) -> bool:
        """Whether somebody should look after it. That a rule denied a client is no failure."""
        return self.result not in NO_FAILURE

    @property
    def of_connection(self) -> bool:
        """Whether it is about a connection, not about a listener."""
        return self.result not in LISTENER

    def _services(self) -> str:
        """Whose it is; several of them where nobody could tell which."""
        value = self.fields.get("SPAWN_SERVICE")
        if isinstance(value, list) and all(0 < len(each) <= LONGEST for each in value[:MOST]):
            return " or ".join(value[:MOST])
        return self._word("SPAWN_SERVICE") or ""

    def _owner(self) -> str:
        uid = self.fields.get(WRITER)
        if uid == str(manager.now.uid) or not isinstance(uid, str):
            return ""
        try:
            return f"{pwd.getpwuid(int(uid)).pw_name}/"
        except (KeyError, OverflowError, ValueError):
            return f"{shown(uid)}/"

    @property
    def connections(self) -> int:
        """How many it is about."""
        if self.summed is not None:
            return self.summed.connections + self.summed.checks
        return int(self.of_connection)

    def _summed(self) -> Summed:
        totals, steps = {}, {}
        for measure, field in MEASURES.items():
            total, found = self._number(field), self._list(f"{field}_STEPS", summary.read)
            if total is not None and found:
                totals[measure], steps[measure] = total, found
        return Summed(
            self._number("SPAWN_CONNECTIONS") or 0,
            self._number("SPAWN_HEALTH_CHECKS") or 0,
            totals,
            steps,
            self._list("SPAWN_CLIENTS", summary.read_clients),
        )

    def _list(self, field: str, parse: Callable[[str], dict[T, int]]) -> dict[T, int]:
        value = self.fields.get(field, "")
        try:
            if isinstance(value, str) and len(value) <= LONGEST_LIST:
                return parse(value)
        except ValueError:
            pass
        self.odd += (field,)
        return {}

    def _word(self, field: str) -> str | None:
        value = self.fields.get(field)
        if value is None or (isinstance(value, str) and 0 < len(value) <= LONGEST):
            return value
        self.odd += (field,)
        return None

    def _number(self, field: str | None) -> int | None:
        text = None if field is None else self._word(field)
        if text is None or (consists_of(text, DIGITS) and len(text) <= MOST_DIGITS):
            return None if text is None else int(text)
        self.odd += (field or "",)
        return None

    def _priority(self) -> int:
        """That of syslog(3); where there is none, that of the result."""
        given = self.fields.get("PRIORITY")
        if isinstance(given, str) and given in PRIORITIES:
            return int(given)
        self.odd += ("PRIORITY",)
        return NOTICE if self.result in HARMLESS else WARNING

    @property
    def source(self) -> str:
        """Who called, without the port or the pid: an address, or `uid N`; "" where nobody
        knows."""
        if self.address is not None:
            return self.address
        return "" if self.uid is None else f"uid {self.uid}"

    @property
    def client(self) -> str:
        """Who called, as the sentence has it."""
        who = self.source
        if self.address is None:
            return f"pid {self.pid} of {who}" if who and self.pid is not None else who
        host = f"[{who}]" if ":" in who else who
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def detail(self) -> str:
        """The sentence without what service and client say already."""
        text = self.message.removeprefix(f"{self.name}: ")
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
        boot: str | None = None,
    ) -> None:
        self._journal = Journal(options)
        # By their cursors: who follows a journal comes past some entries twice.
        self._damaged: set[bytes] = set()
        self._odd: set[bytes] = set()
        self._first_odd = ""
        self._of_users = options is not None and bool(options.user_unit)
        installed = [] if self._of_users else files.installed()
        for name in names:
            known = name in installed and files.is_name(name)
            if not known and not (name.isprintable() and self._any_of(name)):
                sentence = f"there is no service {shown(name)}, nor a record of one"
                raise Complaint(self._status() or os.EX_NOINPUT, sentence)
        self._select(names, results, user, boot)

    def _select(
        self,
        names: Sequence[str],
        results: Iterable[str] = (),
        user: str | None = None,
        boot: str | None = None,
    ) -> None:
        ids = [MESSAGE_IDS[result] for result in results] or RESULTS
        terms: list[tuple[str, Iterable[str]]] = [("MESSAGE_ID", ids)]
        if not self._of_users:
            terms.append((WRITER, [str(manager.now.uid)]))
        if names:
            terms.append(("SPAWN_SERVICE", names))
        if user is not None and self._of_users:  # whose commands all run as themselves
            terms.append((WRITER, [words.uid_of(user)]))
        elif user is not None:
            terms.append(("SPAWN_USER", [user]))
        if boot is not None:
            terms.append(("_BOOT_ID", [boot]))
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

    def after(self, cursor: str | None) -> Iterator[Record]:
        """Those behind the entry with that cursor, or all, from the oldest to the newest."""
        return self._intact(self._journal.after(cursor))

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
        self._select([name], [each for each in MESSAGE_IDS if each not in NO_FAILURE or not failed])
        return next(self.backward(), None)

    def unread(self) -> list[str]:
        """What could not be read, one sentence each."""
        said = list(map(str, self._journal.unread()))
        if damaged := len(self._damaged) + self._journal.damaged:
            said.append(f"{damaged} damaged entries were left out")
        if odd := len(self._odd):
            whose = "record has an odd field" if odd == 1 else "records have odd fields"
            said.append(f"{odd} {whose}, passed over here: first {self._first_odd}")
        return said

    def report(self) -> int:
        """Says what could not be read, on standard error; an exit status."""
        for sentence in self.unread():
            print(f"spawnctl: {sentence}", file=sys.stderr)
        return self._status()

    def _status(self) -> int:
        unread = self._journal.unread()
        lost = self._damaged or self._odd or self._journal.damaged
        if lost or not all(each.forbidden for each in unread):
            return os.EX_IOERR
        return os.EX_NOPERM if unread else 0

    def _intact(self, entries: Iterable[JournalEntry]) -> Iterator[Record]:
        for entry in entries:
            if self._of_users and entry.data.get(WRITER) == SYSTEMS:
                continue
            try:
                record = Record(entry)
            except Damaged:
                self._damaged.add(entry.cursor)
                continue
            if record.odd:
                self._note_odd(record)
            yield record

    def _note_odd(self, record: Record) -> None:
        if not self._odd:
            when = times.FORMATS["short-full"](times.local(record.usec))
            self._first_odd = f"{record.odd[0]}= of {when}"
        self._odd.add(record.entry.cursor)
