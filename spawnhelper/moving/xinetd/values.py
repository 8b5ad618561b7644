"""The values of xinetd.conf(5) that mean more, or something else, than they seem to."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from spawnhelper.moving.access import EVERYBODY, Network, has_ipv4, network

LOCAL = "localhost"
FACTORS = re.compile(r"((?:\d{1,3}\.){0,3})\{(\d{1,3}(?:,\d{1,3})*)\}")
DOTTED = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
MASK = re.compile(r".*/\d{1,3}(?:\.\d{1,3}){1,3}")
TIME = re.compile(r"(\d{1,2}):(\d{1,2})-(\d{1,2}):(\d{1,2})", re.ASCII)
LIMIT = re.compile(r"([0-9]{1,15})([kKmM]?)")


@dataclass
class Clients:
    """What only_from or no_access has. local: whether localhost is among it. ipv6: words that are
    about IPv6 where there is none. names: words that are addresses to a resolver at best."""

    networks: list[Network] = field(default_factory=list)
    local: bool = False
    ipv6: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def clients(words: list[str], *, ipv6: bool) -> Clients:
    """The addresses of a list; ValueError, with the word, for what keeps xinetd from starting the
    service, or means something else than it says. ipv6: whether the service listens on IPv6, where
    IPv4-mapped clients are in ::/0, too. On IPv4 no IPv6 address has any client."""
    found = Clients()
    for word in words:
        if "," in word and "{" not in word:
            raise ValueError(word)
        if word == LOCAL:
            found.local = True
            continue
        if MASK.fullmatch(word):
            raise ValueError(word)
        try:
            networks = _networks(word)
        except ValueError:
            if "{" in word:
                raise ValueError(word) from None
            found.names.append(word)
            continue
        if ":" in word and not ipv6:
            found.ipv6.append(word)
        else:
            found.networks += networks
    if found.local:
        found.networks += [network("127.0.0.1"), network("::1")]
    if has_ipv4(found.networks) and EVERYBODY[0] not in found.networks:
        found.networks.append(EVERYBODY[0])
    return found


def taken_out(words: list[str], by: list[str]) -> list[str]:
    """What is left of a list behind -=: however an address is written, it is the same."""
    gone = {key for word in by for key in _keys(word)}
    return [word for word in words if gone.isdisjoint(_keys(word))]


def _keys(word: str) -> set[str]:
    """What makes a word of a list another's equal: its networks, or the word."""
    try:
        found = _networks(word)
    except ValueError:
        found = []
    return {word, *map(str, found)}


def _networks(word: str) -> list[Network]:
    if factors := FACTORS.fullmatch(word):
        every = [f"{factors[1]}{last}".split(".") for last in factors[2].split(",")]
        return [_prefix(octets, len(octets)) for octets in every]
    if DOTTED.fullmatch(word):  # zeros at the right stand for anything
        octets = word.split(".")
        given = max((at for at, octet in enumerate(octets, 1) if octet != "0"), default=0)
        return [_prefix(octets, given)]
    return [network(word)]


def _prefix(octets: list[str], given: int) -> Network:
    """All addresses that begin with so many of these octets; ValueError where they are none."""
    return network(f"{'.'.join([*octets, '0', '0', '0'][:4])}/{8 * given}")


def times(words: list[str]) -> str:
    """access_times as AccessTimes= has it, where the last minute does not count any more;
    ValueError, with the word, for what keeps xinetd from starting the service."""
    spans = []
    for word in words:
        found = TIME.fullmatch(word)
        if found is None:
            raise ValueError(word)
        hour, minute, last_hour, last_minute = map(int, found.groups())
        start, end = 60 * hour + minute, 60 * last_hour + last_minute
        if max(hour, last_hour) > 23 or max(minute, last_minute) > 59 or start > end:
            raise ValueError(word)
        spans.append(f"{_clock(start)}-{_clock(end + 1)}")
    return " ".join(spans)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def limit(text: str) -> str:
    """A value of rlimit_*, as our keys have it; ValueError for none."""
    if text.lower() == "unlimited":
        return "infinity"
    found = LIMIT.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return f"{int(found[1])}{found[2].upper()}"
