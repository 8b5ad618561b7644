"""What the standing server tells systemd (sd_notify(3)), without ever waiting for it."""

from __future__ import annotations

import os
import socket
import time
from collections import deque

NSEC_PER_USEC = 1_000
USUAL = 10_000_000_000  # nanoseconds between two signs of life, where systemd asks for none
MOST_OWED = 100
PAUSE = 1_000_000_000  # nanoseconds between two changes of the status


class Notices:
    """due: when the next sign of life has to be sent, as CLOCK_MONOTONIC has it in nanoseconds."""

    def __init__(self) -> None:
        path = os.environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        usec = os.environ.get("WATCHDOG_USEC", "")
        self._every = int(usec) * NSEC_PER_USEC // 3 if usec.isdecimal() else USUAL
        self._owed: deque[str] = deque()
        self._status = ""
        self._changes_at = 0
        self.due = 0

    def say(self, word: str) -> None:
        """Sends an assignment that systemd has to get, now or later."""
        if len(self._owed) < MOST_OWED:
            self._owed.append(word)
        self._send_owed()

    def reloading(self) -> None:
        """Tells that the server begins anew (Type=notify with ExecReload=)."""
        self.say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // NSEC_PER_USEC}")

    def status(self, text: str) -> None:
        """Tells how the server is, if that has changed, and not all the time; and, when it is time,
        that it lives."""
        now = time.monotonic_ns()
        self._send_owed()
        alive = now >= self.due
        if alive or (text != self._status and now >= self._changes_at):
            if self._sent(f"WATCHDOG=1\nSTATUS={text}"):
                self._status = text
                self._changes_at = now + PAUSE
                self.due = now + self._every
            else:
                self.due = now + min(self._every, PAUSE)

    def _send_owed(self) -> None:
        while self._owed and self._sent(self._owed[0]):
            self._owed.popleft()

    def _sent(self, text: str) -> bool:
        if not self._address:
            return True
        try:
            self._socket.sendto(text.encode(errors="replace"), self._address)
        except OSError:
            return False
        return True
