"""What a connection leaves behind in the worker that served it: nothing, however it ended."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import doors
import pytest
from conftest import (
    Installed,
    in_machine,
    python,
    read_all,
    reset,
    run,
    until,
    until_over,
    workers,
)

pytestmark = [
    in_machine,
    pytest.mark.parametrize("door", [doors.NO], indirect=True, ids=["Accept-no"]),
]

SCRATCH = Path("/var/tmp/spawn-worker")
FOLDER = SCRATCH / "folder"
SCRIPT = """\
read -r word
case $word in
    fails) exit 3 ;;
    dies) kill -KILL $$ ;;
    sleeps) exec sleep 60 ;;
    waits) echo on; exec cat ;;
    floods) exec cat /dev/zero ;;
    *) echo answer ;;
esac
"""
SERVICE = f"""\
User=nobody
Argv=/bin/sh {SCRATCH}/script
WorkingDirectory={FOLDER}
Banner={SCRATCH}/banner
BannerRefused={SCRATCH}/banner
ProxyProtocol=any
ProxyFrom=127.0.0.1
DenyFrom=192.0.2.0/24
AccessTimes=00:00-24:00
TimeLimit=3s
IdleLimit=1s
KillDelay=0
MaxCommands=1
QueueLimit=0
"""
HEADER = b"PROXY TCP4 198.51.100.1 198.51.100.2 1 2\r\n"
SIZE_LIMIT = "SizeLimit=1000\n"
JOURNAL = "StandardError=journal\nLimitCORE=0\nUMask=027\n"
# With this a command is forked; without, it is spawned.
FORKED = JOURNAL + "LimitCPU=1h\n"


@pytest.fixture(autouse=True)
def places() -> Iterator[None]:
    FOLDER.mkdir(parents=True, exist_ok=True)
    (SCRATCH / "script").write_text(SCRIPT)
    (SCRATCH / "banner").write_text("banner")
    yield
    FOLDER.mkdir(exist_ok=True)


def says(word: bytes) -> Callable[[Installed], None]:
    """A client of one word, which reads to the end."""

    def talk(there: Installed) -> None:
        there.talk(HEADER + word + b"\n")

    return talk


def tell(there: Installed, data: bytes) -> None:
    """A client that is refused, and perhaps gone before it could end its side."""
    with there.connect() as client:
        client.sendall(data)
        read_all(client)


def goes_away(there: Installed) -> None:
    with there.connect() as client:
        client.sendall(HEADER + b"floods\n")
        assert len(client.makefile("rb").read(10)) == 10
        reset(client)


def sends_too_much(there: Installed) -> None:
    with there.connect() as client:
        client.sendall(HEADER + b"waits\n")
        client.sendall(b"x" * 2000)
        client.shutdown(socket.SHUT_WR)
        read_all(client)


def comes_in_vain(there: Installed) -> None:
    with there.connect() as first:
        first.sendall(HEADER + b"waits\n")
        assert first.makefile().readline() == "banneron\n"
        tell(there, HEADER)


def checks_health(there: Installed) -> None:
    there.connect().close()


def has_no_header(there: Installed) -> None:
    tell(there, b"none of this is a header\n")


def is_denied(there: Installed) -> None:
    tell(there, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")


def finds_no_folder(there: Installed) -> None:
    FOLDER.rmdir()
    tell(there, HEADER)
    FOLDER.mkdir()


OUTCOMES: dict[str, Callable[[Installed], None]] = {
    "success": says(b"answers"),
    "exit-code": says(b"fails"),
    "signal": says(b"dies"),
    "idle-limit": says(b"sleeps"),
    "time-limit": says(b"floods"),
    "reset": goes_away,
    "size-limit": sends_too_much,
    "queue-limit": comes_in_vain,
    "health-check": checks_health,
    "no-header": has_no_header,
    "denied": is_denied,
    "exec-failed": finds_no_folder,
}
KEPT = r"^(?:SigBlk|SigIgn|SigCgt|Umask|Threads|Uid|Gid|Groups|Cap\w+|NoNewPrivs):.*$"


def state(pid: int) -> dict[str, object]:
    """What there is of a process between two connections."""
    process = Path(f"/proc/{pid}")
    return {
        "descriptors": {fd.name: os.readlink(fd) for fd in (process / "fd").iterdir()},
        "status": re.findall(KEPT, (process / "status").read_text(), re.M),
        "limits": (process / "limits").read_text(),
        "children": (process / f"task/{pid}/children").read_text(),
        "timers": (process / "timers").read_text(),
        "folder": os.readlink(process / "cwd"),
    }


def switches(pid: int) -> int:
    """How often it has slept: it has worked meanwhile, if that is more."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


