"""How much goes over the connection, and when. Loaded after the fork."""

from __future__ import annotations

import time
from _struct import Struct  # the C module behind struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from spawnhelper.doors.inherited import Connection
    from spawnhelper.stages.relay import Relay
else:
    import _socket as socket

NSEC_PER_MSEC = 1_000_000
# The fields of Info in a struct tcp_info of include/uapi/linux/tcp.h, Linux 4.19 and later.
TCP_INFO = Struct("=B43xI4xII60xQQ4xII52xQQ")
# States of net/tcp_states.h.
FIN_WAIT1, FIN_WAIT2, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING = 4, 5, 6, 7, 8, 9, 11
CONNECTED = (1, FIN_WAIT1, FIN_WAIT2, TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING)
# States after the client's FIN, which the kernel counts as one more byte received. CLOSE is also
# that of a reset, after which the count cannot be relied on.
FIN_RECEIVED = (TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING)
# States after our own FIN, which counts as one more byte for as long as it is not sent.
FIN_WAITS = (FIN_WAIT1, LAST_ACK, CLOSING)
# States in which nothing that was sent is on its way any more.
SETTLED = (FIN_WAIT2, TIME_WAIT, CLOSE)


class Meter:
    """What the kernel, or the relay where there is one, says about a connection.

    The command may have the socket, and can do with it what it likes: have it listen, or disconnect
    it and connect it elsewhere. What the kernel says of that is not about the client.
    """

    def __init__(self, connection: Connection, relay: Relay | None, started: int) -> None:
        self._connection = connection
        self._relay = relay
        self._last = started
        self._acked = 0

    def count(self) -> tuple[int | None, int | None]:
        """Bytes from the client and bytes that the command put out; None where nobody counts."""
        came = out = None
        info = self._info()
        if info is not None:
            came = info.bytes_received - (info.state in FIN_RECEIVED) - self._connection.read
            out = self._put_out(info) - self._connection.written
            came, out = max(0, came), max(0, out)
        if self._relay is not None:
            came = self._relay.input.moved
            out = self._relay.output.moved + self._relay.lost
        return came, out

    def owed(self) -> tuple[int, bool]:
        """How many bytes of the answer the client's side has not acknowledged, of what the kernel
        was given; and whether nothing is on its way any more, the end of the connection included.

        What is sent to a path is the client's at once.
        """
        info = self._info()
        if info is None:
            return 0, True
        acked = info.bytes_acked
        return max(0, self._put_out(info) - acked), info.state in SETTLED

    def last_byte(self) -> int:
        """When the last byte passed, either way: CLOCK_MONOTONIC in nanoseconds, not before the
        command's start."""
        info = self._info()
        if info is not None:
            age = info.last_data_recv
            acked = info.bytes_acked
            if acked != self._acked:
                self._acked = acked
                # A byte has passed once it is acknowledged. A client that is gone acknowledges
                # nothing, whatever is sent again; and a full one just that it is.
                age = min(age, max(info.last_data_sent, info.last_ack_recv))
            self._last = max(self._last, time.monotonic_ns() - age * NSEC_PER_MSEC)
        elif self._relay is not None:
            self._last = max(self._last, self._relay.last_byte())
        return self._last

    def _info(self) -> Info | None:
        """The fields of TCP_INFO, None where there are none, or none about the client."""
        if not self._connection.tcp:
            return None
        client = self._connection.socket
        try:
            octets = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
        except OSError:
            return None
        info = Info(octets) if len(octets) == TCP_INFO.size else None
        return info if info is not None and self._of_client(info) else None

    def _of_client(self, info: Info) -> bool:
        if info.state == CLOSE:  # of a disconnected socket the kernel counts anew (tcp_disconnect)
            return bool(info.segs_in)
        if info.state not in CONNECTED:
            return False
        return self._connection.unmoved()

    def _put_out(self, info: Info) -> int:
        """How many bytes the kernel was given to send, whether or not it has."""
        unsent: int = info.notsent_bytes
        if unsent and (info.state in FIN_WAITS or self._connection.ended):
            unsent -= 1
        sent: int = info.bytes_sent - info.bytes_retrans
        return sent + unsent


class Info:
    """Of one struct tcp_info, under its names without tcpi_: the state; milliseconds since the last
    data sent, the last data and the last acknowledgement received; bytes and segments."""

    __slots__ = (
        "bytes_acked",
        "bytes_received",
        "bytes_retrans",
        "bytes_sent",
        "last_ack_recv",
        "last_data_recv",
        "last_data_sent",
        "notsent_bytes",
        "segs_in",
        "state",
    )

    def __init__(self, octets: bytes) -> None:
        (
            self.state,
            self.last_data_sent,
            self.last_data_recv,
            self.last_ack_recv,
            self.bytes_acked,
            self.bytes_received,
            self.segs_in,
            self.notsent_bytes,
            self.bytes_sent,
            self.bytes_retrans,
        ) = TCP_INFO.unpack(octets)
