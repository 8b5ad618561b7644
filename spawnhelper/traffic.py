"""How much went over the connection, from the kernel's own count. Loaded after the fork."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from spawnhelper.inherited import Connection
else:
    import _socket as socket

# struct tcp_info of linux/tcp.h: which octets the fields are.
TCP_INFO_SIZE = 232
STATE = slice(0, 1)
BYTES_RECEIVED = slice(128, 136)
NOTSENT_BYTES = slice(144, 148)
BYTES_SENT = slice(200, 208)
BYTES_RETRANS = slice(208, 216)
# States after the client's FIN, which the kernel counts as one more byte received. CLOSE is also
# that of a reset, after which the count is that of nothing certain.
FIN_RECEIVED = (6, 7, 8, 9, 11)  # TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING


def count(connection: Connection) -> tuple[int, int] | None:
    """Bytes that came in and that the command put out; None where the kernel does not count."""
    if connection.local is None:
        return None
    try:
        info = connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
    except OSError:
        return None
    if len(info) < BYTES_RETRANS.stop:
        return None

    def field(octets: slice) -> int:
        return int.from_bytes(info[octets], sys.byteorder)

    received = field(BYTES_RECEIVED) - (field(STATE) in FIN_RECEIVED)
    return max(0, received), field(BYTES_SENT) - field(BYTES_RETRANS) + field(NOTSENT_BYTES)
