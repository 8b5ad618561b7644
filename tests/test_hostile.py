"""Clients, commands and files that mean harm: one record, no traceback, nothing left running."""

from __future__ import annotations

import contextlib
import operator
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import doors
import pytest
from conftest import (
    SLACK,
    Installed,
    both_doors,
    connect,
    connection_units,
    in_machine,
    journal,
    python,
    read_all,
    reset,
    run,
    until,
    until_over,
)

pytestmark = [in_machine, both_doors]

SCRATCH = Path("/var/tmp/spawn-hostile")


@pytest.fixture(scope="module", autouse=True)
def scratch() -> None:
    SCRATCH.mkdir(exist_ok=True)
    SCRATCH.chmod(0o1777)


@pytest.fixture(autouse=True)
def nothing_forged_and_nothing_left() -> Iterator[None]:
    """For every test here: no traceback in the journal, no process of a command any more."""
    cursor = run("journalctl", "-q", "-n0", "--show-cursor").stdout.strip().partition(": ")[2]
    yield
    until_over()
    said = [str(entry.get("MESSAGE")) for entry in journal(f"--after-cursor={cursor}")]
    assert not [message for message in said if "Traceback" in message or "Error:" in message]
    until(lambda: processes("nobody"), holds=operator.not_)


def processes(user: str) -> str:
    return run("ps", "-o", "pid,args", "-u", user, "--no-headers", check=False).stdout


PHASES = ["", "SizeLimit=1M\n", "IdleLimit=1h\n", "SizeLimit=1M\nIdleLimit=1h\n"]


