"""Who may connect: rules of which the first that has the client decides, as lists of which the
longest prefix decides (AllowFrom= and DenyFrom= of spawn.conf(5))."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

Network = IPv4Network | IPv6Network
EVERYBODY: tuple[Network, Network] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
MAPPED = IPv6Network("::ffff:0:0/96")  # RFC 4291, 2.5.5.2


@dataclass(frozen=True)
class Rule:
    """Clients of these networks may connect, or may not."""

    networks: tuple[Network, ...]
    allows: bool


@dataclass(frozen=True)
class Rules:
    """The first rule that has the client decides. otherwise: for whom there is none."""

    rules: tuple[Rule, ...]
    otherwise: bool

    def allow(self, network: Network) -> bool:
        """Whether clients of the network may connect that are in no longer prefix of a rule."""
        for rule in self.rules:
            if any(covers(each, network) for each in rule.networks):
                return rule.allows
        return self.otherwise


def covers(outer: Network, inner: Network) -> bool:
    """Whether all addresses of the second are in the first."""
    if isinstance(outer, IPv4Network):
        return isinstance(inner, IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and inner.subnet_of(outer)


def lists(every: Sequence[Rules]) -> tuple[list[str], list[str]]:
    """What AllowFrom= and DenyFrom= have to say so that a client may connect whom all of these let
    in, and nobody else; two empty lists where that is everybody.

    What decides about an address is the longest prefix of any rule that has it: of all addresses
    for which that is the same prefix, each rule has all or none.
    """
    prefixes = {
        network for rules in every for rule in rules.rules for network in rule.networks
    }.union(EVERYBODY)
    ordered = sorted(prefixes, key=lambda each: (each.version, each.prefixlen, each))
    verdicts: dict[Network, bool] = {}
    kept: list[Network] = []
    for network in ordered:
        verdicts[network] = all(rules.allow(network) for rules in every)
        above = [each for each in kept if covers(each, network)]
        if not above or verdicts[above[-1]] != verdicts[network]:
            kept.append(network)
    allow = [each for each in kept if verdicts[each]]
    deny = [each for each in kept if not verdicts[each]]
    if not deny:
        return [], []
    if not set(allow) - set(EVERYBODY) and not set(deny) & set(EVERYBODY):
        allow = []  # everybody but those who are denied
    elif allow:
        deny = [each for each in deny if each not in EVERYBODY]  # who is in no list is denied
    return list(map(written, allow)), list(map(written, deny))


def written(network: Network) -> str:
    """A network as a service file has it."""
    whole = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if whole else str(network)


def network(text: str) -> Network:
    """An address or a prefix; bits behind the prefix count as zero, and an IPv4-mapped one as IPv4.

    Raises ValueError for anything else, names and scopes too.
    """
    length = text.partition("/")[2]
    if "%" in text or not text.isascii() or (length and not length.isdigit()):
        raise ValueError
    return unmapped(ip_network(text, strict=False))


def unmapped(found: Network) -> Network:
    """An IPv4-mapped network as IPv4."""
    if isinstance(found, IPv6Network) and found.subnet_of(MAPPED):
        length = found.prefixlen - MAPPED.prefixlen
        return IPv4Network((int(found.network_address) & 0xFFFFFFFF, length))
    return found


def has_ipv4(networks: Iterable[Network]) -> bool:
    """Whether IPv4-mapped addresses are in one of these as a part of more."""
    return any(isinstance(each, IPv6Network) and MAPPED.subnet_of(each) for each in networks)
