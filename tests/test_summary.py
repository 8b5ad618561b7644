"""Log=summary: the records of many connections come to what one record each would have."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from conftest import SLACK, Installed, in_machine, journal, main_pid, run, until
from hypothesis import given
from hypothesis import strategies as st

from spawnhelper import summary
from spawnhelper.conf.quantities import LARGEST
from spawnhelper.ctl import verdict
from spawnhelper.record import MESSAGE_IDS

SUMMED = f"MESSAGE_ID={MESSAGE_IDS['summary']}"
# By the first line that it hears.
SCRIPT = "read -r word; case $word in well) exec cat;; ill) exit 3;; esac"
SPAWN = f"User=games\nArgv=/bin/sh -c '{SCRIPT}'\n"
HOURLY = "Log=summary\nSummaryInterval=24h\n"  # so that only what the test does ends it
WELL, ILL = 40, 5


@given(st.lists(st.integers(0, LARGEST), min_size=1, max_size=50))
def test_a_percentile_is_known_within_a_step(values: list[int]) -> None:
    histogram = summary.Histogram()
    for value in values:
        histogram.add(value)
    steps = summary.read(str(histogram))
    assert sum(steps.values()) == len(values)
    assert histogram.total == sum(values)
    for rank in (1, 50, 99, 100):
        exact = sorted(values)[max(0, -(-len(values) * rank // 100) - 1)]
        assert abs(summary.percentile(steps, rank) - exact) <= exact * 0.03


def test_steps_are_some_five_percent_wide() -> None:
    bounds = summary.BOUNDS
    assert bounds[:22] == list(range(22))
    widths = [high / low for low, high in itertools.pairwise(bounds[20:])]
    assert min(widths) > 1.02
    assert max(widths) <= 1.05
    assert bounds[-1] > LARGEST


@pytest.mark.parametrize(
    "text", ["1", "x=1", "1=", "1=x", "41=1", "-1=2", f"1={'9' * 30}", "1=1=1"]
)
def test_what_is_no_histogram(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no piece of a summary|unpack"):
        summary.read(text)


@given(st.dictionaries(st.ip_addresses().map(str), st.integers(1, 9), max_size=120))
def test_the_busiest_clients_are_named(clients: dict[str, int]) -> None:
    made = summary.Summary()
    for client, count in clients.items():
        for _ in range(count):
            made.add({}, 1, 0, client)
    told = [each for each in made.fields("x", "u", None, 0, 1) if each.startswith("SPAWN_CLIENTS=")]
    named = summary.read_clients(told[0].partition("=")[2]) if told else {}
    assert named.items() <= clients.items()
    assert len(named) == min(len(clients), summary.MOST_NAMED)
    others = sorted(clients.values())[: len(clients) - len(named)]
    assert not others or max(others) <= min(named.values())


def test_so_many_clients_are_counted_and_no_more() -> None:
    made = summary.Summary()
    for number in range(summary.MOST_CLIENTS + 10):
        made.add({}, 1, 0, str(number))
    assert made.count == summary.MOST_CLIENTS + 10
    assert len(made._clients) == summary.MOST_CLIENTS


# What a machine is needed for.


def unit_of(there: Installed) -> str:
    return f"spawn-server@{there.name}.service"


def summaries(there: Installed) -> list[dict[str, Any]]:
    return journal(SUMMED, f"SPAWN_SERVICE={there.name}")


def counted(there: Installed) -> dict[str, Any]:
    (group,) = json.loads(run("spawnctl", "stats", "--json", there.name).stdout)["groups"]
    return dict(group)


def visit(there: Installed) -> None:
    for number in range(WELL):
        assert there.talk(b"well\n" + b"x" * number) == b"x" * number
    for _ in range(ILL):
        assert there.talk(b"ill\n") == b""


@in_machine
def test_it_comes_to_what_single_records_do(service: Callable[..., Installed]) -> None:
    there = service(SPAWN + HOURLY, socket_section="Accept=no")
    usual = service(SPAWN, socket_section="Accept=no")
    for each in (there, usual):
        visit(each)
    usual.records(WELL + ILL)
    failures = there.records(ILL)
    assert {each["SPAWN_RESULT"] for each in failures} == {"exit-code"}
    assert summaries(there) == []
    run("systemctl", "reload", unit_of(there))
    (record,) = until(lambda: summaries(there))
    assert record["SPAWN_CONNECTIONS"] == str(WELL)
    assert record["MESSAGE"].startswith(f"{there.name}: {WELL} connections ended well in ")
    assert record["SPAWN_CLIENTS"] == f"127.0.0.1={WELL}"
    assert record["PRIORITY"] == "5"
    one, other = counted(there), counted(usual)
    for key in ("connections", "failed", "results"):
        assert one[key] == other[key]
    for measure in ("bytes_in", "bytes_out"):
        assert one[measure]["total"] == other[measure]["total"]
        assert one[measure]["counted"] == other[measure]["counted"]
        for rank in ("p50", "p95", "p99"):
            assert one[measure][rank] == pytest.approx(other[measure][rank], rel=0.05, abs=1)
    shown = run("spawnctl", "log", "--result", "summary", there.name).stdout
    assert f"{WELL} connections ended well in " in " ".join(shown.split())
    for group in ("from", "result", "hour"):
        stats = json.loads(run("spawnctl", "stats", "--json", "--by", group, there.name).stdout)
        assert sum(each["connections"] for each in stats["groups"]) == WELL + ILL
        assert stats["busiest_clients"] == [
            {"from": "127.0.0.1", "connections": WELL + ILL, "failed": ILL}
        ]
        assert sum(each["connections"] for each in stats["over_time"]) == WELL + ILL


@pytest.mark.parametrize(
    ("begun", "since", "counts"), [(None, 50, 100), (10, 0, 100), (10, 10, 100), (10, 35, 75)]
)
def test_what_counts_of_a_summary_since_a_time(begun: int | None, since: int, counts: int) -> None:
    assert verdict.since_then(100, begun, 110, since) == counts


@in_machine
def test_it_is_written_at_each_interval(service: Callable[..., Installed]) -> None:
    there = service(f"{SPAWN}Log=summary\nSummaryInterval=1s", socket_section="Accept=no")
    assert there.talk(b"well\nx") == b"x"
    first = until(lambda: summaries(there))
    assert [each["SPAWN_CONNECTIONS"] for each in first] == ["1"]
    assert there.talk(b"well\nx") == b"x"
    second = until(lambda: summaries(there)[1:])
    assert [each["SPAWN_CONNECTIONS"] for each in second] == ["1"]
    begun = int(second[0]["SPAWN_SINCE_USEC"])
    written = int(second[0]["__REALTIME_TIMESTAMP"])
    assert begun // 10**6 < written // 10**6
    assert written - begun < (1 + SLACK) * 10**6


@in_machine
@pytest.mark.parametrize("how", ["stop", "restart", "another log"])
def test_nothing_is_lost_or_counted_twice(how: str, service: Callable[..., Installed]) -> None:
    there = service(SPAWN + HOURLY, socket_section="Accept=no")
    assert there.talk(b"well\nx") == b"x"
    if how == "another log":
        there.write(f"{SPAWN}Log=all", "Accept=no")
        assert there.talk(b"well\nx") == b"x"
        there.record()
        run("systemctl", "stop", unit_of(there))
    else:
        run("systemctl", how, unit_of(there))
    (record,) = until(lambda: summaries(there))
    assert record["SPAWN_CONNECTIONS"] == "1"
    assert there.talk(b"well\nx") == b"x"
    run("systemctl", "stop", unit_of(there))
    wanted = 1 if how == "another log" else 2
    assert len(until(lambda: summaries(there), holds=lambda found: len(found) >= wanted)) == wanted


@in_machine
def test_a_server_that_is_killed_loses_what_was_measured_and_no_count(
    service: Callable[..., Installed],
) -> None:
    there = service(SPAWN + HOURLY, socket_section="Accept=no")
    for _ in range(3):
        assert there.talk(b"well\nx") == b"x"
    server = main_pid(unit_of(there))
    os.kill(server, signal.SIGKILL)
    until(lambda: main_pid(unit_of(there)) not in (0, server))
    (record,) = until(lambda: summaries(there))
    assert record["SPAWN_CONNECTIONS"] == "3"
    assert record["PRIORITY"] == "4"
    assert record["MESSAGE"] == (
        f"{there.name}: 3 connections ended well at a server that was killed, and what was "
        "measured of them is lost with it"
    )
    assert counted(there)["results"] == {"success": 3}


@in_machine
def test_health_checks_are_counted(service: Callable[..., Installed]) -> None:
    keys = f"{SPAWN}{HOURLY}ProxyProtocol=v1\nProxyFrom=127.0.0.1\n"
    there = service(keys, socket_section="Accept=no")
    for _ in range(2):
        assert there.talk(b"") == b""
    assert there.talk(b"PROXY TCP4 192.0.2.7 127.0.0.1 9 9\r\nwell\nx") == b"x"
    run("systemctl", "reload", unit_of(there))
    (record,) = until(lambda: summaries(there))
    assert record["SPAWN_HEALTH_CHECKS"] == "2"
    assert record["SPAWN_CLIENTS"] == "192.0.2.7=1"
    assert counted(there)["results"] == {"success": 1, "health-check": 2}


@in_machine
def test_clients_at_a_path_are_their_users(service: Callable[..., Installed]) -> None:
    there = service(SPAWN + HOURLY, address="/run/spawn/summed.sock", socket_section="Accept=no")
    assert there.talk(b"well\nx") == b"x"
    run("systemctl", "stop", unit_of(there))
    (record,) = until(lambda: summaries(there))
    assert record["SPAWN_CLIENTS"] == "uid 0=1"
    assert "SPAWN_BYTES_IN" not in record


@in_machine
def test_with_a_unit_each_there_is_nobody_to_write_it(service: Callable[..., Installed]) -> None:
    there = service(f"{SPAWN}Log=summary", start=False)
    assert there.check().stderr == (
        f"{there.file}:7: Log=summary is for the server of Accept=no, which is there to write it; "
        "write Log=failures, or Accept=no in [Socket]\n"
    )
