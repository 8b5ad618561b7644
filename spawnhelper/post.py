"""Records on their way to the journal, from a process that must not wait for it.

The journal's protocol is a datagram an entry (systemd's JOURNAL_NATIVE_PROTOCOL). systemd-python,
which has it, too, waits where journald does not take one.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence

from spawnhelper.outcome import ERR
from spawnhelper.record import DAEMON, JOURNAL

MOST_WAITING = 10_000  # entries
MOST_OCTETS = 32 << 20  # of them
LENGTH_SIZE = 8
# Between two looks whether the journal takes more. poll(2) does not tell: it calls a datagram
# socket ready as long as it has room of its own.
FIRST_PAUSE, LONGEST_PAUSE = 10_000_000, 1_000_000_000  # nanoseconds
# What no later try mends: the entry is longer than a datagram.
HOPELESS = (errno.EMSGSIZE, errno.EINVAL)


class Outbox:
    """What is to be sent, in order. due: when to try again, as CLOCK_MONOTONIC has it in
    nanoseconds; None while nothing waits. lost: how many entries there was no room for since that
    was last said."""

    def __init__(self, waiting: Iterable[bytes] = (), lost: int = 0) -> None:
        self.due: int | None = None
        self.lost = lost
        self._waiting: deque[bytes] = deque()
        self._octets = 0
        self._pause = FIRST_PAUSE
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        for entry in waiting:
            self._keep(entry)
        self.send()

    def __len__(self) -> int:
        return len(self._waiting)

    def waiting(self) -> list[bytes]:
        """The entries that the journal has not taken yet."""
        return list(self._waiting)

    def put(self, fields: Sequence[str]) -> None:
        """Sends an entry, or keeps it for later."""
        self._keep(encoded(fields))
        if self.due is None:
            self.send()

    def say(self, priority: int, sentence: str) -> None:
        """Sends an entry that is no record: standard error could make this process wait."""
        self.put(_line(priority, sentence))

    def send(self) -> None:
        """Sends what the journal takes now."""
        self.due = None
        while self._waiting:
            try:
                self._socket.sendto(self._waiting[0], JOURNAL)
            except OSError as error:
                if error.errno not in HOPELESS:
                    self.due = time.monotonic_ns() + self._pause
                    self._pause = min(2 * self._pause, LONGEST_PAUSE)
                    return
                self.lost += 1
            self._drop()
            self._pause = FIRST_PAUSE
            if not self._waiting and self.lost:
                self._keep(encoded(_line(ERR, f"{_counted(self.lost)} lost: no room to wait")))
                self.lost = 0

    def give_up(self) -> None:
        """Says on standard error how many entries there are that the journal has not taken."""
        count = len(self._waiting) + self.lost
        if count:
            os.set_blocking(2, False)
            try:
                os.write(2, f"<{ERR}>{_counted(count)} lost: the journal takes none\n".encode())
            except OSError:
                pass  # it goes to the journal, too

    def _keep(self, entry: bytes) -> None:
        self._waiting.append(entry)
        self._octets += len(entry)
        while len(self._waiting) > MOST_WAITING or self._octets > MOST_OCTETS:
            self._drop()
            self.lost += 1

    def _drop(self) -> None:
        self._octets -= len(self._waiting.popleft())


def _line(priority: int, sentence: str) -> list[str]:
    return [
        f"MESSAGE={sentence}",
        f"PRIORITY={priority}",
        "SYSLOG_IDENTIFIER=spawn",
        f"SYSLOG_FACILITY={DAEMON}",
    ]


def _counted(count: int) -> str:
    return f"{count} {'entry of the journal is' if count == 1 else 'entries of the journal are'}"


def encoded(fields: Sequence[str]) -> bytes:
    """An entry of `NAME=VALUE` fields as the journal takes it."""
    lines = "\n".join(fields) + "\n"
    if lines.count("\n") == len(fields):  # no value has a line end, as hardly any has
        return lines.encode(errors="surrogateescape")
    parts = []
    for field in fields:
        octets = field.encode(errors="surrogateescape")
        if b"\n" in octets:
            name, _, value = octets.partition(b"=")
            octets = name + b"\n" + len(value).to_bytes(LENGTH_SIZE, "little") + value
        parts.append(octets + b"\n")
    return b"".join(parts)
