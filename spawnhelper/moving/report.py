"""What became of each service of a source, for people and for programs."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from spawnhelper.moving.draft import CONVERTED, FOREIGN, LOSSY, OFF, REFUSED, Draft, Remark
from spawnhelper.moving.source import Reading
from spawnhelper.moving.traps import NOTE, Trap
from spawnhelper.outcome import printable, shown

STATES = (CONVERTED, LOSSY, REFUSED, OFF, FOREIGN)
EX_DATAERR, EX_CONFIG = os.EX_DATAERR, os.EX_CONFIG


@dataclass
class Report:
    """source: what the command line calls it. everywhere: what is different for every service.
    whole: what is to be said about the source as a whole, each a loss. dialect: which of several
    programs it is for."""

    source: str
    reading: Reading
    drafts: list[Draft]
    everywhere: tuple[Trap, ...]
    whole: list[str] = field(default_factory=list)
    dialect: str = ""

    @property
    def files(self) -> list[Draft]:
        """The drafts that are service files."""
        return [each for each in self.drafts if each.is_file]

    @property
    def counts(self) -> dict[str, int]:
        """How many services there are in each state; all of them add up to those of the source."""
        found = Counter(each.state for each in self.drafts)
        return {state: found[state] for state in STATES}

    @property
    def status(self) -> int:
        """The exit status: 0 where nothing is lost."""
        if not self.drafts:
            return EX_CONFIG if self.reading.strays else 0
        lost = self.reading.strays or self.whole or self.counts[LOSSY] or self.counts[REFUSED]
        return EX_DATAERR if lost else 0

    def lines(self) -> list[str]:
        """The report for a person."""
        made = []
        for draft in self.drafts:
            made.append(f"{draft.found.place}: {shown(draft.found.name)}: {_fate(draft)}")
            made += [f"  {_line(remark)}" for remark in draft.told]
            made += [f"  waits: {each}" for each in draft.waits]
        for stray in self.reading.strays:
            made.append(f"{stray.place}: {shown(stray.text.strip())}: not understood: {stray.why}")
        made += [*self.whole, *self.reading.notes]
        if self.files:
            made.append("For every service:")
            made += [f"  {_general(trap)}" for trap in self.everywhere]
        for text in self.reading.texts:
            counts = text.counts()
            told = ", ".join(f"{count} {LINES[kind]}" for kind, count in counts.items() if count)
            lines = _number(len(text.lines), "line")
            made.append(f"{printable(text.file)}: {lines}{': ' if told else ''}{told}")
        total = _number(len(self.drafts), "service")
        told = ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
        made.append(f"{total}{': ' if told else ''}{told}" if self.drafts else self._nothing())
        return made

    def _nothing(self) -> str:
        if self.reading.strays:
            return "not one service could be read"
        return "nothing to import: there is no service"

    def object(self) -> dict[str, Any]:
        """The report for a program."""
        return {
            "source": self.source,
            "status": self.status,
            "counts": self.counts,
            "files": [
                {"file": printable(text.file), "lines": len(text.lines)} | text.counts()
                for text in self.reading.texts
            ],
            "services": [self._service(draft) for draft in self.drafts],
            "unread": [
                {
                    "file": printable(each.place.file),
                    "line": each.place.line,
                    "text": printable(each.text),
                    "why": each.why,
                }
                for each in self.reading.strays
            ],
            "source_losses": self.whole,
            "source_notes": self.reading.notes,
            "everywhere": [{"means": each.means, "do": each.do} for each in self.everywhere],
        }

    def _service(self, draft: Draft) -> dict[str, Any]:
        return {
            "service": printable(draft.found.name),
            "file": printable(draft.found.place.file),
            "line": draft.found.place.line,
            "state": draft.state,
            "why": draft.found.off or draft.found.foreign or None,
            "name": (draft.into or draft).name if draft.state in (CONVERTED, LOSSY) else None,
            "text": draft.text(self.source) if draft.is_file else None,
            "remarks": [_remark(each) for each in draft.told],
            "waits": draft.waits,
        }


LINES = {
    "empty": "empty or comments",
    "service": "of services",
    "setting": "of settings",
    "unread": "not understood",
}


def _fate(draft: Draft) -> str:
    why = draft.found.off or draft.found.foreign
    if draft.state in (CONVERTED, LOSSY):
        return f"{draft.state}: {(draft.into or draft).name}.conf"
    return f"{draft.state}: {why}" if why else draft.state


def _line(remark: Remark) -> str:
    return f"{remark.place}: {'note: ' if remark.trap.weight == NOTE else ''}{remark}"


def _general(trap: Trap) -> str:
    return f"{trap.means}; see {trap.do}" if trap.do else trap.means


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _remark(remark: Remark) -> dict[str, Any]:
    return {
        "file": printable(remark.place.file),
        "line": remark.place.line,
        "what": remark.what,
        "weight": remark.trap.weight,
        "key": remark.trap.key or None,
        "means": remark.means,
        "do": remark.do or None,
    }
