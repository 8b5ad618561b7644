"""Notes about who can connect: rules that do not say what they seem to."""

from __future__ import annotations

import socket

from spawnhelper.conf import listeners, service
from spawnhelper.conf.addresses import Prefix
from spawnhelper.conf.service import Service
from spawnhelper.outcome import Problem, shown

OF_PATHS = ("SocketMode", "SocketUser", "SocketGroup")
EVERYBODY: dict[int, str] = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}
WIDTHS: dict[int, int] = {32: socket.AF_INET, 128: socket.AF_INET6}


def of(settings: Service, file: str) -> list[Problem]:
    """What to think about for the clients."""
    return [*_zeros(settings), *_other_family(settings, file), *_abstract_names(file)]


def _address_lists(settings: Service) -> dict[str, list[Prefix]]:
    return {
        "AllowFrom": settings.allow_from,
        "DenyFrom": settings.deny_from,
        "ProxyFrom": settings.proxy_from,
    }


def _zeros(settings: Service) -> list[Problem]:
    """Addresses as in xinetd.conf(5), where zeros at the right are wildcards."""
    found = []
    for key, prefixes in _address_lists(settings).items():
        for text in (prefix.text for prefix in prefixes):
            if text.endswith(".0") and ":" not in text:
                octets = text.split(".")
                zeros = next((at for at, octet in enumerate(octets[::-1]) if octet != "0"), 4)
                sentence = (
                    f"{key}={text} is one address, for zeros are no wildcards here; write "
                    f"{text}/{32 - 8 * zeros} if the network is meant"
                )
                found.append(settings.problem(key, sentence, text))
    return found


def _other_family(settings: Service, file: str) -> list[Problem]:
    """All addresses of one family, and none of the other, whose clients can connect, too."""
    listening = {family for each in listeners.claimed(file) for family in each.takes}
    found = []
    for key, prefixes in _address_lists(settings).items():
        clients = set(EVERYBODY) if settings.proxied and key != "ProxyFrom" else listening
        named = {WIDTHS[prefix.width] for prefix in prefixes if prefix.width in WIDTHS}
        for prefix in prefixes:
            rest = clients & set(EVERYBODY) - named
            if prefix.length == 0 and prefix.width in WIDTHS and rest:
                (other,) = rest
                which = "IPv4" if other == socket.AF_INET else "IPv6"
                sentence = (
                    f"{key}={prefix.text} has no {which} address, and clients can come from one; "
                    f"add {EVERYBODY[other]} if everybody is meant"
                )
                found.append(settings.problem(key, sentence, prefix.text))
    return found


def _abstract_names(file: str) -> list[Problem]:
    """Who may connect, said of a name that has no file and so neither owner nor mode."""
    abstract = [each.place for each in listeners.claimed(file) if each.place.startswith("@")]
    found = []
    for each in service.lenient_socket_section(file):
        if abstract and each.key in OF_PATHS and each.value:
            sentence = (
                f"{each.key}= says nothing about {shown(abstract[0])}, which is no file: every "
                "user can connect there; listen at a path"
            )
            found.append(Problem(each.file, each.line, sentence))
    return found
