"""Journals of other machines for the tests: written by systemd-journal-remote(8), so that their
times, users and numbers are what a test wants."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from spawnhelper import outcome
from spawnhelper.record import MESSAGE_IDS

WRITER = "/usr/lib/systemd/systemd-journal-remote"
BOOT = "0123456789abcdef0123456789abcdef"
START = 1_793_000_000_000_000  # microseconds since the epoch: 2026-10-26 07:33:20 UTC
SERVICES = ("policy", "finger", "whois", "echo")
RARE = [each for each in MESSAGE_IDS if each not in (outcome.SUCCESS, outcome.SUMMARY)]
NEVER_RAN = ("denied", "health-check", "config", "exec-failed", "resources")


def write(file: Path, entries: Iterable[dict[str, object]]) -> None:
    """A journal file, or several where systemd finds that one is full, with these entries. A field
    whose value is a list is there once for each of its members."""
    file.parent.mkdir(parents=True, exist_ok=True)
    command = [WRITER, f"--output={file}", "-"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet) as writer:
        assert writer.stdin is not None
        for entry in entries:
            for name, value in entry.items():
                for each in value if isinstance(value, list) else [value]:
                    writer.stdin.write(_exported(name, each))
            writer.stdin.write(b"\n")
        writer.stdin.close()
    assert writer.returncode == 0


def _exported(name: str, value: object) -> bytes:
    """A field in the journal export format; its binary form where the value is bytes."""
    if isinstance(value, bytes):
        return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return f"{name}={value}\n".encode()


def record(
    at: int, *, service: str = "policy", result: str = "success", **fields: object
) -> dict[str, object]:
    """A record as the helper writes it and journald completes it. at: microseconds after START."""
    address, port = fields.get("SPAWN_REMOTE_ADDR", "192.0.2.7"), 40_000 + at % 20_000
    client = f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"
    took = 1_500 + at % 9_000
    entry: dict[str, object] = {
        "__REALTIME_TIMESTAMP": START + at,
        "__MONOTONIC_TIMESTAMP": 1_000_000 + at,
        "_BOOT_ID": BOOT,
        "_TRANSPORT": "journal",
        "_PID": 1_000 + at % 30_000,
        "_UID": 0,
        "_COMM": "python3",
        "_MACHINE_ID": "11111111111111111111111111111111",
        "_HOSTNAME": "vm",
        "PRIORITY": 5 if result in outcome.HARMLESS else 4,
        "SYSLOG_IDENTIFIER": "spawn",
        "SPAWN_RESULT": result,
        "MESSAGE_ID": MESSAGE_IDS[result],
        "SPAWN_SERVICE": service,
        "MESSAGE": f"{service}: no command was run: something is wrong, client {client}",
    }
    if result in outcome.LISTENER:
        return entry | {"MESSAGE": f"{service}: spawn@{service}.socket had failed"} | fields
    entry |= {"SPAWN_REMOTE_ADDR": address, "SPAWN_REMOTE_PORT": port}
    if result not in NEVER_RAN:
        entry |= {
            "MESSAGE": f"{service}: /usr/libexec/{service} as nobody: exit status 0 after "
            f"{took / 1000:.3g}ms, client {client}",
            "SPAWN_USER": "nobody",
            "SPAWN_DURATION_USEC": took,
            "SPAWN_CPU_USEC": took // 3,
            "SPAWN_BYTES_IN": at % 1_000,
            "SPAWN_BYTES_OUT": at % 3_000,
        }
    return entry | fields


def mixed(count: int, span: int, seed: int = 1) -> Iterator[dict[str, object]]:
    """Records of every result, from four services to some thousand clients, over so many
    microseconds."""
    chance = random.Random(seed)
    for number in range(count):
        result = "success" if chance.random() < 0.9 else chance.choice(RARE)
        address = f"10.{chance.randrange(4)}.{chance.randrange(50)}.{chance.randrange(20)}"
        at = number * span // count
        yield record(
            at,
            service=chance.choice(SERVICES),
            result=result,
            SPAWN_REMOTE_ADDR=address,
            **({} if result in NEVER_RAN + outcome.LISTENER else _measures(chance)),
        )


def _measures(chance: random.Random) -> dict[str, object]:
    took = int(chance.lognormvariate(9.5, 1))
    measures: dict[str, object] = {"SPAWN_DURATION_USEC": took, "SPAWN_CPU_USEC": took // 3}
    if chance.random() < 0.9:  # of paths nobody counts
        measures["SPAWN_BYTES_IN"] = chance.randrange(3_000)
        measures["SPAWN_BYTES_OUT"] = chance.randrange(90_000)
    return measures
