"""The journals of other machines are reviewed like one's own: what systemd-journal-upload(8) sends
to systemd-journal-remote(8), between two booted machines."""

from __future__ import annotations

import json
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nested
import pytest
from conftest import in_machine, run, until
from nested import Nested

pytestmark = in_machine

HERE, THERE = "10.99.0.1", "10.99.0.2"
FOLDER = Path("/var/log/journal/remote")
SERVICE = "[Socket]\nListenStream=127.0.0.1:10023\n[Spawn]\nUser=nobody\nArgv=/bin/echo hello\n"


@pytest.fixture(scope="module")
def second() -> Iterator[Nested]:
    place = Path("/run/second-root")
    with (
        nested.same_root(place) as options,
        nested.booted(place, "second", "--network-veth", *options) as machine,
    ):
        run("ip", "address", "add", f"{HERE}/24", "dev", "ve-second")
        run("ip", "link", "set", "ve-second", "up")
        machine.run(f"ip address add {THERE}/24 dev host0; ip link set host0 up")
        yield machine


@pytest.fixture
def uploaded(second: Nested) -> Iterator[Nested]:
    """The second machine, with a service that was used, and its journal sent to this one."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    receive = "/usr/lib/systemd/systemd-journal-remote --listen-http=19532 --split-mode=host"
    run("systemd-run", "--quiet", "--unit=receiver", *receive.split(), f"--output={FOLDER}/")
    connect = "socat -u TCP:127.0.0.1:10023 -"
    second.run(
        f"rm -f /etc/spawn/*.conf; printf '{SERVICE}' >/etc/spawn/second.conf; "
        "systemctl daemon-reload; "
        f"systemctl start spawn@second.socket; for i in 1 2 3; do {connect}; done"
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


def test_another_machine_is_reviewed_the_same_way(uploaded: Nested) -> None:
    there = [f"--directory={FOLDER}", "second"]
    until(lambda: records(*there), holds=lambda found: len(found) == 3)
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
            output = follower.stdout

            def heard() -> bool:  # of one of those that come, once it has begun to follow
                uploaded.run("socat -u TCP:127.0.0.1:10023 -")
                return bool(select.select([output], [], [], 1)[0])

            until(heard)
            assert json.loads(output.readline())["SPAWN_SERVICE"] == "second"
        finally:
            follower.kill()
