"""The journal is away, stuck or full, under a running load."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import load
from conftest import Installed, fill_journal, in_machine, journal, read_all, run, until

pytestmark = in_machine

STOP = ("systemd-journald.socket", "systemd-journald-dev-log.socket")


def restart() -> None:
    """Restarts journald, however often that has been done."""
    run("systemctl", "restart", "systemd-journald")
    run("systemctl", "reset-failed", "systemd-journald")


def test_journald_is_restarted(cat: Installed, promise: Callable[[str], None]) -> None:
    """journald is restarted ten times: no connection is lost, nor its record."""
    with load.running(cat) as others:
        for _ in range(10):
            restart()
            time.sleep(0.2)
        told = others.end()
    count = load.COUNT + others.made
    assert len(cat.records(count)) == count
    promise(f"{told}, {count} records")


def test_journald_is_stopped(cat: Installed, promise: Callable[[str], None]) -> None:
    """journald is stopped for two seconds: connections are served meanwhile."""
    with load.running(cat) as others:
        run("systemctl", "stop", *STOP, "systemd-journald.service", check=False)
        made = others.made
        time.sleep(2)
        until(lambda: others.made > made)
        meanwhile = others.made - made
        away = run("systemctl", "is-active", "systemd-journald", check=False).stdout
        run("systemctl", "start", *STOP, "systemd-journald.service")
        told = others.end()
    promise(f"{told}, {meanwhile} of them meanwhile")
    assert away != "active\n"


def test_journald_is_stuck(cat: Installed, promise: Callable[[str], None]) -> None:
    """journald does not move for two seconds, and its queue is full: connections are served
    meanwhile, as fast as ever, and each has its record."""
    show = ("systemctl", "show", "-P", "MainPID", "systemd-journald.service")
    stuck = int(run(*show).stdout)
    with load.running(cat) as others:
        os.kill(stuck, signal.SIGSTOP)
        try:
            fill_journal()
            others.slowest, made = 0.0, others.made
            time.sleep(2)
            until(lambda: others.made > made)
            meanwhile, slowest = others.made - made, others.slowest
        finally:
            os.kill(stuck, signal.SIGCONT)
        told = others.end()
    promise(f"{told}, {meanwhile} of them meanwhile, the slowest {slowest * 1000:.0f} ms")
    count = load.COUNT + others.made
    assert len(cat.records(count)) == count
    assert slowest < 10  # which is what a helper waits for journald


def test_the_journals_disk_is_full(cat: Installed, promise: Callable[[str], None]) -> None:
    """The disk of the journal is full: connections are served, and are recorded again once there
    is room."""
    folders = (Path("/var/log/journal"), Path("/run/log/journal"))
    folder = next(each for each in folders if each.is_dir())
    run("mount", "-t", "tmpfs", "-o", "size=20M", "none", str(folder))
    try:
        restart()
        with load.running(cat) as others:
            full = folder / "full"
            with full.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * 65536)
            run("journalctl", "--rotate", check=False)  # to a file that there is no room for
            made = others.made
            time.sleep(2)
            until(lambda: others.made > made)
            meanwhile = others.made - made
            full.unlink()
            told = others.end()
        with cat.connect() as again:
            again.shutdown(socket.SHUT_WR)
            read_all(again)
            port = again.getsockname()[1]
        until(lambda: journal(f"SPAWN_SERVICE={cat.name}", f"SPAWN_REMOTE_PORT={port}"))
    finally:
        run("umount", "-l", str(folder))
        restart()
    promise(f"{told}, {meanwhile} of them meanwhile")
