"""What many records come to: counts, and percentiles of what was measured."""

from __future__ import annotations

import itertools
import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from spawnhelper.conf.quantities import USEC_PER_SEC
from spawnhelper.ctl import times
from spawnhelper.ctl.records import Record

MEASURES = ("duration", "cpu", "bytes_in", "bytes_out")
NOBODY_COUNTED = -1
HOUR = 3_600 * USEC_PER_SEC
QUARTER = HOUR // 4  # no time zone changes its offset between quarters of an hour
# Widths of a plot's columns, in seconds.
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


class Spread(NamedTuple):
    """Of one measure: how many have it, their sum, and three percentiles, interpolated between the
    two nearest values where there is none."""

    counted: int
    total: int
    p50: int
    p95: int
    p99: int


class Group(NamedTuple):
    """The connections that have something in common. spreads: by measure, in microseconds and
    bytes; None where nobody counted. failed: those of warning or above."""

    key: str
    connections: int
    failed: int
    results: dict[str, int]
    spreads: dict[str, Spread | None]


class Tally:
    """One row a record, in columns of numbers: so a million of them take some 50 MB."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._moments = array("Q")
        self._failed = array("B")
        self._labels = {by: array("I") for by in ("service", "from", "result")}
        self._measures = {measure: array("q") for measure in MEASURES}

    def add(self, record: Record) -> None:
        """One more connection."""
        self._moments.append(record.usec)
        self._failed.append(record.failed)
        names = self._names
        for by, name in (
            ("service", record.service),
            ("from", record.source),
            ("result", record.result),
        ):
            self._labels[by].append(names.setdefault(name, len(names)))
        for measure, column in self._measures.items():
            value = getattr(record, measure)
            column.append(NOBODY_COUNTED if value is None else value)

    def __len__(self) -> int:
        return len(self._moments)

    def span(self) -> tuple[int, int] | None:
        """The times of the first and the last, in microseconds since the epoch."""
        return (min(self._moments), max(self._moments)) if self._moments else None

    def whole(self) -> Group:
        """All of them."""
        return self._group("", range(len(self)))

    def groups(self, by: str) -> list[Group]:
        """Those of each service, client, result or hour: hours in their order, others by size."""
        if by == "hour":
            keys: Sequence[int] = array("Q", map(_hours(), self._moments))
            name: Callable[[int], str] = _hour_name
        else:
            keys = self._labels[by]
            name = list(self._names).__getitem__
        found = [self._group(name(key), rows) for key, rows in _by(keys)]
        if by != "hour":
            found.sort(key=lambda group: (-group.connections, group.key))
        return found

    def busiest(self, count: int) -> list[tuple[str, int, int]]:
        """The clients with the most connections: who, how many, how many of them failed."""
        clients = self._labels["from"]
        failed = Counter(itertools.compress(clients, self._failed))
        names = list(self._names)
        return [
            (names[label], connections, failed[label])
            for label, connections in Counter(clients).most_common()[: count + 1]
            if names[label]
        ][:count]

    def over_time(self, most: int) -> list[tuple[int, int, int]]:
        """At most so many columns of equal width: when each begins, how many connections, how many
        of them failed. In microseconds since the epoch, at round times."""
        span = self.span()
        if span is None:
            return []
        step, start = _columns(span, most)
        total = Counter((moment - start) // step for moment in self._moments)
        failures = itertools.compress(self._moments, self._failed)
        failed = Counter((moment - start) // step for moment in failures)
        return [(start + at * step, total[at], failed[at]) for at in range(max(total) + 1)]

    def _group(self, key: str, rows: Sequence[int]) -> Group:
        names = list(self._names)
        results = self._labels["result"]
        counted = Counter(results[row] for row in rows)
        return Group(
            key,
            len(rows),
            sum(self._failed[row] for row in rows),
            {names[label]: count for label, count in counted.most_common()},
            {
                measure: _spread(column[row] for row in rows)
                for measure, column in self._measures.items()
            },
        )


def _by(keys: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """The rows that have the same key, key by key."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    for key, rows in itertools.groupby(order, key=keys.__getitem__):
        yield key, list(rows)


def _spread(values: Iterable[int]) -> Spread | None:
    counted = sorted(value for value in values if value != NOBODY_COUNTED)
    if not counted:
        return None
    # Of a single value quantiles() has no opinion before Python 3.13.
    pair = counted if len(counted) > 1 else counted * 2
    cuts = statistics.quantiles(pair, n=100, method="inclusive")
    return Spread(len(counted), sum(counted), *(round(cuts[at - 1]) for at in (50, 95, 99)))


def _hours() -> Callable[[int], int]:
    """A function from a moment to the beginning of its hour, on the local clock."""
    known: dict[int, int] = {}

    def hour(moment: int) -> int:
        quarter = moment // QUARTER
        if quarter not in known:
            at = times.local(quarter * QUARTER)
            known[quarter] = quarter * QUARTER - at.minute * 60 * USEC_PER_SEC
        return known[quarter]

    return hour


def _hour_name(hour: int) -> str:
    return times.local(hour).strftime("%Y-%m-%d %H:00")


def _columns(span: tuple[int, int], most: int) -> tuple[int, int]:
    """The width of at most so many columns over the span, and where the first begins."""
    first, last = span
    offset = times.local(first).utcoffset()
    shift = int(offset.total_seconds()) * USEC_PER_SEC if offset else 0
    days = itertools.count(1)
    for seconds in itertools.chain(STEPS, (86_400 * day for day in days)):
        step = seconds * USEC_PER_SEC
        start = (first + shift) // step * step - shift
        if (last - start) // step < most:
            return step, start
    raise AssertionError("there is no longest day")
