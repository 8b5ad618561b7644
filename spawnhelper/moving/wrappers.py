"""hosts.allow and hosts.deny (hosts_access(5), hosts_options(5)) to rules about addresses, for one
daemon."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from spawnhelper.moving.access import EVERYBODY, Network, Rule, Rules, network
from spawnhelper.moving.source import Place, Text

BETWEEN = re.compile(r"[ \t,]+")
FIELD = re.compile(r"(?<!\\):(?![^\[\]]*\])")  # no colon of an address in brackets
BEGINNING = re.compile(r"\d{1,3}\.(?:\d{1,3}\.){0,2}")
MASKED = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3})/(\d{1,3}(?:\.\d{1,3}){3})")
BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)\](?:/(\d{1,3}))?")
WILDCARDS = ("LOCAL", "UNKNOWN", "KNOWN", "PARANOID")
OF_COMMANDS = ("keepalive", "linger", "nice", "umask", "setenv")
NAMES_OF_OPTIONS = ("severity", "rfc931", *OF_COMMANDS)


@dataclass
class Verdict:
    """What the files say about one daemon. unsaid: the lines that say more than addresses can,
    where what is left would let in whom they keep out. closed: those that are left out, and let in
    nobody. unended: those that have no end, which libwrap ignores. lost: those with options for the
    command."""

    rules: Rules
    unsaid: list[tuple[Place, str]] = field(default_factory=list)
    closed: list[tuple[Place, str]] = field(default_factory=list)
    unended: list[tuple[Place, str]] = field(default_factory=list)
    lost: list[tuple[Place, str]] = field(default_factory=list)


def verdict(texts: list[Text], daemon: str, resolve: Callable[[str], list[str]]) -> Verdict:
    """What hosts.allow and hosts.deny, in this order, say about the daemon. resolve: the addresses
    of a name, [] where names are not to be asked for."""
    made: list[Rule] = []
    found = Verdict(Rules((), otherwise=True))
    for text, otherwise in zip(texts, (True, False), strict=True):
        for number, line in logical_lines(text):
            place = Place(text.file, number)
            fields = [each.strip() for each in FIELD.split(line)]
            if len(fields) < 2:
                found.unsaid.append((place, line))
                continue
            concerned = _concerns(fields[0], daemon)
            if concerned is False:
                continue
            if number == _unended(text):
                found.unended.append((place, line))
                continue
            allows = _decision(fields[2:], allows=otherwise)
            clients, rest = _clients(fields[1], resolve if allows else _nobody)
            if concerned is None or allows is None or "except" in fields[1].lower().split():
                found.unsaid.append((place, line))
                continue
            made.append(Rule(tuple(clients), allows))
            if any(_name_of(option) in OF_COMMANDS for option in fields[2:]):
                found.lost.append((place, line))
            if rest:
                (found.closed if allows else found.unsaid).append((place, line))
    found.rules = Rules(tuple(made), otherwise=True)
    return found


def logical_lines(text: Text) -> list[tuple[int, str]]:
    """The lines that are rules, with the number of the first, continued ones made one."""
    found: list[tuple[int, str]] = []
    first, joined = 0, ""
    for number, line in enumerate(text.lines, 1):
        first = first or number
        if line.endswith("\\"):
            joined += line[:-1]
            continue
        joined += line
        if joined.strip() and not joined.lstrip().startswith("#"):
            found.append((first, joined))
        first, joined = 0, ""
    if joined.strip() and not joined.lstrip().startswith("#"):
        found.append((first, joined))
    return found


def _unended(text: Text) -> int:
    """The number of the line that goes on behind the end of the file; 0 where none does."""
    number = len(text.lines)
    if number == 0 or (text.ended and not text.lines[-1].endswith("\\")):
        return 0
    while number > 1 and text.lines[number - 2].endswith("\\"):
        number -= 1
    return number


def _concerns(daemons: str, daemon: str) -> bool | None:
    """Whether a list of daemons has this one; None where that depends on the connection."""
    chosen, *excepted = re.split(r"(?i)(?:^|[ \t,]+)except[ \t,]+", daemons)
    verdicts = [_has(words, daemon) for words in (chosen, *excepted)]
    if None in verdicts:
        return None
    # A EXCEPT B EXCEPT C is A EXCEPT (B EXCEPT C).
    has = False
    for each in reversed(verdicts):
        has = bool(each) and not has
    return has


def _has(words: str, daemon: str) -> bool | None:
    found: bool | None = False
    for word in filter(None, BETWEEN.split(words)):
        name, at, _ = word.partition("@")
        if name.lower() in ("all", daemon.lower()):
            if not at:
                return True
            found = None
    return found


def _decision(options: list[str], *, allows: bool) -> bool | None:
    """What a line with these options does to who matches; None where that is more than to let in
    or keep out."""
    for option in filter(None, options):
        word = _name_of(option)
        if word == "allow":
            allows = True
        elif word == "deny":
            allows = False
        elif word not in NAMES_OF_OPTIONS:
            return None
    return allows


def _name_of(option: str) -> str:
    return re.split(r"[\s=]", option, maxsplit=1)[0].lower()


def _clients(words: str, resolve: Callable[[str], list[str]]) -> tuple[list[Network], list[str]]:
    """The networks of a list of clients, and the words that are none."""
    found: list[Network] = []
    rest = []
    for word in filter(None, BETWEEN.split(words)):
        try:
            found += _networks(word)
        except ValueError:
            is_host = word[0] not in "./" and "@" not in word and word.upper() not in WILDCARDS
            addresses = resolve(word) if is_host else []
            found += [network(each) for each in addresses]
            if not addresses:
                rest.append(word)
    return found, rest


def _nobody(_name: str) -> list[str]:
    """For names of who is kept out: they could have other addresses tomorrow."""
    return []


def _networks(word: str) -> list[Network]:
    """What an address, a network or ALL stands for; ValueError for all that hangs on names."""
    if word.lower() == "all":
        return list(EVERYBODY)
    if BEGINNING.fullmatch(word):
        octets = word.rstrip(".").split(".")
        return [IPv4Network(".".join((octets + ["0"] * 3)[:4]) + f"/{8 * len(octets)}")]
    if masked := MASKED.fullmatch(word):
        return [IPv4Network(f"{masked[1]}/{_length(masked[2])}", strict=False)]
    if bracketed := BRACKETED.fullmatch(word):
        return [network(f"{bracketed[1]}/{bracketed[2]}" if bracketed[2] else bracketed[1])]
    return [network(word)]


def _length(mask: str) -> int:
    """The length of a netmask; ValueError where its ones are not in front."""
    bits = int(IPv4Network(mask).network_address)
    length = bits.bit_count()
    if bits != (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF:
        raise ValueError
    return length
