"""A running load of 50 connections, for faults to happen under."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from conftest import Installed, connect, read_all

CAT = "User=nobody\nArgv=/bin/cat\n"
ROOM = "MaxConnections=300"  # in [Socket]
COUNT = 50
PAUSE = 0.02  # seconds between two rounds


class Load:
    """Connections to a service that runs cat: 50 that stay, each of which is asked again and again,
    and others that come and go. lost: what went wrong, as sentences; made: how many of the others
    were served; slowest: the longest that one took, in seconds."""

    def __init__(self, there: Installed) -> None:
        self.there = there
        self.lost: list[str] = []
        self.made = 0
        self.slowest = 0.0
        self._paused = False
        self._over = threading.Event()
        self._held = [connect(there.address) for _ in range(COUNT)]
        for client in self._held:
            self._ask(client)
        self._threads = [threading.Thread(target=run) for run in (self._stay, self._come_and_go)]
        for thread in self._threads:
            thread.start()

    def pause(self) -> None:
        """From now on there is nothing but the connections that stay, and they are silent."""
        self._paused = True
        self._stop()

    def _stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def end(self) -> str:
        """Ends it; how it went. Every one that stayed is served to its end."""
        self._stop()
        for client in self._held:
            with client:
                self._try(partial(self._finish, client))
        assert self.lost == []
        assert self.made or self._paused, "there was no load"
        return f"{COUNT} held and {self.made} short ones, none lost"

    def _stay(self) -> None:
        while not self._over.wait(PAUSE):
            for client in self._held:
                self._try(partial(self._ask, client))

    def _come_and_go(self) -> None:
        while not self._over.wait(PAUSE):
            self._try(self._visit)

    def _visit(self) -> None:
        begun = time.monotonic()
        with connect(self.there.address) as client:
            self._ask(client)
            self._finish(client)
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self.made += 1

    def _try(self, what: Callable[[], None]) -> None:
        try:
            what()
        except (OSError, AssertionError) as error:
            self.lost.append(repr(error))
            self._over.set()

    @staticmethod
    def _ask(client: socket.socket) -> None:
        client.sendall(b"word\n")
        answer = b""
        while len(answer) < 5:
            part = client.recv(5 - len(answer))
            assert part, "closed in the middle"
            answer += part
        assert answer == b"word\n"

    @staticmethod
    def _finish(client: socket.socket) -> None:
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""


@contextlib.contextmanager
def running(there: Installed) -> Iterator[Load]:
    """The load, for as long as a fault takes; it has to be ended inside."""
    load = Load(there)
    try:
        yield load
    finally:
        load.pause()


def ends(there: Installed) -> None:
    """Has a connection that ends, in whatever way."""
    with there.connect() as client:
        try:
            client.sendall(b"x")
            read_all(client)
        except OSError:
            pass
