"""list, status and check never call a service healthy that is not: the file, what systemd was told,
and where the kernel listens are compared."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import doors
import pytest
from conftest import (
    FOLDER,
    Installed,
    both_doors,
    free_port,
    in_machine,
    journal,
    run,
    systemd_version,
    until,
)

pytestmark = [in_machine, both_doors]

CAT = "User=nobody\nArgv=/bin/cat\n"
USER = ("setpriv", "--reuid=games", "--regid=games", "--groups=systemd-journal")  # who reads it


def seen(verb: str, name: str) -> dict[str, Any]:
    """What list or status says of the service, with its exit status."""
    done = run("spawnctl", verb, "--json", name, check=False)
    assert done.stderr == ""
    said = json.loads(done.stdout)
    (found,) = said if isinstance(said, list) else [said]
    return {**found, "code": done.returncode}


def told(there: Installed, word: str, remedy: str, *, code: int = 3) -> None:
    """Both verbs say it, in words and in JSON; and so does check, where the file is good."""
    for verb in ("list", "status"):
        said = seen(verb, there.name)
        assert (said["trouble"], said["remedy"], said["code"]) == (word, remedy, code)
        text = run("spawnctl", verb, there.name, check=False).stdout
        assert f"({word})" in text
        assert remedy in text
    checked = there.check()
    if checked.returncode == 0:
        assert f"{there.socket_unit}: note: {word}: {remedy}\n" in checked.stderr


def moved(there: Installed) -> int:
    """Gives the service another address, in its file alone."""
    port = free_port()
    there.file.write_text(there.file.read_text().replace(str(there.address[1]), str(port)))
    return port


def test_all_is_well(service: Callable[..., Installed]) -> None:
    there = service(CAT)
    for verb in ("list", "status"):
        said = seen(verb, there.name)
        assert (said["trouble"], said["remedy"], said["code"]) == (None, None, 0)
        assert said["listening"] == ["{}:{}".format(*there.address)]
    assert there.check().stderr == ""


def test_an_address_that_has_changed(service: Callable[..., Installed]) -> None:
    there = service(CAT)
    port = moved(there)
    remedy = "systemd goes by [Socket] as it was at its last reload; spawnctl apply " + there.name
    told(there, "file changed", remedy, code=0)
    assert seen("list", there.name)["listening"] == ["{}:{}".format(*there.address)]
    run("systemctl", "daemon-reload")  # by whomever, and nobody listens any more
    told(there, "address changed", f"systemctl restart {there.socket_unit}")
    assert seen("status", there.name)["listening"] == []
    run("systemctl", "restart", there.socket_unit)
    assert seen("status", there.name)["listening"] == [f"127.0.0.1:{port}"]


def test_one_address_of_two(service: Callable[..., Installed]) -> None:
    there = service(CAT)
    kept, port = "{}:{}".format(*there.address), free_port()
    text = there.file.read_text()
    there.file.write_text(text.replace("[Socket]", f"[Socket]\nListenStream=127.0.0.1:{port}"))
    run("systemctl", "daemon-reload")
    told(there, "address changed", f"systemctl restart {there.socket_unit}")
    assert seen("list", there.name)["listening"] == [kept]


def test_a_file_that_is_gone(service: Callable[..., Installed]) -> None:
    there = service(CAT)
    there.file.unlink()
    remedy = f"write {there.file}, or systemctl disable --now {there.socket_unit}"
    told(there, "no service file", remedy)
    run("systemctl", "daemon-reload")
    told(there, "no service file", remedy)
    assert seen("list", there.name)["listening"] == []


def test_a_file_that_is_wrong(service: Callable[..., Installed]) -> None:
    there = service(CAT)
    there.write("User=nobody\nArgv=/bin/cat\nNice=99\nUMask=x\n")
    told(there, "2 problems", f"{there.file}; spawnctl check {there.name}")
    there.write("User=nobody\nArgv=/bin/catt\n")
    told(there, "1 problem", f"{there.file}; spawnctl check {there.name}")
    run("systemctl", "daemon-reload")  # [Socket] is good
    assert seen("list", there.name)["listening"] != []


def test_a_program_that_the_user_cannot_run(
    service: Callable[..., Installed], tmp_path: Path
) -> None:
    program = tmp_path / "cat"
    shutil.copy("/bin/cat", program)
    program.chmod(0o700)
    there = service(f"User=nobody\nArgv={program}\n")
    assert seen("status", there.name)["trouble"] == "1 problem"


def test_an_enabled_service_that_was_stopped(service: Callable[..., Installed]) -> None:
    there = service(CAT)
    run("systemctl", "enable", "-q", there.socket_unit)
    run("systemctl", "stop", there.socket_unit)
    told(there, "inactive", f"systemctl start {there.socket_unit}")


def test_a_draft_is_no_trouble(service: Callable[..., Installed]) -> None:
    draft = service(CAT, start=False)
    assert seen("list", draft.name)["code"] == 0
    assert seen("status", draft.name)["code"] == 3  # it does not listen
    assert draft.check().stderr == ""


@contextlib.contextmanager
def holder(port: int, user: str = "root") -> Iterator[int]:
    """Another program that listens there; its pid."""
    command = ["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork", "PIPE"]
    with subprocess.Popen(["runuser", "-u", user, "--", *command]) as process:
        until(lambda: str(port) in run("ss", "-ltnH").stdout)
        (pid,) = doors.children(process.pid) or [process.pid]
        try:
            yield pid
        finally:
            os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_who_has_the_address(service: Callable[..., Installed], user: str) -> None:
    there = service(CAT, start=False)
    run("systemctl", "daemon-reload")
    with holder(int(there.address[1]), user) as pid:
        run("systemctl", "start", there.socket_unit, check=False)
        place = "{}:{}".format(*there.address)
        who = f"{place} is in use by socat (pid {pid}); it is tried again every 10s"
        until(lambda: seen("status", there.name), holds=lambda said: said["state"] == "failed")
        told(there, "failed", who)
        plain = run("runuser", "-u", "nobody", "--", "spawnctl", "status", there.name, check=False)
        whose = "a program of uid 0" if user == "root" else f"socat (pid {pid})"
        assert f"{place} is in use by {whose}" in plain.stdout
        said = until(lambda: journal(f"SPAWN_SERVICE={there.name}", "SPAWN_RESULT=cannot-listen"))
        assert f"{place} is in use by a program of uid " in said[0]["MESSAGE"]


@pytest.mark.one_door
def test_a_copy_takes_nothing_from_a_live_service(service: Callable[..., Installed]) -> None:
    """A copy is how everybody begins a second service."""
    live = service("User=nobody\nArgv=/bin/echo here\n")
    copy = FOLDER / f"{live.name}-copy.conf"
    odd = FOLDER / f"{live.name} copy.conf"
    try:
        for made in (copy, odd):
            shutil.copy(live.file, made)
        assert live.talk() == b"here\n"
        run("systemctl", "daemon-reload")
        assert live.talk() == b"here\n"
        assert [each["SPAWN_RESULT"] for each in live.records(2)] == ["success"] * 2
        checked = live.check()
        assert checked.returncode == 0
        assert f"is where {copy.stem} would listen ({copy}:2)" in checked.stderr
        checked = run("spawnctl", "check", copy.stem, check=False)
        assert checked.returncode == os.EX_CONFIG
        assert f"is where {live.name} listens ({live.file}:2)" in checked.stderr
        assert seen("list", live.name)["code"] == 0
    finally:
        copy.unlink()
        odd.unlink()


@pytest.mark.one_door
def test_a_saved_address_takes_nothing_before_the_reload(service: Callable[..., Installed]) -> None:
    live = service("User=nobody\nArgv=/bin/echo here\n")
    moved(live)
    assert live.talk() == b"here\n"
    assert live.record()["SPAWN_RESULT"] == "success"


@pytest.mark.one_door
def test_two_services_at_one_address(service: Callable[..., Installed]) -> None:
    """ReusePort= has the kernel give either of them the connection; before systemd 257 nobody can
    tell which, and the record is both's."""
    one = service("User=nobody\nArgv=/bin/echo here\n", socket_section="ReusePort=yes")
    two = service(
        "User=nobody\nArgv=/bin/echo here\n", socket_section="ReusePort=yes", address=one.address
    )
    said = one.talk()
    if systemd_version() >= 257:
        assert said == b"here\n"
        return
    assert said == b""
    place = "{}:{}".format(*one.address)
    for name in (one.name, two.name):
        (record,) = until(lambda name=name: journal(f"SPAWN_SERVICE={name}"))  # type: ignore[misc]
        assert record["SPAWN_SERVICE"] == [one.name, two.name]
        assert record["MESSAGE"].startswith(
            f"{one.name} or {two.name}: no command was run: {one.file}: {one.name} and {two.name} "
            f"have the address {place}, and before systemd 257 nothing else tells whose a "
            "connection is; give each service an address of its own, client 127.0.0.1:"
        )
        shown = run("spawnctl", "log", name).stdout
        assert f"{one.name} or {two.name}  config" in shown


