"""The journal, by way of cysystemd; what has to be known about either is dealt with here.

An entry is cysystemd's JournalEntry. Positions are libsystemd's (sd_journal_next(3)): a reader
stands at an entry, or between two, and next() and previous() move it.
"""

from __future__ import annotations

import argparse
import glob
import heapq
import logging
import operator
import os
import select
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from spawnhelper.ctl.complaint import Complaint
from spawnhelper.ctl.journal_files import (
    PERSISTENT,
    REMOTE,
    VOLATILE,
    Expected,
    Identity,
    Unread,
    cannot_open,
    damaged,
    is_of_machine,
    listed,
    of_machine,
    of_namespace,
    open_now,
    place_of,
)
from spawnhelper.ctl.namespaces import of_services
from spawnhelper.outcome import printable, shown

try:
    from cysystemd.reader import JournalEntry, JournalOpenMode, JournalReader, Rule
except ImportError as error:
    MISSING: ImportError | None = error
else:
    MISSING = None

LAST = (1 << 63) - 1  # microseconds since the epoch, later than any entry
MOST_FAILURES = 10_000  # in a row; so many entries are not damaged, but the whole of it
NO_TIMEOUT = (1 << 64) - 1  # of sd_journal_get_timeout(3)
# Between looks at the journal while nothing seems to happen. On a network file system nobody tells
# that something does, and inotify(7) can lose events.
TICK, NETWORK_TICK = 10_000, 250  # milliseconds

PROGRESS_EVERY = 5_000  # entries
PIECE = 10_000  # entries, some 20 MB of a file
Step = Callable[["JournalReader"], "JournalEntry | None"]

# It warns of fields that are too long to be ours.
logging.getLogger("cysystemd").addHandler(logging.NullHandler())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares which journal is read, and whose, in journalctl's words."""
    parser.add_argument(
        "--user-unit",
        action="append",
        default=[],
        metavar="NAME",
        help="a service of users' own, of all whose journal may be read; may be repeated",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "-D", "--directory", metavar="DIR", help="read the journal files below this folder"
    )
    source.add_argument(
        "--file", action="append", metavar="GLOB", help="read these files; may be repeated"
    )
    source.add_argument(
        "-m",
        "--merge",
        action="store_true",
        help="read the journals of other machines, too, that are on this one",
    )
    source.add_argument(
        "--namespace",
        metavar="NAME",
        help="read the journal of this namespace alone; with + before it the machine's own as "
        "well, and * is all of them (the machine's own and those of services, if not given)",
    )


def is_own(options: argparse.Namespace) -> bool:
    """Whether that is this machine's alone, whose users are known here."""
    return options.directory is None and not options.file and not options.merge


def _namespace(options: argparse.Namespace | None) -> str | None:
    return None if options is None else options.namespace


class Extent(NamedTuple):
    """What a journal file covers: the entries `low` to `high` of a counter. size: in bytes; since,
    until: in microseconds since the epoch."""

    counter: str
    low: int
    high: int
    key: Identity
    path: str
    size: int
    since: int
    until: int


