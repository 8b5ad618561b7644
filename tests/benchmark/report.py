"""The results of a run as tables in Markdown, and what grows as a plot. In the machine."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import pygal
from rich import box
from rich.console import Console
from rich.table import Table

from benchmark import bars, usage
from benchmark.session import AT_ONCE, IN_TIME, Arrived, Figures, Held, Results

NOTHING = "-"
WIDTH = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables and draws the plot; an exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--plot", type=Path, required=True)
    parser.add_argument("--arrivals-plot", type=Path, required=True)
    options = parser.parse_args(arguments)
    results = read(options.results)
    console = Console(width=WIDTH)
    tables = (of_bars, of_servers, of_shares, of_stages, of_standing, of_growth, of_arrivals)
    for table in tables:
        console.print(table(results))
    options.plot.write_text(plot(results))
    options.arrivals_plot.write_text(arrivals_plot(results))
    return 0


def read(file: Path) -> Results:
    """What session.py left."""
    raw = json.loads(file.read_text())
    raw["servers"] = {name: _figures(figures) for name, figures in raw["servers"].items()}
    return Results(**raw)


def _figures(raw: dict[str, object]) -> Figures:
    """JSON has no numbers as keys."""
    found = Figures(**raw)  # type: ignore[arg-type]
    for name in ("rates", "failed"):
        setattr(found, name, {int(key): value for key, value in getattr(found, name).items()})
    found.held = [Held(**each) for each in raw["held"]]  # type: ignore[attr-defined]
    found.arrivals = [Arrived(**each) for each in raw["arrivals"]]  # type: ignore[attr-defined]
    return found


def of_bars(results: Results) -> Table:
    """What is promised, and whether it was kept."""
    table = _table("", "is to be", "is", "reached", "interpreter alone")
    for bar in bars.of(results):
        sign = "≤" if bar.at_most else "≥"
        is_, alone = (NOTHING if of is None else f"{of:.2f}" for of in (bar.figure, bar.alone))
        met = {True: "yes", False: "**no**", None: NOTHING}[bar.met]
        table.add_row(bar.what, f"{sign} {bar.bound:g}", is_, met, alone)
    return table


def of_servers(results: Results) -> Table:
    """What a connection costs with each server."""
    rates = [f"{each} at once /s" if each > 1 else "one at a time /s" for each in AT_ONCE]
    columns = ["first byte ms", "its p99", "end ms", "its p99", *rates, "CPU ms", "up GB/s"]
    table = _table("", *columns, "down GB/s")
    for name, figures in results.servers.items():
        first, end = ([each for part in of for each in part] for of in (figures.first, figures.end))
        table.add_row(
            name,
            _of(first, 1e3, statistics.median),
            _of(first, 1e3, _percentile),
            _of(end, 1e3, statistics.median),
            _of(end, 1e3, _percentile),
            *(_rate(figures, at_once) for at_once in AT_ONCE),
            _of(figures.processor, 1e3, statistics.median),
            _of(figures.up, 1e-9, statistics.median),
            _of(figures.down, 1e-9, statistics.median),
        )
    return table


def of_shares(results: Results) -> Table:
    """Whose processor time it is, where systemd makes a unit for each connection."""
    names = [*usage.SHARES, usage.UNITS]
    table = _table("CPU ms of", *names)
    for server, figures in results.servers.items():
        if server not in bars.UNITS:
            continue
        cells = (_of(figures.shares.get(name, []), 1e3, statistics.median) for name in names)
        table.add_row(server, *cells)
    return table


def of_stages(results: Results) -> Table:
    """What the helper spends its own on."""
    table = _table("the helper's own", "CPU ms", "starts of the interpreter")
    starts = [each for part in results.starts for each in part]
    start = statistics.median(starts) if starts else math.nan
    for name, seconds in results.stages.items():
        spent = statistics.median(seconds)
        table.add_row(name, f"{spent * 1e3:.2f}", f"{spent / start:.2f}")
    return table


def of_standing(results: Results) -> Table:
    """Whose processor time a connection is with a standing server."""
    table = _table("Accept=no: processor time of", "CPU ms", "share")
    whole = sum(results.standing.values())
    for name, seconds in results.standing.items():
        table.add_row(name, f"{seconds * 1e3:.2f}", f"{seconds / whole:.0%}")
    return table


def of_growth(results: Results) -> Table:
    """What it costs to hold more and more connections."""
    counts = sorted({held.count for each in results.servers.values() for held in each.held})
    table = _table(
        "held",
        *(f"{count}: KiB each" for count in counts),
        *(f"{count}: first byte ms" for count in counts),
    )
    for name, figures in results.servers.items():
        held = {each.count: each for each in figures.held}
        cells = [
            *(f"{held[at].memory / 1024:.0f}" if at in held else NOTHING for at in counts),
            *(f"{held[at].first * 1e3:.1f}" if at in held else NOTHING for at in counts),
        ]
        table.add_row(name, *cells)
    return table


def of_arrivals(results: Results) -> Table:
    """What it costs to serve so many connections a second."""
    shown = {name: each.arrivals for name, each in results.servers.items() if each.arrivals}
    rates = sorted({arrived.rate for arrivals in shown.values() for arrived in arrivals})
    table = _table("processors used at", *(f"{rate}/s" for rate in rates))
    for name, arrivals in shown.items():
        cells = {each.rate: f"{each.processor:.2f}" for each in arrivals if each.share >= IN_TIME}
        table.add_row(name, *(cells.get(rate, NOTHING) for rate in rates))
    return table


def plot(results: Results) -> str:
    """The time to the first byte by how many connections are held, as SVG."""
    chart = pygal.XY(
        title="Time to the first byte of one connection more",
        x_title="connections held",
        y_title="milliseconds",
        logarithmic=True,
        js=[],
        legend_at_bottom=True,
        legend_at_bottom_columns=4,
    )
    for name, figures in results.servers.items():
        chart.add(name, [(held.count, held.first * 1e3) for held in figures.held])
    drawn: str = chart.render(is_unicode=True)
    return drawn


def arrivals_plot(results: Results) -> str:
    """The processor time by how many connections come a second, as SVG."""
    chart = pygal.XY(
        title="Processor time by connections a second",
        x_title="connections a second",
        y_title="processors",
        xrange=(1, 2000),
        logarithmic=True,
        js=[],
        legend_at_bottom=True,
        legend_at_bottom_columns=3,
    )
    for name, figures in results.servers.items():
        points = [(at.rate, at.processor) for at in figures.arrivals if at.share >= IN_TIME]
        if points:
            chart.add(name, points)
    drawn: str = chart.render(is_unicode=True)
    return drawn


def _table(first: str, *columns: str) -> Table:
    table = Table(box=box.MARKDOWN)
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _of(values: list[float], factor: float, what: object) -> str:
    if not values:
        return NOTHING
    figure = what(values) * factor  # type: ignore[operator]
    if figure <= 0:
        return "0"
    return f"{figure:.{max(0, 2 - math.floor(math.log10(figure)))}f}"


def _percentile(values: list[float]) -> float:
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[98]


def _rate(figures: Figures, at_once: int) -> str:
    if not figures.rates[at_once]:
        return NOTHING
    failed = figures.failed[at_once]
    rate = f"{statistics.median(figures.rates[at_once]):.0f}"
    return f"{rate} ({failed} failed)" if failed else rate


if __name__ == "__main__":
    sys.exit(main())
