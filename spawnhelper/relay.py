"""The counted way between the client and the command, for SizeLimit=. Loaded after the fork.

splice(2) moves pages without a copy, and without memory of this process.
"""

from __future__ import annotations

import select
import sys
import time

from spawnhelper.outcome import Refusal
from spawnhelper.patience import NSEC_PER_MSEC, until_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Callable

    from spawnhelper.command import Process
    from spawnhelper.inherited import Connection
else:
    import _socket as socket
    import posix as os

CHUNK = 1 << 20  # more than a pipe holds
FLUSH_TIME = 5_000 * NSEC_PER_MSEC
AT_ONCE = 4096  # PIPE_BUF: what a pipe takes once there is room at all
MOST_DISCARDED = 16 << 20


class Pump:
    """One direction, from one descriptor to another; never blocks.

    awaited: the one of the two that has to get ready, None once it is over. moved: bytes. last:
    CLOCK_MONOTONIC of the last byte, in nanoseconds. client: the source, where that is a socket.
    """

    __slots__ = ("_at_end", "awaited", "client", "last", "moved", "source", "target")

    def __init__(
        self,
        source: int,
        target: int,
        at_end: Callable[[], None],
        client: socket.socket | None = None,
    ) -> None:
        self.source = source
        self.target = target
        self.client = client
        self.moved = 0
        self.last = time.monotonic_ns()
        self.awaited: int | None = source
        self._at_end = at_end

    def move(self, most: int = CHUNK) -> None:
        """Moves what there is, `most` bytes at most, once `awaited` is ready."""
        self.awaited = self.source
        try:
            count = os.splice(self.source, self.target, most, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:  # mostly because the target is full
            if self.client is None or not _ready(self.target, select.POLLOUT):
                self.awaited = self.target
                return
            count = 0
        except OSError:  # the client has reset the connection, or the command has closed its end
            count = 0
        if count == 0 and self.client is not None:
            count = self._copy(self.client, most)
        if count > 0:
            self.moved += count
            self.last = time.monotonic_ns()
        elif count == 0:
            self.end()

    def _copy(self, client: socket.socket, most: int) -> int:
        """Moves a few bytes where splice(2) would not, as at TCP's urgent mark, which it takes for
        the end. How many they are, 0 at the end, -1 where there are none after all."""
        if not _ready(self.target, select.POLLOUT):
            self.awaited = self.target
            return -1
        try:
            octets = client.recv(min(most, AT_ONCE), socket.MSG_DONTWAIT)
            return os.write(self.target, octets) if octets else 0
        except BlockingIOError:
            return -1
        except OSError:
            return 0

    def end(self) -> None:
        """Ends this direction, and tells the other side."""
        self.awaited = None
        self._at_end()


class Relay:
    """What counts the bytes of one connection. input: to the command. output: to the client, None
    where the command has the socket for that. over: the client has sent more than the limit, which
    the command has got to the byte."""

    def __init__(self, connection: Connection, process: Process, limit: int) -> None:
        assert process.input is not None
        self.limit = limit
        self.over = False
        self.discarded = 0
        self._client = connection.socket
        self._pipe: int | None = process.input
        self._process = process
        self._wide = False
        client = connection.socket.fileno()
        _never_block(connection.socket)
        self.input = Pump(client, process.input, self._end_input, connection.socket)
        self.output: Pump | None = None
        if process.output is not None:
            # The command does not have the socket, and so is not hindered by its being so.
            os.set_blocking(client, False)
            duplicate = os.dup(client)  # poll(2) knows a descriptor for one purpose only
            self.output = Pump(process.output, duplicate, self._end_output)

    def awaited(self) -> list[tuple[int, int]]:
        """The descriptors that have to get ready, and for which event of poll(2)."""
        return [
            (pump.awaited, select.POLLIN if pump.awaited == pump.source else select.POLLOUT)
            for pump in (self.input, self.output)
            if pump is not None and pump.awaited is not None
        ]

    def ready(self, descriptor: int) -> None:
        """Does what this descriptor has got ready for."""
        if self.output is not None and descriptor == self.output.awaited:
            self.output.move()
        elif descriptor != self.input.awaited:
            return
        elif self.over:
            self._discard()
        else:
            if self.input.moved < self.limit:
                self.input.move(min(CHUNK, self.limit - self.input.moved))
            if self.input.awaited == self.input.target and not self._wide:
                self._wide = True  # it was full: a wider one takes fewer turns, for a lot to come
                self._process.widen_input()
            if self.input.moved == self.limit and self.input.awaited is not None:
                self._look_beyond()

    def last_byte(self) -> int:
        """When the last one passed: CLOCK_MONOTONIC in nanoseconds."""
        return max(self.input.last, self.output.last if self.output else 0)

    def flush(self, *, wait: bool) -> None:
        """Hands on what the command has left in its output when it ended, for a bounded time. wait:
        also what the client is not ready for yet."""
        output = self.output
        # What goes on writing for longer is not the command any more.
        deadline = time.monotonic_ns() + FLUSH_TIME
        try:
            while (
                output is not None and output.awaited is not None and time.monotonic_ns() < deadline
            ):
                if output.awaited == output.source and not _ready(output.source, select.POLLIN):
                    return
                if output.awaited == output.target and not until_ready(
                    output.target, select.POLLOUT, deadline if wait else 0
                ):
                    return
                output.move()
        except Refusal:
            pass  # a stop

    def _look_beyond(self) -> None:
        """Whether behind the last byte that the command may have there is the end, or one more."""
        try:
            beyond = self._client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            beyond = b""
        self.over = bool(beyond)
        if self.over:
            self._end_input()
        else:
            self.input.end()

    def _discard(self) -> None:
        """Reads on, so that a client that writes first comes to read the answer."""
        try:
            more = self._client.recv(CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        self.discarded += len(more)
        if not more or self.discarded > MOST_DISCARDED:
            self.input.awaited = None

    def _end_input(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def _end_output(self) -> None:
        assert self.output is not None
        os.close(self.output.source)
        os.close(self.output.target)
        try:
            self._client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the client was first


def _never_block(client: socket.socket) -> None:
    """Keeps splice(2) from waiting for bytes that the command, which has the socket for its output,
    has read itself meanwhile; O_NONBLOCK would be the command's, too. Urgent bytes are bytes."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    for size in (8, 4):  # of the two fields of struct timeval, which depends on the architecture
        soon = (0).to_bytes(size, sys.byteorder) + (1_000).to_bytes(size, sys.byteorder)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, soon)
        if any(client.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 2 * size)):
            return


def _ready(descriptor: int, event: int) -> bool:
    """Whether the descriptor is ready now."""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(0))
