"""Nothing that the helper itself prints can reach the client, whatever breaks."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import doors
import pytest
from conftest import (
    SLACK,
    Installed,
    both_doors,
    fill_journal,
    in_machine,
    journal,
    journald_stuck,
    no_stream,
    run,
    silent,
    until,
    until_over,
)

pytestmark = [in_machine, both_doors]

PACKAGES = Path("/usr/lib/python3/dist-packages")
ANSWER = "User=nobody\nArgv=/bin/echo answer"


@contextmanager
def gone(path: Path) -> Iterator[None]:
    """Takes a file away for a while."""
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


@contextmanager
def broken(path: Path) -> Iterator[None]:
    """Makes a module of ours raise an error when it is imported."""
    text = path.read_text()
    path.write_text("raise RuntimeError('broken for a test')\n")
    try:
        yield
    finally:
        path.write_text(text)


def library(name: str) -> Path:
    """The file of a C module for the interpreter that the helper runs under."""
    return PACKAGES / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"


def test_missing_library_before_the_fork(service: Callable[..., Installed]) -> None:
    there = service(ANSWER)
    with gone(library("_prctl")):
        assert there.talk() == b""
        record = there.record()
    assert (record["SPAWN_RESULT"], record["PRIORITY"]) == ("resources", "3")
    assert (
        ": no command was run: the library _prctl is missing; install python3-prctl, client"
        in (record["MESSAGE"])
    )
    assert there.talk() == b"answer\n"


def test_missing_library_for_the_check(service: Callable[..., Installed]) -> None:
    there = service(ANSWER)
    with gone(PACKAGES / "prctl.py"):
        said = there.check()
    sentence = "the library prctl is missing; install python3-prctl\n"
    assert (said.returncode, said.stderr) == (os.EX_UNAVAILABLE, sentence)


def test_missing_library_for_the_journal(service: Callable[..., Installed]) -> None:
    """The command runs, and its record is at least text."""
    there = service(ANSWER)
    with gone(library("systemd/_journal")):
        assert there.talk() == b"answer\n"
        line = f"{there.name}: /bin/echo as nobody: exit status 0 after"
        until(lambda: line in run("journalctl", "-q", "-o", "cat", "-t", "spawn").stdout)
    fields = run("journalctl", "-q", "-o", "cat", "-t", "spawn", "-p", "err").stdout
    assert f"    SPAWN_SERVICE={there.name}\n" in fields


@pytest.mark.parametrize("module", ["stages/identity", "stages/supervise", "record"])
def test_traceback(service: Callable[..., Installed], module: str) -> None:
    there = service(ANSWER)
    cursor = run("journalctl", "-q", "-n0", "--show-cursor").stdout.strip().partition(": ")[2]
    with broken(Path(doors.PACKAGE, f"{module}.py")):
        assert there.talk() in (b"", b"answer\n")

    def lines() -> list[str]:
        return [entry["MESSAGE"] for entry in journal(f"--after-cursor={cursor}", "-t", "spawn")]

    until(lines, holds=lambda said: "RuntimeError: broken for a test" in said)
    assert there.state() == "active"
    assert there.talk() == b"answer\n"


def test_fault_in_the_helper_is_recorded(service: Callable[..., Installed]) -> None:
    there = service(ANSWER)
    with broken(Path(doors.PACKAGE, "stages/traffic.py")):
        assert there.talk() in (b"", b"answer\n")
        record = there.record()
    assert record["SPAWN_RESULT"] == "resources"
    assert ": the helper failed: RuntimeError: broken for a test, client" in record["MESSAGE"]


def test_full_disk(service: Callable[..., Installed]) -> None:
    """A journal that can take no more costs entries, never an answer or a word to the client."""
    folder = Path("/run/log/journal")
    run("mount", "-t", "tmpfs", "-o", "size=4M", "none", str(folder))
    try:
        run("systemctl", "restart", "systemd-journald")
        subprocess.run(
            ["dd", "if=/dev/zero", f"of={folder}/full", "bs=64k"], check=False, capture_output=True
        )
        there = service(ANSWER)
        for _ in range(5):
            assert there.talk() == b"answer\n"
        there.write("User=nobody\nArgv=/no/such/command")
        assert there.talk() == b""
        assert there.state() == "active"
    finally:
        run("umount", "--lazy", str(folder))
        run("systemctl", "restart", "systemd-journald")
    there.write(ANSWER)
    assert there.talk() == b"answer\n"


def test_noise_does_not_cost_the_record(service: Callable[..., Installed]) -> None:
    """journald limits how much a unit may say; a command must not use that up for its record."""
    there = service(
        "User=nobody\nStandardError=journal\nArgv=/bin/sh -c 'seq 60000 >&2'",
    )
    there.talk()
    assert there.record()["SPAWN_RESULT"] == "success"


def test_journald_is_stuck(service: Callable[..., Installed]) -> None:
    """With its socket full a record is waited for no more than ten seconds, then it is text. A
    server has it wait instead."""
    there = service(ANSWER)
    with journald_stuck():
        fill_journal()
        for _ in range(3):
            assert there.talk() == b"answer\n"
        until_over(10 + SLACK)

    def told() -> int:
        text = run("journalctl", "-q", "-o", "cat", "-t", "spawn").stdout
        return text.count(f"{there.name}: /bin/echo as nobody")

    until(told, holds=lambda count: count == 3)


def test_journald_takes_a_stream_late(service: Callable[..., Installed]) -> None:
    """Lines are of who has written them, however long that has been over."""
    there = service("User=nobody\nStandardError=journal\nArgv=/bin/sh -c 'echo said $$ >&2'")
    with journald_stuck():
        for _ in range(2):
            there.talk()
            until_over()
    pids = [record["SPAWN_PID"] for record in there.records(2)]
    lines = until(lambda: journal("_UID=65534", *(f"MESSAGE=said {pid}" for pid in pids)))
    assert [(line["_PID"], line["MESSAGE"]) for line in lines] == [
        (pid, f"said {pid}") for pid in pids
    ]


def test_journald_takes_no_stream(service: Callable[..., Installed]) -> None:
    """With its backlog full a command waits for it."""
    there = service("User=nobody\nStandardError=journal\nArgv=/bin/cat")
    assert there.talk(b"before") == b"before"
    until_over()
    with contextlib.ExitStack() as clients:
        with journald_stuck(), no_stream():
            client = clients.enter_context(there.connect())
            client.sendall(b"now")
            assert silent(client)
        client.shutdown(socket.SHUT_WR)
        assert client.makefile("rb").read() == b"now"
    assert [record["SPAWN_RESULT"] for record in there.records(2)] == ["success"] * 2


def test_journald_is_stopped(service: Callable[..., Installed]) -> None:
    there = service(ANSWER)
    units = (
        "systemd-journald.service",
        "systemd-journald.socket",
        "systemd-journald-dev-log.socket",
    )
    run("systemctl", "stop", *units)
    try:
        assert there.talk() == b"answer\n"
    finally:
        run("systemctl", "start", *units)
    assert there.talk() == b"answer\n"