def test_where_people_look_first(service: Callable[..., Installed]) -> None:
    there = service(CAT)
    there.talk(b"x")
    sentence = there.record()["MESSAGE"]
    for unit in (there.socket_unit, f"spawn@{there.name}"):
        until(lambda unit=unit: sentence in run("journalctl", "-q", "-u", unit).stdout)  # type: ignore[misc]
    status = run("systemctl", "status", there.socket_unit, "--full", "--no-pager")
    assert sentence in status.stdout


def test_at_80_columns(service: Callable[..., Installed]) -> None:
    """Nothing that is needed is cut, at any width."""
    there = service("User=nobody\nArgv=/bin/sh -c 'exit 4'\n", socket_section="MaxConnections=7")
    there.talk()
    sentence = there.record()["MESSAGE"]
    place = "{}:{}".format(*there.address)
    for columns in (80, 100, 200):

        def shown(*words: str, columns: int = columns) -> str:
            command = f"stty cols {columns}; spawnctl {' '.join(words)} --no-pager"
            environment = os.environ | {"TERM": "dumb", "COLUMNS": str(columns)}
            return run("script", "-qec", command, "/dev/null", env=environment).stdout

        listed = shown("list", there.name)
        assert re.search(rf"^{there.name} .* {place} +0 ", listed, re.M) or place in listed
        assert re.search(r"  exit-code\r?$", listed, re.M)
        assert ("ENABLED" in listed.splitlines()[0]) == (columns > 80)
        status = shown("status", there.name)
        assert sentence in " ".join(status.split())
        assert "Connections" in status
        log = shown("log", there.name)
        assert "/bin/sh as nobody: exit status 4" in " ".join(log.split())
        stats = shown("stats", there.name)
        assert re.search(rf"^{there.name} +1 +1 ", stats, re.M)
        assert "…" not in listed + status + log + stats
        for text in (listed, status, log, stats):
            assert all(len(line.rstrip("\r")) <= columns for line in text.split("\n"))
            assert not re.search(r" \r?$", text, re.M)


