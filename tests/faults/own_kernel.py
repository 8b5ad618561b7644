"""Faults that need a kernel of one's own, each under a running load: the clock, and the limits of
control groups. tests/run faults boots one for them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator

import load
import pytest
from conftest import SLACK, Installed, connection_units, in_machine, journal, run, until, until_over
from load import CAT, ends

pytestmark = [
    in_machine,
    pytest.mark.skipif("SPAWNHELPER_KERNEL" not in os.environ, reason="needs a kernel of its own"),
]

DAY = 86_400  # seconds


@pytest.fixture
def turning() -> Iterator[threading.Event]:
    """Sets the clock a day forth and back, ten times a second, until the event."""
    over = threading.Event()

    def turn() -> None:
        ahead = False
        while not over.wait(0.1) or ahead:
            shift = -DAY if ahead else DAY
            time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME) + shift)
            ahead = not ahead

    thread = threading.Thread(target=turn)
    thread.start()
    yield over
    over.set()
    thread.join()


def test_the_clock_is_set(
    cat: Installed,
    service: Callable[..., Installed],
    turning: threading.Event,
    promise: Callable[[str], None],
) -> None:
    """The clock is set a day forth and back, ten times a second: no limit ends a command early or
    late, no connection is lost, and each has its record."""
    limited = {
        "time-limit": service("User=nobody\nArgv=/bin/sleep 60\nTimeLimit=2s\nKillDelay=0\n"),
        "idle-limit": service("User=nobody\nArgv=/bin/sleep 60\nIdleLimit=2s\nKillDelay=0\n"),
        "queue-limit": service(f"{CAT}MaxCommands=1\nQueueLimit=2s\n"),
    }
    with load.running(cat) as others, limited["queue-limit"].connect() as first:
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        took = {}
        for result, there in limited.items():
            begun = time.monotonic()
            ends(there)
            took[result] = time.monotonic() - begun
        told = others.end()
        turning.set()
    count = load.COUNT + others.made
    assert len(cat.records(count)) == count
    for result, there in limited.items():
        there.records(2 if result == "queue-limit" else 1)
        (record,) = journal(f"SPAWN_SERVICE={there.name}", f"SPAWN_RESULT={result}")
        assert 2 <= took[result] < 2 + SLACK, result
        if result != "queue-limit":
            assert 2 <= int(record["SPAWN_DURATION_USEC"]) / 1e6 < 2 + SLACK
    ended = ", ".join(f"{result} after {each:.1f} s" for result, each in took.items())
    promise(f"{told}, {count} records; 2 s were over: {ended}")


LIMITS = {
    "the control group's tasks": "TasksMax=1",
    "the control group's memory": "MemoryMax=2M",
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_control_group_is_full(
    limit: str,
    cat: Installed,
    unit_change: Callable[[str], None],
    promise: Callable[[str], None],
) -> None:
    """A limit of the control group is reached: the connection ends and says why, those that run go
    on, and all is well afterwards."""
    with load.running(cat) as others:
        others.pause()
        unit_change(f"[Service]\n{LIMITS[limit]}")
        known = connection_units()
        begun = time.monotonic()
        ends(cat)
        took = time.monotonic() - begun
        until(lambda: set(connection_units()) <= set(known))
        said = run("journalctl", "-q", "-o", "cat", "--since=-60s", "_PID=1").stdout
        unit_change("")
        assert cat.talk(b"again") == b"again"
        told = others.end().partition(" and ")[0]
    record = journal(f"SPAWN_SERVICE={cat.name}", "SPAWN_RESULT=resources")
    if limit.endswith("tasks"):
        assert "no process can be started: Resource temporarily unavailable" in record[0]["MESSAGE"]
    else:
        assert "has been killed by the OOM killer" in said, said
    whose = "the helper's own record" if record else "systemd's lines"
    promise(f"{limit}: {whose} after {took * 1000:.0f} ms, {told}")


def test_a_command_is_out_of_memory(
    service: Callable[..., Installed],
    unit_change: Callable[[str], None],
    promise: Callable[[str], None],
) -> None:
    """The kernel kills a command for its memory: its record says so, and no unit has failed."""
    unit_change("[Service]\nMemoryMax=64M")
    there = service('User=nobody\nArgv=/usr/bin/python3 -c "bytes(1) * 268435456"')
    assert there.talk() == b""
    record = there.record()
    assert (record["SPAWN_RESULT"], record["EXIT_STATUS"]) == ("signal", "KILL")
    until_over()
    said = [entry["MESSAGE"] for entry in journal("_PID=1", f"UNIT={record['SPAWN_UNIT']}")]
    assert any("OOM killer" in line for line in said), said
    assert not any("Failed" in line for line in said), said
    promise(f"“{record['MESSAGE'].partition(': ')[2]}”")
