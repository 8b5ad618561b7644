"""spawnctl run: the same helper, without units, and for an ordinary user without root."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import BOOTED, PATIENCE, connect, free_port, in_machine, read_all, run, until

SPAWNCTL = ["/usr/bin/spawnctl"] if BOOTED else [sys.executable, "-m", "spawnhelper.ctl"]
USER = "spawn-alice"
needs_libraries = pytest.mark.skipif(
    not shutil.which("systemd-socket-activate") or not importlib.util.find_spec("_prctl"),
    reason="needs systemd-socket-activate and python3-prctl",
)


class Foreground:
    """A running `spawnctl run`; said: what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self.errors = errors

    def said(self) -> str:
        return self.errors.read_text()


@contextlib.contextmanager
def serving(
    folder: Path, spawn: str, *arguments: str, user: str = "", without_journal: bool = False
) -> Iterator[tuple[Foreground, int]]:
    """A service in the foreground, on a free port."""
    port = free_port()
    file = folder / "tried.conf"
    file.write_text(f"[Socket]\nListenStream=127.0.0.1:{port}\n[Spawn]\n{spawn}\n")
    file.chmod(0o644)
    command = [*SPAWNCTL, "run", str(file), *arguments]
    if without_journal:
        hide = 'mount -t tmpfs none /run/systemd/journal && exec "$0" "$@"'
        command = ["unshare", "--mount", "/bin/sh", "-c", hide, *command]
    if user:
        account = pwd.getpwnam(user)
        for path in (folder, file):
            os.chown(path, account.pw_uid, account.pw_gid)
        become = ["setpriv", f"--reuid={user}", f"--regid={account.pw_gid}", "--init-groups"]
        command = [*become, *command]
    command = ["env", "--default-signal=INT", *command]  # a shell's & would have it ignored
    errors = folder / "errors"
    with errors.open("w") as out:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out, text=True)
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        addresses = ", ".join(arg.removeprefix("--listen=") for arg in arguments)
        assert first == f"tried: serving {file} on {addresses or f'127.0.0.1:{port}'}; ^C ends it\n"
        yield Foreground(process, errors), port
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
        process.stdout.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that only its owner can write, with parents that everybody can enter."""
    place = Path("/var/tmp" if BOOTED else "/tmp", f"spawn-run-{os.getpid()}-{time.monotonic_ns()}")
    place.mkdir(mode=0o755)
    yield place
    shutil.rmtree(place)


def patient_connect(port: int) -> socket.socket:
    """Connects once somebody listens."""

    def attempt() -> socket.socket | None:
        try:
            return connect(("127.0.0.1", port))
        except ConnectionRefusedError:
            return None

    client = until(attempt)
    assert client is not None
    return client


def talk(port: int) -> bytes:
    with patient_connect(port) as client:
        client.shutdown(socket.SHUT_WR)
        return read_all(client)


@pytest.fixture(scope="module")
def alice() -> None:
    if run("id", USER, check=False).returncode != 0:
        run("useradd", "-m", "-G", "users", USER)


@in_machine
def test_as_root_it_drops_as_ever(folder: Path) -> None:
    with serving(folder, "User=nobody\nArgv=/usr/bin/id -un") as (there, port):
        assert talk(port) == b"nobody\n"
        until(lambda: "exit status 0" in there.said())
    lines = there.said().splitlines()
    assert lines[0].startswith("tried: /usr/bin/id as nobody: exit status 0 after ")
    (entry,) = until(
        lambda: run(
            "journalctl", "-q", "-o", "cat", "SPAWN_SERVICE=tried", f"SPAWN_LOCAL_PORT={port}"
        ).stdout.splitlines()
    )
    assert entry == lines[0], "a person sees the sentence, the journal has it all"


@in_machine
@pytest.mark.usefixtures("alice")
def test_as_an_ordinary_user(folder: Path) -> None:
    account = pwd.getpwnam(USER)
    spawn = f"User={USER}\nArgv=/bin/sh -c 'id -un; ls /proc/$$/fd | wc -l; cat /proc/$$/status'"
    with serving(folder, spawn, user=USER) as (there, port):
        lines = talk(port).decode().splitlines()
        until(lambda: "exit status 0" in there.said())
    assert lines[:2] == [USER, "3"]
    status = dict(line.split(":\t", 1) for line in lines[2:] if ":\t" in line)
    assert status["Uid"].split() == [str(account.pw_uid)] * 4
    assert status["NoNewPrivs"] == "1"


@in_machine
@pytest.mark.usefixtures("alice")
def test_why_an_ordinary_users_command_does_not_start(folder: Path) -> None:
    program = folder / "program"
    program.write_text("#!/bin/sh\r\n", newline="")
    program.chmod(0o755)
    with serving(folder, f"User={USER}\nArgv={program}", user=USER) as (there, port):
        assert talk(port) == b""
        until(lambda: "save it with Unix line ends" in there.said())


@in_machine
@pytest.mark.usefixtures("alice")
def test_an_ordinary_user_cannot_serve_others(folder: Path) -> None:
    file = folder / "x.conf"
    file.write_text("[Socket]\nListenStream=9999\n[Spawn]\nUser=nobody\nArgv=/bin/true\n")
    file.chmod(0o644)
    account = pwd.getpwnam(USER)
    done = run(
        *("setpriv", f"--reuid={USER}", f"--regid={account.pw_gid}", "--init-groups"),
        *(*SPAWNCTL, "run", str(file)),
        check=False,
    )
    assert done.returncode == os.EX_NOPERM
    assert done.stderr == (
        f"{file}:4: User= is uid 65534 and gid 65534, and this runs as uid {account.pw_uid} and "
        f"gid {account.pw_gid}; without root commands run as yourself alone: add --as-me, or use "
        "sudo\n"
    )


@in_machine
@pytest.mark.usefixtures("alice")
def test_an_ordinary_user_tries_what_is_somebody_elses(folder: Path) -> None:
    """The example, as it stands; and its standard error where the person looks."""
    spawn = (
        "User=nobody\nSupplementaryGroups=users\nStandardError=journal\n"
        "Argv=/bin/sh -c 'id -un; echo this went wrong >&2'"
    )
    port = free_port()
    file = folder / "tried.conf"
    file.write_text(f"[Socket]\nListenStream=127.0.0.1:{port}\n[Spawn]\n{spawn}\n")
    (folder / "tried.conf.d").mkdir()
    (folder / "tried.conf.d/x.conf").write_text("[Spawn]\nEnvironment=A=1\n")
    file.chmod(0o644)
    account = pwd.getpwnam(USER)
    become = ["setpriv", f"--reuid={USER}", f"--regid={account.pw_gid}", "--init-groups"]
    before = set(Path("/tmp").glob("spawnctl-*"))
    errors = folder / "errors"
    with errors.open("w") as out:
        process = subprocess.Popen([*become, *SPAWNCTL, "run", "--as-me", str(file)], stderr=out)
    try:
        assert talk(port) == f"{USER}\n".encode()
        until(lambda: "this went wrong" in errors.read_text())
        until(lambda: f"tried: /bin/sh as {USER}: exit status 0" in errors.read_text())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
    assert set(Path("/tmp").glob("spawnctl-*")) == before


@in_machine
@pytest.mark.usefixtures("alice")
def test_an_address_that_is_not_to_be_had(folder: Path) -> None:
    """Before anything is said to be served."""
    file = folder / "x.conf"
    file.write_text(f"[Socket]\nListenStream=127.0.0.1:79\n[Spawn]\nUser={USER}\nArgv=/bin/true\n")
    file.chmod(0o644)
    account = pwd.getpwnam(USER)
    become = ["setpriv", f"--reuid={USER}", f"--regid={account.pw_gid}", "--init-groups"]
    done = run(*become, *SPAWNCTL, "run", str(file), check=False)
    assert (done.returncode, done.stdout) == (os.EX_NOPERM, "")
    assert done.stderr == (
        "spawnctl: 127.0.0.1:79 cannot be listened at: Permission denied; choose a port above 1023 "
        "with --listen\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = "{}:{}".format(*other.getsockname())
        done = run(*become, *SPAWNCTL, "run", str(file), f"--listen={place}", check=False)
    assert (done.returncode, done.stdout) == (os.EX_UNAVAILABLE, "")
    assert done.stderr == f"spawnctl: {place} cannot be listened at: Address already in use\n"
    done = run(*become, *SPAWNCTL, "run", str(file), "--listen=nowhere:1", check=False)
    assert done.returncode == os.EX_USAGE
    assert done.stderr.startswith(
        "spawnctl: --listen=nowhere:1 is no address; write 127.0.0.1:PORT"
    )


@in_machine
def test_the_whole_record_where_there_is_no_journal(folder: Path) -> None:
    spawn = "User=nobody\nArgv=/bin/sh -c 'exit 3'"
    with serving(folder, spawn, without_journal=True) as (there, port):
        assert talk(port) == b""
        until(lambda: "SPAWN_BYTES_OUT" in there.said())
    lines = there.said().splitlines()
    assert lines[0].startswith("tried: /bin/sh as nobody: exit status 3 after ")
    fields = dict(line.strip().split("=", 1) for line in lines[1:])
    assert (fields["SPAWN_RESULT"], fields["EXIT_STATUS"]) == ("exit-code", "3")
    assert all(line.startswith("    ") for line in lines[1:])


@in_machine
def test_listen_elsewhere(folder: Path) -> None:
    path = str(folder / "socket")
    port = free_port()
    listen = (f"--listen=127.0.0.1:{port}", f"--listen={path}")
    with serving(folder, "User=nobody\nArgv=/usr/bin/printenv PROTO", *listen) as (_, unused):
        assert talk(port) == b"TCP\n"
        with connect(path) as client:
            assert read_all(client) == b"UNIX\n"
        with pytest.raises(ConnectionRefusedError):
            connect(("127.0.0.1", unused))


@in_machine
def test_nobody_is_left_behind_without_a_control_group(folder: Path) -> None:
    mark = folder / "pid"
    mark.touch()
    mark.chmod(0o666)
    spawn = f"User=nobody\nArgv=/bin/sh -c '(setsid sleep 60 & echo $! >{mark}); exit 3'"
    with serving(folder, spawn) as (there, port):
        assert talk(port) == b""
        until(lambda: "exit status 3" in there.said())
        assert not Path(f"/proc/{mark.read_text().strip()}").exists()


@in_machine
def test_interrupting_it_stops_the_commands(folder: Path) -> None:
    """^C goes to all of the foreground's process group; a command is in a session of its own."""
    spawn = "User=nobody\nStandardError=null\nArgv=/bin/sh -c 'echo $$; exec sleep 60'"
    with serving(folder, spawn) as (there, port):
        with patient_connect(port) as client:
            pid = int(client.recv(20))
            helper = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(helper, signal.SIGINT)
            assert read_all(client) == b""
        until(lambda: "stopped, killed by SIGTERM" in there.said())
    assert not Path(f"/proc/{pid}").exists()


