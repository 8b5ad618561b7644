"""How fast a server makes workers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from conftest import Installed, in_machine, until

from spawnhelper.doors.pace import MOST_AT_ONCE, Pace

LONG = 1 << 40  # microseconds


def test_as_many_again_are_made_as_are_at_work() -> None:
    assert [Pace().most(serving) for serving in range(5)] == [1, 2, 3, 4, MOST_AT_ONCE]


def test_where_commands_have_the_processors_they_are_made_slowly() -> None:
    pace = Pace()

    def makes(count: int) -> bool:
        pace.spend(LONG)
        return pace.most(9) == count

    until(lambda: makes(0))
    until(lambda: makes(MOST_AT_ONCE))  # once in a while
    until(lambda: makes(0))
    until(lambda: pace.most(9) == pace.most(9) == MOST_AT_ONCE)  # nothing has been spent since
    until(lambda: makes(0))
    pace.begin()
    assert pace.most(9) == MOST_AT_ONCE


@in_machine
def test_short_commands_without_an_end_keep_nobody_waiting(
    service: Callable[..., Installed],
) -> None:
    """Those who wait may be for commands that hold on to their workers."""
    burns = "seq 20000 >/dev/null"
    script = f"read word; case $word in burn) {burns};; *) echo $word; exec cat;; esac"
    there = service(f"User=games\nArgv=/bin/sh -c '{script}'\n", socket_section="Accept=no\n")
    over = threading.Event()

    def burn() -> None:
        while not over.is_set():
            assert there.talk(b"burn\n") == b""

    with ThreadPoolExecutor(8) as pool, contextlib.ExitStack() as clients:
        burning = [pool.submit(burn) for _ in range(8)]
        try:
            for _ in range(20):
                client: socket.socket = clients.enter_context(there.connect())
                client.sendall(b"word\n")
                assert client.recv(5) == b"word\n"
        finally:
            over.set()
        for each in burning:
            each.result()
