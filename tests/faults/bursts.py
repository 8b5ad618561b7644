"""Bursts: more connections at once than anybody expects."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Installed, connection_units, in_machine, journal, run, until, until_over

pytestmark = in_machine

HELLO = "User=nobody\nArgv=/bin/echo hello\n"
PATIENCE = 300.0  # seconds


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (usual[1], usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, usual)


def resident(pid: int = 1) -> int:
    """A process's resident memory but for mapped files, which a journal is, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0])


def burst(there: Installed, count: int) -> tuple[int, float]:
    """How many of so many connections at once are answered, and how long that takes."""
    begun = time.monotonic()
    poll = select.poll()
    clients: dict[int, socket.socket] = {}
    for _ in range(count):
        client = socket.socket()
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(there.address)
        clients[client.fileno()] = client
        poll.register(client, select.POLLIN)
    said: dict[int, bytes] = dict.fromkeys(clients, b"")
    while clients and time.monotonic() - begun < PATIENCE:
        for descriptor, _ in poll.poll(1000):
            client = clients[descriptor]
            try:
                part = client.recv(100)
            except OSError:
                part = b""
            said[descriptor] += part
            if not part:
                poll.unregister(descriptor)
                clients.pop(descriptor).close()
    return list(said.values()).count(b"hello\n"), time.monotonic() - begun


def listening_since(there: Installed) -> str:
    """When systemd began to listen; it would be later if it had given up meanwhile."""
    show = "systemctl show -P ActiveState -P ActiveEnterTimestampMonotonic"
    return run(*show.split(), there.socket_unit).stdout


@pytest.mark.parametrize("count", [1000, 2000, 5000])
def test_burst(
    count: int, service: Callable[..., Installed], promise: Callable[[str], None]
) -> None:
    """A burst of connections at once, MaxConnections= raised: every one is answered, the listener
    is active throughout, and the memory of systemd comes back."""
    there = service(HELLO, socket_section=f"MaxConnections={count + 100}")
    there.talk()
    until_over()
    before = resident()
    since = listening_since(there)
    answered, took = burst(there, count)
    assert answered == count
    assert listening_since(there) == since
    until_over(PATIENCE)
    assert len(there.records(count + 1)) == count + 1
    grown = resident() - before
    promise(f"{answered} of {count} in {took:.0f} s, PID 1 {grown:+} KiB")
    assert grown < 32 * 1024  # what malloc(3) keeps of 5,000 units; a second burst adds nothing


def test_a_second_burst_costs_no_more_memory(
    service: Callable[..., Installed], promise: Callable[[str], None]
) -> None:
    """Burst after burst: the memory of systemd does not grow from one to the next."""
    there = service(HELLO, socket_section="MaxConnections=1100")
    sizes = []
    for _ in range(4):
        assert burst(there, 500)[0] == 500
        until_over()
        sizes.append(resident())
    promise(", ".join(f"{size} KiB" for size in sizes))
    assert sizes[-1] - sizes[0] < 2048


def test_above_the_limit(service: Callable[..., Installed], promise: Callable[[str], None]) -> None:
    """1,000 connections above MaxConnections=: they are refused, counted and said once, and the
    next one after an end works."""
    there = service("User=nobody\nArgv=/bin/cat\n", socket_section="MaxConnections=20")
    held = [there.connect() for _ in range(20)]
    for client in held:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    burst(there, 1000)
    held.pop().close()
    until(lambda: len(connection_units()) == 19)
    assert there.talk(b"next") == b"next"
    for client in held:
        client.close()
    until_over()
    found = [each for each in journal(f"SPAWN_SERVICE={there.name}") if "SPAWN_DROPPED" in each]
    assert [each["SPAWN_DROPPED"] for each in found] == ["1000"]
    lines = [each for each in journal(f"UNIT={there.socket_unit}") if "Too many" in each["MESSAGE"]]
    assert lines == []
    promise(f"1000 refused, {len(found)} record, {len(lines)} other lines")


def test_a_queue(service: Callable[..., Installed], promise: Callable[[str], None]) -> None:
    """1,000 connections at once with MaxCommands=8: every one has its turn, and nobody is left in
    the queue."""
    slow = "Argv=/bin/sh -c 'sleep 0.3; echo hello'\nMaxCommands=8\nQueueLimit=infinity\n"
    there = service(f"User=nobody\n{slow}", socket_section="MaxConnections=1100")
    answered, took = burst(there, 1000)
    assert answered == 1000
    found = there.records(1000)
    waited = max(int(each["SPAWN_WAITED_USEC"]) for each in found) / 1e6
    # Nothing tells better how many ran at once than how long that took.
    most = sum(int(each["SPAWN_DURATION_USEC"]) for each in found) / 1e6 / took
    promise(
        f"{answered} of 1000 in {took:.0f} s, {most:.1f} at a time, longest wait {waited:.0f} s"
    )
    assert waited > 5
    assert most <= 8
    until(lambda: run("sh", "-c", f"ls /run/spawn/turns/{there.name}").stdout == "")
