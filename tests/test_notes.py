"""What `spawnctl check` notes about services that work: each note, and its absence."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Installed, in_machine, run, systemd_version

pytestmark = in_machine

MOST_ATTEMPTS = 50
UNTOLD = (
    "{}: note: whether systemd knows all of [Socket] cannot be told, for systemd-analyze {}; once "
    "that is mended, check again\n"
)
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


def test_what_goes_to_the_client_alone(service: Callable[..., Installed]) -> None:
    spawn = "Argv=/usr/bin/python3 -c pass\nUser=nobody\n"
    there = service(spawn, start=False)
    assert run("spawnctl", "check", there.name).stderr == (
        f"{there.file}:5: note: what python3 writes to standard error goes to the client, and is "
        "nowhere else; write StandardError=journal, or StandardError=socket if that is meant\n"
    )
    for where in ("journal", "socket", "null"):
        there.write(f"{spawn}StandardError={where}")
        assert run("spawnctl", "check", there.name).stderr == ""


def test_a_comment_behind_a_command(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nArgv=/bin/cat # as it comes", start=False)
    assert notes(there) == [
        "6: note: Argv= has the word #, which begins no comment here: the command gets it, and "
        "what follows; put a comment on a line of its own"
    ]


def test_directives_that_systemd_does_not_know(service: Callable[..., Installed]) -> None:
    lines = "MaxConnectons=5\nBacklog=7\nSocketMode=rw\nSocketProtocol=tcp\nTransparent=maybe"
    there = service("User=nobody\nArgv=/bin/cat", socket_section=lines, start=False)
    see = "systemd.socket(5), systemd.service(5) and systemd.exec(5) list what there is"
    assert notes(there) == [
        f"3: note: systemd does not know MaxConnectons=; {see}",
        f"5: note: systemd does not take SocketMode= so; {see}",
        f"6: note: systemd does not take SocketProtocol= so; {see}",
        f"7: note: systemd does not take Transparent= so; {see}",
    ]
    there = service("User=nobody\nArgv=/bin/cat", socket_section="Accept=no", start=False)
    text = there.file.read_text()
    there.file.write_text(
        f"{text.replace('nobody', 'games')}[Service]\nMemoryMx=5M\nMemoryMax=50M\n"
    )
    last = len(text.splitlines()) + 2
    assert notes(there) == [f"{last}: note: systemd does not know MemoryMx=; {see}"]


def test_whether_systemd_knows_all_cannot_be_told(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nArgv=/bin/cat\nStandardError=null", start=False)
    done = run("env", "PATH=/nonexistent", "/usr/bin/spawnctl", "check", there.name, check=False)
    why = "cannot be run: No such file or directory"
    assert (done.returncode, done.stderr) == (0, UNTOLD.format(there.file, why))


def test_systemd_analyze_that_takes_its_time(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nArgv=/bin/cat\nStandardError=null", start=False)
    for _ in range(MOST_ATTEMPTS):
        command = ("/usr/bin/spawnctl", "check", there.name)
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as check:
            while check.poll() is None and not stopped(check.pid):
                pass
            assert check.stderr is not None
            if said := check.stderr.read():
                break
    assert said == UNTOLD.format(there.file, "took longer than 20s")


def stopped(parent: int) -> bool:
    """Whether the systemd-analyze of this process was there to be stopped, and is."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/comm").read_text() == "systemd-analyze\n":
                os.kill(int(child), signal.SIGSTOP)
                return True
    except OSError:
        pass  # it has ended
    return False


def test_an_address_that_is_in_use(service: Callable[..., Installed]) -> None:
    """Said before anybody enables it; it can be what the service is to replace."""
    there = service("User=nobody\nArgv=/bin/cat", start=False)
    with socket.create_server(there.address):
        (note,) = there.check().stderr.splitlines()
    place = "{}:{}".format(*there.address)
    assert re.fullmatch(
        rf"{there.socket_unit}: note: address in use: {place} is in use by \S+ "
        rf"\(pid {os.getpid()}\); it could not listen there",
        note,
    )


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
        ("Transparent=no", ""),
    ],
)
def test_what_an_older_systemd_does_not_do(
    service: Callable[..., Installed], directive: str, sentence: str
) -> None:
    there = service("User=nobody\nArgv=/bin/cat", socket_section=directive, start=False)
    assert notes(there) == ([f"3: note: {sentence}"] if sentence and OLD else [])


def test_a_file_of_variables_that_is_not_there(service: Callable[..., Installed]) -> None:
    there = service("User=games\nArgv=/bin/cat", socket_section="Accept=no", start=False)
    text = there.file.read_text()
    there.file.write_text(f"{text}[Service]\nEnvironmentFile=/nowhere\nEnvironmentFile=-/nowhere\n")
    line = len(text.splitlines()) + 2
    assert notes(there) == [
        f"{line}: note: there is no /nowhere, and without it the server does not start; create it, "
        "or write EnvironmentFile=-/nowhere"
    ]


def test_a_line_that_costs_the_unit(service: Callable[..., Installed]) -> None:
    section = "ExecStartPre=bin/true"
    there = service("User=games\nArgv=/bin/cat", socket_section=section, start=False)
    (note,) = notes(there)
    assert note.startswith(
        "3: note: systemd does not take ExecStartPre= so, and with it does not take the unit; "
    )
