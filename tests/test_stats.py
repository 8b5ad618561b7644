"""spawnctl stats: what it counts, against the same counted by somebody else."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import journals
import pytest
from conftest import Installed, connect, connection_units, in_machine, python, run, until

from spawnhelper.outcome import CONNECTION_LIMIT, DENIED, LISTENER, NO_FAILURE
from spawnhelper.record import MESSAGE_IDS

pytestmark = in_machine

HOUR = 3_600_000_000  # microseconds
MEASURES = {
    "duration_usec": "SPAWN_DURATION_USEC",
    "cpu_usec": "SPAWN_CPU_USEC",
    "bytes_in": "SPAWN_BYTES_IN",
    "bytes_out": "SPAWN_BYTES_OUT",
}
COUNTER = """
import collections, json, sys
counts = collections.Counter(json.loads(line).get("SPAWN_RESULT") for line in sys.stdin)
print(json.dumps(counts))
"""


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with a week of records of every result."""
    folder = tmp_path_factory.mktemp("week")
    journals.write(folder / "a.journal", journals.mixed(8_000, 7 * 24 * HOUR))
    return folder


def stats(*arguments: str) -> dict[str, Any]:
    done = run("spawnctl", "stats", "--json", *arguments, env=os.environ | {"TZ": "UTC"})
    assert done.stderr == ""
    counted: dict[str, Any] = json.loads(done.stdout)
    return counted


def percentile(values: list[int], percent: int) -> int:
    """By the definition: linear between the two nearest of n values, at (n - 1) * percent."""
    ordered = sorted(values)
    at = (len(ordered) - 1) * percent
    below, part = divmod(at, 100)
    above = min(below + 1, len(ordered) - 1)
    return round(ordered[below] + (ordered[above] - ordered[below]) * part / 100)


def expected(entries: list[dict[str, str]]) -> dict[str, Any]:
    """What is to be said of these, computed from journalctl's own output."""
    results = Counter(entry["SPAWN_RESULT"] for entry in entries)
    said: dict[str, Any] = {
        "connections": len(entries),
        "failed": sum(count for result, count in results.items() if result not in NO_FAILURE),
        "denied": results[DENIED],
        "results": dict(results),
    }
    for name, field in MEASURES.items():
        values = [int(entry[field]) for entry in entries if field in entry]
        said[name] = values and {
            "counted": len(values),
            "total": sum(values),
            **{f"p{each}": percentile(values, each) for each in (50, 95, 99)},
        }
        said[name] = said[name] or None
    return said


