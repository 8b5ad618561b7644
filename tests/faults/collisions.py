"""Collisions: before systemd 258 connections of one client process to two services at paths can
get the same name, and the second listener fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial

import pytest
from conftest import Installed, connect, in_machine, journal, run, systemd_version, until

pytestmark = in_machine

# Seconds until a listener is back. The promise is 100 ms, which the figure shows on a machine that
# does nothing else; one that is not started at once has to wait for RestartSec=.
LONGEST = 10


@pytest.mark.parametrize("count", [2, 10])
def test_one_client_process(
    count: int,
    service: Callable[..., Installed],
    promise: Callable[[str], None],
    request: pytest.FixtureRequest,
) -> None:
    """One client process at several services at paths: each listener that fails is back within
    100 ms, each failure is said in one record, and the process does not go on to lose."""
    rounds = request.config.getoption("--rounds")
    names = [
        service("User=nobody\nArgv=/bin/cat\n", address=f"/run/spawn/many-{number}")
        for number in range(count)
    ]
    lost, slowest = 0, 0.0
    for _ in range(rounds):
        with contextlib.ExitStack() as stack:
            for there in names:
                try:
                    client = stack.enter_context(connect(there.address))
                    client.sendall(b"x")
                    served = client.recv(1) == b"x"
                except OSError:
                    served = False
                if not served:
                    lost += 1
                    until(partial(listens, there))
                    slowest = max(slowest, away(there))
    again = [
        each
        for there in names
        for each in journal(f"SPAWN_SERVICE={there.name}")
        if each["SPAWN_RESULT"] == "listening-again"
    ]
    asked = rounds * count
    promise(f"{count} services: {lost} of {asked} lost, back after {slowest * 1000:.0f} ms at most")
    assert len(again) == lost
    assert slowest < LONGEST
    assert lost < asked / 10
    if systemd_version() >= 258:
        assert lost == 0


def listens(there: Installed) -> bool:
    """Whether it does, as systemd says; a connection of this process could fail again."""
    time.sleep(0.05)  # to ask takes time from those who are at work
    return there.state() == "active"


def away(there: Installed) -> float:
    """How long it was not, the last time, by systemd's clock, in seconds."""
    entered = [
        int(
            run(
                "systemctl", "show", "-P", f"{state}EnterTimestampMonotonic", there.socket_unit
            ).stdout
        )
        for state in ("Inactive", "Active")
    ]
    return (entered[1] - entered[0]) / 1e6
