"""Columns of text, as wide as what is in them. Nothing is ever cut: where there is not room enough,
whole columns are left out, those that can be spared most first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

GAP = "  "


class Column(NamedTuple):
    """right: whether it is one of numbers. spare: when it gives way, 1 first; 0 for never."""

    heading: str
    right: bool = False
    spare: int = 0


def numbers(*headings: str) -> list[Column]:
    """Columns of numbers, which do not give way."""
    return [Column(heading, right=True) for heading in headings]


class Table:
    """Rows of cells, one cell a column. priority: of syslog(3), for those who have colours."""

    def __init__(self, *columns: Column) -> None:
        self.columns = columns
        self.rows: list[tuple[tuple[str, ...], int | None]] = []

    def add(self, *cells: str, priority: int | None = None) -> None:
        """One more row."""
        self.rows.append((cells, priority))

    def lines(self, width: int) -> Iterator[tuple[str, int | None]]:
        """The heading and the rows within so many columns of a terminal, if they can be, each with
        its priority."""
        kept = self._kept(width)
        widths = self._widths()
        headings = tuple(column.heading for column in self.columns)
        for cells, priority in [(headings, None), *self.rows]:
            shown = (
                cells[at].rjust(widths[at])
                if self.columns[at].right
                else cells[at].ljust(widths[at])
                for at in kept
            )
            yield GAP.join(shown).rstrip(), priority

    def left_out(self, width: int) -> list[str]:
        """The headings of the columns for which there is not room enough."""
        kept = self._kept(width)
        return [column.heading for at, column in enumerate(self.columns) if at not in kept]

    def _widths(self) -> list[int]:
        rows: Iterable[tuple[str, ...]] = (cells for cells, _ in self.rows)
        found = [len(column.heading) for column in self.columns]
        for cells in rows:
            found = [max(pair) for pair in zip(found, map(len, cells), strict=True)]
        return found

    def _kept(self, width: int) -> list[int]:
        widths = self._widths()
        kept = list(range(len(self.columns)))
        spare = sorted((c.spare, at) for at, c in enumerate(self.columns) if c.spare)
        for _, at in spare:
            if sum(widths[each] + len(GAP) for each in kept) - len(GAP) <= width:
                break
            kept.remove(at)
        return kept
