"""What a command wrote to standard error, as far as StandardError=journal has brought it to the
journal."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from spawnhelper.conf.quantities import USEC_PER_SEC
from spawnhelper.ctl.journal import Journal
from spawnhelper.ctl.records import SYSTEMS, WRITER, Record
from spawnhelper.outcome import ENDED, printable

if TYPE_CHECKING:
    from cysystemd.reader import JournalEntry

MOST = 10  # lines; a command can write as many as it likes
# Between the time of journald and that of the helper.
BEFORE, AFTER = 10 * USEC_PER_SEC, USEC_PER_SEC
HELPER = "spawn"  # SyslogIdentifier= of the units


class Output:
    """The journal, once more. Raises Complaint where there is none.

    options: of journal.add_arguments(); without them it is this machine's.
    """

    def __init__(self, options: argparse.Namespace | None = None) -> None:
        self._journal = Journal(options)

    def last(self, record: Record) -> list[str]:
        """The last lines of the record's command, fit for a terminal."""
        boot, stream = record.fields.get("_BOOT_ID"), None
        if record.result in ENDED and isinstance(boot, str):
            stream = self._stream(record, boot)
        if stream is None or not isinstance(boot, str):
            return []
        found: list[str] = []
        for entry in self._lines(record, boot, "_STREAM_ID", stream):
            text = entry.data.get("MESSAGE")
            found.insert(0, printable(text) if isinstance(text, str) else "[binary]")
            if len(found) == MOST:
                break
        return found

    def _stream(self, record: Record, boot: str) -> str | None:
        """The ID of the command's standard error. journald does not always know the unit of a
        process that has ended since, so that each line by itself does not tell; but each command
        has a stream of its own."""
        unit = "_SYSTEMD_UNIT"
        if "OBJECT_SYSTEMD_USER_UNIT" in record.fields:
            unit = "_SYSTEMD_USER_UNIT"
        for field, source in (("_PID", "SPAWN_PID"), (unit, "SPAWN_UNIT")):
            value = record.fields.get(source)
            if not isinstance(value, str):
                continue
            for entry in self._lines(record, boot, field, value):
                # Behind Accept=no the unit has other commands' lines, too.
                worker = record.fields.get("SPAWN_WORKER") if field == unit else None
                group = str(entry.data.get("_SYSTEMD_CGROUP")).rpartition("/")[2]
                stream = entry.data.get("_STREAM_ID")
                if worker in (None, group) and isinstance(stream, str):
                    return stream
        return None

    def _lines(self, record: Record, boot: str, field: str, value: str) -> Iterator[JournalEntry]:
        """What was written to a stream while the command ran, and not by the helper, the newest
        first. The system's helper is root, which no command is, and a user's is that user."""
        self._journal.only((field, [value]), ("_BOOT_ID", [boot]), ("_TRANSPORT", ["stdout"]))
        since = record.usec - (record.duration or 0) - BEFORE
        for entry in self._journal.backward(since, record.usec + AFTER):
            writer, own = entry.data.get(WRITER), record.fields.get(WRITER)
            helpers = entry.data.get("SYSLOG_IDENTIFIER") == HELPER
            if (writer != own) if own == SYSTEMS else (writer == own and not helpers):
                yield entry
