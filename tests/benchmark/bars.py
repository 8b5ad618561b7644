"""What spawnhelper promises about its cost, as ratios within one run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmark.session import BURST, CROWD, PEERS, STANDING, Figures, Results

FAILURES, LONG_STANDING = "Accept=no, Log=failures", "Accept=no, long file"
MB = 1e6
ALONE = "interpreter alone"
OURS, COUNTED, LONG_FILE = "spawnhelper", "with SizeLimit=", "with a long file"
NAIVE, SAME, HARDENED = "naive unit", "unit, same settings", "hardened unit"
UNITS = (NAIVE, SAME, ALONE, HARDENED, OURS, COUNTED, LONG_FILE)  # one for each connection


@dataclass
class Bar:
    """what: as a person reads it. figure: None where the run did not measure it. bound: what it has
    to be, at most or at least. alone: the same of a unit that starts an interpreter, which becomes
    the command at once; None where that means nothing."""

    what: str
    figure: float | None
    bound: float
    at_most: bool
    alone: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the figure is as it has to be; None without one."""
        if self.figure is None:
            return None
        return self.figure <= self.bound if self.at_most else self.figure >= self.bound


def of(results: Results) -> list[Bar]:
    """All of them, from what the run has. Where rounds can be compared, each is compared by itself,
    and the median of them counts."""
    has = results.servers
    return [
        Bar(
            "added time to the first byte, in starts of the interpreter",
            _added_start(results, OURS),
            1.25,
            at_most=True,
            alone=_added_start(results, ALONE),
        ),
        Bar(
            "connections a second by 16, against a unit with the same settings",
            _rate(results, 16, OURS, SAME),
            0.58,
            at_most=False,
            alone=_rate(results, 16, ALONE, SAME),
        ),
        Bar(
            "connections a second one at a time, against the hardened unit",
            _rate(results, 1, OURS, HARDENED),
            1.2,
            at_most=False,
            alone=_rate(results, 1, ALONE, HARDENED),
        ),
        Bar(
            "memory a held connection beyond the command's, in idle interpreters",
            _memory(results),
            1.15,
            at_most=True,
        ),
        Bar(
            "stream through SizeLimit=, against the socket handed over",
            _stream(has),
            0.9,
            at_most=False,
        ),
        Bar(
            "first byte with 50 keys and 200 prefixes, against the shortest file",
            _first_bytes(results, LONG_FILE, OURS),
            1.05,
            at_most=True,
        ),
        Bar(f"a burst of {BURST}: share answered", _burst(has, OURS), 1.0, at_most=False),
        Bar("the same of the naive unit", _burst(has, NAIVE), 0.5, at_most=True),
        *of_standing(results),
    ]


def of_standing(results: Results) -> list[Bar]:
    """Those of Accept=no. The best of the super-servers is another one in each of them."""
    has = results.servers
    held = {each.count: each for each in has[STANDING].held} if STANDING in has else {}
    least, most = (held[at(held)] if held else None for at in (min, max))
    slower = [slowest - median for slowest, median in has[STANDING].changes] if held else []
    best = "Accept=no: {}, against the best super-server"
    return [
        Bar(best.format("first byte"), _against_best(results, _first), 1.0, at_most=True),
        Bar(best.format("its 99th percentile"), _against_best(results, _p99), 1.2, at_most=True),
        Bar(best.format("connections a second by 16"), _rates(results, 16), 1.0, at_most=False),
        Bar(best.format("by 64"), _rates(results, 64), 1.0, at_most=False),
        Bar(best.format("one at a time"), _rates(results, 1), 0.95, at_most=False),
        Bar(best.format("by 16, Log=failures"), _rates(results, 16, FAILURES), 1.1, at_most=False),
        Bar(best.format("processor time"), _against_best(results, _processor), 1.3, at_most=True),
        Bar(best.format("without journald's"), _against_best(results, _own), 1.0, at_most=True),
        Bar(best.format(f"{CROWD} at once, seconds"), _crowd(has), 1.2, at_most=True),
        Bar(
            "Accept=no: MB a held connection beyond the command's",
            (most.memory - most.command) / MB if most else None,
            1.0,
            at_most=True,
        ),
        Bar(
            "Accept=no: first byte with most held, against that with fewest",
            most.first / least.first if most and least else None,
            1.1,
            at_most=True,
        ),
        Bar(
            "Accept=no: first byte with 50 keys and 200 prefixes, against the shortest file",
            _first_bytes(results, LONG_STANDING, STANDING),
            1.05,
            at_most=True,
        ),
        Bar(
            "Accept=no: seconds that a change of the file adds to the slowest connection",
            max(slower, default=None),
            0.05,
            at_most=True,
        ),
    ]


