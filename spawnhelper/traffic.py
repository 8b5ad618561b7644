"""How much went over the connection, from the kernel's own count. Loaded after the fork."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import sys

    from spawnhelper.inherited import Connection
else:
    import _socket as socket
    import sys

# struct tcp_info of linux/tcp.h: where the fields begin, and their widths.
TCP_INFO_SIZE = 232
STATE = (0, 1)
BYTES_RECEIVED = (128, 8)
NOTSENT_BYTES = (144, 4)
BYTES_SENT = (200, 8)
BYTES_RETRANS = (208, 8)
# States after the client's FIN, which the kernel counts as one more byte received.
FIN_RECEIVED = (6, 8, 9, 11)  # TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING


def count(connection: Connection) -> tuple[int, int] | None:
    """Bytes that came in and that the command put out; None where the kernel does not count."""
    if connection.local is None:
        return None
    try:
        info = connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
    except OSError:
        return None
    if len(info) < sum(BYTES_RETRANS):
        return None

    def field(place: tuple[int, int]) -> int:
        return int.from_bytes(info[place[0] : sum(place)], sys.byteorder)

    received = field(BYTES_RECEIVED) - (field(STATE) in FIN_RECEIVED)
    return received, field(BYTES_SENT) - field(BYTES_RETRANS) + field(NOTSENT_BYTES)
