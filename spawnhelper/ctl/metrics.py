"""Show counts and states of all services in the text format of Prometheus.

Counts are of the journal, and go on where the last call has ended, which --state keeps. The first
call reads all of the journal.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from spawnhelper import manager
from spawnhelper.conf.quantities import USEC_PER_SEC
from spawnhelper.ctl import health, units
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.ctl.records import MEASURES, Record, Records
from spawnhelper.outcome import CONNECTION_LIMIT, HEALTH_CHECK, SUCCESS, printable

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

STATE = "metrics.json"
VERSION = 1  # of what is in there
MOST_SERVICES = 1_000  # whose names the journal has


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument(
        "--textfile", metavar="FILE", type=Path, help="write to a file, at once, for node_exporter"
    )
    state = Path(manager.now.state, STATE)
    parser.add_argument(
        "--state", metavar="FILE", type=Path, default=state, help=f"where counts are kept ({state})"
    )


def run(options: argparse.Namespace) -> int:
    """Counts what is new, and shows all; an exit status of sysexits.h."""
    try:
        from prometheus_client import exposition
    except ImportError as error:
        sentence = f"metrics need a library: {error}; install python3-prometheus-client"
        raise Complaint(os.EX_UNAVAILABLE, sentence) from None
    records = Records()
    with _state(options.state) as file:
        counts = Counts(_read(file))
        for record in records.after(counts.cursor):
            counts.add(record)
        _keep(options.state, counts)
    registry = _registry(counts)
    if options.textfile is None:
        sys.stdout.write(exposition.generate_latest(registry).decode())
    else:
        try:
            exposition.write_to_textfile(str(options.textfile), registry)
        except OSError as error:
            sentence = f"{printable(str(options.textfile))} cannot be written: {error.strerror}"
            raise Complaint(os.EX_CANTCREAT, sentence) from None
    return records.report()


class Counts:
    """What the journal has come to so far, service by service. cursor: of the last entry that is in
    it, None for none."""

    def __init__(self, kept: dict[str, Any]) -> None:
        self.cursor: str | None = kept.get("cursor")
        self.services: dict[str, dict[str, Any]] = kept.get("services", {})

    def add(self, record: Record) -> None:
        """One more record."""
        self.cursor = record.entry.cursor.decode()
        if record.service not in self.services and len(self.services) >= MOST_SERVICES:
            return
        of = self.services.setdefault(record.service, {"results": {}, "dropped": 0})
        for result, count in _results(record):
            of["results"][result] = of["results"].get(result, 0) + count
        if record.result == CONNECTION_LIMIT:
            of["dropped"] += record.dropped or 0
        timed = int(record.duration is not None)
        sums = {each: getattr(record, each) for each in MEASURES}
        if record.summed is not None:
            sums = record.summed.totals
            timed = sum(record.summed.steps.get("duration", {}).values())
        for each, value in sums.items():
            if value is not None:
                of[each] = of.get(each, 0) + value
        if timed:
            of["timed"] = of.get("timed", 0) + timed


def _results(record: Record) -> list[tuple[str, int]]:
    """Which ends of connections it is about, and how many of each."""
    if record.summed is None:
        return [(record.result, 1)]
    return [(SUCCESS, record.summed.connections), (HEALTH_CHECK, record.summed.checks)]


@contextlib.contextmanager
def _state(file: Path) -> Iterator[IO[str]]:
    """The file of counts, for nobody else meanwhile."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{file}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with open(file, "a+", encoding="utf-8") as opened:
                opened.seek(0)
                yield opened
    except OSError as error:
        right = "be root, or name another with --state"
        sentence = f"counts cannot be kept in {printable(str(file))}: {error.strerror}; {right}"
        raise Complaint(os.EX_CANTCREAT, sentence) from None


def _read(file: IO[str]) -> dict[str, Any]:
    text = file.read()
    try:
        found = json.loads(text or "{}")
        sound = isinstance(found, dict) and found.get("version", VERSION) == VERSION
    except ValueError:
        sound = False
    if not sound:
        print(f"spawnctl: {printable(file.name)} is damaged, and begun anew", file=sys.stderr)
        return {}
    return dict(found)


def _keep(file: Path, counts: Counts) -> None:
    """Has the file have it whole, or as it was."""
    kept = {"version": VERSION, "cursor": counts.cursor, "services": counts.services}
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    with open(descriptor, "w", encoding="utf-8") as out:
        json.dump(kept, out)
    os.replace(name, file)


def _registry(counts: Counts) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry

    known = units.named([])
    kernel = health.Kernel()
    states = {each.name: health.of(each, kernel) for each in known}

    class Collector:
        def collect(self) -> Iterator[Metric]:
            yield from _of_listeners(known, states)
            yield from _of_records(counts)

    registry = CollectorRegistry()
    registry.register(Collector())
    return registry


def _of_listeners(
    known: list[units.Listener], states: dict[str, health.Health]
) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    def gauge(name: str, told: str, values: dict[str, float]) -> Metric:
        family = GaugeMetricFamily(f"spawn_{name}", told, labels=["service"])
        for service, value in values.items():
            family.add_metric([service], value)
        return family

    yield gauge(
        "wanted",
        "Whether the socket is enabled or has been started.",
        {name: float(each.wanted) for name, each in states.items()},
    )
    yield gauge(
        "up",
        "Whether the service listens and serves.",
        {name: float(each.serves) for name, each in states.items()},
    )
    live = {each.name: float(each.live) for each in known}
    yield gauge("connections", "Connections now.", live)
    most = {each.name: float(each.most) for each in known}
    yield gauge("connections_max", "MaxConnections= of the service.", most)
    accepted = CounterMetricFamily(
        "spawn_accepted", "Connections since the socket listens.", labels=["service"]
    )
    for each in known:
        accepted.add_metric([each.name], each.accepted)
    yield accepted


def _of_records(counts: Counts) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, SummaryMetricFamily

    results = CounterMetricFamily(
        "spawn_results", "Records by service and result.", labels=["service", "result"]
    )
    dropped = CounterMetricFamily(
        "spawn_dropped", "Connections above a limit, as recorded.", labels=["service"]
    )
    duration = SummaryMetricFamily(
        "spawn_duration_seconds", "How long commands took.", labels=["service"]
    )
    cpu = CounterMetricFamily(
        "spawn_cpu_seconds", "Processor time of commands.", labels=["service"]
    )
    received = CounterMetricFamily(
        "spawn_received_bytes", "Bytes that clients sent.", labels=["service"]
    )
    sent = CounterMetricFamily("spawn_sent_bytes", "Bytes that commands sent.", labels=["service"])
    for service, of in sorted(counts.services.items()):
        for result, count in sorted(of["results"].items()):
            results.add_metric([service, result], count)
        dropped.add_metric([service], of["dropped"])
        if "timed" in of:
            seconds = of["duration"] / USEC_PER_SEC
            duration.add_metric([service], count_value=of["timed"], sum_value=seconds)
        for family, measure, unit in (
            (cpu, "cpu", USEC_PER_SEC),
            (received, "bytes_in", 1),
            (sent, "bytes_out", 1),
        ):
            if measure in of:
                family.add_metric([service], of[measure] / unit)
    yield from (results, dropped, duration, cpu, received, sent)
