"""Many connections in one record (Log=summary): how many there were, and of whom, with what was
measured of them as histograms.

A histogram is a text of `LOW=COUNT` words. LOW is the least value of a step, and a step ends where
the next begins, some 5 % further on; up to 20 each value is a step. So a percentile is known within
a step, while counts and sums are exact.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise

from spawnhelper.conf.service import Service
from spawnhelper.outcome import NOTICE, SUMMARY, WARNING
from spawnhelper.record import counted, head, of_service, span

LARGEST = (1 << 63) - 1
MEASURES = ("duration", "cpu", "came", "out")
# Of a client that the record does not name, for there are too many in one interval.
MOST_NAMED = 100
MOST_CLIENTS = 10_000  # that are counted one by one: anybody can have as many addresses (RFC 4291)


def _bounds() -> list[int]:
    found = [0]
    while found[-1] <= LARGEST:
        found.append(max(found[-1] + 1, found[-1] * 105 // 100))
    return found


BOUNDS = _bounds()
MIDDLES = {low: (low + high - 1) // 2 for low, high in pairwise(BOUNDS)}


class Histogram:
    """Values of one measure, not below 0. steps: how many there are in each, by its least value.
    total: their sum."""

    __slots__ = ("steps", "total")

    def __init__(self) -> None:
        self.steps: Counter[int] = Counter()
        self.total = 0

    def add(self, value: int) -> None:
        """One more."""
        self.steps[BOUNDS[bisect_right(BOUNDS, value) - 1]] += 1
        self.total += value

    def __str__(self) -> str:
        return " ".join(f"{low}={count}" for low, count in sorted(self.steps.items()))


def read(text: str) -> dict[int, int]:
    """The steps of a histogram, by a value in their middle. Raises ValueError where it is none."""
    found = {}
    for word in text.split():
        low, count = map(_number, word.split("="))
        found[MIDDLES[low] if low in MIDDLES else _none(word)] = count
    return found


def read_clients(text: str) -> dict[str, int]:
    """How many connections there were of each client. Raises ValueError where that is not told."""
    pairs = (word.rpartition("=") for word in text.split(";") if word)
    return {client: _number(count) for client, _, count in pairs}


def percentile(steps: Mapping[int, int], rank: int) -> int:
    """The value below which so many of a hundred are, or one within the same step. steps: at least
    one, by a value in it."""
    left = sum(steps.values()) * rank
    for value, count in sorted(steps.items()):
        left -= 100 * count
        if left <= 0:
            return value
    return max(steps)


class Summary:
    """The connections that ended well since the last record of them. count: how many; checks: how
    many health checks there were besides."""

    def __init__(self) -> None:
        self.count = self.checks = 0
        self._measured = {measure: Histogram() for measure in MEASURES}
        self._waited = 0
        self._peak = 0
        self._clients: Counter[str] = Counter()

    def add(self, measured: Mapping[str, int | None], peak: int, waited: int, client: str) -> None:
        """One more. measured: microseconds and bytes by MEASURES, None where nobody counted. peak:
        bytes. waited: microseconds. client: an address, or `uid N`; "" where nobody knows."""
        self.count += 1
        for measure, value in measured.items():
            if value is not None:
                self._measured[measure].add(value)
        self._waited += waited
        self._peak = max(self._peak, peak)
        if client in self._clients or len(self._clients) < MOST_CLIENTS:
            self._clients[client] += 1

    def fields(
        self, name: str, unit: str, settings: Service | None, since: int, until: int
    ) -> list[str]:
        """The record. settings: of the service. since, until: microseconds since the epoch."""
        duration, cpu, came, out = (self._measured[measure] for measure in MEASURES)
        sentence = (
            f"{name}: {counted(self.count, 'connection')} ended well in {span(until - since)}"
        )
        if duration.steps:
            middles = dict(_middles(duration.steps))
            half, most = (span(percentile(middles, rank)) for rank in (50, 99))
            sentence += f", half of them within {half} and 99 of 100 within {most}"
        fields = [
            *head(sentence, NOTICE, SUMMARY, settings),
            *of_service(unit, name),
            f"SPAWN_UNIT={unit}",
            f"SPAWN_SINCE_USEC={since}",
            f"SPAWN_CONNECTIONS={self.count}",
            f"SPAWN_WAITED_USEC={self._waited}",
            f"SPAWN_MAXRSS_BYTES={self._peak}",
        ]
        for field, histogram in (
            ("DURATION_USEC", duration),
            ("CPU_USEC", cpu),
            ("BYTES_IN", came),
            ("BYTES_OUT", out),
        ):
            if histogram.steps:
                fields.append(f"SPAWN_{field}={histogram.total}")
                fields.append(f"SPAWN_{field}_STEPS={histogram}")
        if self.checks:
            fields.append(f"SPAWN_HEALTH_CHECKS={self.checks}")
        named = self._clients.most_common(MOST_NAMED)
        told = ";".join(f"{client}={count}" for client, count in named if client)
        return [*fields, f"SPAWN_CLIENTS={told}"] if told else fields


def of_lost(name: str, unit: str, count: int) -> list[str]:
    """The record of connections that a server had counted, and had no time to record."""
    sentence = (
        f"{name}: {counted(count, 'connection')} ended well at a server that was killed, and what "
        "was measured of them is lost with it"
    )
    return [
        *head(sentence, WARNING, SUMMARY),
        *of_service(unit, name),
        f"SPAWN_UNIT={unit}",
        f"SPAWN_CONNECTIONS={count}",
    ]


def _middles(steps: Mapping[int, int]) -> Iterable[tuple[int, int]]:
    return ((MIDDLES[low], count) for low, count in steps.items())


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(LARGEST))):
        _none(text)
    return int(text)


def _none(text: str) -> int:
    raise ValueError(f"{text[:80]!r} is no piece of a summary")
