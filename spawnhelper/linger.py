"""The last words of a connection. Loaded late, and only where there are any."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

LONGEST = 5.0  # seconds
MOST = 16 << 20  # bytes
CHUNK = 1 << 16


def linger(client: socket.socket) -> None:
    """Reads on until the client ends, for a bounded time and a bounded number of bytes.

    To close a connection that has bytes unread resets it (RFC 1122, 4.2.2.13), which can take from
    the client what it has not read yet.
    """
    deadline = time.monotonic() + LONGEST
    read = 0
    try:
        while read < MOST and (left := deadline - time.monotonic()) > 0:
            client.settimeout(left)
            part = client.recv(CHUNK)
            if not part:
                return
            read += len(part)
    except OSError:
        pass  # the client was first, or never