@in_machine
def test_standard_streams_may_be_closed(folder: Path) -> None:
    """A descriptor number below 3 that is free must not become the helper's own."""
    file = folder / "closed.conf"
    every = " ".join(f"/proc/self/fd/{number}" for number in range(16))
    file.write_text(f"[Socket]\nListenStream=1\n[Spawn]\nUser=nobody\nArgv=readlink {every}\n")
    file.chmod(0o644)
    helper = "/usr/lib/spawnhelper/spawnhelper/__main__.py"
    start = "exec /usr/bin/python3 -I -S -X utf8 $0 --file $1 3<&$FD <&- >&- 2>&-"
    client, handed = socket.socketpair()
    with client, handed:
        environment = {"FD": str(handed.fileno()), "LISTEN_FDS": "1"}
        script = ["/bin/bash", "-c", f"export LISTEN_PID=$$; {start}", helper, str(file)]
        process = subprocess.Popen(script, env=environment, pass_fds=[handed.fileno()])
        handed.close()
        client.settimeout(PATIENCE)
        lines = read_all(client).decode().splitlines()
        assert process.wait(PATIENCE) == 0
    assert len(lines) == 3
    assert len(set(lines)) == 1


def test_a_bad_file_is_not_served(folder: Path) -> None:
    file = folder / "bad.conf"
    file.write_text("[Socket]\nListenStream=1\n[Spawn]\nUser=nobody\nArgv=/no/such/command\n")
    file.chmod(0o644)
    done = run(*SPAWNCTL, "run", str(file), check=False)
    assert done.returncode in (os.EX_UNAVAILABLE, os.EX_NOPERM)
    assert done.stderr.startswith(f"{file}:")


@needs_libraries
@pytest.mark.skipif(os.geteuid() == 0, reason="for an ordinary user")
def test_without_a_machine(folder: Path) -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    with serving(folder, f"User={user}\nArgv=/usr/bin/id -un") as (_, port):
        assert talk(port).decode() == f"{user}\n"


def test_the_activator_is_missing(folder: Path) -> None:
    user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    file = folder / "good.conf"
    file.write_text(f"[Socket]\nListenStream=1\n[Spawn]\nUser={user}\nArgv=/bin/true\n")
    file.chmod(0o644)
    environment = {"PATH": "/nowhere", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = run(*SPAWNCTL, "run", str(file), check=False, env=environment)
    assert done.returncode == os.EX_UNAVAILABLE
    assert done.stderr == "spawnctl: systemd-socket-activate is missing; install systemd\n"


def test_help_and_version() -> None:
    text = run(*SPAWNCTL, "--help").stdout
    assert "check" in text
    assert "Serve one service file in the foreground, to try it." in text
    assert run(*SPAWNCTL, "--version").stdout.startswith("spawnctl ")
    assert run(*SPAWNCTL, check=False).returncode != 0
