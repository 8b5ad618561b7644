"""A helper or a command is killed with SIGKILL, under a running load: where it waits, and at each
stage of a connection."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import load
import pytest
from conftest import (
    SLACK,
    Installed,
    connection_units,
    in_machine,
    journal,
    main_pid,
    read_all,
    until,
)
from load import CAT

pytestmark = in_machine

STUBBORN = "Argv=/bin/sh -c 'trap : TERM; while :; do sleep 0.1; done'\n"
# What a helper waits for, as the keys for it and what the client sends.
WAITS = {
    "for a PROXY header": ("Argv=/bin/cat\nProxyProtocol=any\nProxyFrom=127.0.0.1\n", b""),
    "while the command runs": ("Argv=/bin/cat\n", b"x"),
    "while it hands bytes on": ("Argv=/bin/cat\nSizeLimit=1G\n", b"x" * 100_000),
    "between SIGTERM and SIGKILL": (f"{STUBBORN}TimeLimit=100ms\nKillDelay=30s\n", b"x"),
    "after SizeLimit=, for the answer": (f"{STUBBORN}SizeLimit=10\n", b"x" * 100),
}
# Where each stage begins, as one.py and serve.py go through them.
STAGES = [
    "inherited.take",
    "service.load",
    "proxy.receive",
    "admission.check",
    "identity.resolve",
    "command.find",
    "turns.wait",
    "banner.greet",
    "command.start",
    "relay.__init__",
    "supervise.until_end",
    "inherited.end",
    "supervise.sweep",
    "delivery.deliver",
    "record.of_end",
    "record.write",
]
# The helper as it is, with a hook of the interpreter's own that kills it at the start of a stage.
DEADLY = """
import posix, sys
def look(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_name == {name!r} and code.co_filename.endswith({file!r}):
        posix.kill(posix.getpid(), 9)
sys.argv[1:] = sys.argv[1:2]
__file__ = "/usr/lib/spawnhelper/spawnhelper/__main__.py"
program = compile(open(__file__).read(), __file__, "exec")
sys.setprofile(look)
exec(program)
"""


def helper_of(client: socket.socket) -> int:
    """The helper of this client's connection."""
    end = f":{client.getsockname()[1]}.service"
    (unit,) = until(lambda: [each for each in connection_units() if each.endswith(end)])
    return main_pid(unit)


def family(pid: int) -> list[int]:
    """A process and its children."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def kill(client: socket.socket) -> float:
    """Kills the client's helper; how long it takes the client to see the end, in seconds, once
    nothing is left of the connection but what systemd has said."""
    pids = family(helper_of(client))
    begun = time.monotonic()
    os.kill(pids[0], signal.SIGKILL)
    read_all(client)
    took = time.monotonic() - begun
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    assert systemd_says_it(client)
    return took


def systemd_says_it(client: socket.socket) -> bool:
    """Whether there is a line about the unit of this client."""
    end = f":{client.getsockname()[1]}.service"
    killed = journal("_PID=1", "UNIT_RESULT=signal")
    return any(each["UNIT"].endswith(end) for each in killed)


@pytest.mark.parametrize("wait", WAITS)
def test_the_helper_is_killed(
    wait: str,
    cat: Installed,
    service: Callable[..., Installed],
    promise: Callable[[str], None],
) -> None:
    """The helper is killed with SIGKILL where it waits: the client sees the end, nothing of the
    command is left, systemd says it, and the next connection is served."""
    keys, octets = WAITS[wait]
    there = service(f"User=nobody\n{keys}")
    with load.running(cat) as others:
        with there.connect() as client:
            client.sendall(octets)
            time.sleep(0.5)  # to be where it waits; a slower one is killed before, and no less
            took = kill(client)
        there.write(CAT)
        assert there.talk(b"next") == b"next"
        others.end()
    promise(f"{wait}: {took * 1000:.0f} ms")
    assert took < SLACK


def places(there: Installed) -> int:
    """How many wait for their turn, or have it."""
    return len(list(Path("/run/spawn/turns", there.name).glob("[0-9]*")))


@pytest.mark.parametrize("who", ["one that waits", "the one before, too"])
def test_a_helper_is_killed_in_the_queue(
    who: str, cat: Installed, service: Callable[..., Installed], promise: Callable[[str], None]
) -> None:
    """A helper that waits for its turn (MaxCommands=) is killed with SIGKILL, and one that has it:
    its client sees the end, and whoever is next has the turn at once."""
    there = service(f"{CAT}MaxCommands=1\n")
    with load.running(cat) as others, there.connect() as first:
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        with there.connect() as second:
            until(lambda: places(there) == 2)
            with there.connect() as third:
                third.sendall(b"y")
                until(lambda: places(there) == 3)
                took = kill(second)
                holder = helper_of(first)
                begun = time.monotonic()
                if "too" in who:
                    os.kill(holder, signal.SIGKILL)
                else:
                    first.close()
                assert third.recv(1) == b"y"
                turn = time.monotonic() - begun
        others.end()
    promise(f"{who}: {took * 1000:.0f} ms, and the turn {turn * 1000:.0f} ms after the end")
    assert took < SLACK
    assert turn < SLACK


@pytest.fixture
def everything(service: Callable[..., Installed]) -> Iterator[Installed]:
    """A service whose connections go through every stage."""
    banner = Path("/run/spawn-banner")
    banner.write_text("hello\n")
    keys = f"MaxCommands=50\nBanner={banner}\nAllowFrom=127.0.0.0/8\nSizeLimit=1M\n"
    yield service(f"{CAT}{keys}ProxyProtocol=v1\nProxyFrom=127.0.0.1\n")
    banner.unlink()


@pytest.mark.parametrize("stage", STAGES)
def test_the_helper_is_killed_at_a_stage(
    stage: str,
    cat: Installed,
    everything: Installed,
    unit_change: Callable[[str], None],
    promise: Callable[[str], None],
) -> None:
    """The helper is killed with SIGKILL as it begins a stage: the client sees the end, nothing is
    left, systemd says it, and the next connection is served."""
    file, _, name = stage.partition(".")
    script = Path("/run/spawn-deadly.py")
    script.write_text(DEADLY.format(name=name, file=f"/spawnhelper/{file}.py"))
    header = b"PROXY TCP4 127.0.0.9 127.0.0.1 9 9\r\n"
    with load.running(cat) as others:
        others.pause()
        start = f"/usr/bin/python3 -I -S -X utf8 {script} %n"
        unit_change(f"[Service]\nExecStart=\nExecStart={start}")
        known = connection_units()
        begun = time.monotonic()
        with everything.connect() as client:
            client.sendall(header + b"x")
            client.shutdown(socket.SHUT_WR)
            answer = read_all(client)
            took = time.monotonic() - begun
            until(lambda: systemd_says_it(client))
        unit_change("")
        until(lambda: set(connection_units()) <= set(known))
        assert everything.talk(header + b"next") == b"hello\nnext"
        others.end()
    promise(f"{stage} {took * 1000:.0f} ms")
    begun_at = STAGES.index(stage)
    assert answer[:6] == (b"" if begun_at <= STAGES.index("banner.greet") else b"hello\n")
    assert begun_at < STAGES.index("inherited.end") or answer == b"hello\nx"
    assert took < SLACK


def test_the_command_is_killed(cat: Installed, promise: Callable[[str], None]) -> None:
    """The command is killed with SIGKILL: the client sees the end at once, and the record has the
    signal."""
    with load.running(cat) as others, cat.connect() as client:
        client.sendall(b"x")
        client.recv(1)
        port = client.getsockname()[1]
        _, command = family(helper_of(client))
        begun = time.monotonic()
        os.kill(command, signal.SIGKILL)
        assert read_all(client) == b""
        took = time.monotonic() - begun
        found = until(lambda: journal(f"SPAWN_SERVICE={cat.name}", f"SPAWN_REMOTE_PORT={port}"))
        others.end()
    assert took < SLACK
    assert found[0]["SPAWN_RESULT"] == "signal"
    assert found[0]["EXIT_STATUS"] == "KILL"
    promise(f"{took * 1000:.0f} ms")
