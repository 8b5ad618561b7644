"""What many records come to: counts, and percentiles of what was measured."""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from spawnhelper.conf.quantities import USEC_PER_SEC
from spawnhelper.ctl import times
from spawnhelper.ctl.records import MEASURES, Record, Summed
from spawnhelper.outcome import HEALTH_CHECK, SUCCESS

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
    """One row a record, in columns of numbers: so a million of them take some 60 MB. A record of
    many connections has a row for each client that it names, which says how many they are; what was
    measured of them stands apart."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._moments = array("Q")
        self._failed = array("B")
        self._weights = array("Q")
        self._summed: list[tuple[int, int, Summed]] = []  # when, of which service, what
        self._labels = {by: array("I") for by in ("service", "from", "result")}
        self._measures = {measure: array("q") for measure in MEASURES}

    def add(self, record: Record) -> None:
        """One more connection, or as many as the record is about."""
        summed = record.summed
        if summed is None:
            self._row(record, record.source, record.result, 1)
            return
        self._summed.append((record.usec, self._label(record.service), summed))
        for client, count in summed.clients.items():
            self._row(record, client, SUCCESS, count)
        unnamed = summed.connections - sum(summed.clients.values())
        for result, count in ((SUCCESS, unnamed), (HEALTH_CHECK, summed.checks)):
            if count > 0:
                self._row(record, "", result, count)

    def _row(self, record: Record, client: str, result: str, weight: int) -> None:
        self._moments.append(record.usec)
        self._failed.append(record.failed)
        self._weights.append(weight)
        for by, name in (("service", record.service), ("from", client), ("result", result)):
            self._labels[by].append(self._label(name))
        for measure, column in self._measures.items():
            value = getattr(record, measure)
            column.append(NOBODY_COUNTED if value is None else value)

    def _label(self, name: str) -> int:
        return self._names.setdefault(name, len(self._names))

    def __len__(self) -> int:
        return len(self._moments)

    def span(self) -> tuple[int, int] | None:
        """The times of the first and the last, in microseconds since the epoch."""
        return (min(self._moments), max(self._moments)) if self._moments else None

    def whole(self) -> Group:
        """All of them."""
        return self._group("", range(len(self)), [each for _, _, each in self._summed])

    def groups(self, by: str) -> list[Group]:
        """Those of each service, client, result or hour: hours in their order, others by size."""
        hour = _hours()
        if by == "hour":
            keys: Sequence[int] = array("Q", map(hour, self._moments))
            name: Callable[[int], str] = _hour_name
        else:
            keys = self._labels[by]
            name = list(self._names).__getitem__
        whose: dict[Hashable, list[Summed]] = {}
        for moment, service, summed in self._summed:
            of = {"hour": hour(moment), "service": service, "result": self._label(SUCCESS)}
            whose.setdefault(of.get(by), []).append(summed)  # of one client nothing is known
        found = [self._group(name(key), rows, whose.get(key, [])) for key, rows in _by(keys)]
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
            for label, connections in self._counted(clients).most_common()[: count + 1]
            if names[label]
        ][:count]

    def over_time(self, most: int) -> list[tuple[int, int, int]]:
        """At most so many columns of equal width: when each begins, how many connections, how many
        of them failed. In microseconds since the epoch, at round times."""
        span = self.span()
        if span is None:
            return []
        step, start = _columns(span, most)
        total = self._counted((moment - start) // step for moment in self._moments)
        failures = itertools.compress(self._moments, self._failed)
        failed = Counter((moment - start) // step for moment in failures)
        return [(start + at * step, total[at], failed[at]) for at in range(max(total) + 1)]

    def _counted(self, keys: Iterable[int]) -> Counter[int]:
        """How many connections there are of each key. keys: of each row."""
        found: Counter[int] = Counter()
        for key, weight in zip(keys, self._weights, strict=True):
            found[key] += weight
        return found

    def _group(self, key: str, rows: Sequence[int], summed: Sequence[Summed]) -> Group:
        names = list(self._names)
        results = self._labels["result"]
        counted: Counter[int] = Counter()
        for row in rows:
            counted[results[row]] += self._weights[row]
        return Group(
            key,
            counted.total(),
            sum(self._failed[row] for row in rows),
            {names[label]: count for label, count in counted.most_common()},
            {
                measure: _spread(
                    (column[row] for row in rows),
                    [
                        (each.totals[measure], each.steps[measure])
                        for each in summed
                        if measure in each.steps
                    ],
                )
                for measure, column in self._measures.items()
            },
        )


def _by(keys: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """The rows that have the same key, key by key."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    for key, rows in itertools.groupby(order, key=keys.__getitem__):
        yield key, list(rows)


def _spread(
    values: Iterable[int], summed: Iterable[tuple[int, Mapping[int, int]]]
) -> Spread | None:
    """summed: of many connections, what they have together, and how many have about which value."""
    counted = Counter(value for value in values if value != NOBODY_COUNTED)
    whole = sum(value * count for value, count in counted.items())
    for total, steps in summed:
        whole += total
        counted.update(steps)
    if not counted:
        return None
    ordered = sorted(counted)
    ends = list(itertools.accumulate(counted[value] for value in ordered))

    def percentile(rank: int) -> int:
        # As statistics.quantiles() has it, method="inclusive"; that does not take counted values.
        at, part = divmod((ends[-1] - 1) * rank, 100)
        one, other = (
            ordered[bisect_right(ends, min(place, ends[-1] - 1))] for place in (at, at + 1)
        )
        return round((one * (100 - part) + other * part) / 100)

    return Spread(ends[-1], whole, *map(percentile, (50, 95, 99)))


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


def total_size(spread: Spread | None) -> str:
    """The bytes of all together, for a person."""
    from rich.filesize import decimal

    return decimal(spread.total) if spread else "-"
