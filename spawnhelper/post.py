"""Records on their way to the journal, from a process that must not wait for it.

The journal's protocol is a datagram an entry (systemd's JOURNAL_NATIVE_PROTOCOL). systemd-python,
which has it, too, waits where journald does not take one.
"""

from __future__ import annotations

import socket
import sys
from collections import deque
from collections.abc import Sequence

from spawnhelper.record import JOURNAL

MOST_WAITING = 10_000  # entries, some 10 MB
LENGTH_SIZE = 8


class Outbox:
    """What is to be sent, in order. lost: entries that there was no room for."""

    def __init__(self) -> None:
        self.lost = 0
        self._waiting: deque[bytes] = deque()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def fileno(self) -> int:
        """Gets ready for more, as poll(2) has it."""
        return self._socket.fileno()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, fields: Sequence[str]) -> None:
        """Sends an entry, or keeps it for later."""
        self._waiting.append(encoded(fields))
        if len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            self.lost += 1
        self.send()

    def send(self) -> None:
        """Sends what the journal takes now."""
        while self._waiting:
            try:
                self._socket.sendto(self._waiting[0], JOURNAL)
            except BlockingIOError:
                return
            except OSError as error:  # there is no journal, or no longer
                print(f"an entry is lost: {error.strerror}", file=sys.stderr)
            self._waiting.popleft()


def encoded(fields: Sequence[str]) -> bytes:
    """An entry of `NAME=VALUE` fields as the journal takes it."""
    parts = []
    for field in fields:
        octets = field.encode(errors="surrogateescape")
        if b"\n" in octets:
            name, _, value = octets.partition(b"=")
            octets = name + b"\n" + len(value).to_bytes(LENGTH_SIZE, "little") + value
        parts.append(octets + b"\n")
    return b"".join(parts)
