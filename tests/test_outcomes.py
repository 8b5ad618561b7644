"""How a command can end, and what the record, the client and the control group see of it."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import doors
import pytest
from conftest import (
    SLACK,
    Installed,
    both_doors,
    connection_units,
    helper,
    in_machine,
    journal,
    read_all,
    reset,
    run,
    until,
    until_over,
)

from spawnhelper.conf.statuses import STATUSES, good_ends

pytestmark = [in_machine, both_doors]

SCRATCH = Path("/var/tmp/spawn-test")
# What of a record is the same for every connection to a service at 127.0.0.1.
ALWAYS = {
    "MESSAGE",
    "MESSAGE_ID",
    "PRIORITY",
    "SYSLOG_IDENTIFIER",
    "SYSLOG_FACILITY",
    "SPAWN_RESULT",
    "SPAWN_SERVICE",
    "SPAWN_UNIT",
    "OBJECT_SYSTEMD_UNIT",
    "SPAWN_LOCAL_ADDR",
    "SPAWN_LOCAL_PORT",
    "SPAWN_REMOTE_ADDR",
    "SPAWN_REMOTE_PORT",
}
OF_A_COMMAND = ALWAYS | {
    "EXIT_CODE",
    "EXIT_STATUS",
    "SPAWN_COMMAND",
    "SPAWN_USER",
    "SPAWN_PID",
    "SPAWN_DURATION_USEC",
    "SPAWN_CPU_USEC",
    "SPAWN_MAXRSS_BYTES",
    "SPAWN_BYTES_IN",
    "SPAWN_BYTES_OUT",
}


@pytest.fixture(scope="module", autouse=True)
def scratch() -> None:
    SCRATCH.mkdir(exist_ok=True)
    SCRATCH.chmod(0o1777)


def own_fields(record: dict[str, Any]) -> set[str]:
    """The fields that the helper wrote; journald's own begin with _."""
    return {field for field in record if not field.startswith("_")}


def of_a_command() -> set[str]:
    """What a record of a command has; behind the second door its worker, too."""
    return OF_A_COMMAND | ({"SPAWN_WORKER"} if doors.now is doors.NO else set())


def said(record: dict[str, Any]) -> tuple[str, ...]:
    keys = ("SPAWN_RESULT", "EXIT_CODE", "EXIT_STATUS", "PRIORITY")
    return tuple(record.get(key, "") for key in keys)


@pytest.mark.parametrize(
    ("script", "outcome", "fate"),
    [
        ("exit 0", ("success", "exited", "0", "5"), "exit status 0"),
        ("exit 3", ("exit-code", "exited", "3", "4"), "exit status 3"),
        ("kill -TERM $$", ("signal", "killed", "TERM", "4"), "killed by SIGTERM"),
        ("kill -40 $$", ("signal", "killed", "RTMIN+6", "4"), "killed by SIGRTMIN+6"),
    ],
)
def test_end(
    service: Callable[..., Installed], script: str, outcome: tuple[str, ...], fate: str
) -> None:
    there = service(f"User=nobody\nArgv=/bin/sh -c 'echo answer; {script}'")
    with there.connect() as client:
        port = client.getsockname()[1]
        assert read_all(client) == b"answer\n"
    record = there.record()
    assert own_fields(record) == of_a_command()
    assert said(record) == outcome
    assert re.fullmatch(
        rf"{there.name}: /bin/sh as nobody: {re.escape(fate)} after [\d.]+ms, "
        rf"client 127\.0\.0\.1:{port}",
        record["MESSAGE"],
    ), record["MESSAGE"]
    assert record["SPAWN_UNIT"].startswith(doors.now.unit)
    assert record["_UID"] == "0"
    wanted = {
        "SPAWN_COMMAND": "/bin/sh",
        "SPAWN_USER": "nobody",
        "SPAWN_LOCAL_ADDR": "127.0.0.1",
        "SPAWN_LOCAL_PORT": str(there.address[1]),
        "SPAWN_REMOTE_ADDR": "127.0.0.1",
        "SPAWN_REMOTE_PORT": str(port),
        "SYSLOG_IDENTIFIER": "spawn",
        "SPAWN_BYTES_IN": "0",
        "SPAWN_BYTES_OUT": "7",
    }
    assert {key: record[key] for key in wanted} == wanted


def test_core_dump(service: Callable[..., Installed]) -> None:
    # The kernel's pattern is the host's; "core" in the working directory is its own default.
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"):
        pytest.skip("the host's kernel pipes core dumps to a program of the host")
    there = service(
        f"User=nobody\nWorkingDirectory={SCRATCH}\nSuccessExitStatus=SIGABRT\n"
        "Argv=/bin/sh -c 'ulimit -c unlimited; kill -ABRT $$'"
    )
    assert there.talk() == b""
    record = there.record()
    assert said(record) == ("core-dump", "dumped", "ABRT", "4")
    assert "killed by SIGABRT, core dumped after" in record["MESSAGE"]


