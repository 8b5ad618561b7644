"""What else can go wrong on a machine, each under a running load."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import load
import nested
import pytest
from conftest import SLACK, Installed, connection_units, in_machine, journal, run, until
from load import CAT, ROOM

pytestmark = in_machine

UNIT = "/usr/lib/systemd/system/spawn@.service"


@pytest.mark.parametrize("verb", ["daemon-reload", "daemon-reexec"])
def test_systemd_reloads(verb: str, cat: Installed, promise: Callable[[str], None]) -> None:
    """systemctl daemon-reload, daemon-reexec, ten of each: no connection is lost, nor its
    record."""
    with load.running(cat) as others:
        for _ in range(10):
            run("systemctl", verb)
        told = others.end()
    count = load.COUNT + others.made
    assert len(cat.records(count)) == count
    promise(f"{verb}: {told}, the slowest {others.slowest * 1000:.0f} ms")


def test_a_broken_file_among_good_ones(
    cat: Installed, service: Callable[..., Installed], promise: Callable[[str], None]
) -> None:
    """The generator meets a broken service file: that service alone does not start, and says
    why."""
    with load.running(cat) as others:
        bad = service(CAT, socket_section="Accept=maybe", start=False)
        good = service(CAT)
        assert good.talk(b"here") == b"here"
        assert run("systemctl", "start", bad.socket_unit, check=False).returncode != 0
        why = [each["MESSAGE"] for each in journal(f"_SYSTEMD_UNIT={bad.socket_unit}")]
        told = others.end()
    assert len(why) == 1
    promise(f"{told}; {len(why)} sentence")
    assert re.search(r"\.conf:3: Accept=maybe is neither yes", why[0])


def test_the_service_file_is_replaced(
    service: Callable[..., Installed], promise: Callable[[str], None]
) -> None:
    """The service file is replaced again and again while it is read: every connection gets the one
    or the other."""
    words = [f"{number} {'x' * 500} {number}" for number in range(2)]
    there = service(f"User=nobody\nArgv=/bin/echo {words[0]}\n", socket_section=ROOM)
    text = there.file.read_text()
    over = threading.Event()
    replaced = 0

    def replace() -> None:
        nonlocal replaced
        while not over.is_set():
            for word in words:
                draft = there.file.with_suffix(".new")
                draft.write_text(text.replace(words[0], word))
                draft.rename(there.file)
                replaced += 1

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        answers = [there.talk() for _ in range(200)]
    finally:
        over.set()
        writer.join()
    assert set(answers) == {f"{word}\n".encode() for word in words}
    promise(f"200 connections, {replaced} times replaced")


def test_the_user_is_deleted(
    cat: Installed, service: Callable[..., Installed], promise: Callable[[str], None]
) -> None:
    """The user is deleted: its service says so, the command that runs goes on, and all is well
    when the user is back."""
    run("useradd", "--system", "leaving")
    there = service("User=leaving\nArgv=/bin/cat\n")
    try:
        with load.running(cat) as others, there.connect() as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            run("sed", "-i.kept", "/^leaving:/d", "/etc/passwd")
            assert there.talk() == b""
            record = there.record()
            assert record["SPAWN_RESULT"] == "config"
            client.sendall(b"y")
            assert client.recv(1) == b"y"
            shutil.copy("/etc/passwd.kept", "/etc/passwd")
            assert there.talk(b"z") == b"z"
            told = others.end()
    finally:
        shutil.move("/etc/passwd.kept", "/etc/passwd")
        run("userdel", "leaving", check=False)
    sentence = record["MESSAGE"].partition("run: ")[2].partition(", client")[0]
    promise(f"{told}; “{sentence.rpartition('/')[2]}”")


NAME_SERVICES = {"never answers": None, "fails after 10 s": 10.0, "fails at once": 0.0}


@contextlib.contextmanager
def name_service(pause: float | None) -> Iterator[None]:
    """A service of systemd-userdbd.service(8)'s protocol that ends each connection after the pause,
    in seconds, or never answers."""
    folder = Path("/run/systemd/userdb")
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "org.example.broken"

    def answer(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while pause is not None:
                client, _ = listener.accept()
                time.sleep(pause)
                client.close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        place.chmod(0o666)
        listener.listen(100)
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        try:
            yield
        finally:
            place.unlink()
            listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("how", NAME_SERVICES)
def test_a_name_service_is_broken(
    how: str, cat: Installed, service: Callable[..., Installed], promise: Callable[[str], None]
) -> None:
    """A name service fails, or is slow, or never answers: services of local users do not notice,
    and the one that asks it keeps nobody else waiting, and says that there is no such user."""
    there = service("User=remote\nArgv=/bin/true\n")
    pause = NAME_SERVICES[how]
    with name_service(pause), load.running(cat) as others, there.connect() as client:
        made = others.made
        if pause == 0:
            assert client.recv(1) == b""
        else:
            client.settimeout(1.5)
            with pytest.raises(TimeoutError):
                client.recv(1)
        until(lambda: others.made > made)
        slowest = others.slowest
        told = others.end()
    record = there.record()
    assert record["SPAWN_RESULT"] == "config"
    assert "User=remote is no account of this machine" in record["MESSAGE"]
    promise(f"{how}: {told}, the slowest {slowest * 1000:.0f} ms")
    assert slowest < (pause or SLACK)


SHORTAGES = {
    "no process": ["SystemCallFilter=~clone clone3 fork vfork\nSystemCallErrorNumber=EAGAIN"],
    "descriptors, from 3 to 12": [f"LimitNOFILE={count}" for count in range(3, 13)],
    "memory, from 6 to 40 MiB": [f"LimitAS={count}M" for count in range(6, 41, 2)],
}


@pytest.mark.parametrize("shortage", SHORTAGES)
def test_something_runs_out(
    shortage: str,
    cat: Installed,
    unit_change: Callable[[str], None],
    promise: Callable[[str], None],
) -> None:
    """Processes, descriptors or memory run out for new connections: each of them is served, or
    ends and says why; those that run go on, and all is well afterwards."""
    told: Counter[str] = Counter()
    slowest = 0.0
    with load.running(cat) as others:
        others.pause()
        for limit in SHORTAGES[shortage]:
            unit_change(f"[Service]\n{limit}")
            known = set(connection_units())
            seen = len(journal(f"SPAWN_SERVICE={cat.name}"))
            cursor = journal("--lines=1")[0]["__CURSOR"]
            begun = time.monotonic()
            served = asked_once(cat)
            slowest = max(slowest, time.monotonic() - begun)
            until(partial(nothing_but, known))
            records = journal(f"SPAWN_SERVICE={cat.name}")[seen:]
            lines = run("journalctl", "-q", "-o", "cat", f"--after-cursor={cursor}").stdout
            if served:
                told["served"] += 1
                assert records or f"{cat.name}: " in lines  # that could be too much, too
            elif records:
                told[f"recorded as {records[0]['SPAWN_RESULT']}"] += 1
                assert records[0]["SPAWN_RESULT"] in ("resources", "exec-failed", "signal")
            else:
                told["said by systemd"] += 1
                assert re.search(r"spawn@.*: (Failed|Main process exited)", lines), (limit, lines)
        unit_change("")
        assert cat.talk(b"again") == b"again"
        held = others.end().partition(" and ")[0]
    if shortage == "no process":
        assert told == {"recorded as resources": 1}
    counted = ", ".join(f"{number} {what}" for what, number in sorted(told.items()))
    promise(f"{shortage}: {counted}; the slowest {slowest * 1000:.0f} ms, {held}")


def nothing_but(known: set[str]) -> bool:
    """Whether no connection is there that was not known."""
    return set(connection_units()) <= known


def asked_once(there: Installed) -> bool:
    """Whether one connection is served; it ends, in whatever way."""
    try:
        return there.talk(b"x") == b"x"
    except OSError:
        return False


def test_the_machine_is_rebooted(
    tmp_path_factory: pytest.TempPathFactory, promise: Callable[[str], None]
) -> None:
    """The machine is rebooted with 50 connections open: each is ended and recorded as stopped, and
    the service listens again."""
    with nested.pristine(tmp_path_factory.mktemp("work")) as machine:
        machine.install(nested.BUILT.glob("*.deb"))
        shutil.copy(UNIT, f"{machine.root}{UNIT}")  # as it is here, for counterproof.py
        text = f"[Socket]\nListenStream=127.0.0.1:10023\n{ROOM}\n[Spawn]\n{CAT}"
        (machine.root / "etc/spawn/echo.conf").write_text(text)
        machine.run(
            "mkdir -p /var/log/journal; systemctl restart systemd-journald; journalctl --flush; "
            "systemctl daemon-reload; systemctl enable --now spawn@echo.socket"
        )
        opened = "socat -t 100 EXEC:'sleep 100' TCP:127.0.0.1:10023 >/dev/null 2>&1 &"
        machine.run(f"for i in $(seq 50); do setsid {opened} done")
        count = "spawnctl list --json | grep -o '\"live\": [0-9]*'"
        until(lambda: "50" in machine.run(count).stdout)
        begun = time.monotonic()
        machine.reboot()
        took = time.monotonic() - begun
        read = "spawnctl log --json --result stopped echo | grep -c SPAWN_RESULT"
        stopped = int(machine.run(read, check=False).stdout)
        assert machine.run("printf x | socat -t 5 - TCP:127.0.0.1:10023").stdout == "x"
    promise(f"{stopped} of 50 recorded as stopped, back after {took:.0f} s")
    assert stopped == 50