class Journal:
    """The entries of this machine's journal, or of the files and folders that are named.

    One reader, or with --merge one for each folder that has journals, and with --file one for each
    file. Raises Complaint where there is nothing to be read at all.
    """

    def __init__(self, options: argparse.Namespace | None = None) -> None:
        if MISSING is not None:
            sentence = f"the journal cannot be read: {MISSING}; install python3-cysystemd"
            raise Complaint(os.EX_UNAVAILABLE, sentence)
        self.damaged = 0  # entries that could not be read
        self._expected = Expected(of_users=options is not None and bool(options.user_unit))
        self._terms: Sequence[tuple[str, Iterable[str]]] = ()
        self._readers: list[JournalReader] = []
        if options is not None and options.file:
            self._open_files(options.file)
        elif options is not None and options.directory is not None:
            self._open_folders(options.directory)
        elif options is not None and options.merge:
            self._open_folders(VOLATILE, PERSISTENT, REMOTE)
        elif (namespace := _namespace(options)) is not None:
            self._open_namespace(namespace)
        else:
            self._open_own()
            self._open_folders(*(each for name in of_services() for each in of_namespace(name)))
        if not self._expected.paths and not self._expected.unread:
            raise Complaint(os.EX_NOINPUT, f"there is no journal in {self._place(options)}")

    def only(self, *terms: tuple[str, Iterable[str]]) -> None:
        """Leaves the entries that have for each term's field one of its values."""
        self._terms = terms
        for reader in self._readers:
            reader.clear_filter()
            reader.add_filter(_rule(terms))

    def forward(self, since: int | None = None, until: int | None = None) -> Iterator[JournalEntry]:
        """From the oldest entry to the newest, or between two times in microseconds."""
        for reader in self._readers:
            if since is None:
                reader.seek_head()
            else:
                reader.seek_realtime_usec(since)
        for entry in self._merged(JournalReader.next):
            if until is not None and entry.get_realtime_usec() > until:
                return
            yield entry

    def after(self, cursor: str | None) -> Iterator[JournalEntry]:
        """The entries behind that with the cursor, or all of this machine's own journal. Where the
        entry is not there any more, those behind where it was."""
        if cursor is None:
            yield from self.forward()
            return
        position = cursor.encode()
        for reader in self._readers:
            reader.seek_cursor(position)
        for entry in self._merged(JournalReader.next):
            if entry.cursor != position:
                yield entry

    def backward(
        self, since: int | None = None, until: int | None = None
    ) -> Iterator[JournalEntry]:
        """The same from the newest entry to the oldest."""
        for reader in self._readers:
            reader.seek_realtime_usec(LAST if until is None else until + 1)
        for entry in self._merged(JournalReader.previous):
            if since is not None and entry.get_realtime_usec() < since:
                return
            yield entry

    def follow(
        self, last: int | None, wanted: Callable[[JournalEntry], bool], since: int | None
    ) -> Iterator[JournalEntry]:
        """The wanted ones of the entries so far, and then of all that come. Does not end.

        Of those so far it is the last few; or without a number those since a time. With both, those
        of the last few that are so new.
        """
        poll = select.poll()
        tick = TICK
        for reader in self._readers:
            poll.register(_descriptor(reader), int(reader.events))
            if reader.timeout != NO_TIMEOUT:
                tick = NETWORK_TICK
        if last is not None:
            self._go_back(last, wanted, since or 0)
        else:
            for reader in self._readers:
                reader.seek_realtime_usec(since or 0)
        while True:
            yield from filter(wanted, self._merged(JournalReader.next))
            poll.poll(tick)
            for reader in self._readers:
                reader.process_events()

    def scan(
        self, since: int | None, until: int | None, progress: Callable[[float], None]
    ) -> Iterator[JournalEntry]:
        """All entries between two times, in no particular order, and for the last time: afterwards
        there is only unread(). progress: is told now and then how much of the whole is done.

        One file after the other, for libsystemd asks every open file at each step, and keeps what
        it has read of each in memory. Files that overlap, as copies do, are read together, and what
        they have twice comes once.
        """
        self._readers.clear()
        files, self._expected.paths = self._expected.paths, {}
        extents = sorted(filter(None, (self._extent(*item) for item in files.items())))
        whole = sum(extent.size for extent in extents)
        done = 0
        for run in _overlapping(extents):
            size = sum(extent.size for extent in run)
            first, last = min(each.since for each in run), max(each.until for each in run)
            for number, entry in enumerate(self._pieces(run, since, until)):
                if number % PROGRESS_EVERY == 0:
                    part = (entry.get_realtime_usec() - first) / max(last - first, 1)
                    progress((done + size * part) / whole)
                yield entry
            done += size

    def unread(self) -> list[Unread]:
        """What could not be read, as far as the journal has been read by now."""
        lost = map(_why_closed, self._expected.closed())
        return self._expected.unread + [each for each in lost if each is not None]

    def _extent(self, key: Identity, path: str) -> Extent | None:
        """What a file covers; None for one that is empty or not readable, which is noted."""
        place = place_of(key, path)
        try:
            reader = _of_file(place)
            reader.seek_head()
            first = reader.next()
            reader.seek_realtime_usec(LAST)
            last = reader.previous()
            size = os.stat(place).st_size
        except (OSError, SystemError) as error:
            self._not_read(place, error)
            return None
        if first is None or last is None:
            return None
        (counter, low), (_, high) = _serial(first), _serial(last)
        times = first.get_realtime_usec(), last.get_realtime_usec()
        return Extent(counter, low, high, key, path, size, *times)

    def _pieces(
        self, run: Sequence[Extent], since: int | None, until: int | None
    ) -> Iterator[JournalEntry]:
        """The entries of files, which are opened anew once in a while for the sake of memory."""
        cursor = None
        left = list(run)
        while True:
            readers = []
            for each in list(left):
                if (found := self._again(each)) is not None:
                    readers.append(found)
                else:
                    left.remove(each)
            for reader in readers:
                reader.add_filter(_rule(self._terms))
                if cursor is not None:
                    reader.seek_cursor(cursor)
                elif since is not None:
                    reader.seek_realtime_usec(since)
                else:
                    reader.seek_head()
            count = 0
            for entry in self._merged(JournalReader.next, readers):
                if entry.cursor == cursor:
                    continue
                if until is not None and entry.get_realtime_usec() > until:
                    return
                yield entry
                count += 1
                if count == PIECE:
                    cursor = entry.cursor
                    break
            else:
                break
        held = open_now()
        closed = (each for each in left if each.key not in held)
        self._expected.unread += [
            damaged(each.path) for each in closed if os.path.exists(place_of(each.key, each.path))
        ]

    def _again(self, extent: Extent) -> JournalReader | None:
        """A file opened once more; None for one that journald has taken away meanwhile, and for one
        that is not readable any more, which is noted."""
        place = place_of(extent.key, extent.path)
        try:
            return _of_file(place)
        except (OSError, SystemError) as error:
            self._not_read(place, error)
            return None

    def _not_read(self, place: str, error: OSError | SystemError) -> None:
        """Notes a file that is there, and cannot be read."""
        if os.path.exists(place):
            self._expected.unread.append(cannot_open(place, error))

    def _open_own(self) -> None:
        self._expected.add_folders(*of_machine())
        reader = JournalReader()
        # The other modes cannot be combined with it: cysystemd takes one flag at most.
        reader.open(JournalOpenMode.LOCAL_ONLY)
        self._readers.append(reader)

    def _open_namespace(self, wanted: str) -> None:
        """As journalctl(1) has it."""
        if wanted == "*" or wanted.startswith("+"):
            self._open_own()
        folders = of_namespace("*" if wanted == "*" else wanted.removeprefix("+"))
        if not folders and wanted != "*":
            sentence = f"there is no journal of the namespace {shown(wanted.removeprefix('+'))}"
            raise Complaint(os.EX_NOINPUT, sentence)
        self._open_folders(*folders)

    def _open_folders(self, *folders: str) -> None:
        for folder in folders:
            path = os.path.realpath(folder)  # cysystemd does not survive a symbolic link
            if not os.path.isdir(path):
                if len(folders) > 1:
                    continue
                why = "is not a folder" if os.path.exists(path) else "does not exist"
                raise Complaint(os.EX_NOINPUT, f"{printable(folder)} {why}")
            below = [each for each in listed(path) if each.is_dir()]
            # libsystemd looks into folders that are named after a machine, and into no others.
            machines = (each.path for each in below if is_of_machine(each.name))
            self._expected.add_folders(path, *machines)
            reader = JournalReader()
            try:
                reader.open_directory(path)
            except SystemError as error:
                self._expected.unread.append(cannot_open(path, error))
            else:
                self._readers.append(reader)

    def _open_files(self, patterns: Sequence[str]) -> None:
        files: list[str] = []
        for pattern in patterns:
            found = sorted(glob.glob(pattern))
            if not found:
                raise Complaint(os.EX_NOINPUT, f"there is no file {printable(pattern)}")
            files += [os.path.realpath(file) for file in found]
        good = []
        for file in dict.fromkeys(files):
            fault = _trial(file)
            if fault is None:
                good.append(file)
                self._expected.add(file)
            else:
                self._expected.unread.append(fault)
        self._readers += map(_of_file, good)

    @staticmethod
    def _place(options: argparse.Namespace | None) -> str:
        if options is not None and options.directory is not None:
            return printable(str(options.directory))
        return f"{PERSISTENT} or {VOLATILE}"

    def _merged(
        self, step: Step, readers: Sequence[JournalReader] | None = None
    ) -> Iterator[JournalEntry]:
        """The entries of these readers, or of all, by their time, each once."""
        runs = [self._steps(each, step) for each in (self._readers if readers is None else readers)]
        if len(runs) == 1:
            yield from runs[0]
            return
        newest_first = step is JournalReader.previous
        before = None
        for entry in heapq.merge(*runs, key=_place, reverse=newest_first):
            if entry.cursor != before:
                yield entry
            before = entry.cursor

    def _steps(self, reader: JournalReader, step: Step) -> Iterator[JournalEntry]:
        failures = 0
        while True:
            try:
                entry = step(reader)
            except SystemError as error:  # this entry is damaged, and the reader has moved on
                self.damaged += 1
                failures += 1
                if failures > MOST_FAILURES:
                    raise Complaint(os.EX_IOERR, f"the journal is unreadable: {error}") from None
                continue
            if entry is None:
                if step is JournalReader.previous:
                    reader.seek_head()  # or the next one would be the second
                return
            failures = 0
            yield entry

    def _go_back(self, count: int, wanted: Callable[[JournalEntry], bool], since: int) -> None:
        """Puts the readers before the last `count` of the wanted entries, or before the first that
        is so new: each at the last entry that comes before them, or at its head."""
        for reader in self._readers:
            reader.seek_realtime_usec(LAST)
        found = 0
        for entry in self._merged(JournalReader.previous):
            if found == count or entry.get_realtime_usec() < since:
                return
            found += wanted(entry)


