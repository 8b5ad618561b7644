"""Addresses and prefixes, as the lists of who may connect have them. Never names."""

from __future__ import annotations

from spawnhelper.conf.values import DIGITS, consists_of, words
from spawnhelper.outcome import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable
else:
    import _socket as socket

MAPPED = 0xFFFF << 32  # ::ffff:0:0/96, RFC 4291, 2.5.5.2
MAPPED_BITS = 96
UNIX = "unix"  # instead of an address: whoever connects to a path


class Prefix:
    """The addresses that begin with the same `length` bits, out of 32 for IPv4, 128 for IPv6.

    text: as the file has it. bits: the leading bits as a number, shifted down by `rest`, the number
    of the bits behind them. width: 32 or 128; 0 for UNIX.
    """

    __slots__ = ("bits", "length", "rest", "text", "width")

    def __init__(self, text: str, width: int, bits: int, length: int) -> None:
        self.text = text
        self.width = width
        self.length = length
        self.rest = width - length
        self.bits = bits >> self.rest


def prefixes(text: str) -> list[Prefix]:
    """Addresses and prefixes, separated by white space."""
    return [_prefix(word) for word in words(text)]


def proxies(text: str) -> list[Prefix]:
    """The same, or `unix`."""
    return [Prefix(word, 0, 0, 0) if word == UNIX else _prefix(word) for word in words(text)]


def best(found: Iterable[Prefix], address: tuple[int, int]) -> Prefix | None:
    """The most specific prefix that the address has; of equal ones the first."""
    width, number = address
    match = None
    for prefix in found:
        if (
            prefix.width == width
            and number >> prefix.rest == prefix.bits
            and (match is None or prefix.length > match.length)
        ):
            match = prefix
    return match


def numbered(text: str) -> tuple[int, int]:
    """An address as its width in bits and its number, an IPv4-mapped one as IPv4.

    Raises OSError for what is no address. A scope (`%eth0`) is left out.
    """
    if ":" not in text:
        return 32, int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
    octets = socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    number = int.from_bytes(octets, "big")
    if number >> 32 == MAPPED >> 32:
        return 32, number & 0xFFFFFFFF
    return 128, number


def _prefix(text: str) -> Prefix:
    address, slash, length = text.partition("/")
    try:
        if "%" in address:
            raise OSError
        width, number = numbered(address)
    except (OSError, ValueError):
        right = "write addresses and prefixes, as in 192.0.2.7 10.0.0.0/8 2001:db8::/32"
        raise ValueError(f"has '{shown(text)}'; {right}") from None
    mapped = width == 32 and ":" in address
    bits = width
    if slash:
        if (
            not consists_of(length, DIGITS)
            or len(length) > 3
            or int(length) > 32 + 96 * (":" in address)
        ):
            right = "the length of a prefix is 0 to 32 for IPv4, 0 to 128 for IPv6"
            if "," in text:
                right = "separate prefixes by blanks, not by commas"
            raise ValueError(f"has '{shown(text)}'; {right}")
        bits = int(length)
        if mapped and bits < MAPPED_BITS:
            width, number = 128, number | MAPPED
        elif mapped:
            bits -= MAPPED_BITS
    prefix = Prefix(text, width, number, bits)
    if prefix.bits << prefix.rest != number:
        raise ValueError(
            f"has '{shown(text)}', an address with bits beyond the prefix; make them zero"
        )
    return prefix
