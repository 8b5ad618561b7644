"""The header of the PROXY protocol, versions 1 and 2. Loaded where ProxyProtocol= is set.

All or nothing: every connection has one, from a proxy that is believed, and not a byte behind it is
taken. The rules are those of https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, whose
sections are named below.
"""

from __future__ import annotations

import select
import time

from spawnhelper.conf import addresses
from spawnhelper.conf.values import DIGITS, consists_of, unmapped
from spawnhelper.outcome import DENIED, HEALTH_CHECK, Refusal
from spawnhelper.stages import admission
from spawnhelper.stages.wait import until_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Callable

    from spawnhelper.conf.service import Service
    from spawnhelper.doors.inherited import Connection
    from spawnhelper.signals import Signals

    Ends = tuple[tuple[str, int], tuple[str, int]]
else:
    import _socket as socket
    import posix as os

NSEC_PER_USEC = 1_000
CHECK_TIME = 100_000_000  # nanoseconds
CHECK = "a health check of the proxy"
# 2.1: a line of at most 107 bytes.
TEXT_START = b"PROXY "
TEXT_LONGEST = 107
TEXT_FAMILIES = {b"TCP4": socket.AF_INET, b"TCP6": socket.AF_INET6}
# 2.2: twelve bytes, then version and command, family and transport, and the length of the rest.
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
BINARY_HEAD = 16
LOCAL, PROXY = 0, 1
UNSPECIFIED, UNIX_STREAM = 0x00, 0x31
ADDRESS_SIZES = {0x11: 4, 0x21: 16}  # of TCP over IPv4 and IPv6
UNIX_ENDS = 2 * 108
CRC32C_TYPE, CRC32C_SIZE = 0x03, 4
CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli's, RFC 3309, with the bits reversed


class Bad(Exception):
    """What is wrong with a header, as the end of a sentence."""


def receive(service: Service, connection: Connection, signals: Signals) -> None:
    """Takes the header's word for who the two ends are.

    A Refusal for a peer that is not believed, for whatever is no header, and for a health check.
    """
    _check_peer(service, connection)
    deadline = time.monotonic_ns() + service.proxy_time_limit * NSEC_PER_USEC

    def take(count: int) -> bytes:
        return _take(connection, count, deadline, signals)

    def piece(most: int) -> bytes:
        return _piece(connection, most, deadline, signals)

    try:
        start = take(len(SIGNATURE))
        if start == SIGNATURE and service.proxy_protocol in ("v2", "any"):
            ends = binary(start, take)
        elif start.startswith(TEXT_START) and service.proxy_protocol in ("v1", "any"):
            ends = text(start, piece)
        else:
            version = "" if service.proxy_protocol == "any" else f" {service.proxy_protocol}"
            raise Bad(f"does not begin with a header of the PROXY protocol{version}")
    except Bad as error:
        sentence = f"ProxyProtocol={service.proxy_protocol}, and the connection {error}"
        problem = service.problem("ProxyProtocol", sentence)
        raise Refusal(DENIED, os.EX_OK, problems=(problem,)) from None
    # A proxy that checks the service may name itself (haproxy does, with version 1).
    if ends is not None and (unmapped(ends[0][0]), ends[0][1]) != connection.remote:
        connection.announce(*ends)
    elif _over(connection, min(deadline, time.monotonic_ns() + CHECK_TIME), signals):
        raise Refusal(HEALTH_CHECK, os.EX_OK, CHECK)


def _check_peer(service: Service, connection: Connection) -> None:
    """Only who is in ProxyFrom= can be a proxy (5)."""
    if connection.local is None:
        if any(prefix.text == addresses.UNIX for prefix in service.proxy_from):
            return
        sentence = "ProxyFrom= does not have unix, for clients of a path"
    elif connection.remote is None:
        sentence = "nobody knows the client's address"
    else:
        host = connection.remote[0]
        if addresses.best(service.proxy_from, addresses.numbered(host)) is not None:
            return
        sentence = f"ProxyFrom= does not have {host}"
    raise admission.refusal(service, "ProxyFrom", None, sentence)


def text(start: bytes, piece: Callable[[int], bytes]) -> Ends | None:
    """The ends that a line of version 1 names, None for UNKNOWN (2.1).

    start: its first bytes. piece: gives so many of the next at most, at least one, and none behind
    a line feed, for the line may end there.
    """
    line = bytearray(start)
    while not line.endswith(b"\r\n"):
        if len(line) >= TEXT_LONGEST:
            raise Bad(f"has a header of more than {TEXT_LONGEST} bytes")
        line += piece(TEXT_LONGEST - len(line))
    words = bytes(line[len(TEXT_START) : -2]).split(b" ")
    if words[0] == b"UNKNOWN":
        return None
    family = TEXT_FAMILIES.get(words[0])
    if family is None or len(words) != 5:
        raise Bad("has a header that is not of the form PROXY TCP4|TCP6|UNKNOWN FROM TO PORT PORT")
    try:
        hosts = [
            socket.inet_ntop(family, socket.inet_pton(family, word.decode("ascii")))
            for word in words[1:3]
        ]
    except (OSError, ValueError):
        raise Bad(f"has a header without two addresses of {words[0].decode()}") from None
    ports = [_port(word) for word in words[3:]]
    return (hosts[0], ports[0]), (hosts[1], ports[1])


