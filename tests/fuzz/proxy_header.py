"""PROXY headers of any content: what the protocol says about them, and not a byte behind them is
taken."""

from __future__ import annotations

import ipaddress
import os
import re
import socket

from spawnhelper.conf import addresses, values
from spawnhelper.conf.service import Service
from spawnhelper.doors import inherited
from spawnhelper.outcome import DENIED, HEALTH_CHECK, Refusal
from spawnhelper.signals import Signals
from spawnhelper.stages import proxy

WORDS = [
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.2 65535 0\r\n",
    b"PROXY UNKNOWN",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\x21\x11\0\x0c",
    b"\x21\x21\0\x24",
    b"\x21\x31\0\xd8",
    b"\x20\0\0\0",
    b"\x03\0\x04",
]
BOUND = 65536 + 16
LINE = re.compile(
    rb"PROXY (TCP4|TCP6) ([0-9.]+|[0-9A-Fa-f:.]+) ([0-9.]+|[0-9A-Fa-f:.]+) "
    rb"(0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n"
)

Ends = tuple[tuple[str, int], tuple[str, int]]


class Quiet(Signals):
    """Signals of which none comes: the fuzzer's process has its own use for them."""

    def __init__(self) -> None:
        self.stopped = False
        self.descriptor, _ = os.pipe2(os.O_NONBLOCK)


QUIET = Quiet()


def one(octets: bytes) -> None:
    settings = Service("fuzz", "/run/spawn-fuzz/fuzz.conf")
    settings.proxy_protocol = ("any", "v1", "v2")[octets[0] % 3] if octets else "any"
    settings.proxy_from = addresses.proxies("unix")
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(1)
        ours.setblocking(True)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sent = octets[1:BOUND]
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        connection = inherited.Connection(ours, "fuzz")
        ends: Ends | None = None
        result = said = ""
        try:
            proxy.receive(settings, connection, QUIET)
        except Refusal as refusal:
            result, said = refusal.result, str(refusal)
        else:
            if connection.proxy is not None:
                assert connection.remote is not None
                assert connection.local is not None
                ends = connection.remote, connection.local
        rest = b""
        while part := ours.recv(65536):
            rest += part
        ours.close()
    assert result in ("", DENIED, HEALTH_CHECK)
    assert said.isprintable(), said
    assert connection.read + len(rest) == len(sent)
    compare(settings.proxy_protocol, sent, rest, ends, result)


def compare(protocol: str, sent: bytes, rest: bytes, ends: Ends | None, result: str) -> None:
    """Against the protocol, said once more as simply as can be."""
    expected: Ends | None = None
    taken = len(sent) - len(rest)
    if sent.startswith(proxy.SIGNATURE) and protocol != "v1":
        expected = named_by_binary(sent)
        whole = 16 + int.from_bytes(sent[14:16], "big")
        assert taken <= whole
        assert result == DENIED or taken == whole
    elif sent.startswith(b"PROXY ") and protocol != "v2":
        end = sent.find(b"\r\n")
        expected = named_by_text(sent[: end + 2]) if end >= 0 else None
        assert taken <= 107
        assert result == DENIED or taken == end + 2
    else:
        assert result == (DENIED if sent else HEALTH_CHECK)
        assert taken <= len(proxy.SIGNATURE)
    if ends is not None or expected is not None:
        assert ends == expected
        assert result == ""


def named_by_text(line: bytes) -> Ends | None:
    match = LINE.fullmatch(line) if len(line) <= 107 else None
    if match is None:
        return None
    family, source, target, *ports = (group.decode() for group in match.groups())
    kind = ipaddress.IPv4Address if family == "TCP4" else ipaddress.IPv6Address
    try:
        hosts = [plain(kind(text)) for text in (source, target)]
    except ValueError:
        return None
    numbers = [int(port) for port in ports]
    if max(numbers) > 65535:
        return None
    return (hosts[0], numbers[0]), (hosts[1], numbers[1])


def named_by_binary(sent: bytes) -> Ends | None:
    size = {0x11: 4, 0x21: 16}.get(sent[13]) if len(sent) > 15 and sent[12] == 0x21 else None
    rest = sent[16 : 16 + int.from_bytes(sent[14:16], "big")]
    if size is None or len(rest) < 2 * size + 4:
        return None
    if len(rest) != int.from_bytes(sent[14:16], "big") or not extensions_end(sent, 20 + 2 * size):
        return None
    hosts = [plain(ipaddress.ip_address(rest[at : at + size])) for at in (0, size)]
    ports = [int.from_bytes(rest[at : at + 2], "big") for at in (2 * size, 2 * size + 2)]
    return (hosts[0], ports[0]), (hosts[1], ports[1])


def extensions_end(sent: bytes, at: int) -> bool:
    """Whether they end where the header does, and none is a checksum that is wrong."""
    end = 16 + int.from_bytes(sent[14:16], "big")
    while at + 3 <= end:
        length = int.from_bytes(sent[at + 1 : at + 3], "big")
        if sent[at] == 3 and length == 4:
            blank = sent[: at + 3] + bytes(4) + sent[at + 7 : end]
            if castagnoli(blank) != int.from_bytes(sent[at + 3 : at + 7], "big"):
                return False
        elif sent[at] == 3:
            return False
        at += 3 + length
    return at == end


def castagnoli(octets: bytes) -> int:
    """CRC32c, bit by bit (RFC 3309)."""
    found = 0xFFFFFFFF
    for octet in octets:
        found ^= octet
        for _ in range(8):
            found = found >> 1 ^ (0x82F63B78 if found & 1 else 0)
    return found ^ 0xFFFFFFFF


def plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return values.unmapped(
        socket.inet_ntop(
            socket.AF_INET if address.version == 4 or mapped else socket.AF_INET6,
            (mapped or address).packed,
        )
    )
