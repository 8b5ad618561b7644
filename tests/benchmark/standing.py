"""Whose processor time a connection is that a standing server serves. In the machine."""

from __future__ import annotations

import subprocess
import time

import psutil

from benchmark import client, usage
from benchmark.servers import Server, unit_of

COUNT, AT_ONCE = 4_000, 16  # connections
COMMANDS, SERVER, WORKERS, JOURNALD = "the commands", "the server", "the workers", "journald"


def shared(server: Server) -> dict[str, float]:
    """Seconds a connection, by who has used them. What a command has the kernel tells at its end,
    and its record; the workers have what else the unit has."""
    service = unit_of(server.name, "echo")
    unit = f"spawn-server@{service}.service"
    client.visit(server.address(), COUNT // 10, AT_ONCE)
    usage.processor_time()
    begun = time.time()
    before = _used(unit)
    visits = client.visit(server.address(), COUNT, AT_ONCE)
    usage.processor_time()
    used = {name: seconds - before[name] for name, seconds in _used(unit).items()}
    used[COMMANDS] = _of_commands(service, begun)
    used[WORKERS] -= used[COMMANDS] + used[SERVER]
    order = (COMMANDS, WORKERS, SERVER, JOURNALD)
    return {name: used[name] / len(visits.end) for name in order}


def _used(unit: str) -> dict[str, float]:
    """Seconds that the server has used itself, journald, and as WORKERS all of the unit."""
    pid, group = _shown(unit, "MainPID"), _shown(unit, "ControlGroup")
    times = psutil.Process(int(pid)).cpu_times()
    return {
        SERVER: times.user + times.system,
        WORKERS: usage.of_group(group.lstrip("/")),
        JOURNALD: usage.shares()["journald"],
    }


def _shown(unit: str, name: str) -> str:
    command = ["systemctl", "show", f"--property={name}", "--value", unit]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _of_commands(service: str, begun: float) -> float:
    """Seconds of all commands that have ended since, by their records."""
    subprocess.run(["journalctl", "--sync"], check=True)
    ask = ["journalctl", "-q", "-o", "cat", "--output-fields=SPAWN_CPU_USEC", f"--since=@{begun}"]
    done = subprocess.run(
        [*ask, f"SPAWN_SERVICE={service}"], check=True, capture_output=True, text=True
    )
    return sum(map(int, done.stdout.split())) / 1e6