@pytest.mark.parametrize("more", ["", SIZE_LIMIT, JOURNAL, SIZE_LIMIT + JOURNAL, FORKED])
def test_nothing_is_left(service: Callable[..., Installed], more: str) -> None:
    there = service(SERVICE + more)
    there.talk(HEADER)
    until_over()
    until(lambda: len(workers(there)) >= 2)  # one in reserve while there was a connection
    for name, outcome in OUTCOMES.items():
        before = {pid: (state(pid), switches(pid)) for pid in workers(there)}
        outcome(there)
        until_over()
        after = {pid: (state(pid), switches(pid)) for pid in workers(there) if pid in before}
        worked = [pid for pid in after if after[pid][1] > before[pid][1]]
        assert worked, f"{name}: a worker is used again"
        for pid in worked:
            assert after[pid][0] == before[pid][0], name
    results = {record["SPAWN_RESULT"] for record in there.records(len(OUTCOMES) + 1)}
    never = {"no-header", "reset"} | ({"size-limit"} if SIZE_LIMIT not in more else set())
    assert OUTCOMES.keys() - never - results == set()
    assert "resources" not in results


def attack(service: Callable[..., Installed], code: str) -> dict[str, Any]:
    """The record of a command that does this; the next one is served as usual."""
    limits = "/bin/sh -c 'ulimit -n; nice'"
    there = service(f"User=nobody\nArgv={limits}")
    usual = there.talk()
    there.record()
    there.write(f"User=nobody\nTimeLimit=20s\n{python(SCRATCH, code)}")
    there.talk()
    record = there.record()
    there.write(f"User=nobody\nArgv={limits}")
    assert there.talk() == usual
    assert there.record()["SPAWN_RESULT"] == "success"
    assert there.state() == "active"
    return record


@pytest.mark.parametrize(
    ("code", "fate"),
    [
        ("os.kill(-1, 9)", "killed by SIGKILL"),
        ("os.kill(os.getppid(), 9); time.sleep(60)", "killed by SIGKILL"),
        ("os.kill(os.getppid(), 19); time.sleep(60)", "it was stopped, and was ended"),
        ("os.kill(os.getppid(), 11); time.sleep(60)", "killed by SIGSEGV"),
    ],
)
def test_a_command_ends_its_worker(service: Callable[..., Installed], code: str, fate: str) -> None:
    record = attack(service, f"import os, time\n{code}\n")
    assert record["SPAWN_RESULT"] == "resources"
    sentence = f"its worker did not come to the end of it: {fate}; what was left is ended, client"
    assert sentence in record["MESSAGE"]
    until(lambda: run("pgrep", "-u", "nobody", "sleep", check=False).stdout == "")


@pytest.mark.parametrize(
    "code",
    [
        "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (6, 6))",
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "os.sched_setaffinity(os.getppid(), {min(os.sched_getaffinity(0))})",
    ],
)
def test_a_command_changes_its_worker(service: Callable[..., Installed], code: str) -> None:
    """That is no worker any more for the next one."""
    record = attack(service, f"import os, resource\n{code}\n")
    assert record["SPAWN_RESULT"] == "success"


@pytest.mark.parametrize("limit", ["", "SizeLimit=1M\n"])
def test_a_command_that_its_worker_may_not_kill(
    service: Callable[..., Installed], limit: str
) -> None:
    """A set-user-ID program is root's; the worker's control group ends it all the same."""
    sleeper = SCRATCH / "sleeper"
    shutil.copy("/bin/sleep", sleeper)
    sleeper.chmod(0o4755)
    keys = f"TimeLimit=500ms\nKillDelay=0\nNoNewPrivileges=no\n{limit}"
    there = service(f"User=nobody\n{keys}Argv={sleeper} 60")
    assert there.talk() == b""
    assert there.record()["SPAWN_RESULT"] == "time-limit"
    until(lambda: run("pgrep", "-x", "sleeper", check=False).stdout == "")
    assert there.talk() == b""
