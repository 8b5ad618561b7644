"""What `spawnctl check` notes about services that work: each note, and its absence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Installed, in_machine, run, systemd_version

pytestmark = in_machine

SCRATCH = Path("/var/tmp/spawn-notes")
OLD = systemd_version() < 257 if Path("/run/systemd/system").exists() else False


@pytest.fixture(scope="module", autouse=True)
def daemons() -> Iterator[None]:
    SCRATCH.mkdir(exist_ok=True)
    SCRATCH.chmod(0o755)
    for name in ("rsync", "cat"):
        run("install", "-m", "755", "/bin/cat", str(SCRATCH / name))
    yield
    run("rm", "-r", str(SCRATCH))


def notes(there: Installed) -> list[str]:
    """The notes, each as its line and its sentence."""
    done = there.check()
    assert (done.returncode, done.stdout) == (0, f"{there.file}: ok\n")
    return [line.removeprefix(f"{there.file}:") for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    ("spawn", "sentence"),
    [
        ("Argv=/bin/sh -c 'echo no >/dev/stderr'", "/dev/stderr >&2"),
        ("StandardError=journal\nArgv=/bin/sh -c 'echo no >/dev/stderr'", "/dev/stderr >&2"),
        ("StandardError=null\nArgv=/bin/sh -c 'echo no >/dev/stderr'", ""),
        ("StandardError=null\nArgv=/bin/cat /dev/stdin", "/dev/stdin <&0"),
        ("Argv=/usr/bin/tee /dev/stdout", "/dev/stdout >&1"),
        ("SizeLimit=1K\nArgv=/bin/cat /dev/stdin", ""),
        ("Argv=/bin/sh -c 'echo no >&2'", ""),
    ],
)
def test_streams_that_cannot_be_opened(
    service: Callable[..., Installed], spawn: str, sentence: str
) -> None:
    there = service(f"{spawn}\nUser=nobody", start=False)
    line = 6 if spawn.startswith(("Standard", "Size")) else 5
    name, _, instead = sentence.partition(" ")
    note = f"{line}: note: {name} is a socket, which cannot be opened; in a shell write {instead}"
    assert notes(there) == ([note] if sentence else [])


def test_warnings_of_a_runtime_go_to_the_client(service: Callable[..., Installed]) -> None:
    spawn = "Argv=/usr/bin/python3 -c pass\nUser=nobody\n"
    there = service(spawn, start=False)
    assert notes(there) == [
        "5: note: warnings of python3 go to the client, as all of standard error does; write "
        "StandardError=journal, or StandardError=socket if that is meant"
    ]
    for where in ("journal", "socket", "null"):
        there.write(f"{spawn}StandardError={where}")
        assert notes(there) == []


def test_a_daemon_that_needs_the_socket(service: Callable[..., Installed]) -> None:
    there = service(f"SizeLimit=1M\nUser=nobody\nArgv={SCRATCH}/rsync --daemon", start=False)
    assert notes(there) == [
        "5: note: rsync needs the socket as its standard input, and with SizeLimit= that is a "
        "pipe; remove the line"
    ]
    there.write(f"SizeLimit=1M\nUser=nobody\nArgv={SCRATCH}/cat")
    assert notes(there) == []
    there.write(f"User=nobody\nArgv={SCRATCH}/rsync --daemon")
    assert notes(there) == []


@pytest.mark.parametrize(
    ("directive", "sentence"),
    [
        (
            "SocketProtocol=mptcp",
            "before systemd 257 SocketProtocol=mptcp is ignored: this is TCP",
        ),
        (
            "Transparent=yes",
            "before systemd 257 a connection that Transparent= brings from another address or port "
            "is refused, for only its own address tells whose it is; listen at a wildcard for "
            "other addresses, or upgrade",
        ),
        ("SocketProtocol=tcp", ""),
        ("Transparent=no", ""),
        ("Transparent=maybe", ""),
    ],
)
def test_what_an_older_systemd_does_not_do(
    service: Callable[..., Installed], directive: str, sentence: str
) -> None:
    there = service("User=nobody\nArgv=/bin/cat", socket_section=directive, start=False)
    assert notes(there) == ([f"3: note: {sentence}"] if sentence and OLD else [])
