"""Connections that are over, but for the client: with bytes unread, that the server does not read,
a close would take away what is on its way to the client."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator

STAY = 5_000_000_000  # nanoseconds
MOST = 256


class Lobby:
    """Who is there is let go once the client has ended, after a while, or for others to come."""

    def __init__(self, poll: select.epoll) -> None:
        self._poll = poll
        self._there: dict[int, tuple[socket.socket, int]] = {}

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

    def let_go(self, descriptor: int) -> None:
        """Closes one."""
        client, _ = self._there.pop(descriptor)
        self._poll.unregister(descriptor)
        client.close()

    def look(self, now: int) -> None:
        """Closes those that have been there for long enough."""
        for descriptor, (_, until) in list(self._there.items()):
            if now >= until:
                self.let_go(descriptor)