def test_a_folder_that_is_closed_or_broken(service: Callable[..., Installed]) -> None:
    """To a user who may not look into it a service is as well as it looks; where nobody can, that
    is said of it, and the others are seen."""
    broken, other = service(CAT), service(CAT)
    drop_ins = broken.file.with_suffix(".conf.d")
    as_user = (*USER, "spawnctl")
    drop_ins.mkdir(mode=0o700)
    try:
        assert run(*as_user, "list").stdout == run("spawnctl", "list").stdout
        assert run(*as_user, "health", broken.name).stdout.startswith("SPAWN OK")
        drop_ins.rmdir()
        drop_ins.symlink_to(drop_ins.name)
        assert seen("list", broken.name)["trouble"] == "1 problem"
        assert seen("list", other.name)["trouble"] is None
        done = run("spawnctl", "health", broken.name, check=False)
        assert (done.returncode, done.stderr) == (2, "")
        assert f"{broken.name}: 1 problem: " in done.stdout
    finally:
        if drop_ins.is_symlink():
            drop_ins.unlink()
        else:
            drop_ins.rmdir()


def test_a_folder_of_services_that_is_closed(service: Callable[..., Installed]) -> None:
    """Nobody calls them well who cannot see them."""
    service(CAT)
    as_user = (*USER, "spawnctl")
    FOLDER.chmod(0o700)
    try:
        done = run(*as_user, "health", check=False)
        assert (done.returncode, done.stderr) == (3, "")
        assert done.stdout.startswith(f"SPAWN UNKNOWN - {FOLDER}: ")
        done = run(*as_user, "list", check=False)
        assert done.returncode != 0
        assert done.stderr.startswith(f"spawnctl: {FOLDER}: ")
    finally:
        FOLDER.chmod(0o755)
