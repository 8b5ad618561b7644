"""Connections that are over, but for the client: with bytes unread, that the server does not read,
a close would take away what is on its way to the client."""

from __future__ import annotations

import fcntl
import select
import socket
import sys
import termios
import time
from collections.abc import Iterator

STAY = 5_000_000_000  # nanoseconds
MOST = 256


class Lobby:
    """Who is there is let go once the client has ended, after a while, or for others to come."""

    def __init__(self, poll: select.epoll) -> None:
        self._poll = poll
        self._there: dict[int, tuple[socket.socket, int]] = {}
        self._ended: set[int] = set()  # of these, those whose clients have

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._there

    def __iter__(self) -> Iterator[int]:
        return iter(self._there)

    def __len__(self) -> int:
        return len(self._there)

    def keep(self, client: socket.socket) -> None:
        """Takes in a connection whose end has been sent."""
        if len(self._there) >= MOST:
            self.let_go(next(iter(self._there)))
        self._there[client.fileno()] = client, time.monotonic_ns() + STAY
        self._poll.register(client.fileno(), select.EPOLLRDHUP)

    def hear(self, descriptor: int) -> None:
        """Takes note that a client has ended; it may be its own side alone, and something on its
        way to it yet."""
        client, _ = self._there[descriptor]
        if client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or not _unsent(client):
            self.let_go(descriptor)
        else:
            self._poll.unregister(descriptor)
            self._ended.add(descriptor)

    def let_go(self, descriptor: int) -> None:
        """Closes one."""
        client, _ = self._there.pop(descriptor)
        if descriptor in self._ended:
            self._ended.remove(descriptor)
        else:
            self._poll.unregister(descriptor)
        client.close()

    def look(self, now: int) -> None:
        """Closes those that have been there for long enough, or have got all."""
        for descriptor, (client, until) in list(self._there.items()):
            if now >= until or (descriptor in self._ended and not _unsent(client)):
                self.let_go(descriptor)


def _unsent(client: socket.socket) -> int:
    """How much of what was sent the client's side has not acknowledged, or, at a path, taken."""
    try:
        return int.from_bytes(fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0  # whoever has the socket, too, has it listen
