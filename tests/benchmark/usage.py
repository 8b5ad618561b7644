"""What the whole machine has used: processor time and memory. In the machine."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import psutil

GROUPS = Path("/sys/fs/cgroup")  # the machine's own root; this process is not in it
# Who uses processor time for a connection, besides what runs in its own unit.
SHARES = {
    "systemd": "init.scope",
    "journald": "system.slice/systemd-journald.service",
    "dbus": "system.slice/dbus.service",
    "logind": "system.slice/systemd-logind.service",
}
UNITS = "connections"  # the units of all connections
QUIET = 0.05  # seconds
IDLE = 0.02  # of one processor
LONGEST = 60.0  # seconds
START = ("/usr/bin/python3", "-I", "-S", "-c")  # a start of the interpreter, and nothing else
IDLE_INTERPRETERS = 10


def processor_time() -> float:
    """Seconds that every process of the machine has used, once what was begun is done."""
    deadline = time.monotonic() + LONGEST
    before = _used()
    while time.monotonic() < deadline:
        time.sleep(QUIET)
        now = _used()
        if now - before < IDLE * QUIET:
            return before
        before = now
    raise TimeoutError(f"the machine does not come to rest within {LONGEST:.0f} s")


def shares() -> dict[str, float]:
    """Seconds that each of SHARES has used, and UNITS."""
    found = {name: of_group(group) for name, group in SHARES.items()}
    found[UNITS] = sum(_used(group) for group in GROUPS.glob("system.slice/system-*.slice"))
    return found


def of_group(name: str) -> float:
    """Seconds that a control group of the machine has used."""
    return _used(GROUPS / name)


def _used(group: Path = GROUPS) -> float:
    """What a control group has used, those that it had in it included (cgroups(7))."""
    try:
        fields = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    except FileNotFoundError:  # it has not been used yet
        return 0.0
    return int(fields["usage_usec"]) / 1e6


def memory() -> dict[int, int]:
    """Bytes that each process of the machine has for itself alone, by its pid; without this one."""
    found = {}
    for process in psutil.process_iter():
        if process.pid != os.getpid():
            try:
                found[process.pid] = process.memory_full_info().uss
            except psutil.NoSuchProcess:
                continue
    return found


def named(command: str) -> list[int]:
    """The pids of the processes that have this name."""
    return [each.pid for each in psutil.process_iter(["name"]) if each.info["name"] == command]


def interpreter_start() -> float:
    """Seconds that a start of the interpreter takes, to its end."""
    begun = time.monotonic()
    pid = os.posix_spawn(START[0], [*START, "pass"], os.environ)
    os.waitpid(pid, 0)
    return time.monotonic() - begun


def idle_interpreter() -> float:
    """Bytes that an interpreter has for itself while it waits."""
    command = [*START, "import time; print(flush=True); time.sleep(600)"]
    idle = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(IDLE_INTERPRETERS)]
    try:
        for each in idle:
            assert each.stdout is not None
            each.stdout.readline()
        found = memory()
        return sum(found[each.pid] for each in idle) / IDLE_INTERPRETERS
    finally:
        for each in idle:
            each.kill()
            each.communicate()
