"""What a command has done to its helper once, and cannot any more.

The helper is above the command, and shares with it what the command has to have: a socket or pipes,
a control group, the table of processes. Each test is named after what it was that worked.
"""

from __future__ import annotations

import operator
import platform
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import (
    SLACK,
    Installed,
    both_doors,
    connection_units,
    helper,
    in_machine,
    python,
    read_all,
    run,
    until,
)

pytestmark = [in_machine, both_doors]

SCRATCH = Path("/var/tmp/spawn-attacks")
TICKS = 100  # a second, as proc_pid_stat(5) has them
# Processes that have and lose children without an end, which are the helper's: clone(2) with
# CLONE_VM, CLONE_VFORK and CLONE_PARENT, and exit(2) in the child, which has no stack of its own.
# Nothing that is not machine code is fast enough.
FLOOD = """
import ctypes, mmap, os, signal, time
flags = 0x100 | 0x4000 | 0x8000 | signal.SIGCHLD
code = bytes.fromhex(
    "b838000000"  # mov eax, 56: clone
    "bf" + flags.to_bytes(4, "little").hex() +  # mov edi, flags
    "31f631d24531d24531c00f05"  # xor esi, edx, r10d, r8d; syscall
    "85c075e6"  # test eax, eax; jnz to the start
    "b83c00000031ff0f05"  # mov eax, 60: exit; xor edi, edi; syscall
)
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(code)
flood = ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
for _ in range(6):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            flood()
        os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("on", flush=True)
time.sleep(120)
"""
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="has machine code for x86_64")


@pytest.fixture(scope="module", autouse=True)
def scratch() -> None:
    SCRATCH.mkdir(exist_ok=True)
    SCRATCH.chmod(0o1777)


def spent(pid: int) -> int:
    """The processor time of a process, in ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def share_of_a_core(pid: int, seconds: float) -> float:
    """What the process takes of one, as long as that."""
    before, begun = spent(pid), time.monotonic()
    time.sleep(seconds)
    return (spent(pid) - before) / TICKS / (time.monotonic() - begun)


@x86_64
def test_children_without_end_switched_off_the_time_limit(
    service: Callable[..., Installed],
) -> None:
    limits = "TimeLimit=9s\nKillDelay=1s\nLimitNPROC=2000\n"  # the dead count, too
    there = service(f"User=nobody\n{limits}{python(SCRATCH, FLOOD)}")
    with there.connect() as client:
        assert client.recv(3) == b"on\n"
        assert share_of_a_core(helper(), 1.5) <= 0.1
        assert read_all(client) == b""
    record = there.record()
    assert (record["SPAWN_RESULT"], record["EXIT_STATUS"]) == ("time-limit", "KILL")
    assert 10 <= int(record["SPAWN_DURATION_USEC"]) / 1e6 < 10 + SLACK
    assert int(record["SPAWN_KILLED"]) >= 6


@x86_64
def test_children_without_end_swallowed_a_stop(service: Callable[..., Installed]) -> None:
    limits = "KillDelay=200ms\nLimitNPROC=2000\n"
    there = service(f"User=nobody\n{limits}{python(SCRATCH, FLOOD)}")
    with there.connect() as client:
        assert client.recv(3) == b"on\n"
        (unit,) = connection_units()
        run("systemctl", "stop", unit)
        assert read_all(client) == b""
    record = there.record()
    assert (record["SPAWN_RESULT"], record["EXIT_STATUS"]) == ("stopped", "KILL")


@pytest.mark.parametrize("address", [None, "/run/spawn-attacks.sock"])
def test_the_clients_socket_had_options_set(
    service: Callable[..., Installed], address: str | None
) -> None:
    """A timeout that had the helper wait in splice(2), and a place to peek at that had it spin and
    overlook that the client sent too much (SO_RCVTIMEO, SO_PEEK_OFF)."""
    code = (
        "import os, socket, sys, time\n"
        "for number in range(3):\n"
        "    try:\n"
        "        s = socket.socket(fileno=os.dup(number))\n"
        "        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bytes(16))\n"
        "        s.setsockopt(socket.SOL_SOCKET, 42, 1_000_000)\n"
        "    except OSError as error:\n"
        "        os.write(1, f'{error.errno} '.encode())\n"
        "os.write(1, os.read(0, 5))\n"
        "while os.path.exists(sys.argv[1]): time.sleep(0.05)\n"
        "os.write(1, os.read(0, 5) + b'.')\n"
    )
    mark = SCRATCH / "measured"
    mark.touch()
    argv = f"{python(SCRATCH, code).rstrip()} {mark}\n"
    there = service(f"User=nobody\nSizeLimit=5\n{argv}", address=address)
    with there.connect() as client:
        client.sendall(b"1234567890")
        answer = b"88 88 88 12345"  # ENOTSOCK
        assert b"".join(client.recv(1) for _ in answer) == answer
        assert share_of_a_core(helper(), 1.5) <= 0.1
        mark.unlink()
        assert read_all(client) == b"."
    assert there.record()["SPAWN_RESULT"] == "size-limit"


@pytest.mark.parametrize("listens", [True, False])
def test_the_connection_was_led_elsewhere(
    service: Callable[..., Installed], *, listens: bool
) -> None:
    """A socket that is disconnected, and listens, had bytes out below zero and was never idle."""
    banner = SCRATCH / "banner"
    banner.write_text("twenty-two bytes of it\n")
    code = (
        "import ctypes, socket, time\n"
        "time.sleep(0.2)\n"
        "ctypes.CDLL(None).connect(0, bytes(16), 16)\n"  # AF_UNSPEC
        + ("socket.socket(fileno=0).listen(1)\n" if listens else "")
        + "time.sleep(60)\n"
    )
    limits = "IdleLimit=1s\nTimeLimit=20s\nKillDelay=0\n"
    there = service(f"User=nobody\n{limits}Banner={banner}\n{python(SCRATCH, code)}")
    there.talk()
    record = there.record()
    assert record["SPAWN_RESULT"] == "idle-limit"
    assert int(record.get("SPAWN_BYTES_OUT", "0")) == 0
    assert "SPAWN_BYTES_UNDELIVERED" not in record


def test_a_close_was_a_reset(service: Callable[..., Installed]) -> None:
    """A command can set its socket such that its end takes the answer away (SO_LINGER)."""
    code = (
        "import os, socket, struct\n"
        "s = socket.socket(fileno=1)\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1 << 30)\n"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)\n"
        "s.sendall(bytes(3 << 20))\n"
    )
    there = service(f"User=nobody\n{python(SCRATCH, code)}")
    with there.connect() as client:
        client.sendall(b"unread")
        until(commands, holds=operator.not_)
        assert len(read_all(client)) == 3 << 20
    assert there.record()["SPAWN_RESULT"] == "success"


def commands() -> str:
    """The processes of commands, as ps(1) has them."""
    return run("ps", "-o", "pid", "-u", "nobody", "--no-headers", check=False).stdout
