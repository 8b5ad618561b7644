"""Who may connect, and when: AllowFrom=, DenyFrom=, AccessTimes=. Loaded where one is set."""

from __future__ import annotations

import time

from spawnhelper.conf import addresses
from spawnhelper.outcome import DENIED, Problem, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from spawnhelper.conf.addresses import Prefix
    from spawnhelper.conf.service import Service
    from spawnhelper.doors.inherited import Connection
else:
    import posix as os


def check(service: Service, connection: Connection) -> None:
    """A Refusal with the rule's line for a client that may not connect, or not now.

    A path's clients have no address to go by, unless a proxy is to name them.
    """
    ruled = bool(service.allow_from or service.deny_from)
    if ruled and (connection.local is not None or service.proxied):
        _check_address(service, connection)
    if service.access_times:
        _check_time(service)


def _check_address(service: Service, connection: Connection) -> None:
    if connection.remote is None:
        rule = "AllowFrom" if service.allow_from else "DenyFrom"
        raise refusal(service, rule, None, "nobody knows the client's address")
    host = connection.remote[0]
    allowed, decisive = verdict(service.allow_from, service.deny_from, addresses.numbered(host))
    if allowed:
        return
    if decisive is None:
        raise refusal(service, "AllowFrom", None, f"{host} is not in AllowFrom=")
    raise refusal(service, "DenyFrom", decisive.text, f"{host} is in DenyFrom={decisive.text}")


def _check_time(service: Service) -> None:
    now = time.localtime()
    minute = now.tm_hour * 60 + now.tm_min
    if not any(within(span, minute) for span in service.access_times):
        sentence = f"AccessTimes= does not have {now.tm_hour:02}:{now.tm_min:02}"
        raise refusal(service, "AccessTimes", None, sentence)


def verdict(
    allow: list[Prefix], deny: list[Prefix], address: tuple[int, int]
) -> tuple[bool, Prefix | None]:
    """Whether the address may connect, and the prefix that decides, if one does.

    The longest that matches decides, of equal ones the one that denies; where none matches, it may
    unless there is a list of those who may.
    """
    yes, no = addresses.best(allow, address), addresses.best(deny, address)
    if yes is not None and (no is None or yes.length > no.length):
        return True, yes
    return no is None and not allow, no


def within(span: tuple[int, int], minute: int) -> bool:
    """Whether the minute of the day lies in the span; one that ends before it starts goes on behind
    midnight."""
    start, end = span
    if start < end:
        return start <= minute < end
    return minute >= start or minute < end


def refusal(service: Service, key: str, word: str | None, sentence: str) -> Refusal:
    """The Refusal by the line of the key that has the word."""
    from spawnhelper.stages import banner  # whoever may connect does not wait for it

    problems: tuple[Problem, ...] = (service.problem(key, sentence, word),)
    answer = b""
    try:
        answer = banner.for_refused(service)
    except Refusal as broken:  # a broken banner does not hide why there was to be one
        problems += broken.problems
    return Refusal(DENIED, os.EX_OK, problems=problems, answer=answer)
