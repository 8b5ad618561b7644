"""SizeLimit= to the byte, IdleLimit= to the tick, and what the client gets all the same."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import doors
import pytest
from conftest import (
    SLACK,
    Installed,
    both_doors,
    connection_units,
    free_port,
    helper,
    in_machine,
    python,
    read_all,
    rests,
    run,
    stop_connection,
    systemd_version,
    until,
    until_over,
)

pytestmark = [in_machine, both_doors]

SCRATCH = Path("/var/tmp/spawn-relay")
FAR = ("-n", "far")
COUNT = "Argv=/usr/bin/wc -c\n"
# Counts what comes, answers when the input has ended, and is in no hurry.
ANSWER = (
    "import sys, time\n"
    "count = len(sys.stdin.buffer.read())\n"
    "time.sleep(0.3)\n"
    "print('got', count, flush=True)\n"
)


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    SCRATCH.mkdir(exist_ok=True)
    (SCRATCH / "answer.py").write_text(ANSWER)
    yield
    run("rm", "-r", str(SCRATCH))


def outcome(record: dict[str, Any]) -> tuple[str, str, str]:
    return record["SPAWN_RESULT"], record.get("EXIT_STATUS", ""), record.get("SPAWN_BYTES_IN", "")


ADDRESSES = [None, "/run/spawn-relay.sock"]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    ("limit", "sent", "got", "result"),
    [
        (1000, 0, 0, "success"),
        (1000, 999, 999, "success"),
        (1000, 1000, 1000, "success"),
        (1000, 1001, 1000, "size-limit"),
        (1, 2, 1, "size-limit"),
        (65536, 65537, 65536, "size-limit"),
        (1 << 20, 1 << 20, 1 << 20, "success"),
        (1 << 20, (1 << 20) + 1, 1 << 20, "size-limit"),
        (3_000_001, 5_000_000, 3_000_001, "size-limit"),
    ],
)
def test_to_the_byte(
    service: Callable[..., Installed],
    address: str | None,
    limit: int,
    sent: int,
    got: int,
    result: str,
) -> None:
    there = service(f"User=nobody\nSizeLimit={limit}\n{COUNT}", address=address)
    assert there.talk(b"x" * sent) == f"{got}\n".encode()
    record = there.record()
    assert outcome(record) == (result, "0", str(got))
    fate = "over SizeLimit=" if got < sent else ": exit status 0 after"
    assert fate in record["MESSAGE"]
    assert record["PRIORITY"] == ("4" if got < sent else "5")


def test_one_byte_at_a_time(service: Callable[..., Installed]) -> None:
    there = service(f"User=nobody\nSizeLimit=5\n{COUNT}")
    with there.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(6):
            client.send(b"x")
            time.sleep(0.02)
        assert read_all(client) == b"5\n"
    assert outcome(there.record()) == ("size-limit", "0", "5")


def test_exactly_the_limit_without_an_end_is_no_excess(service: Callable[..., Installed]) -> None:
    code = "import sys\nprint(sys.stdin.readline(), end='', flush=True)\nsys.stdin.read()\n"
    there = service(f"User=nobody\nSizeLimit=5\n{python(SCRATCH, code)}")
    with there.connect() as client:
        client.sendall(b"1234\n")
        assert client.recv(100) == b"1234\n"
        time.sleep(0.2)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
    assert outcome(there.record()) == ("success", "0", "5")


def test_the_answer_reaches_a_client_that_sends_on(service: Callable[..., Installed]) -> None:
    """It sends 4 MiB more than it may, and would see a reset instead of the answer."""
    there = service(f"User=nobody\nSizeLimit=1000\nArgv=/usr/bin/python3 {SCRATCH}/answer.py")
    with there.connect() as client:
        client.sendall(b"x" * (4 << 20))
        client.recv(1, socket.MSG_PEEK)  # the answer is there, and the end is near
        client.sendall(b"late")
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while part := client.recv(100):  # a reset would raise
            answer += part
        assert answer == b"got 1000\n"
    assert outcome(there.record()) == ("size-limit", "0", "1000")


def test_a_client_that_never_stops_sending_is_let_go(service: Callable[..., Installed]) -> None:
    there = service(f"User=nobody\nSizeLimit=1000\n{COUNT}")
    with there.connect() as client:
        assert 16 << 20 <= sent_until_reset(client, 1 << 30) < 1 << 30
    assert outcome(there.record()) == ("size-limit", "0", "1000")
    until_over()


def sent_until_reset(client: socket.socket, most: int) -> int:
    sent = 0
    try:
        while sent < most:
            sent += client.send(b"x" * 65536)
    except (ConnectionResetError, BrokenPipeError):
        pass
    return sent


def test_what_is_discarded_is_bounded(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nSizeLimit=1\nArgv=/bin/sh -c 'cat >/dev/null; sleep 1; echo 1'")
    with there.connect() as client:
        assert 32 << 20 <= sent_until_reset(client, 1 << 30) < 100 << 20
    assert outcome(there.record()) == ("size-limit", "0", "1")


def test_a_client_that_stays_is_let_go_after_5_seconds(service: Callable[..., Installed]) -> None:
    there = service(f"User=nobody\nSizeLimit=2\n{COUNT}")
    begun = time.monotonic()
    with there.connect() as client:
        client.sendall(b"xxx")
        assert read_all(client) == b"2\n"
        assert time.monotonic() - begun < 5, "the end itself is not late"
        assert outcome(there.record()) == ("size-limit", "0", "2"), "nor is the record"
        until_over()
    assert 5 <= time.monotonic() - begun < 5 + SLACK


def test_over_the_limit_a_command_that_goes_on_is_stopped(
    service: Callable[..., Installed],
) -> None:
    there = service("User=nobody\nSizeLimit=2\nKillDelay=200ms\nArgv=/bin/sleep 60")
    begun = time.monotonic()
    with there.connect() as client:
        client.sendall(b"xxx")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
    assert 5 <= time.monotonic() - begun < 5 + SLACK
    assert outcome(there.record()) == ("size-limit", "TERM", "2")


def test_its_time_limit_holds_meanwhile(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nSizeLimit=2\nTimeLimit=500ms\nArgv=/bin/sleep 60")
    begun = time.monotonic()
    assert there.talk(b"xxx") == b""
    assert 0.5 <= time.monotonic() - begun < 5, "which the answer may take without it"
    assert outcome(there.record()) == ("size-limit", "TERM", "2")


def test_half_close_passes_both_ways(service: Callable[..., Installed]) -> None:
    code = (
        "import os, sys\n"
        "os.write(1, b'first')\n"
        "os.close(1)\n"
        "os.close(2)\n"
        "open('/var/tmp/spawn-relay/seen-' + sys.argv[1], 'wb').write(sys.stdin.buffer.read())\n"
    )
    SCRATCH.chmod(0o1777)
    mark = f"{time.monotonic_ns()}"
    there = service(f"User=nobody\nSizeLimit=100\n{python(SCRATCH, code).rstrip()} {mark}\n")
    with there.connect() as client:
        assert read_all(client) == b"first", "its end comes while it still reads"
        client.sendall(b"second")
        client.shutdown(socket.SHUT_WR)
    assert outcome(there.record()) == ("success", "0", "6")
    assert (SCRATCH / f"seen-{mark}").read_bytes() == b"second"


def test_a_command_that_closes_its_input(service: Callable[..., Installed]) -> None:
    code = "import os, time\nos.close(0)\ntime.sleep(0.3)\nos.write(1, b'done')\n"
    there = service(f"User=nobody\nSizeLimit=1G\n{python(SCRATCH, code)}")
    with there.connect() as client:
        client.sendall(b"x" * 100_000)
        assert read_all(client) == b"done"
    assert there.record()["SPAWN_RESULT"] == "success"


def test_a_command_that_does_not_read_costs_no_memory_and_no_time(
    service: Callable[..., Installed],
) -> None:
    there = service("User=nobody\nSizeLimit=1G\nArgv=/bin/sleep 60")
    with there.connect() as client:
        client.setblocking(False)
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            try:
                client.send(b"x" * 65536)
            except BlockingIOError:
                time.sleep(0.05)
        serving = helper()
        until(lambda: rests(serving))  # while the pipe is full


def test_memory_does_not_grow_with_the_stream(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nSizeLimit=1G\nArgv=/usr/bin/tail -c 1")
    part = b"x" * (1 << 20)
    sizes = []
    with there.connect() as client:
        for _ in range(3):
            for _ in range(64):
                client.sendall(part)
            status = Path(f"/proc/{helper()}/status").read_text()
            sizes.append(int(status.partition("VmRSS:")[2].split()[0]))
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"x"
    assert outcome(there.record()) == ("success", "0", str(192 << 20))
    assert max(sizes) - min(sizes) < 500, sizes


def test_without_a_limit_the_command_has_the_socket(service: Callable[..., Installed]) -> None:
    streams = "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2"
    there = service(f"User=nobody\nArgv=/bin/readlink {streams}")
    found = there.talk().decode().split()
    assert len(set(found)) == 1
    assert found[0].startswith("socket:")
    there.write(f"User=nobody\nSizeLimit=1\nArgv=/bin/readlink {streams}")
    found = there.talk().decode().split()
    assert found[0].startswith("pipe:")
    assert found[1] == found[2] != found[0]
    assert found[1].startswith("pipe:")


def test_idle_limit_counts_from_the_last_byte_either_way(
    service: Callable[..., Installed],
) -> None:
    code = (
        "import os, time\n"
        "for _ in range(10):\n"
        "    time.sleep(0.2)\n"
        "    os.write(1, b'.')\n"
        "time.sleep(60)\n"
    )
    there = service(f"User=nobody\nIdleLimit=1500ms\n{python(SCRATCH, code)}")
    begun = time.monotonic()
    with there.connect() as client:
        assert read_all(client) == b"." * 10
        assert 3.5 <= time.monotonic() - begun < 3.5 + SLACK
    assert there.record()["SPAWN_RESULT"] == "idle-limit"

    there.write("User=nobody\nIdleLimit=1500ms\nArgv=/bin/sleep 60")
    with there.connect() as client:
        for _ in range(10):
            time.sleep(0.2)
            begun = time.monotonic()
            client.send(b".")
        assert client.recv(1) == b""
        assert 1.45 <= time.monotonic() - begun < 1.45 + SLACK
    record = there.record()
    assert outcome(record) == ("idle-limit", "TERM", "10")
    assert "over IdleLimit=" in record["MESSAGE"]
    assert record["PRIORITY"] == "4"


@pytest.mark.parametrize("limit", ["", "SizeLimit=100\n"])
def test_idle_limit_is_exact(service: Callable[..., Installed], limit: str) -> None:
    there = service(f"User=nobody\nIdleLimit=400ms\n{limit}Argv=/bin/sleep 60")

    def took() -> int:
        there.talk()
        record = there.record()
        assert record["SPAWN_RESULT"] == "idle-limit"
        microseconds = int(record["SPAWN_DURATION_USEC"])
        assert microseconds >= 400_000
        return microseconds

    until(took, holds=lambda least: least < 450_000)  # at least once; it may be the machine


def test_idle_limit_of_a_client_that_does_not_read(service: Callable[..., Installed]) -> None:
    """What the kernel cannot send is no byte, and neither are its probes."""
    there = service("User=nobody\nIdleLimit=700ms\nKillDelay=0\nArgv=/bin/cat /dev/zero")
    with there.connect() as client:
        begun = time.monotonic()
        assert there.record()["SPAWN_RESULT"] == "idle-limit"
        assert 0.7 <= time.monotonic() - begun < 0.7 + SLACK
        client.recv(1)


@contextmanager
def another_machine() -> Iterator[None]:
    """A network namespace with 192.0.2.2, and 192.0.2.1 at our end of the wire."""
    run("ip", "netns", "add", "far")
    try:
        run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "far", "netns", "far")
        for where, address, device in (((), "192.0.2.1/24", "wire"), (FAR, "192.0.2.2/24", "far")):
            run("ip", *where, "addr", "add", address, "dev", device)
            run("ip", *where, "link", "set", device, "up")
        yield
    finally:
        run("ip", "link", "del", "wire", check=False)
        run("ip", "netns", "del", "far")


def test_idle_limit_of_a_client_that_has_vanished(service: Callable[..., Installed]) -> None:
    """What the kernel sends again and again is no byte, nor is what nobody acknowledges: it does so
    after 0.7, 1.1, 1.9, 3.5 and 6.7 seconds, and were they bytes, its end would come after 10.7."""
    port = free_port()
    code = (
        f"import socket, time; s = socket.create_connection(('192.0.2.1', {port})); "
        "print('on', flush=True); time.sleep(60)"
    )
    with another_machine():
        there = service(
            "User=nobody\nIdleLimit=4s\nKillDelay=0\n"
            "Argv=/bin/sh -c 'sleep 0.5; echo lost; sleep 60'",
            address=("192.0.2.1", port),
        )
        command = ["ip", "netns", "exec", "far", "python3", "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"on\n"
            run("ip", *FAR, "addr", "del", "192.0.2.2/24", "dev", "far")
            record = there.record()
            client.kill()
    assert record["SPAWN_RESULT"] == "idle-limit"
    assert 4_000_000 <= int(record["SPAWN_DURATION_USEC"]) < 10_700_000


def test_idle_limit_of_a_path_needs_a_relay(service: Callable[..., Installed]) -> None:
    path = "/run/spawn-idle.sock"
    there = service("User=nobody\nIdleLimit=300ms\nArgv=/bin/cat", address=path)
    sentence = (
        f"{there.file}:6: IdleLimit= needs SizeLimit= where ListenStream= is a path, for the "
        "kernel does not tell when a byte passed; add it, or listen on TCP"
    )
    assert there.check().stderr == sentence + "\n"
    assert there.talk() == b""
    record = there.record()
    assert record["SPAWN_RESULT"] == "config"
    assert sentence in record["MESSAGE"]


def test_idle_limit_of_a_path_with_a_relay(service: Callable[..., Installed]) -> None:
    path = "/run/spawn-idle.sock"
    code = (
        "import os, time\n"
        "for _ in range(10):\n"
        "    time.sleep(0.2)\n"
        "    os.write(1, b'.')\n"
        "    os.write(2, b'!')\n"
        "time.sleep(60)\n"
    )
    there = service(
        f"User=nobody\nIdleLimit=1500ms\nSizeLimit=1M\n{python(SCRATCH, code)}", address=path
    )
    begun = time.monotonic()
    with there.connect() as client:
        client.sendall(b"abc")
        assert read_all(client) == b".!" * 10
        assert 3.5 <= time.monotonic() - begun < 3.5 + SLACK
    record = there.record()
    assert outcome(record) == ("idle-limit", "TERM", "3")
    assert record["SPAWN_BYTES_OUT"] == "20"
    if systemd_version() < 258:
        until_over()
    there.write(f"User=nobody\nIdleLimit=2s\nSizeLimit=infinity\n{COUNT}")
    assert there.check().returncode == 78, "without a limit there is no relay"
    there.write("User=nobody\nIdleLimit=2s\nSizeLimit=1G\nArgv=/bin/cat")
    data = bytes(range(256)) * 4000
    assert exchange(there, data) == data
    assert outcome(there.record()) == ("success", "0", str(len(data)))


def test_all_of_an_answer_comes_through_a_relay(service: Callable[..., Installed]) -> None:
    """More than a pipe holds is left when the command ends, and the client is slow."""
    path = "/run/spawn-slow.sock"
    there = service(
        "User=nobody\nIdleLimit=2s\nSizeLimit=1G\nArgv=/bin/sh -c 'head -c 1000000 /dev/zero'",
        address=path,
    )
    with there.connect() as client:
        time.sleep(0.5)
        assert len(read_all(client)) == 1_000_000
    record = there.record()
    assert (record["SPAWN_RESULT"], record["SPAWN_BYTES_OUT"]) == ("success", "1000000")


def exchange(there: Installed, data: bytes) -> bytes:
    """Sends and reads at the same time."""
    with there.connect() as client:
        answer = b""
        client.setblocking(False)
        rest = data
        while len(answer) < len(data):
            try:
                rest = rest[client.send(rest[:65536]) :] if rest else rest
            except BlockingIOError:
                pass
            try:
                answer += client.recv(65536)
            except BlockingIOError:
                time.sleep(0.001)
        client.setblocking(True)
        client.shutdown(socket.SHUT_WR)
        return answer + read_all(client)


def test_stop_while_it_relays(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nSizeLimit=1G\nArgv=/bin/cat")
    with there.connect() as client:
        client.sendall(b"abc")
        assert client.recv(3) == b"abc"
        (unit,) = connection_units()
        run("systemctl", "stop", unit)
        assert read_all(client) == b""
    assert outcome(there.record()) == ("stopped", "TERM", "3")


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("limit", ["1M", "100"])
def test_urgent_bytes_are_bytes(
    service: Callable[..., Installed], address: str | None, limit: str
) -> None:
    there = service(f"User=nobody\nSizeLimit={limit}\n{COUNT}", address=address)
    with there.connect() as client:
        client.sendall(b"x" * 100)
        client.send(b"!", socket.MSG_OOB)
        time.sleep(0.1)
        client.sendall(b"x" * 500)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == (b"601\n" if limit == "1M" else b"100\n")
    record = there.record()
    assert outcome(record)[::2] == (("success", "601") if limit == "1M" else ("size-limit", "100"))


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_urgent_byte_alone_does_not_make_it_spin(
    service: Callable[..., Installed], address: str | None
) -> None:
    there = service("User=nobody\nSizeLimit=1M\nArgv=/bin/cat", address=address)
    with there.connect() as client:
        client.send(b"!", socket.MSG_OOB)
        serving = helper()
        until(lambda: rests(serving))


def test_the_command_can_open_its_own_input(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nSizeLimit=1M\nArgv=/bin/cat /dev/stdin")
    assert there.talk(b"data") == b"data"


def test_a_stop_cuts_the_lingering_short(service: Callable[..., Installed]) -> None:
    there = service(f"User=nobody\nSizeLimit=2\n{COUNT}")
    begun = time.monotonic()
    with there.connect() as client:
        client.sendall(b"xxx")
        assert read_all(client) == b"2\n"
        there.record()
        stop_connection()
        assert time.monotonic() - begun < 5
    goes_on = "Argv=/bin/sh -c 'cat >/dev/null; echo over; sleep 60'"
    there.write(f"User=nobody\nSizeLimit=2\nKillDelay=200ms\n{goes_on}")
    begun = time.monotonic()
    with there.connect() as client:
        client.sendall(b"xxx")
        assert client.recv(5) == b"over\n"
        stop_connection()  # in the time for the answer, too
        assert time.monotonic() - begun < 5
    assert there.record()["SPAWN_RESULT"] == "size-limit"


def test_last_words_at_a_stop_pass_the_relay(service: Callable[..., Installed]) -> None:
    there = service(
        "User=nobody\nSizeLimit=1M\nIdleLimit=1h\nStandardError=null\n"
        "Argv=/bin/sh -c \"trap 'echo goodbye; exit 4' TERM; echo on; "
        'while :; do sleep 0.01; done"',
        address="/run/spawn-last-words.sock",
    )
    with there.connect() as client:
        assert client.recv(3) == b"on\n"
        stop_connection()
        assert read_all(client) == b"goodbye\n"
    assert outcome(there.record()) == ("stopped", "4", "0")


# Waits until no more comes before it reads, and then says how much its pipe holds.
LATE = (
    "import fcntl, sys, termios, time\n"
    "def unread(): return fcntl.ioctl(0, termios.FIONREAD, b'1234')\n"
    "before = b''\n"
    "while (now := unread()) != before or now == bytes(4): before = now; time.sleep(0.5)\n"
    "size = fcntl.fcntl(0, fcntl.F_GETPIPE_SZ)\n"
    "print(size, len(sys.stdin.buffer.read()))\n"
)
# Has as many pipes of a user as somebody without privileges may have.
GREEDY = (
    "import fcntl, os, pwd, sys\n"
    "os.setreuid(*(pwd.getpwnam(name).pw_uid for name in (sys.argv[1], 'games')))\n"
    "pipes = []\n"
    "for size in (1 << 20, 1 << 17):\n"
    "    try:\n"
    "        while True:\n"
    "            pipes.append(os.pipe())\n"
    "            fcntl.fcntl(pipes[-1][1], fcntl.F_SETPIPE_SZ, size)\n"
    "    except PermissionError:\n"
    "        pass\n"
    "print(len(pipes), flush=True)\n"
    "input()\n"
)
USUAL = 65536  # pipe(7)


def test_a_pipe_that_was_full_is_widened(service: Callable[..., Installed]) -> None:
    there = service(f"User=nobody\nSizeLimit=10M\n{python(SCRATCH, LATE)}")
    assert there.talk(b"x" * USUAL) == b"%d %d\n" % (USUAL, USUAL)
    assert there.talk(b"x" * 5_000_000) == b"%d 5000000\n" % (1 << 18)


def test_a_pipe_is_not_widened_where_there_are_too_many(
    service: Callable[..., Installed],
) -> None:
    there = service(f"User=nobody\nSizeLimit=10M\n{python(SCRATCH, LATE)}")
    command = ["/usr/bin/python3", "-c", GREEDY, doors.now.pipes]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as greedy:
        assert greedy.stdout is not None
        assert int(greedy.stdout.readline()) > 10
        size, count = there.talk(b"x" * 5_000_000).split()
        greedy.communicate(b"\n")
    assert int(size) <= USUAL
    assert int(count) == 5_000_000
