"""One run of the benchmark, in the machine: every server in turn, again and again, so that what
else the machine does falls on all of them.

Leaves the results as JSON, after each part what there is by then; see Results.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmark import client, servers, stages, standing, usage
from benchmark.servers import Server

AT_ONCE = (1, 16, 64)
COUNTS = {1: 50, 16: 320, 64: 640}  # connections a round
ALONE = 50  # connections a round, and starts of the interpreter, each on a machine at rest
REST = 0.1  # seconds
BURST = 400
HELD = (10, 100, 500, 2000)
WHILE_HELD = 20  # connections
STREAMS = 5  # a direction
BURST_AGAINST = ("naive unit", "spawnhelper")
CROWD = 5_000  # connections at once
PEERS = ("Postfix spawn(8)", "xinetd", "tcpserver", "tcpsvd")
STANDING = "Accept=no"
ARRIVALS = (1, 10, 50, 100, 200, 500, 1000, 2000)  # connections a second
ARRIVING = (
    "xinetd",
    "tcpserver",
    "spawnhelper",
    STANDING,
    "Accept=no, Log=failures",
    "Accept=no, Log=summary",
)
IN_TIME = 0.99  # of the connections, served within a second
CHANGES = 10


@dataclass
class Held:
    """What it costs to hold so many connections. first: seconds to the first byte of one more, the
    median. memory: bytes of the machine's processes a connection, all private. command: bytes that
    one command has of these."""

    count: int
    first: float
    memory: float
    command: float


@dataclass
class Arrived:
    """What it comes to when connections arrive so many a second, on their own clock. share: of them
    that were served within a second. processor: seconds of the whole machine a second."""

    rate: int
    share: float
    processor: float


@dataclass
class Figures:
    """Of one server. first, end: seconds, of each connection that came to a machine at rest, a
    list a round. rates: connections a second of each round, by how many there were at once; failed:
    how many were not served. processor: seconds of the whole machine a connection, one at a time;
    shares: of these, by who used them. up, down: bytes a second. burst: how many of BURST were
    answered, None where nobody asked. crowd: how many of CROWD were, and the seconds to the last.
    arrivals: of ARRIVALS. changes: seconds of the slowest connection and of the median one while
    the service file is changed, a pair a change."""

    first: list[list[float]] = field(default_factory=list)
    end: list[list[float]] = field(default_factory=list)
    rates: dict[int, list[float]] = field(default_factory=lambda: {each: [] for each in AT_ONCE})
    failed: dict[int, int] = field(default_factory=lambda: dict.fromkeys(AT_ONCE, 0))
    processor: list[float] = field(default_factory=list)
    shares: dict[str, list[float]] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)
    up: list[float] = field(default_factory=list)
    down: list[float] = field(default_factory=list)
    burst: int | None = None
    crowd: tuple[int, float] | None = None
    arrivals: list[Arrived] = field(default_factory=list)
    changes: list[tuple[float, float]] = field(default_factory=list)


@dataclass
class Results:
    """Of a run. about: the machine and the versions. held: connections at most. starts: seconds
    that the interpreter takes to start and end, a list a round. idle: bytes that an idle one has
    for itself. stages: seconds of the helper's own processor time, of each connection, by what it
    spent them on. standing: seconds of processor time a connection, with Accept=no, by who has used
    them."""

    about: dict[str, str]
    held: int
    starts: list[list[float]] = field(default_factory=list)
    idle: float = 0.0
    servers: dict[str, Figures] = field(default_factory=dict)
    stages: dict[str, list[float]] = field(default_factory=dict)
    standing: dict[str, float] = field(default_factory=dict)


def main() -> int:
    """Runs what is asked for; an exit status."""
    parser = argparse.ArgumentParser()
    for name, kind in (("rounds", int), ("parts", str), ("only", str), ("held", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)  # see tests/bench
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    chosen = servers.prepared([name for name in servers.SERVERS if options.only in name])
    results = Results(
        servers.describe(), options.held, servers={each.name: Figures() for each in chosen}
    )
    with Progress(console=Console(stderr=True)) as progress:
        for part in options.parts.split(","):
            run, steps = PARTS[part]
            rounds = range(options.rounds) if run is a_round else steps
            for step in progress.track(rounds, description=part):
                run(step, chosen, results)
            options.results.write_text(json.dumps(dataclasses.asdict(results)))
    return 0


def a_round(number: int, chosen: list[Server], results: Results) -> None:
    """Every server once, beginning with another one each time."""
    results.starts.append([])
    for _ in range(ALONE):
        time.sleep(REST)
        results.starts[-1].append(usage.interpreter_start())
    for server in chosen[number % len(chosen) :] + chosen[: number % len(chosen)]:
        figures = results.servers[server.name]
        figures.first.append([])
        figures.end.append([])
        server.start()
        for _ in range(ALONE):
            time.sleep(REST)
            visits = client.visit(server.address(), 1, 1)
            figures.first[-1] += visits.first
            figures.end[-1] += visits.end
            figures.failed[1] += visits.failed
        for at_once in AT_ONCE:
            server.start()
            before = usage.processor_time(), usage.shares()
            visits = client.visit(server.address(), COUNTS[at_once], at_once)
            used = usage.processor_time() - before[0]
            figures.failed[at_once] += visits.failed
            figures.rates[at_once].append(visits.rate)
            if at_once == 1 and visits.end:
                figures.processor.append(used / len(visits.end))
                for name, seconds in usage.shares().items():
                    share = (seconds - before[1][name]) / len(visits.end)
                    figures.shares.setdefault(name, []).append(share)


def streams(_: int, chosen: list[Server], results: Results) -> None:
    """Every server once in each direction."""
    for server in chosen:
        server.start()
        figures = results.servers[server.name]
        figures.up.append(client.upload(server.address("sink"), servers.STREAM))
        figures.down.append(client.download(server.address("source"), servers.STREAM))


def burst(name: str, chosen: list[Server], results: Results) -> None:
    """So many connections at once."""
    for server in chosen:
        if server.name == name:
            server.start()
            results.servers[name].burst = client.burst(server.address(), BURST)
            usage.processor_time()


def crowd(name: str, chosen: list[Server], results: Results) -> None:
    """Very many connections at once, from nothing."""
    for server in chosen:
        if server.name == name:
            server.restart()
            usage.processor_time()
            visits = client.visit(server.address(), CROWD, CROWD)
            results.servers[name].crowd = len(visits.end), visits.seconds
            usage.processor_time()


def arrivals(rate: int, chosen: list[Server], results: Results) -> None:
    """Connections that come so many a second, whether or not those before are over."""
    for server in chosen:
        before = results.servers[server.name].arrivals
        if server.name not in ARRIVING or (before and before[-1].share < IN_TIME):
            continue  # more of them would only pile up
        server.start()
        used = usage.processor_time()
        visits = client.arrive(server.address(), rate)
        count = len(visits.end) + visits.failed
        in_time = [seconds for seconds in visits.end if seconds < 1]
        arrived = Arrived(
            rate,
            len(in_time) / count,
            (usage.processor_time() - used) * rate / count,
        )
        results.servers[server.name].arrivals.append(arrived)


def changes(_: int, chosen: list[Server], results: Results) -> None:
    """A service file that is changed under load."""
    for server in chosen:
        if server.name == STANDING:
            server.start()
            with ThreadPoolExecutor(1) as pool:
                going = pool.submit(client.visit, server.address(), 400, 16)
                time.sleep(REST)
                servers.touch(server)
                visits = going.result()
            figures = results.servers[server.name]
            figures.changes.append((max(visits.end), statistics.median(visits.end)))


def holding(name: str, chosen: list[Server], results: Results) -> None:
    """What it costs this server to hold more and more connections."""
    results.idle = results.idle or usage.idle_interpreter()
    for server in chosen:
        if server.name == name:
            server.start()
            with contextlib.ExitStack() as held:
                levels = [each for each in HELD if each <= results.held]
                _hold(server, levels if server.growing else levels[:1], results, held)
            usage.processor_time()


def _hold(server: Server, levels: list[int], results: Results, held: contextlib.ExitStack) -> None:
    """Notes the cost at each of the levels. held: what closes the connections."""
    usage.processor_time()
    before = sum(usage.memory().values())
    count = 0
    for wanted in levels:
        more = client.hold(server.address(), wanted - count)
        count += len(more)
        for each in more:
            held.enter_context(each)
        usage.processor_time()
        now = usage.memory()
        first = client.visit(server.address(), WHILE_HELD, 1).first
        if count < wanted or not first:
            return  # it does not take so many
        commands = [now[pid] for pid in usage.named("cat") if pid in now]
        memory = (sum(now.values()) - before) / count
        command = sum(commands) / len(commands)
        held_now = Held(count, statistics.median(first), memory, command)
        results.servers[server.name].held.append(held_now)


def profile(_: int, chosen: list[Server], results: Results) -> None:
    """What the helper spends its time on, and who else does with a standing server."""
    for server in chosen:
        if server.name == STANDING:
            server.start()
            results.standing = standing.shared(server)
        if server.name == "spawnhelper":
            server.start()
            for name, seconds in stages.watched(server).items():
                results.stages.setdefault(name, []).extend(seconds)


# What each part calls, and with what, one after another; for rounds there is an option.
PARTS: dict[str, tuple[Callable[[Any, list[Server], Results], None], Sequence[object]]] = {
    "rounds": (a_round, ()),
    "streams": (streams, range(STREAMS)),
    "burst": (burst, BURST_AGAINST),
    "crowd": (crowd, (STANDING, *PEERS)),
    "arrivals": (arrivals, ARRIVALS),
    "changes": (changes, range(CHANGES)),
    "profile": (profile, range(1)),
    "holding": (holding, tuple(servers.SERVERS)),
}

if __name__ == "__main__":
    sys.exit(main())
