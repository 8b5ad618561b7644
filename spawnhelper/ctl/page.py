"""The numbers of `spawnctl stats` as one page that needs nothing else: to be mailed, or kept.

Each plot is drawn twice, for a wide window and for a narrow one; the page's style sheet shows one,
in colours that suit a light or a dark one.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
import pygal
from pygal.style import Style

from spawnhelper import __version__
from spawnhelper.ctl import times
from spawnhelper.ctl.tally import Group, Tally, total_size
from spawnhelper.outcome import NO_FAILURE, printable
from spawnhelper.record import span

BUSIEST = 25
MOST_GROUPS = 200  # rows of the table
PLOTTED = 12  # groups
MSEC = 1_000  # microseconds
WIDE, NARROW = 880, 380  # units of the drawing, which are pixels where it fits


def render(
    tally: Tally, by: str, names: Sequence[str], apart: Sequence[str], unread: Sequence[str]
) -> str:
    """The page's text. Whatever came from a journal is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("spawnhelper.ctl", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"span": span, "size": total_size, "count": "{:,}".format}
    extent = tally.span()
    whole = tally.whole()
    groups = tally.groups(by)
    shown = groups[-MOST_GROUPS:] if by == "hour" else groups[:MOST_GROUPS]
    plots = [] if extent is None else _plots(tally, by, whole, shown)
    return environment.get_template("page.html").render(
        by=by,
        extent=[times.FORMATS["short-full"](times.local(usec)) for usec in extent or ()],
        names=names,
        whole=whole,
        groups=[(printable(group.key) or "-", group) for group in shown],
        hidden=len(groups) - len(shown),
        plots=plots,
        clients=[(printable(who), *numbers) for who, *numbers in tally.busiest(BUSIEST)],
        harmless=NO_FAILURE,
        host=socket.gethostname(),
        said=[*unread, *apart],
        version=__version__,
    )


def _plots(
    tally: Tally, by: str, whole: Group, groups: Sequence[Group]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each plot's caption, and its drawings with the class that shows them."""

    def both(draw: Callable[[int], str]) -> list[tuple[str, str]]:
        return [("wide", draw(WIDE)), ("narrow", draw(NARROW))]

    def over_time(width: int) -> str:
        columns = tally.over_time(width // 16)
        chart = _chart(pygal.StackedBar, width, ("--good", "--bad"))
        chart.x_labels = [times.local(start).strftime("%b %d %H:%M") for start, *_ in columns]
        chart.x_labels_major_count = width // 150
        chart.show_minor_x_labels = False
        chart.add("not failed", [total - failed for _, total, failed in columns])
        chart.add("failed", [failed for *_, failed in columns])
        return str(chart.render(is_unicode=True))

    def durations(width: int) -> str:
        timed = [(group.key, group.spreads["duration"]) for group in groups]
        known = [(key, spread) for key, spread in timed if spread is not None]
        known = known[-PLOTTED:] if by == "hour" else known[:PLOTTED]
        chart = _chart(pygal.HorizontalBar, width, ("--first", "--second", "--third"))
        chart.height = 80 + 46 * len(known)
        chart.x_labels = [printable(key) or "-" for key, _ in known][::-1]
        chart.value_formatter = lambda msec: span(round(msec * MSEC))
        for percentile in ("p50", "p95", "p99"):
            values = [getattr(spread, percentile) / MSEC for _, spread in known]
            chart.add(percentile, values[::-1])
        return str(chart.render(is_unicode=True))

    def failures(width: int) -> str:
        bad = [(result, n) for result, n in whole.results.items() if result not in NO_FAILURE]
        chart = _chart(pygal.HorizontalBar, width, ("--bad",))
        chart.height = 60 + 30 * len(bad)
        chart.show_legend = False
        chart.x_labels = [result for result, _ in bad][::-1]
        chart.add("connections", [count for _, count in bad][::-1])
        return str(chart.render(is_unicode=True))

    plots = [("Connections over time", both(over_time))]
    if whole.spreads["duration"]:
        plots.append((f"Duration by {by}: 50th, 95th and 99th percentile", both(durations)))
    if whole.failed:
        plots.append(("Failures by result", both(failures)))
    return plots


def _chart(kind: Callable[..., Any], width: int, colours: Sequence[str]) -> Any:
    """An empty plot in the page's own colours, without scripts and without anything from afar."""
    style = Style(
        background="transparent",
        plot_background="transparent",
        foreground="var(--ink)",
        foreground_strong="var(--ink)",
        foreground_subtle="var(--rule)",
        colors=[f"var({colour})" for colour in colours],
        opacity="1",
        opacity_hover="1",
        transition="0s",
        font_family="inherit",
        label_font_size=12,
        major_label_font_size=12,
        legend_font_size=13,
    )
    chart = kind(
        style=style,
        js=[],
        disable_xml_declaration=True,
        width=width,
        height=280,
        margin=4,
        margin_right=36,
        legend_at_bottom=True,
        legend_at_bottom_columns=len(colours),
        min_scale=1,
        max_scale=width // 75,
        truncate_label=-1,
        legend_box_size=10,
        show_x_guides=False,
        print_values=False,
    )
    chart.add_xml_filter(_without_scripts)
    return chart


def _without_scripts(root: Any) -> Any:
    """The drawing without what pygal adds for its own script, which is not here."""
    for parent in root.iter():
        for script in [each for each in parent if str(each.tag).endswith("script")]:
            parent.remove(script)
    return root
