"""The drafts of one source beside each other: no two of them with one name, or at one address."""

from __future__ import annotations

from spawnhelper.conf import syntax
from spawnhelper.conf.listeners import WILDCARDS, Listener
from spawnhelper.moving.draft import Draft, Line
from spawnhelper.moving.job import MERGED, NOWHERE, SAME_NAME, SAME_PLACE

PLACES = ("ListenStream", "BindIPv6Only")


def settle(drafts: list[Draft]) -> None:
    """Has services that run the same in one file, refuses a second one at an address, and gives
    each of the others a name of its own."""
    settled: list[Draft] = []
    for draft in drafts:
        if not draft.is_file:
            continue
        if not draft.values(PLACES[0]):
            draft.say(NOWHERE)
            continue
        _leave_out_twins(draft)
        twin = next((each for each in settled if _alike(each, draft)), None)
        if twin is not None and _join(twin, draft):
            draft.into = twin
            twin.merged.append(draft)
            draft.say(MERGED, other=str(twin.found.place))
            continue
        other, place = _in_the_way(draft, settled)
        if other is not None:
            draft.say(SAME_PLACE, other=str(other.found.place), place=place)
            continue
        _name(draft, settled)
        settled.append(draft)


def _leave_out_twins(draft: Draft) -> None:
    """Leaves an address out that is in a wildcard of the same service."""
    kept = listeners(draft)
    for each in list(kept):
        others = [other for other in kept if other is not each and other.host in WILDCARDS.values()]
        if _overlaps(each, others):
            kept.remove(each)
            draft.lines.remove(Line("Socket", PLACES[0], each.text))


def _alike(one: Draft, other: Draft) -> bool:
    """Whether both have one name in the source, and differ only in where they listen."""
    return one.found.name == other.found.name and _rest(one) == _rest(other)


def _rest(draft: Draft) -> list[Line]:
    return [each for each in draft.lines if each.key not in PLACES]


def _join(twin: Draft, draft: Draft) -> bool:
    """Adds where the draft listens to its twin, unless one file cannot say that of both."""
    if all(_overlaps(each, listeners(twin)) for each in listeners(draft)):
        return True  # the original server has but one of them, too
    modes = {each.value for each in (*twin.lines, *draft.lines) if each.key == PLACES[1]}
    if any(_overlaps(each, listeners(twin)) for each in listeners(draft)) or len(modes) > 1:
        return False
    twin.lines += [each for each in draft.lines if each.key in PLACES and each not in twin.lines]
    return True


def _in_the_way(draft: Draft, settled: list[Draft]) -> tuple[Draft | None, str]:
    for listener in listeners(draft):
        for other in settled:
            if _overlaps(listener, listeners(other)):
                return other, listener.text
    return None, ""


def _overlaps(listener: Listener, others: list[Listener]) -> bool:
    return any(listener.overlaps(other) for other in others)


def _name(draft: Draft, settled: list[Draft]) -> None:
    names = {each.name for each in settled}
    wanted = draft.name
    number = 2
    while draft.name in names:
        draft.name = f"{wanted}-{number}"
        number += 1
    if draft.name != wanted:
        draft.say(SAME_NAME, name=wanted, made=draft.name)


def listeners(draft: Draft) -> list[Listener]:
    """Where the draft means to listen."""
    place = draft.found.place
    modes = draft.values(PLACES[1])
    found = []
    for value in draft.values(PLACES[0]):
        line = syntax.Assignment("Socket", PLACES[0], value, place.file, place.line)
        listener = Listener(draft.name, line)
        listener.only_ipv6 = modes[-1] == "ipv6-only" if modes else None
        found.append(listener)
    return found