def agree(*source: str) -> None:
    """Every way of counting that journal, against the other computation."""
    command = ["journalctl", "-q", "-o", "json", "_UID=0", *source]
    command += [f"MESSAGE_ID={each}" for each in MESSAGE_IDS.values()]
    every = [json.loads(line) for line in run(*command).stdout.splitlines()]
    entries = [entry for entry in every if entry["SPAWN_RESULT"] not in LISTENER]
    keys: dict[str, Callable[[dict[str, str]], str]] = {
        "service": lambda entry: entry.get("SPAWN_SERVICE", ""),
        "result": lambda entry: entry["SPAWN_RESULT"],
        "from": lambda entry: (
            entry.get("SPAWN_REMOTE_ADDR")
            or (f"uid {entry['SPAWN_REMOTE_UID']}" if "SPAWN_REMOTE_UID" in entry else "")
        ),
        "hour": lambda entry: time.strftime(
            "%Y-%m-%d %H:00", time.gmtime(int(entry["__REALTIME_TIMESTAMP"]) // 1_000_000)
        ),
    }
    for by, key in keys.items():
        said = stats("--by", by, *source)
        assert said["all"] == expected(entries)
        apart = [entry for entry in every if entry["SPAWN_RESULT"] in LISTENER]
        above = [entry for entry in apart if entry["SPAWN_RESULT"] == CONNECTION_LIMIT]
        assert said["listener_failures"] == len(apart) - len(above)
        assert said["dropped"] == sum(int(entry.get("SPAWN_DROPPED", 0)) for entry in above)
        groups: dict[str, list[dict[str, str]]] = {}
        for entry in entries:
            groups.setdefault(key(entry), []).append(entry)
        found = {group.pop(by): group for group in said["groups"]}
        assert found == {name: expected(members) for name, members in groups.items()}
        assert sum(column["connections"] for column in said["over_time"]) == len(entries)
        assert sum(column["failed"] for column in said["over_time"]) == said["all"]["failed"]
        clients = Counter(who for entry in entries if (who := keys["from"](entry)))
        best = [count for _, count in clients.most_common(10)]
        assert [each["connections"] for each in said["busiest_clients"]] == best
        assert all(clients[each["from"]] == each["connections"] for each in said["busiest_clients"])


def test_counts_agree(week: Path) -> None:
    agree(f"--directory={week}")


def test_copies_are_not_counted_twice(week: Path, tmp_path: Path) -> None:
    for name in ("a", "copy"):
        for file in week.iterdir():
            (tmp_path / f"{name}-{file.name}").write_bytes(file.read_bytes())
    assert stats(f"-D{tmp_path}")["all"]["connections"] == stats(f"-D{week}")["all"]["connections"]


def test_counts_of_a_real_load_agree(service: Callable[..., Installed], readable: Path) -> None:
    """A load of every result that a connection can have, and whatever else is in the journal."""
    odd = readable / "odd"
    odd.write_text("#!/nowhere/interpreter\n")
    odd.chmod(0o755)
    user = "User=nobody\n"
    true = user + "Argv=/bin/true\n"
    proxied = "ProxyProtocol=v1\nProxyFrom=127.0.0.1\n"
    loads = [
        (true, b"", 25),
        (user + "Argv=/bin/false\n", b"", 5),
        (user + "Argv=/bin/sh -c 'kill -9 $$'\n", b"", 3),
        (user + python(readable, "import os\nos.abort()\n") + "LimitCORE=0\n", b"", 2),
        (user + "Argv=/bin/sleep 9\nTimeLimit=50ms\n", b"", 2),
        (user + "Argv=/bin/cat\nSizeLimit=2\n", b"12345", 3),
        (true + "DenyFrom=127.0.0.0/8\n", b"", 4),
        (true + proxied, b"", 2),
        (true + proxied, b"PROXY TCP4 192.0.2.9 192.0.2.1 4711 25\r\n", 3),
        (user + "Argv=/bin/true\nNonsense=1\n", b"", 2),
        (user + f"Argv={odd}\n", b"", 2),
    ]
    for spawn, data, count in loads:
        made = service(spawn)
        for _ in range(count):
            made.talk(data)
        made.records(count)
    idle = service(user + "Argv=/bin/sleep 9\nIdleLimit=1s\n")
    going = "Argv=/bin/sh -c 'echo on; exec sleep 9'\n"
    stopped = service(user + going, address="/run/spawn-stats")
    with connect(idle.address) as client:
        client.recv(1)
    with connect(stopped.address) as client:
        assert client.recv(3) == b"on\n"
        run("systemctl", "stop", *connection_units())
    stopped.records(1)
    agree()
    results = stats()["all"]["results"]
    assert {"success", "exit-code", "signal", "time-limit", "idle-limit", "size-limit"} < set(
        results
    )
    assert {"denied", "health-check", "stopped", "config", "exec-failed"} < set(results)


def test_table(week: Path) -> None:
    shown = run("spawnctl", "stats", f"-D{week}", env=os.environ | {"TZ": "UTC"}).stdout
    counted = stats(f"-D{week}")
    head, _, heading, *rows = shown.splitlines()
    assert re.fullmatch(
        r"\d+ connections, \d+ failed, \d+ denied, Mon 2026-10-26 07:33:20 UTC to Mon "
        r"2026-11-02 07:.* UTC",
        head,
    )
    columns = "SERVICE CONNECTIONS FAILED DENIED TIME P50 P95 P99 CPU IN OUT"
    assert heading.split() == columns.split()
    for group, row in zip(counted["groups"], rows, strict=False):
        assert row.split()[:4] == [
            group["service"],
            str(group["connections"]),
            str(group["failed"]),
            str(group["denied"]),
        ]
    assert re.search(r"^success +\d+ +\d\d\.\d%$", shown, re.M)
    assert re.search(r"^BUSIEST CLIENTS +CONNECTIONS +FAILED$", shown, re.M)
    assert re.search(r"^Oct 27 12:00:00 +\d+ +\d+ +█+", shown, re.M)
    failed = counted["listener_failures"]
    see = "spawnctl log --result listening-again --result cannot-listen"
    assert f"Listeners failed {failed} times: {see}" in shown


def test_what_is_apart_from_connections(tmp_path: Path) -> None:
    """A limit that was reached is no failure of the listener; what it cost is summed."""
    entries = [
        journals.record(0),
        journals.record(1, result="connection-limit", SPAWN_DROPPED=1),
        journals.record(2, result="denied"),
    ]
    journals.write(tmp_path / "a.journal", entries)

    def said() -> list[str]:
        return run("spawnctl", "stats", f"-D{tmp_path}").stdout.splitlines()

    see = "spawnctl log --result connection-limit"
    assert said()[-1] == f"1 more connection was dropped above a limit: {see}"
    assert said()[0].startswith("2 connections, 0 failed, 1 denied, ")
    more = [
        journals.record(3, result="connection-limit", SPAWN_DROPPED=300),
        journals.record(4, result="cannot-listen"),
    ]
    journals.write(tmp_path / "b.journal", more)
    again = "spawnctl log --result listening-again --result cannot-listen"
    assert said()[-2:] == [
        f"301 more connections were dropped above a limit: {see}",
        f"Listeners failed once: {again}",
    ]
    page = tmp_path / "page.html"
    run("spawnctl", "stats", "--html", str(page), f"-D{tmp_path}")
    assert f"301 more connections were dropped above a limit: {see}" in page.read_text()
    assert f"made on {socket.gethostname()} by spawnctl" in page.read_text()


@pytest.mark.parametrize("library", ["jinja2", "pygal"])
def test_a_page_without_its_library(week: Path, library: str, tmp_path: Path) -> None:
    place = f"/usr/lib/python3/dist-packages/{library}"
    hide = f"mount -t tmpfs none {place}; echo 'raise ImportError' >{place}/__init__.py; "
    stats = f"exec spawnctl stats -D{week} --html={tmp_path / 'page.html'}"
    done = run("unshare", "--mount", "sh", "-c", hide + stats, check=False)
    assert done.returncode == os.EX_UNAVAILABLE
    assert done.stderr.startswith("spawnctl: a page needs a library: ")
    assert done.stderr.endswith("; install python3-jinja2 and python3-pygal\n")


def test_a_table_of_many_groups(week: Path) -> None:
    shown = run("spawnctl", "stats", "--by", "hour", f"-D{week}").stdout
    assert "... and 119 more; --json has all of them" in shown
    shown = run("spawnctl", "stats", "--by", "from", f"-D{week}").stdout
    assert re.search(r"^\.\.\. and \d+ more; --json has all of them$", shown, re.M)


def test_nothing_to_count(tmp_path: Path) -> None:
    journals.write(tmp_path / "a.journal", journals.mixed(10, HOUR))
    empty = ["--since", "2030-01-01", f"-D{tmp_path}"]
    assert run("spawnctl", "stats", *empty).stdout == "-- No entries --\n"
    counted = stats(*empty)
    assert (counted["groups"], counted["all"]["connections"]) == ([], 0)
    page = tmp_path / "page.html"
    run("spawnctl", "stats", "--html", str(page), *empty)
    assert "There is no record of any." in page.read_text()


def test_between_two_times(week: Path) -> None:
    part = ["--since", "2026-10-28", "--until", "2026-10-29 12:00"]
    lines = run("spawnctl", "log", "--json", f"-D{week}", *part).stdout.splitlines()
    listeners = sum(json.loads(line)["SPAWN_RESULT"] in LISTENER for line in lines)
    assert stats(f"-D{week}", *part)["all"]["connections"] == len(lines) - listeners
    one = stats(f"-D{week}", "--until", "@1793000000", "--since", "@1793000000")
    assert one["all"]["connections"] <= 1


def test_progress_is_shown_on_a_terminal(week: Path) -> None:
    command = f"script -qec 'spawnctl stats --no-pager -D{week}' /dev/null"
    shown = run("sh", "-c", command, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"}).stdout
    assert "reading the journal" in shown
    assert "%" in shown


class Page(HTMLParser):
    """What a page has in it, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if (
                name in ("src", "href", "xlink:href", "data")
                and value
                and not value.startswith("#")
            ):
                self.fetched.append(value)


def test_page(week: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    for by in ("service", "from", "result", "hour"):
        run("spawnctl", "stats", "--html", str(file), "--by", by, f"-D{week}", "policy", "echo")
        text = file.read_text()
        page = Page(text)
        assert page.tags["svg"] == 6
        assert page.tags["script"] == 0
        assert page.fetched == []
        assert "url(" not in text.replace("url(#", "")
        assert "Connections of policy, echo" in text
        assert "prefers-color-scheme: dark" in text


def test_page_escapes_what_comes_from_a_journal(tmp_path: Path) -> None:
    """A folder of journals can come from anywhere."""
    evil = "<script>alert(1)"
    folder = tmp_path / "evil"
    journals.write(folder / "a.journal", [journals.record(0, service=evil, SPAWN_REMOTE_ADDR=evil)])
    file = tmp_path / "page.html"
    run("spawnctl", "stats", "--html", str(file), f"-D{folder}", evil)
    assert Page(file.read_text()).tags["script"] == 0
    control = "\x1b[2J"
    journals.write(folder / "b.journal", [journals.record(1, service=control)])
    for verb in ("log", "stats"):
        assert control not in run("spawnctl", verb, f"-D{folder}").stdout


def test_a_page_that_cannot_be_written(week: Path) -> None:
    done = run("spawnctl", "stats", "--html", "/nowhere/x.html", f"-D{week}", check=False)
    assert done.returncode == os.EX_CANTCREAT
    assert done.stderr == "spawnctl: --html=/nowhere/x.html: No such file or directory\n"


def test_many_records(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Beside journalctl and a counting script in one run; --records 1000000 for the full size."""
    count = request.config.getoption("--records")
    ROOM.parent.mkdir(parents=True, exist_ok=True)
    ROOM.write_text("[Remote]\nMaxUse=100G\nKeepFree=1M\n")  # else the oldest files would go
    request.addfinalizer(ROOM.unlink)
    journals.write(tmp_path / "a.journal", journals.mixed(count, 7 * 24 * HOUR))
    pipe = f"journalctl -q -o json -D {tmp_path} | /usr/bin/python3 -c '{COUNTER}'"
    measured = ["/usr/bin/python3", "-c", PEAK, "spawnctl", "stats", "--json", f"-D{tmp_path}"]
    times = []
    for _ in range(3):  # in turn, and the best of each counts: other work makes nobody faster
        begun = time.monotonic()
        theirs = json.loads(run("sh", "-c", pipe).stdout)
        between = time.monotonic()
        done = run(*measured)
        times.append((between - begun, time.monotonic() - between))
    their_time, our_time = map(min, zip(*times, strict=True))
    assert sum(theirs.values()) == count
    peak = int(done.stderr) // 1024
    ours = json.loads(done.stdout)["all"]["results"]
    assert ours == {name: n for name, n in theirs.items() if name not in LISTENER}
    print(f"{count} records: {our_time:.1f}s and {peak} MiB, journalctl {their_time:.1f}s")
    assert our_time < their_time
    assert peak < 200
    starts, answers = [], []

    def difference() -> float:  # of the best of each
        starts.append(_time("spawnctl", "log", "--help"))
        answers.append(_time("spawnctl", "log", "-n", "20", f"-D{tmp_path}"))
        return min(answers) - min(starts)

    until(difference, holds=lambda seconds: seconds < 0.1)
    print(f"log -n 20: {min(answers) * 1000:.0f}ms, its start {min(starts) * 1000:.0f}ms")


ROOM = Path("/run/systemd/journal-remote.conf.d/50-test.conf")
# VmHWM counts what the process has mapped of the journal, too.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""


def _time(*command: str) -> float:
    begun = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun
