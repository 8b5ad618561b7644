"""How much goes over the connection, and when. Loaded after the fork."""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from spawnhelper.inherited import Connection
    from spawnhelper.relay import Relay
else:
    import _socket as socket

NSEC_PER_MSEC = 1_000_000
# struct tcp_info of linux/tcp.h: which octets the fields are.
TCP_INFO_SIZE = 232
STATE = slice(0, 1)
LAST_DATA_SENT = slice(44, 48)  # milliseconds ago
LAST_DATA_RECV = slice(52, 56)
BYTES_RECEIVED = slice(128, 136)
NOTSENT_BYTES = slice(144, 148)
BYTES_SENT = slice(200, 208)
BYTES_RETRANS = slice(208, 216)
# States after the client's FIN, which the kernel counts as one more byte received. CLOSE is also
# that of a reset, after which the count cannot be relied on.
FIN_RECEIVED = (6, 7, 8, 9, 11)  # TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING
# States after our own FIN, which counts as one more byte for as long as it is not sent.
FIN_WAITS = (4, 9, 11)  # FIN_WAIT1, LAST_ACK, CLOSING


class Meter:
    """What the kernel, or the relay where there is one, says about a connection."""

    def __init__(self, connection: Connection, relay: Relay | None, started: int) -> None:
        self._connection = connection
        self._relay = relay
        self._last = started
        self._sent = 0

    def count(self) -> tuple[int | None, int | None]:
        """Bytes from the client and bytes that the command put out; None where nobody counts."""
        info = self._info()
        came = out = None
        if info is not None:
            came = info(BYTES_RECEIVED) - (info(STATE) in FIN_RECEIVED) - self._connection.read
            came = max(0, came)
            unsent = info(NOTSENT_BYTES)
            if unsent and info(STATE) in FIN_WAITS:
                unsent -= 1
            out = info(BYTES_SENT) - info(BYTES_RETRANS) + unsent - self._connection.written
        if self._relay is not None:
            came = self._relay.input.moved
            if self._relay.output is not None:
                out = self._relay.output.moved
        return came, out

    def last_byte(self) -> int:
        """When the last byte passed, either way: CLOCK_MONOTONIC in nanoseconds, not before the
        command's start."""
        now = time.monotonic_ns()
        info = self._info()
        if info is not None:
            age = info(LAST_DATA_RECV)
            sent = info(BYTES_SENT) - info(BYTES_RETRANS)
            if sent != self._sent:  # what is sent again to a client that is gone is no byte
                self._sent = sent
                age = min(age, info(LAST_DATA_SENT))
            self._last = max(self._last, now - age * NSEC_PER_MSEC)
        elif self._relay is not None:
            self._last = max(self._last, self._relay.last_byte())
        return self._last

    def _info(self) -> Info | None:
        """The fields of TCP_INFO, None where there are none."""
        if not self._connection.tcp:
            return None
        client = self._connection.socket
        try:
            octets = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
        except OSError:
            return None
        return Info(octets) if len(octets) >= BYTES_RETRANS.stop else None


class Info:
    """One struct tcp_info, to be called with the place of a field."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def __call__(self, octets: slice) -> int:
        """The field at that place."""
        return int.from_bytes(self._octets[octets], sys.byteorder)
