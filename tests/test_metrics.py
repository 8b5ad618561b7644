"""Numbers for other programs: Prometheus, Nagios, fail2ban."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import journals
import pytest
from conftest import Installed, both_doors, free_port, in_machine, run

pytestmark = in_machine

TREE = Path(__file__).parent.parent
CAT = "User=nobody\nArgv=/bin/cat\n"
SAMPLE = re.compile(r"(\w+)\{(.*)\} (\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')
RULES = TREE / "examples/prometheus-rules.yml"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state/metrics.json"


def metrics(state: Path, *options: str) -> dict[tuple[str, ...], float]:
    """What is shown, by metric, service and result."""
    done = run("spawnctl", "metrics", f"--state={state}", *options)
    assert done.stderr == ""
    shown = {}
    for line in done.stdout.splitlines():
        if found := SAMPLE.fullmatch(line):
            labels = dict(LABEL.findall(found[2]))
            result = [labels["result"]] if "result" in labels else []
            shown[found[1], labels["service"], *result] = float(found[3])
    return shown


@both_doors
def test_counts_go_on(service: Callable[..., Installed], state: Path) -> None:
    there = service(
        "User=nobody\nArgv=/bin/sh -c 'cat; exit 4'\n", socket_section="MaxConnections=9"
    )
    there.talk(b"word")
    there.record()
    first = metrics(state)
    name = there.name
    assert first["spawn_up", name] == first["spawn_wanted", name] == 1
    assert first["spawn_connections_max", name] == 9
    assert first["spawn_connections", name] == 0
    assert first["spawn_results_total", name, "exit-code"] == 1
    assert first["spawn_duration_seconds_count", name] == 1
    assert 0 < first["spawn_duration_seconds_sum", name] < 60
    assert first["spawn_received_bytes_total", name] == 4
    there.talk(b"more words")
    there.record()
    with there.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        second = metrics(state)
    assert second["spawn_connections", name] == 1
    assert second["spawn_accepted_total", name] == 3
    assert second["spawn_results_total", name, "exit-code"] == 2
    assert second["spawn_received_bytes_total", name] == 14
    there.record()
    run("systemctl", "stop", there.socket_unit)
    assert metrics(state)["spawn_up", name] == 0


def test_a_file_for_node_exporter(
    service: Callable[..., Installed], state: Path, tmp_path: Path
) -> None:
    there = service(CAT)
    there.talk()
    there.record()
    file = tmp_path / "spawn.prom"
    done = run("spawnctl", "metrics", f"--state={state}", f"--textfile={file}")
    assert (done.stdout, done.stderr) == ("", "")
    assert f'spawn_up{{service="{there.name}"}} 1.0\n' in file.read_text()
    assert os.stat(file).st_mode & 0o444 == 0o444


def test_the_timer(service: Callable[..., Installed]) -> None:
    there = service(CAT)
    folder = Path("/var/lib/prometheus/node-exporter")
    folder.mkdir(parents=True)
    try:
        run("systemctl", "start", "spawn-metrics.service")
        text = (folder / "spawnhelper.prom").read_text()
        assert f'spawn_up{{service="{there.name}"}} 1.0\n' in text
        run("systemctl", "start", "spawn-metrics.timer")
        assert run("systemctl", "is-active", "spawn-metrics.timer").stdout == "active\n"
    finally:
        run("systemctl", "stop", "spawn-metrics.timer")
        shutil.rmtree(folder.parent)


def test_what_cannot_be_kept(state: Path) -> None:
    done = run("spawnctl", "metrics", "--state=/proc/x/y", check=False)
    assert done.returncode == os.EX_CANTCREAT
    assert done.stderr == (
        "spawnctl: counts cannot be kept in /proc/x/y: No such file or directory; be root, or name "
        "another with --state\n"
    )
    done = run("spawnctl", "metrics", f"--state={state}", "--textfile=/proc/x/y", check=False)
    assert done.returncode == os.EX_CANTCREAT
    assert done.stderr.startswith("spawnctl: /proc/x/y cannot be written: ")
    for broken in ("{", "[]", '{"version": 99}'):
        state.write_text(broken)
        done = run("spawnctl", "metrics", f"--state={state}")
        assert done.stderr == f"spawnctl: {state} is damaged, and begun anew\n"


def test_the_second_time_is_cheap(state: Path, request: pytest.FixtureRequest) -> None:
    """However long the journal is."""
    machine = Path("/etc/machine-id").read_text().strip()
    folder = Path("/var/log/journal", machine)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "system@test.journal"
    journals.write(file, journals.mixed(request.config.getoption("--records"), 3_600_000_000))
    try:
        took = []
        for _ in range(2):
            begun = time.monotonic()
            metrics(state)
            took.append(time.monotonic() - begun)
        print(f"metrics: {took[0]:.2f}s, then {took[1]:.2f}s")
        assert took[1] < took[0] / 3
    finally:
        file.unlink()


def test_the_rules_are_about_what_there_is(service: Callable[..., Installed], state: Path) -> None:
    there = service(CAT)
    there.talk()
    there.record()
    known = {key[0] for key in metrics(state)}
    used = set(re.findall(r"\bspawn_\w+", RULES.read_text()))
    assert len(used) >= 5
    assert used <= known


@both_doors
def test_health(service: Callable[..., Installed]) -> None:
    there = service(
        "User=nobody\nArgv=/bin/sh -c 'cat; exit 4'\n", socket_section="MaxConnections=2"
    )

    def says(*options: str) -> tuple[int, str]:
        done = run("spawnctl", "health", there.name, *options, check=False)
        assert done.stderr == ""
        return done.returncode, done.stdout

    numbers = f"| '{there.name}'=0;1;;0;2 'connections'=0 'failed'=0\n"
    assert says() == (0, f"SPAWN OK - all services serve {numbers}")
    there.talk()
    there.record()
    failed = f"{there.name}: 1 of 1 connections failed"
    assert says()[0] == 2
    assert says()[1].startswith(f"SPAWN CRITICAL - {failed} | ")
    assert says("-w", "100", "-c100")[0] == 2
    assert says("--since", "1 hour")[0] == 3
    assert says("-c", "x") == (3, "SPAWN UNKNOWN - --critical=x is no percentage; write 0 to 100\n")
    with there.connect() as one, there.connect() as two:
        for client in (one, two):
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        assert says("-S", "now")[1].startswith(
            f"SPAWN WARNING - {there.name}: 2 of 2 connections | "
        )
    there.records(3)
    there.file.write_text(there.file.read_text().replace(str(there.address[1]), str(free_port())))
    run("systemctl", "daemon-reload")
    remedy = f"address changed: systemctl restart {there.socket_unit}"
    code, line = says("-S", "now")
    assert (code, line.partition(" |")[0]) == (2, f"SPAWN CRITICAL - {there.name}: {remedy}")


@pytest.fixture
def fail2ban() -> Iterator[Path]:
    """fail2ban with the filter of the examples."""
    if not shutil.which("fail2ban-regex"):
        pytest.skip("needs fail2ban")
    filter_ = Path("/etc/fail2ban/filter.d/spawnhelper.conf")
    shutil.copy(TREE / "examples/fail2ban-filter.conf", filter_)
    yield filter_
    filter_.unlink()


def test_fail2ban_finds_who_is_denied(service: Callable[..., Installed], fail2ban: Path) -> None:
    there = service(f"{CAT}AllowFrom=192.0.2.1\n")
    small = service(f"{CAT}SizeLimit=1\n")
    good = service(CAT)
    for each in (there, there, small, good):
        each.talk(b"xx")
        each.record()
    run("journalctl", "--sync")
    match = re.search(r"^journalmatch = (.*)$", fail2ban.read_text(), re.M)
    assert match is not None
    terms = [
        f"{each} SPAWN_SERVICE={name}"
        for each in match[1].split(" + ")
        for name in (there.name, small.name, good.name)
    ]
    command = ["fail2ban-regex", f"--journalmatch={' + '.join(terms)}", "systemd-journal"]
    done = run(*command, str(fail2ban), check=False)
    assert re.search(r"^Lines: 3 lines, 0 ignored, 3 matched, 0 missed", done.stdout, re.M), done


def test_without_the_library(state: Path) -> None:
    hide = "mount -t tmpfs none /usr/lib/python3/dist-packages/prometheus_client; "
    metrics = f"exec spawnctl metrics --state={state}"
    done = run("unshare", "--mount", "sh", "-c", hide + metrics, check=False)
    assert done.returncode == os.EX_UNAVAILABLE
    assert done.stderr.startswith("spawnctl: metrics need a library: ")
    assert done.stderr.endswith("; install python3-prometheus-client\n")


def test_what_cannot_be_told(service: Callable[..., Installed]) -> None:
    there = service(CAT)
    done = run("runuser", "-u", "nobody", "--", "spawnctl", "health", there.name, check=False)
    assert done.returncode == 3
    assert done.stdout.startswith("SPAWN UNKNOWN - ")
    done = run("spawnctl", "health", "nosuch", check=False)
    sentence = "SPAWN UNKNOWN - there is no service file /etc/spawn/nosuch.conf\n"
    assert (done.returncode, done.stdout) == (3, sentence)