@pytest.mark.parametrize("more", PHASES)
def test_a_reset_before_the_fork(
    service: Callable[..., Installed],
    held: Callable[[str], contextlib.AbstractContextManager[None]],
    more: str,
) -> None:
    there = service(f"User=nobody\n{more}StandardError=null\nArgv=/bin/cat")
    with held("ExecStartPre"):
        client = there.connect()
        client.sendall(b"data")
        until(doors.now.coming)
        reset(client)
    record = there.record()
    results = ("success", "exit-code", "signal", "undelivered")
    assert record["SPAWN_RESULT"] in results, record["MESSAGE"]
    assert record["SPAWN_REMOTE_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize("more", PHASES)
def test_a_reset_while_the_command_runs(service: Callable[..., Installed], more: str) -> None:
    there = service(f"User=nobody\n{more}StandardError=null\nArgv=/bin/cat")
    client = there.connect()
    client.sendall(b"data")
    assert client.recv(4) == b"data"
    reset(client)
    assert there.record()["SPAWN_RESULT"] in ("success", "exit-code", "undelivered")


@pytest.mark.parametrize("more", PHASES)
def test_a_reset_while_the_command_writes(service: Callable[..., Installed], more: str) -> None:
    there = service(f"User=nobody\n{more}StandardError=null\nArgv=/bin/cat /dev/zero")
    client = there.connect()
    client.recv(1000)
    reset(client)
    record = there.record()
    assert (record["SPAWN_RESULT"], record["EXIT_STATUS"]) in (
        ("exit-code", "1"),
        ("signal", "PIPE"),
    )


@pytest.mark.parametrize("more", ["", "SizeLimit=1M\n"])
def test_a_reset_after_the_end(service: Callable[..., Installed], more: str) -> None:
    there = service(f"User=nobody\n{more}Argv=/bin/echo answer")
    client = there.connect()
    assert read_all(client) == b"answer\n"
    reset(client)  # perhaps before its side has acknowledged what it has read
    assert there.record()["SPAWN_RESULT"] in ("success", "undelivered")


def test_a_reset_while_it_lingers(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nSizeLimit=1\nArgv=/usr/bin/wc -c")
    begun = time.monotonic()
    client = there.connect()
    client.sendall(b"xx")
    assert read_all(client) == b"1\n"
    reset(client)
    assert there.record()["SPAWN_RESULT"] == "size-limit"
    until_over()
    assert time.monotonic() - begun < 5, "a client that stays is waited for that long"


@pytest.mark.parametrize("more", ["", "SizeLimit=1M\n"])
def test_a_client_that_never_reads_or_writes(service: Callable[..., Installed], more: str) -> None:
    there = service(f"User=nobody\n{more}TimeLimit=500ms\nKillDelay=0\nArgv=/bin/cat /dev/zero")
    with there.connect():
        record = there.record()
    assert record["SPAWN_RESULT"] == "time-limit"
    assert 0.5 <= int(record["SPAWN_DURATION_USEC"]) / 1e6 < 0.5 + SLACK


@pytest.mark.parametrize("more", ["", "SizeLimit=1M\n"])
def test_a_command_that_closes_its_streams_and_lives_on(
    service: Callable[..., Installed], more: str
) -> None:
    code = "import os, time\nos.write(1, b'bye')\n[os.close(n) for n in range(3)]\ntime.sleep(60)\n"
    there = service(f"User=nobody\n{more}TimeLimit=700ms\n{python(SCRATCH, code)}")
    assert there.talk(b"data") == b"bye"
    record = there.record()
    assert record["SPAWN_RESULT"] == "time-limit"
    assert int(record["SPAWN_DURATION_USEC"]) >= 700_000


def test_a_command_that_makes_itself_a_daemon(service: Callable[..., Installed]) -> None:
    code = (
        "import os, time\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "open('/var/tmp/spawn-hostile/daemon', 'w').write('alive')\n"
        "os.write(1, b'still here')\n"
        "time.sleep(60)\n"
    )
    there = service(f"User=nobody\n{python(SCRATCH, code)}")
    there.talk()
    record = there.record()
    assert record["SPAWN_RESULT"] == "success"
    assert int(record["SPAWN_DURATION_USEC"]) < 60_000_000, "nobody waits for the daemon"
    assert record["SPAWN_KILLED"] == "1"
    assert str(record["MESSAGE"]).endswith("; 1 process left behind, and killed")


def test_a_fork_bomb_ends_with_the_command(service: Callable[..., Installed]) -> None:
    code = (
        "import os, time\n"
        "for _ in range(6):\n"
        "    try: os.fork()\n"
        "    except OSError: pass\n"
        "if os.getpgid(0) != os.getpid(): os.setsid() if os.getpid() % 2 else None\n"
        "time.sleep(60)\n"
    )
    there = service(
        f"User=nobody\nTimeLimit=1s\nLimitNPROC=64\nKillDelay=200ms\n{python(SCRATCH, code)}"
    )
    there.talk()
    assert there.record()["SPAWN_RESULT"] == "time-limit"


def test_a_command_that_stops_itself(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nTimeLimit=300ms\nKillDelay=5s\nArgv=/bin/sh -c 'kill -STOP $$'")
    there.talk()
    record = there.record()
    assert (record["SPAWN_RESULT"], record["EXIT_STATUS"]) == ("time-limit", "TERM")


def test_output_that_looks_like_a_record(service: Callable[..., Installed]) -> None:
    """Into the journal it comes as lines of the command, whatever they say."""
    mark = f"mark{time.monotonic_ns()}"
    code = (
        "import os\n"
        f"os.write(2, b'{mark}\\nSPAWN_RESULT=success\\nMESSAGE=forged\\n')\n"
        f"os.write(2, b'<0>{mark} urgent\\n' + b'x' * 100000 + b'\\n')\n"
    )
    there = service(f"User=nobody\nStandardError=journal\n{python(SCRATCH, code)}")
    there.talk()
    there.record()
    lines = until(lambda: journal("_UID=65534", f"_PID={there.records(1)[0]['SPAWN_PID']}"))
    assert {line["_UID"] for line in lines} == {"65534"}
    assert not [line for line in lines if "SPAWN_RESULT" in line]
    assert len(journal(f"SPAWN_SERVICE={there.name}")) == 1


def test_a_record_cannot_be_forged_by_what_a_client_sends(
    service: Callable[..., Installed],
) -> None:
    there = service("User=nobody\nProxyProtocol=any\nProxyFrom=127.0.0.1\nArgv=/bin/true")
    for hostile in (
        b"PROXY TCP4 1.2.3.4\nSPAWN_RESULT=success 1.2.3.4 1 2\r\n",
        b"PROXY TCP4\nMESSAGE=forged\n 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY \x1b[31m 1.2.3.4 1.2.3.4 1 2\r\n",
        b"%s%s%s%s%n\r\n" * 10,
    ):
        assert there.talk(hostile) == b""
        record = there.record()
        assert record["SPAWN_RESULT"] == "denied"
        assert "\n" not in record["MESSAGE"]
        assert str(record["MESSAGE"]).isprintable()


@pytest.mark.parametrize(
    ("length", "result"), [(131_071, "success"), (131_072, "exec-failed"), (900_000, "exec-failed")]
)
def test_arguments_at_the_kernels_limit(
    service: Callable[..., Installed], length: int, result: str
) -> None:
    """MAX_ARG_STRLEN is 128 KiB with the NUL."""
    argument = "x" * length
    there = service(
        f"User=nobody\nArgv=/usr/bin/python3 -c 'import sys; print(len(sys.argv[1]))' {argument}"
    )
    answer = there.talk()
    record = there.record()
    assert record["SPAWN_RESULT"] == result
    assert answer == (f"{length}\n".encode() if result == "success" else b"")
    if result != "success":
        why = "Argv= and the environment are longer than the kernel allows"
        assert f"{there.file}:6: Argv=/usr/bin/python3: {why}, client" in record["MESSAGE"]


def test_an_environment_at_the_kernels_limit(service: Callable[..., Installed]) -> None:
    code = "import os; print(len(os.environ['A']))"
    for length, wanted in ((131_069, "131069\n"), (131_070, "")):
        there = service(
            f'User=nobody\nEnvironment=A={"x" * length}\nArgv=/usr/bin/python3 -c "{code}"'
        )
        assert there.talk().decode() == wanted
    many = "".join(f"Environment=A{n}={'x' * 1000}\n" for n in range(900))
    there = service(
        f"User=nobody\n{many}Argv=/usr/bin/python3 -c 'import os; print(len(os.environ))'"
    )
    assert int(there.talk()) > 900


@pytest.mark.parametrize(
    "text",
    [
        b"\0" * 5000,
        b"[Spawn]\r\nUser=nobody\r\n",
        b"\xef\xbb\xbf[Spawn]\n\xef\xbb\xbfUser=nobody\n",
        b"\xff\xfe[\0S\0p\0a\0w\0n\0]\0",
        b"[Spawn]\nUser=\xc3\x28\n",
        b"x" * (1 << 20),
        b"[Spawn]\nArgv=" + b"'" * 100_000 + b"\n",
        b"[Spawn]\n" + b"A=1\n" * 200_000,
        b"[Spawn]\n" + b"Environment=A=1 \\\n" * 50_000,
        b"\\\n" * 400_000,
        b"[" * 1000 + b"\n" + b"]" * 1000,
        b"[Spawn]\nUser=nobody\nArgv=/bin/true\nNice=\x1b]0;title\x07\n",
    ],
    ids=list("abcdefghijkl"),
)
def test_files_that_are_no_service(service: Callable[..., Installed], text: bytes) -> None:
    """The check, the generator and a connection each say one printable sentence, soon."""
    there = service("User=nobody\nArgv=/bin/echo here")
    there.file.write_bytes(text)
    begun = time.monotonic()
    said = there.check()
    assert said.returncode == 78
    assert said.stderr.replace("\n", "").isprintable()
    assert "Traceback" not in said.stderr
    assert time.monotonic() - begun < SLACK
    with there.connect() as client:
        assert read_all(client) == b""
    # Before 257 a file without an address is nobody's, and its record has no service.
    port = f"SPAWN_LOCAL_PORT={there.address[1]}"
    record: dict[str, Any] = until(lambda: journal("SPAWN_RESULT=config", port))[-1]
    assert str(record["MESSAGE"]).isprintable()
    assert len(record["MESSAGE"]) < 500
    begun = time.monotonic()
    run("systemctl", "daemon-reload")
    assert time.monotonic() - begun < SLACK


def test_listeners_at_the_limit_of_names(service: Callable[..., Installed]) -> None:
    """107 bytes is what systemd takes, for a path and for an abstract name."""
    for address in ("/run/" + "p" * 102, "@" + "a" * 106):
        there = service("User=nobody\nArgv=/bin/sh -c 'echo $UNIXLOCALPATH'", address=address)
        plain = address if address[0] == "/" else "\0" + address[1:]
        with connect(plain) as client:
            assert read_all(client) == f"{address}\n".encode()
        assert there.record()["SPAWN_LOCAL_ADDR"] == address
        until_over()
    long = service("User=nobody\nArgv=/bin/true", address="@" + "a" * 107, start=False)
    sentence = "is longer than the 107 bytes of a socket's path"
    assert re.search(rf"ListenStream=@a+\.\.\. {sentence}", long.check().stderr)


def test_a_flood_of_clients_that_do_nothing(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nTimeLimit=1h\nArgv=/bin/cat", socket_section="MaxConnections=50")
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(there.connect())
        until(lambda: len(connection_units()) == 50)
    records = there.records(50)
    assert {record["SPAWN_RESULT"] for record in records} <= {"success", "exit-code"}
    assert there.talk(b"next") == b"next"