def _port(word: bytes) -> int:
    digits = word.decode("latin-1")
    if (
        not consists_of(digits, DIGITS)
        or len(digits) > 5
        or (digits[0] == "0" and digits != "0")
        or int(digits) > 65535
    ):
        raise Bad("has a header with a port that is no number from 0 to 65535")
    return int(digits)


def binary(start: bytes, take: Callable[[int], bytes]) -> Ends | None:
    """The ends that a header of version 2 names, None where it names none (2.2)."""
    head = start + take(BINARY_HEAD - len(start))
    version, command = head[12] >> 4, head[12] & 0xF
    kind = head[13]
    rest = take(int.from_bytes(head[14:16], "big"))
    if version != 2:
        raise Bad(f"has a header of version {version}, and 2 is the only binary one")
    if command not in (LOCAL, PROXY):
        raise Bad(f"has a header with the unknown command {command}")
    size = ADDRESS_SIZES.get(kind)
    if command == LOCAL or kind == UNSPECIFIED:
        used = len(rest) if command == LOCAL else 0  # whatever it is, nobody looks at it
    elif size is not None:
        used = 2 * size + 4
    elif kind == UNIX_STREAM:
        used = UNIX_ENDS
    else:
        raise Bad(
            f"has a header with the address family and transport {kind:#04x}, which cannot be"
        )
    if used > len(rest):
        raise Bad("has a header that is shorter than its addresses")
    _check_extensions(head, rest, used)
    if command == LOCAL or size is None:
        return None
    family = socket.AF_INET if size == 4 else socket.AF_INET6
    hosts = [socket.inet_ntop(family, rest[at : at + size]) for at in (0, size)]
    ports = [int.from_bytes(rest[at : at + 2], "big") for at in (2 * size, 2 * size + 2)]
    return (hosts[0], ports[0]), (hosts[1], ports[1])


def _check_extensions(head: bytes, rest: bytes, at: int) -> None:
    """Type, length, value; a checksum has to be right, the others are nobody's business (2.2.3)."""
    while at < len(rest):
        kind = rest[at]
        length = int.from_bytes(rest[at + 1 : at + 3], "big")
        value = rest[at + 3 : at + 3 + length]
        if at + 3 > len(rest) or len(value) < length:
            raise Bad("has a header that ends within an extension")
        if kind == CRC32C_TYPE:
            blank = rest[: at + 3] + bytes(length) + rest[at + 3 + length :]
            if length != CRC32C_SIZE or int.from_bytes(value, "big") != crc32c(head + blank):
                raise Bad("has a header whose checksum is wrong")
        at += 3 + length


def crc32c(octets: bytes) -> int:
    """The checksum of RFC 3309."""
    table = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (CRC32C_POLYNOMIAL if entry & 1 else 0)
        table.append(entry)
    found = 0xFFFFFFFF
    for octet in octets:
        found = found >> 8 ^ table[(found ^ octet) & 0xFF]
    return found ^ 0xFFFFFFFF


def _take(connection: Connection, count: int, deadline: int, signals: Signals) -> bytes:
    """So many bytes, no more; Bad where they do not come in time."""
    found = b""
    while len(found) < count:
        part = _arrived(connection, count - len(found), 0, deadline, signals)
        connection.read += len(part)
        found += part
    return found


def _piece(connection: Connection, most: int, deadline: int, signals: Signals) -> bytes:
    """Of the next bytes those that are there, once there is one: so many at most, and none behind
    a line feed. What it saw it takes, so that the next wait is for more."""
    seen = _arrived(connection, most, socket.MSG_PEEK, deadline, signals)
    return _take(connection, seen.find(b"\n") + 1 or len(seen), deadline, signals)


def _arrived(
    connection: Connection, most: int, flags: int, deadline: int, signals: Signals
) -> bytes:
    """What has come, so many bytes at most, once there is one; Bad where none does in time, a
    Refusal where there never was one."""
    while until_ready(connection.socket.fileno(), select.POLLIN, deadline, signals):
        try:
            part = connection.socket.recv(most, socket.MSG_DONTWAIT | flags)
        except BlockingIOError:
            continue
        except OSError:
            part = b""
        if part:
            return part
        if connection.read == 0:
            raise Refusal(HEALTH_CHECK, os.EX_OK, CHECK)
        raise Bad("ended within its header")
    raise Bad("has no whole header within ProxyTimeLimit=")


def _over(connection: Connection, deadline: int, signals: Signals) -> bool:
    """Whether there is nothing behind the header, and never will be. The end of a check comes right
    behind its header, but not with it."""
    until_ready(connection.socket.fileno(), select.POLLIN, deadline, signals)
    try:
        return not connection.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
