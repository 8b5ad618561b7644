"""The last words of a connection. Loaded late, and only where there are any."""

from __future__ import annotations

import select
import time

from spawnhelper.outcome import Refusal
from spawnhelper.patience import NSEC_PER_MSEC, until_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
else:
    import _socket as socket

CHUNK = 1 << 16
# Milliseconds and bytes. Who is refused is not to hold one of MaxConnections= for long.
AFTER_ANSWER = (5_000, 16 << 20)
AFTER_REFUSAL = (500, 1 << 20)


def linger(client: socket.socket, milliseconds: int, most: int) -> None:
    """Reads on until the client ends, for so long and so many bytes at most, or until a stop.

    To close a connection that has bytes unread resets it (RFC 1122, 4.2.2.13), which can take from
    the client what it has not read yet.
    """
    deadline = time.monotonic_ns() + milliseconds * NSEC_PER_MSEC
    read = 0
    try:
        while read < most and until_ready(client.fileno(), select.POLLIN, deadline):
            part = client.recv(CHUNK, socket.MSG_DONTWAIT)
            if not part:
                return
            read += len(part)
    except (OSError, Refusal):
        pass  # the client was first, or a stop
