"""How fast a server makes workers."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Installed, in_machine, run, until

from spawnhelper.doors.pace import FULL, MOST_AT_ONCE, Pace

PROCESSORS = len(os.sched_getaffinity(0))
BURNS = "while :; do :; done"


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group."""
    made = Path("/sys/fs/cgroup/spawn-pace")
    made.mkdir()
    yield made
    until(lambda: "populated 0" in (made / "cgroup.events").read_text())
    made.rmdir()


@contextlib.contextmanager
def burning(group: Path) -> Iterator[None]:
    """Processes in this group that have all processors."""
    script = f"echo 0 >{group}/cgroup.procs; {BURNS}"
    burners = [subprocess.Popen(["/bin/sh", "-c", script]) for _ in range(4 * PROCESSORS)]
    try:
        yield
    finally:
        for each in burners:
            each.kill()
            each.wait()


def one_by_one(pace: Pace) -> bool:
    said = [pace.most(9) for _ in range(100)]
    return set(said) <= {0, 1} and sum(said) <= 2


@in_machine
def test_where_the_processors_are_taken_one_is_made_after_the_other(group: Path) -> None:
    pace = Pace(str(group))
    with burning(group):
        until(lambda: one_by_one(pace))
        until(lambda: pace.most(9) == 1)

        def begun() -> bool:
            pace.begin()
            return pace.most(9) == MOST_AT_ONCE

        until(begun)
    until(lambda: pace.most(9) == MOST_AT_ONCE)


def test_as_many_again_are_made_as_are_at_work() -> None:
    pace = Pace(None)
    assert [pace.most(serving) for serving in range(5)] == [1, 2, 3, 4, MOST_AT_ONCE]


def share(unit: str) -> float:
    """Which part of the processors this unit has now."""
    name = run("systemctl", "show", "--property=ControlGroup", "--value", unit).stdout.strip()
    counter = Path(f"/sys/fs/cgroup{name}/cpu.stat")
    begun, used = time.monotonic(), int(counter.read_text().split()[1])
    time.sleep(0.1)
    used = int(counter.read_text().split()[1]) - used
    return used / 1e6 / (time.monotonic() - begun) / PROCESSORS


@in_machine
def test_commands_that_take_all_processors_keep_nobody_waiting(
    service: Callable[..., Installed],
) -> None:
    script = f"read word; case $word in burn) {BURNS};; esac; echo $word; cat"
    there = service(f"User=games\nArgv=/bin/sh -c '{script}'\n", socket_section="Accept=no\n")
    with contextlib.ExitStack() as clients:

        def begin(word: bytes) -> socket.socket:
            client: socket.socket = clients.enter_context(there.connect())
            client.sendall(word)
            return client

        for _ in range(4 * PROCESSORS):
            begin(b"burn\n")
        until(lambda: share(f"spawn-server@{there.name}.service") > FULL)
        for client in [begin(b"word\n") for _ in range(8)]:
            assert client.recv(5) == b"word\n"
