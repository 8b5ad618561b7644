"""Soak: what many connections of every kind leave behind."""

from __future__ import annotations

import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from bursts import resident
from conftest import (
    Installed,
    connection_units,
    in_machine,
    main_pid,
    read_all,
    reset,
    run,
    until_over,
)

pytestmark = in_machine

KINDS = {
    "success": "Argv=/bin/cat\n",
    "exit-code": "Argv=/bin/false\n",
    "signal": "Argv=/bin/sh -c 'kill -9 $$'\n",
    "time-limit": "Argv=/bin/sleep 60\nTimeLimit=50ms\nKillDelay=0\n",
    "size-limit": "Argv=/bin/cat\nSizeLimit=1\n",
    "denied": "Argv=/bin/cat\nAllowFrom=192.0.2.1\n",
    "config": "Argv=/no/such/program\n",
}
CLIENTS = 8
SHOW = ("systemctl", "show", "--value")
JOURNALD = "systemd-journald.service"


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def count_records(services: list[Installed]) -> Counter[str]:
    """The records of each service."""
    run("journalctl", "--sync")
    matches = [f"SPAWN_SERVICE={each.name}" for each in services]
    lines = run("journalctl", "-q", "-o", "cat", "--output-fields=SPAWN_SERVICE", *matches).stdout
    return Counter(lines.splitlines())


def test_soak(
    service: Callable[..., Installed],
    promise: Callable[[str], None],
    request: pytest.FixtureRequest,
) -> None:
    """Connections of every outcome: one record each, no unit and no failed one left, and memory and
    descriptors of PID 1 and journald where they were."""
    count = request.config.getoption("--soak")
    there = {kind: service(f"User=nobody\n{keys}") for kind, keys in KINDS.items()}
    weights = [20, 3, 3, 1, 3, 3, 1]
    chance = random.Random(1)
    plan = chance.choices(list(there), weights, k=count)
    for kind in there:  # what is allocated once
        visit(there[kind], kind)
    until_over()
    warm = plan[: count // 10]
    served(there, warm)
    pids = (1, main_pid(JOURNALD))
    before = [(resident(pid), descriptors(pid)) for pid in pids]
    begun = time.monotonic()
    served(there, plan[len(warm) :])
    took = time.monotonic() - begun
    after = [(resident(pid), descriptors(pid)) for pid in pids]
    found = count_records(list(there.values()))
    # A connection that its client resets before systemd has looked at it is none to systemd.
    accepted = {
        each.name: int(run(*SHOW, "--property=NAccepted", each.socket_unit).stdout)
        for each in there.values()
    }
    early = sum(plan.count(kind) + 1 - accepted[each.name] for kind, each in there.items())
    failed = run("systemctl", "list-units", "--failed", "--no-legend", "spawn*").stdout
    grown = [(now[0] - was[0], now[1] - was[1]) for was, now in zip(before, after, strict=True)]
    promise(
        f"{sum(accepted.values())} connections in {took:.0f} s (and {early} that were reset at "
        f"once), {sum(found.values())} records; PID 1 "
        f"{grown[0][0]:+} KiB {grown[0][1]:+} descriptors, journald {grown[1][0]:+} KiB "
        f"{grown[1][1]:+} descriptors"
    )
    assert found == accepted
    assert {kind for kind in there if plan.count(kind) + 1 != accepted[there[kind].name]} <= {
        "success"
    }
    assert failed == ""
    assert connection_units() == []
    assert grown[0][0] < 4096
    assert grown[0][1] <= 2
    assert grown[1][1] <= 4  # a rotation can be on


def served(there: dict[str, Installed], plan: list[str]) -> None:
    """Goes through the plan, some at a time."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in pool.map(lambda kind: visit(there[kind], kind), plan):
            pass
    until_over(120)


def visit(there: Installed, kind: str) -> None:
    """One client of that kind."""
    with there.connect() as client:
        try:
            client.sendall(b"xyz")
            if kind == "success" and random.random() < 0.1:
                reset(client)
                return
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused already
        read_all(client)