@pytest.mark.parametrize(
    ("good", "script", "outcome"),
    [
        ("255", "exit 255", ("success", "exited", "255", "5")),
        ("PIPE", "kill -PIPE $$", ("success", "killed", "PIPE", "5")),
        ("13", "kill -PIPE $$", ("signal", "killed", "PIPE", "4")),
        ("SIGTERM", "exit 15", ("exit-code", "exited", "15", "4")),
        ("1", "exit 0", ("success", "exited", "0", "5")),
    ],
)
def test_success_exit_status(
    service: Callable[..., Installed], good: str, script: str, outcome: tuple[str, ...]
) -> None:
    there = service(f"User=nobody\nSuccessExitStatus={good}\nArgv=/bin/sh -c '{script}'")
    there.talk()
    assert said(there.record()) == outcome


def test_an_end_at_a_limit_is_no_success(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nTimeLimit=200ms\nSuccessExitStatus=SIGTERM\nArgv=/bin/sleep 60")
    there.talk()
    assert said(there.record()) == ("time-limit", "killed", "TERM", "4")


def test_names_of_ends_are_systemds() -> None:
    rows = [row.split() for row in run("systemd-analyze", "exit-status").stdout.splitlines()[1:]]
    statuses = {name: int(status) for name, status, _ in rows}
    ours = {name: status for name, status in STATUSES.items() if not name.isdecimal()}
    assert {name: statuses.get(name) for name in ours} == ours
    assert [name for name in statuses.keys() - ours.keys() if statuses[name] < 200] == []
    rows = [
        row.split() for row in run("systemctl", "kill", "--signal=list", "x").stdout.splitlines()
    ]
    signals = {name: int(number) for number, name in rows[1:] if name not in ("SIG32", "SIG33")}
    assert {name: good_ends(name) for name in signals} == {
        name: [number] for name, number in signals.items()
    }


def test_time_limit_leaves_nobody_behind(service: Callable[..., Installed]) -> None:
    marks = [SCRATCH / f"limit-{which}" for which in ("main", "child", "own-session")]
    for mark in marks:
        mark.unlink(missing_ok=True)
    main, child, own = marks
    there = service(
        "User=nobody\nTimeLimit=2s\nKillDelay=200ms\n"
        "Argv=/bin/sh -c \"trap '' TERM; "
        f"sh -c 'trap \\\"\\\" TERM; echo $$ >{child}; while :; do sleep 1; done' & "
        f"setsid sh -c 'trap \\\"\\\" TERM; echo $$ >{own}; while :; do sleep 1; done' & "
        f'echo $$ >{main}; echo begun; while :; do sleep 1; done"'
    )
    begun = time.monotonic()
    assert there.talk() == b"begun\n"
    ended = time.monotonic() - begun
    assert 2.2 <= ended < 2.2 + SLACK, "the client sees the end once both limits are over"
    record = there.record()
    assert said(record) == ("time-limit", "killed", "KILL", "4")
    assert "), killed by SIGKILL after" in record["MESSAGE"]
    assert 2.2 <= int(record["SPAWN_DURATION_USEC"]) / 1e6 < 2.2 + SLACK
    until_over()
    pids = [int(mark.read_text()) for mark in marks]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_time_limit_is_polite_first(service: Callable[..., Installed]) -> None:
    there = service(
        "User=nobody\nTimeLimit=1s\nStandardError=null\n"
        "Argv=/bin/sh -c \"trap 'echo goodbye; exit 4' TERM; while :; do sleep 0.01; done\""
    )
    assert there.talk() == b"goodbye\n"
    assert said(there.record()) == ("time-limit", "exited", "4", "4")


def test_no_kill_delay_kills_at_once(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nTimeLimit=200ms\nKillDelay=0\nArgv=/bin/sleep 60")
    assert there.talk() == b""
    record = there.record()
    assert said(record) == ("time-limit", "killed", "KILL", "4")
    assert 0.2 <= int(record["SPAWN_DURATION_USEC"]) / 1e6 < 0.2 + SLACK


def test_time_limit_infinity(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nTimeLimit=infinity\nArgv=/bin/sleep 0.2")
    assert there.talk() == b""
    assert said(there.record()) == ("success", "exited", "0", "5")


@pytest.mark.parametrize("limit", ["30d", "500y"])
def test_a_time_limit_beyond_what_poll_takes(service: Callable[..., Installed], limit: str) -> None:
    there = service(f"User=nobody\nTimeLimit={limit}\nArgv=/bin/sh -c 'sleep 0.1; echo here'")
    assert there.talk() == b"here\n"
    assert said(there.record()) == ("success", "exited", "0", "5")


def test_a_child_in_the_background_does_not_hold_the_client(
    service: Callable[..., Installed],
) -> None:
    mark = SCRATCH / "background"
    mark.unlink(missing_ok=True)
    there = service(
        f"User=nobody\nArgv=/bin/sh -c 'setsid sleep 60 & echo $! >{mark}; echo answer'"
    )
    begun = time.monotonic()
    assert there.talk() == b"answer\n"
    assert time.monotonic() - begun < SLACK
    assert said(there.record()) == ("success", "exited", "0", "5")
    assert not Path(f"/proc/{mark.read_text().strip()}").exists()


def test_the_work_of_children_is_accounted_for(service: Callable[..., Installed]) -> None:
    script = SCRATCH / "work.sh"
    script.write_text("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
    both = f"(sh {script}); setsid sh {script} & wait"
    there = service(f"User=nobody\nArgv=/bin/sh -c '{both}'")
    there.talk()
    record = there.record()
    assert int(record["SPAWN_CPU_USEC"]) > 20_000
    assert int(record["SPAWN_CPU_USEC"]) <= int(record["SPAWN_DURATION_USEC"]) * 2


def test_the_memory_of_a_child_is_accounted_for(service: Callable[..., Installed]) -> None:
    script = SCRATCH / "memory.py"
    script.write_text("data = b'x' * (60 << 20)\n")
    there = service(f"User=nobody\nArgv=/bin/sh -c '(/usr/bin/python3 {script}); true'")
    there.talk()
    assert 60 << 20 < int(there.record()["SPAWN_MAXRSS_BYTES"]) < 80 << 20


def test_the_work_of_orphans_is_accounted_for(service: Callable[..., Installed]) -> None:
    script = SCRATCH / "orphan.sh"
    mark = SCRATCH / "orphan-done"
    mark.unlink(missing_ok=True)
    script.write_text(f"i=0; while [ $i -lt 500000 ]; do i=$((i+1)); done; echo >{mark}")
    wait = f"while [ ! -e {mark} ]; do sleep 0.1; done"
    there = service(f"User=nobody\nArgv=/bin/sh -c '(setsid sh {script} &); {wait}; sleep 0.1'")
    there.talk()
    assert int(there.record()["SPAWN_CPU_USEC"]) > 80_000


def test_the_client_does_not_wait_for_the_unit(
    service: Callable[..., Installed], held: Callable[[str], AbstractContextManager[None]]
) -> None:
    """systemd has a copy of the descriptor for as long as the unit lasts."""
    there = service("User=nobody\nArgv=/bin/echo answer")
    with held("ExecStopPost"):
        assert there.talk() == b"answer\n"
        there.write("User=root\nArgv=/bin/true")
        assert there.talk() == b""
        assert len(connection_units()) == 2


def test_bytes_are_counted_both_ways(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nArgv=/bin/cat")
    data = b"x" * 300_000
    assert there.talk(data) == data
    record = there.record()
    assert (record["SPAWN_BYTES_IN"], record["SPAWN_BYTES_OUT"]) == ("300000", "300000")


def test_bytes_are_counted_when_both_have_shut_down(service: Callable[..., Installed]) -> None:
    script = SCRATCH / "both.py"
    script.write_text(
        "import socket\ns = socket.socket(fileno=0)\ns.sendall(b'answer')\n"
        "s.shutdown(socket.SHUT_WR)\nwhile s.recv(100): pass\n"
    )
    there = service(f"User=nobody\nArgv=/usr/bin/python3 {script}")
    with there.connect() as client:
        assert read_all(client) == b"answer"
        client.sendall(b"0123456789")
    record = there.record()
    assert (record["SPAWN_BYTES_IN"], record["SPAWN_BYTES_OUT"]) == ("10", "6")


def test_nobody_counts_bytes_of_a_unix_socket(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nArgv=/bin/cat", address="/run/spawn-count.sock")
    assert there.talk(b"data") == b"data"
    record = there.record()
    fields = of_a_command() - {
        "SPAWN_BYTES_IN",
        "SPAWN_BYTES_OUT",
        "SPAWN_LOCAL_PORT",
        "SPAWN_REMOTE_ADDR",
        "SPAWN_REMOTE_PORT",
    } | {"SPAWN_REMOTE_UID", "SPAWN_REMOTE_PID"}
    assert own_fields(record) == fields
    assert record["SPAWN_LOCAL_ADDR"] == "/run/spawn-count.sock"
    assert record["MESSAGE"].endswith(f"client pid {record['SPAWN_REMOTE_PID']} of uid 0")


def test_stop_is_passed_on_and_recorded(service: Callable[..., Installed]) -> None:
    there = service(
        "User=nobody\nStandardError=null\n"
        "Argv=/bin/sh -c \"trap 'echo stopping; exit 5' TERM; echo on; "
        'while :; do sleep 0.01; done"'
    )
    with there.connect() as client:
        assert client.recv(100) == b"on\n"
        (unit,) = connection_units()
        run("systemctl", "stop", unit)
        assert read_all(client) == b"stopping\n"
    record = there.record()
    assert said(record) == ("stopped", "exited", "5", "5")
    assert record["SPAWN_UNIT"] == unit
    assert "stopped, exit status 5 after" in record["MESSAGE"]


def test_killed_helper_takes_its_command_along(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nArgv=/bin/sh -c \"trap '' TERM; echo on; sleep 60; sleep 60\"")
    with there.connect() as client:
        assert client.recv(100) == b"on\n"
        os.kill(helper(), signal.SIGKILL)
        assert read_all(client) == b""
    until_over()
    assert there.state() == "active"


def test_standard_error_in_the_journal_is_found_by_the_records_unit(
    service: Callable[..., Installed],
) -> None:
    code = "import sys; print('one', file=sys.stderr, flush=True); print('two', file=sys.stderr)"
    there = service(f'User=nobody\nStandardError=journal\nArgv=/usr/bin/python3 -c "{code}"')
    assert there.talk() == b""
    record = there.record()

    def lines(*matches: str) -> list[str]:
        found = (each for each in journal(*matches) if each["SYSLOG_IDENTIFIER"] == "python3")
        return [each["MESSAGE"] for each in found]

    unit = f"--unit={record['SPAWN_UNIT']}"
    until(lambda: lines(unit), holds=lambda said: said == ["one", "two"])
    assert lines(f"_PID={record['SPAWN_PID']}", "-b", "-t", "python3")[-2:] == ["one", "two"]


def test_a_command_whose_client_resets_gets_sigpipe(service: Callable[..., Installed]) -> None:
    greets = "Argv=/bin/sh -c 'while echo hello; do sleep 0.01; done'"
    there = service(f"User=nobody\n{greets}")
    for good, result, priority in (("", "signal", "4"), ("SIGPIPE", "success", "5")):
        there.write(f"User=nobody\nSuccessExitStatus={good}\n{greets}")
        with there.connect() as client:
            assert client.recv(1) == b"h"
            reset(client)
        assert said(there.record()) == (result, "killed", "PIPE", priority)


@pytest.mark.parametrize(
    ("log", "recorded"),
    [("all", ["0", "3"]), ("failures", ["3"]), ("none", [])],
)
def test_log(service: Callable[..., Installed], log: str, recorded: list[str]) -> None:
    argv = "Argv=/bin/sh -c 'read status; exit $status'"
    there = service(f"User=nobody\nLog={log}\n{argv}")
    for status in (b"0\n", b"3\n"):
        there.talk(status)
        until_over()
    found = journal(f"SPAWN_SERVICE={there.name}")
    assert [record["EXIT_STATUS"] for record in found] == recorded


def test_a_healthy_connection_costs_the_journal_one_entry(
    service: Callable[..., Installed],
) -> None:
    there = service("User=nobody\nArgv=/bin/true")
    cursor = run("journalctl", "-q", "-n0", "--show-cursor").stdout.strip().partition(": ")[2]
    there.talk()
    there.record()
    until_over()
    # systemd 262 misses a controller in a container, and says so for each unit.
    entries = [
        entry
        for entry in journal(f"--after-cursor={cursor}")
        if "Failed to read pids.max" not in entry["MESSAGE"]
    ]
    assert [entry["MESSAGE_ID"] for entry in entries] == ["fcaaa835aa6a4e84a066789e1b15fc45"]


def test_changed_spawn_section_holds_for_the_next_connection(
    service: Callable[..., Installed],
) -> None:
    there = service("User=nobody\nArgv=/bin/echo before")
    assert there.talk() == b"before\n"
    there.write("User=nobody\nArgv=/bin/echo after")
    assert there.talk() == b"after\n"


def test_a_client_that_resets_before_the_helper_starts_is_known_all_the_same(
    service: Callable[..., Installed], held: Callable[[str], AbstractContextManager[None]]
) -> None:
    there = service("User=nobody\nStandardError=null\nArgv=/bin/cat")
    with held("ExecStartPre"), there.connect() as client:
        address = client.getsockname()
        until(doors.now.coming)
        reset(client)
    record = there.record()
    assert said(record) == ("exit-code", "exited", "1", "4"), "cat reads a reset"
    assert (record["SPAWN_REMOTE_ADDR"], record["SPAWN_REMOTE_PORT"]) == (
        address[0],
        str(address[1]),
    )
