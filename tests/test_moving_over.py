"""The commands that `spawnctl import --to` ends with, typed as they stand while clients are there:
whoever is connected stays so, and at a path of Postfix nobody is ever refused."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import beside
import pytest
from beside import NATIVE_UNIT, XINETD
from conftest import PATIENCE, connect, in_machine, journal, run, until

pytestmark = in_machine

UNITS = Path("/run/systemd/system")
SPAWN = Path("/etc/spawn")
Address = tuple[str, int] | str


def type_it(source: str, file: Path) -> None:
    """Imports, and types what that ends with."""
    done = run("spawnctl", "import", source, str(file), "--to", str(SPAWN), check=False)
    assert done.returncode in (0, 65), done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.endswith(": written")]
    typed = subprocess.run(
        ["bash", "-ex"], input="\n".join(lines), capture_output=True, text=True, timeout=PATIENCE
    )
    assert typed.returncode == 0, typed.stderr


@contextmanager
def held(address: Address) -> Iterator[socket.socket]:
    """A connection to cat, which has answered once."""
    with connect(address) as client:
        answers(client)
        yield client


def answers(client: socket.socket) -> None:
    client.sendall(b"line\n")
    assert client.recv(5) == b"line\n"


@pytest.fixture
def clean() -> Iterator[None]:
    """Takes away the services that a test has imported."""
    before = set(SPAWN.iterdir())
    yield
    for file in set(SPAWN.iterdir()) - before:
        run("systemctl", "disable", "-q", "--now", f"spawn@{file.stem}.socket", check=False)
        file.unlink()
    run("systemctl", "daemon-reload")


class Clients:
    """Clients of cat, one behind the other without a pause, from the start until stopped."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.served, self.failed = 0, 0
        self.going = True
        self.thread = threading.Thread(target=self._all)
        self.thread.start()

    def _all(self) -> None:
        while self.going:
            try:
                with held(self.address):
                    self.served += 1
            except (OSError, AssertionError):
                self.failed += 1

    def stop(self) -> None:
        self.going = False
        self.thread.join(PATIENCE)


@pytest.mark.usefixtures("clean")
def test_from_postfix() -> None:
    folder = Path("/etc/postfix")
    kept = {name: (folder / name).read_text() for name in ("main.cf", "master.cf")}
    path, port = "/var/spool/postfix/private/over", 21031
    try:
        run("postconf", "-e", "inet_interfaces=loopback-only", "maillog_file=", "alias_maps=")
        run("postconf", "-Me", "over/unix=over unix - n n - 50 spawn user=nobody argv=/bin/cat")
        what = "inet n n n - 50 spawn user=nobody argv=/bin/cat"
        run("postconf", "-Me", f"127.0.0.1:{port}/inet=127.0.0.1:{port} {what}")
        run("systemctl", "restart", "postfix")
        until(lambda: beside.listens(("127.0.0.1", port)) and Path(path).exists())
        clients = Clients(path)
        try:
            until(lambda: clients.served > 5)
            with held(path) as first, held(("127.0.0.1", port)) as second:
                type_it("postfix", folder / "master.cf")
                answers(first)
                answers(second)
            now = clients.served
            until(lambda: clients.served > now + 5)
        finally:
            clients.stop()
        assert clients.failed == 0
        until(lambda: journal("SPAWN_SERVICE=over"))
        with held(("127.0.0.1", port)):
            pass
        until(lambda: journal("SPAWN_SERVICE=127.0.0.1-21031"))
        assert "\n#over" in (folder / "master.cf").read_text()
    finally:
        run("systemctl", "stop", "postfix")
        for name, text in kept.items():
            (folder / name).write_text(text)


@pytest.mark.usefixtures("clean")
def test_from_inetd() -> None:
    file = Path("/etc/inetd.conf")
    kept = file.read_text() if file.exists() else None
    file.write_text(
        "127.0.0.1:21041 stream tcp nowait nobody /bin/cat cat\n"
        "127.0.0.1:21042 stream tcp nowait nobody\n\t/bin/cat cat\n"
        "127.0.0.1:21043 stream tcp wait nobody /bin/cat cat\n"
    )
    try:
        run("systemctl", "restart", "inetd")
        until(lambda: beside.listens(("127.0.0.1", 21043)))
        with held(("127.0.0.1", 21041)) as client:
            type_it("inetd", file)
            answers(client)
        for port in (21041, 21042):
            with held(("127.0.0.1", port)):
                pass
            until(lambda port=port: journal(f"SPAWN_SERVICE={port}"))  # type: ignore[misc]
        assert beside.listens(("127.0.0.1", 21043))
    finally:
        run("systemctl", "stop", "inetd")
        file.unlink() if kept is None else file.write_text(kept)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("more", [False, True])
def test_from_xinetd(tmp_path: Path, more: bool) -> None:
    file = tmp_path / "xinetd.conf"
    body = "\ttype = UNLISTED\n\tport = {}\n\tbind = 127.0.0.1\n\tsocket_type = stream\n"
    body += "\twait = {}\n\tuser = nobody\n\tserver = /bin/cat\n\tinstances = 9\n"
    text = f"defaults\n{{\n}}\nservice over\n{{\n{body.format(21051, 'no')}}}\n"
    if more:
        text += f"service waits\n{{\n{body.format(21052, 'yes')}}}\n"
    file.write_text(text)
    unit = UNITS / "xinetd.service"
    unit.write_text(NATIVE_UNIT.replace("/usr/sbin/xinetd", f"{XINETD} -f {file}"))
    try:
        run("systemctl", "daemon-reload")
        run("systemctl", "start", "xinetd")
        until(lambda: beside.listens(("127.0.0.1", 21051)))
        with held(("127.0.0.1", 21051)) as client:
            type_it("xinetd", file)
            answers(client)
        with held(("127.0.0.1", 21051)):
            pass
        until(lambda: journal("SPAWN_SERVICE=over"))
        if more:
            until(lambda: beside.listens(("127.0.0.1", 21052)))
        assert run("systemctl", "is-active", "xinetd", check=False).stdout.strip() == (
            "active" if more else "inactive"
        )
    finally:
        run("systemctl", "stop", "xinetd", check=False)
        unit.unlink()
        for drop_in in (UNITS / "xinetd.service.d").glob("*"):
            drop_in.unlink()
        run("systemctl", "daemon-reload")
