"""The form of the tables that say what becomes of each word of a source: importer, report and
spawn.conf-migration(7) all read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from spawnhelper.moving.source import Given

J = TypeVar("J")  # what a source has besides a draft

# How much of a service a trap costs.
NOTE, LOSS, REFUSAL = "note", "loss", "refusal"


@dataclass(frozen=True)
class Trap:
    """What does not come along, or comes along otherwise. means: for the user, a sentence without
    its full stop. do: what to do about it, "" for nothing. Either can have pieces in braces, which
    are filled in where it happens. weight: a REFUSAL keeps the service from being converted, a NOTE
    is no loss. key: the key of the service file that it concerns, "" for the service."""

    means: str
    do: str = ""
    weight: str = LOSS
    key: str = ""

    def sentence(self, **pieces: object) -> tuple[str, str]:
        """What it means, and what to do, with the pieces filled in."""
        return self.means.format(**pieces), self.do.format(**pieces)


def refusal(means: str, do: str = "") -> Trap:
    """A trap that keeps the service from being converted."""
    return Trap(means, do, REFUSAL)


def note(means: str, do: str = "", key: str = "") -> Trap:
    """A trap that costs nothing."""
    return Trap(means, do, NOTE, key)


@dataclass(frozen=True)
class Row(Generic[J]):
    """One word of a source. word: as the source has it. key: what it becomes, as a person writes
    it; "" for nothing. how: a sentence or two about the way there, for the manual page. convert:
    gives a draft what the source has. traps: all that can be said about it there."""

    word: str
    key: str
    how: str
    convert: Callable[[J, Given], None]
    traps: tuple[Trap, ...] = ()


def nothing(_job: object, _given: Given) -> None:
    """Of a word that the ones beside it are read with, or that says nothing about a service."""