def _first(figures: Figures, number: int) -> float:
    return statistics.median(figures.first[number])


def _p99(figures: Figures, _: int) -> float:
    """Of all rounds, for one has too few."""
    every = [seconds for part in figures.first for seconds in part]
    return statistics.quantiles(every, n=100, method="inclusive")[98]


def _processor(figures: Figures, number: int) -> float:
    return figures.processor[number]


def _own(figures: Figures, number: int) -> float:
    return figures.processor[number] - figures.shares["journald"][number]


def _against_best(results: Results, what: Callable[[Figures, int], float]) -> float | None:
    """Ours by that of the super-server that has least, the median of the rounds. Which one that is
    all rounds tell: the least of a round is mostly luck."""
    peers = [name for name in PEERS if _measured(results, name)]
    if not peers or not _measured(results, STANDING):
        return None
    has = results.servers
    rounds = range(len(has[STANDING].processor))
    found = {name: [what(has[name], number) for number in rounds] for name in (STANDING, *peers)}
    best = min(peers, key=lambda name: statistics.median(found[name]))
    return _median(ours / its for ours, its in zip(found[STANDING], found[best], strict=True))


def _rates(results: Results, at_once: int, ours: str = STANDING) -> float | None:
    """Ours by that of the super-server that has most, the median of the rounds; as above."""
    peers = [name for name in PEERS if _measured(results, name)]
    if not peers or not _measured(results, ours):
        return None
    has = {name: results.servers[name].rates[at_once] for name in (ours, *peers)}
    best = max(peers, key=lambda name: statistics.median(has[name]))
    return _median(rate / its for rate, its in zip(has[ours], has[best], strict=True))


def _crowd(has: dict[str, Figures]) -> float | None:
    """The seconds, by those of the fastest that answered all; infinite where ours did not."""
    ours = has[STANDING].crowd if STANDING in has else None
    crowds = [has[name].crowd for name in PEERS if name in has]
    others = [each[1] for each in crowds if each is not None and each[0] == CROWD]
    if ours is None:
        return None
    if ours[0] < CROWD:
        return math.inf
    return ours[1] / min(others) if others else 0.0


def _added_start(results: Results, name: str) -> float | None:
    if not _measured(results, name, SAME):
        return None
    has = results.servers
    rounds = zip(has[name].first, has[SAME].first, results.starts, strict=True)
    return _median(
        (statistics.median(each) - statistics.median(same)) / statistics.median(starts)
        for each, same, starts in rounds
        if each and same
    )


def _first_bytes(results: Results, one: str, other: str) -> float | None:
    if not _measured(results, one, other):
        return None
    pairs = zip(results.servers[one].first, results.servers[other].first, strict=True)
    return _median(
        statistics.median(each) / statistics.median(against)
        for each, against in pairs
        if each and against
    )


def _rate(results: Results, at_once: int, one: str, other: str) -> float | None:
    if not _measured(results, one, other):
        return None
    rates, others = (results.servers[name].rates[at_once] for name in (one, other))
    return _median(each / against for each, against in zip(rates, others, strict=True) if against)


def _median(ratios: Iterable[float]) -> float | None:
    """That of the rounds; None where none of them can be compared."""
    found = list(ratios)
    return statistics.median(found) if found else None


def _measured(results: Results, *names: str) -> bool:
    return all(name in results.servers and results.servers[name].first for name in names)


def _memory(results: Results) -> float | None:
    held = results.servers[OURS].held if OURS in results.servers else []
    if not held:
        return None
    return (held[-1].memory - held[-1].command) / results.idle


def _stream(has: dict[str, Figures]) -> float | None:
    if not all(name in has and has[name].up for name in (OURS, COUNTED)):
        return None
    ratios = zip(has[COUNTED].up, has[OURS].up, strict=True)
    return statistics.median(counted / ours for counted, ours in ratios)


def _burst(has: dict[str, Figures], name: str) -> float | None:
    answered = has[name].burst if name in has else None
    return None if answered is None else answered / BURST