def _of_file(path: str) -> JournalReader:
    """A reader of one file. cysystemd cannot be given more: it frees the names before it hands them
    on."""
    reader = JournalReader()
    reader.open_files(path)
    return reader


def _place(entry: JournalEntry) -> tuple[int, int]:
    """By what entries are ordered: two of one time by their numbers."""
    return entry.get_realtime_usec(), _serial(entry)[1]


def _rule(terms: Sequence[tuple[str, Iterable[str]]]) -> Rule:
    """One chain of rules: cysystemd knows no other way to nest them."""
    chain = None
    for field, values in terms:
        link = operator.and_
        for value in values:
            rule = Rule(field, value)
            chain = rule if chain is None else link(chain, rule)
            link = operator.or_
    return chain


def _overlapping(extents: Iterable[Extent]) -> Iterator[list[Extent]]:
    """Runs of files that have entries in common. They are to be given in their order."""
    run: list[Extent] = []
    for extent in extents:
        if run and (
            extent.counter != run[0].counter or extent.low > max(each.high for each in run)
        ):
            yield run
            run = []
        run.append(extent)
    if run:
        yield run


def _serial(entry: JournalEntry) -> tuple[str, int]:
    """Which counter numbered the entry, and its number (sd_journal_get_seqnum(3), which is in the
    cursor as well)."""
    parts = dict(part.split("=", 1) for part in entry.cursor.decode().split(";"))
    return parts["s"], int(parts["i"], 16)


def _trial(path: str) -> Unread | None:
    """What keeps a file from being opened; None for nothing."""
    try:
        os.close(os.open(path, os.O_RDONLY))
        _of_file(path)
    except (OSError, SystemError) as error:
        return cannot_open(path, error)
    return None


def _why_closed(path: str) -> Unread | None:
    """Why a file was not read; None for one that is not there any more."""
    if not os.path.exists(path):
        return None
    return _trial(path) or damaged(path)


def _descriptor(reader: JournalReader) -> int:
    """What tells that there are new entries; a Complaint where the kernel has no more of it."""
    try:
        return int(reader.fd)
    except SystemError as error:  # the sentence of libsystemd's error, and its name
        sentence = f"new entries cannot be watched for: {error.args[0]}"
        if "EMFILE" in error.args:  # inotify_init(2)
            right = "close other watchers, or raise fs.inotify.max_user_instances (inotify(7))"
            sentence += f"; {right}"
        raise Complaint(os.EX_OSERR, sentence) from None
