"""The journals of other machines are reviewed like one's own: what systemd-journal-upload(8) sends
to systemd-journal-remote(8), between two booted machines."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE, in_machine, run, until

pytestmark = in_machine

HERE, THERE = "10.99.0.1", "10.99.0.2"
FOLDER = Path("/var/log/journal/remote")
ROOT, IDENTITY = Path("/run/second-root"), Path("/run/second-machine-id")
UNIT = "second-machine"
SERVICE = "[Socket]\nListenStream=127.0.0.1:10023\n[Spawn]\nUser=nobody\nArgv=/bin/echo hello\n"
VARIABLES = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root")


class Second:
    """A machine inside this one: the same packages, its own systemd, journal and network."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--target={self.pid}", "--all", "--wdns=/", "env", "-i", *VARIABLES]
        return run(*enter, "sh", "-ec", command)


def _init() -> int:
    """The systemd of the second machine."""
    leader = run("systemctl", "show", "--property=MainPID", "--value", UNIT).stdout.strip()
    try:
        children = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
    except OSError:
        return 0
    for pid in children:
        if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
            return int(pid)
    return 0


@pytest.fixture(scope="module")
def second() -> Iterator[Second]:
    ROOT.mkdir(exist_ok=True)
    run("mount", "--bind", "/", str(ROOT))
    IDENTITY.write_text(uuid.uuid4().hex + "\n")
    nspawn = (
        f"systemd-nspawn --quiet --directory={ROOT} --bind-ro={IDENTITY}:/etc/machine-id "
        "--tmpfs=/var/log/journal:mode=755 --volatile=overlay --machine=second --register=no "
        "--keep-unit --network-veth --console=pipe --kill-signal=SIGRTMIN+3 --boot"
    )
    properties = ["--property=Delegate=yes", "--property=KillMode=mixed"]
    start = ["systemd-run", "--quiet", f"--unit={UNIT}", *properties]
    run(*start, "--setenv=SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1", *nspawn.split())
    try:
        pid = until(_init)
        assert pid, run("journalctl", "-u", UNIT).stdout
        machine = Second(pid)
        assert until(
            lambda: (
                run("systemctl", "is-active", UNIT, check=False).stdout == "active\n"
                and _answers(machine)
            )
        )
        run("ip", "address", "add", f"{HERE}/24", "dev", "ve-second")
        run("ip", "link", "set", "ve-second", "up")
        machine.run(f"ip address add {THERE}/24 dev host0; ip link set host0 up")
        yield machine
    finally:
        run("systemctl", "stop", UNIT, check=False)
        run("systemctl", "reset-failed", UNIT, check=False)
        run("umount", str(ROOT))


def _answers(machine: Second) -> bool:
    try:
        machine.run("systemctl is-system-running | grep -E 'running|degraded'")
    except subprocess.CalledProcessError:
        return False
    return True


@pytest.fixture
def uploaded(second: Second) -> Iterator[Second]:
    """The second machine, with a service that was used, and its journal sent to this one."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    receive = "/usr/lib/systemd/systemd-journal-remote --listen-http=19532 --split-mode=host"
    run("systemd-run", "--quiet", "--unit=receiver", *receive.split(), f"--output={FOLDER}/")
    connect = "socat -u TCP:127.0.0.1:10023 -"
    second.run(
        f"rm -f /etc/spawn/*.conf; printf '{SERVICE}' >/etc/spawn/second.conf; "
        "systemctl daemon-reload; "
        f"systemctl start spawn@second.socket; for i in 1 2 3; do {connect}; done; sleep 0.5"
    )
    upload = "/usr/lib/systemd/systemd-journal-upload --save-state=/run/upload-state"
    second.run(f"systemd-run --quiet --unit=upload {upload} --url=http://{HERE}:19532")
    try:
        yield second
    finally:
        second.run("systemctl stop upload || true")
        run("systemctl", "stop", "receiver", check=False)
        for file in FOLDER.iterdir():
            file.unlink()


def records(*arguments: str) -> list[dict[str, str]]:
    done = run("spawnctl", "log", "--json", *arguments, check=False)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_another_machine_is_reviewed_the_same_way(uploaded: Second) -> None:
    there = [f"--directory={FOLDER}", "second"]
    assert until(lambda: len(records(*there)) == 3, PATIENCE), (
        run("spawnctl", "log", *there, check=False),
        uploaded.run("spawnctl log; journalctl -u 'spawn@*' | tail; journalctl -u upload | tail"),
    )
    own_id = Path("/etc/machine-id").read_text().strip()
    assert all(each["SPAWN_RESULT"] == "success" for each in records(*there))
    told = uploaded.run("spawnctl log second").stdout
    assert run("spawnctl", "log", *there).stdout == told
    assert run("spawnctl", "log", f"--file={FOLDER}/*.journal", "second").stdout == told
    assert run("spawnctl", "log", "--merge", "second").stdout == told
    assert run("spawnctl", "log", "second", check=False).returncode == 66, own_id
    counted = json.loads(run("spawnctl", "stats", "--json", *there).stdout)
    assert counted["all"]["results"] == {"success": 3}
    merged = json.loads(run("spawnctl", "stats", "--json", "--merge", "second").stdout)
    assert merged["all"] == counted["all"]
    follow = ["spawnctl", "log", "-f", "-n", "0", "--json", *there]
    with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as follower:
        try:
            assert follower.stdout is not None
            time.sleep(0.5)
            uploaded.run("socat -u TCP:127.0.0.1:10023 -")
            assert json.loads(follower.stdout.readline())["SPAWN_SERVICE"] == "second"
        finally:
            follower.kill()
