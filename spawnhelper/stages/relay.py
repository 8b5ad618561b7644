"""The counted way between the client and the command, for SizeLimit=. Loaded after the fork.

The command has pipes, and cannot reach the socket: nothing that it does to its own streams is done
to the client's. splice(2) moves pages without a copy, and without memory of this process.
"""

from __future__ import annotations

import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import socket

    from spawnhelper.doors.inherited import Connection
    from spawnhelper.stages.command import Process
else:
    import _socket as socket
    import posix as os

NSEC_PER_MSEC = 1_000_000
CHUNK = 1 << 20  # what a pipe holds at most (pipe(7), pipe-max-size)
USUAL = 1 << 16  # what a pipe holds if nobody has widened it
AT_ONCE = 4096  # PIPE_BUF: what a pipe takes once there is room at all
MOST_DISCARDED = 16 << 20
IN_A_ROW = 16  # moves before anything else is looked at
# The command has the other ends of the pipes, and can make them ready and not ready again. So a
# direction that has had nothing to move so often in a row rests before it looks again.
FRUITLESS = 10
REST = 20 * NSEC_PER_MSEC


class Pump:
    """One direction, from one descriptor to another; never blocks.

    awaited: the one of the two that has to get ready, None once it is over. moved: bytes. last:
    CLOCK_MONOTONIC of the last byte, in nanoseconds. rest: until when it is not to look.
    """

    __slots__ = ("_fruitless", "awaited", "last", "moved", "rest", "source", "target")

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.moved = 0
        self.last = time.monotonic_ns()
        self.awaited: int | None = source
        self.rest = 0
        self._fruitless = 0

    @property
    def event(self) -> int:
        """What the awaited descriptor has to get ready for, as poll(2) has it."""
        return select.POLLIN if self.awaited == self.source else select.POLLOUT

    def move(self, most: int = CHUNK, client: socket.socket | None = None) -> bool:
        """Moves what there is, `most` bytes at most. False at the end: there is nothing more, or
        nobody takes it. client: the source, where that is the socket."""
        try:
            count = os.splice(self.source, self.target, most, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            count = -1
        except OSError:  # the client has reset the connection, or the command has closed its end
            return False
        if count <= 0 and client is not None:
            count = self._copy(client, most) if _ready(self.target, select.POLLOUT) else -1
        if count > 0:
            self.moved += count
            self.last = time.monotonic_ns()
            self.awaited = self.source
            self._fruitless = 0
        elif count < 0:
            self._wait()
        return count != 0

    def _copy(self, client: socket.socket, most: int) -> int:
        """Moves a few bytes where splice(2) would not, as at TCP's urgent mark, which it takes for
        the end. How many they are, 0 at the end, -1 where there are none after all."""
        try:
            octets = client.recv(min(most, AT_ONCE), socket.MSG_DONTWAIT)
            return os.write(self.target, octets) if octets else 0
        except BlockingIOError:
            return -1
        except OSError:
            return 0

    def _wait(self) -> None:
        """Waits for the side that was not ready."""
        waiting = _ready(self.source, select.POLLIN)
        self.awaited = self.target if waiting else self.source
        self._fruitless += 1
        if self._fruitless > FRUITLESS:
            self.rest = time.monotonic_ns() + REST


class Relay:
    """What counts the bytes of one connection. input: to the command. output: to the client. over:
    the client has sent more than the limit, which the command has got to the byte. lost: bytes of
    the command that nobody took."""

    def __init__(self, connection: Connection, process: Process, limit: int) -> None:
        assert process.input is not None
        assert process.output is not None
        self.limit = limit
        self.over = False
        self.lost = 0
        self._discarded = 0
        self._connection = connection
        self._client = connection.socket
        self._process = process
        self._wide: set[int] = set()
        client = connection.socket.fileno()
        _hardly_block(connection.socket)
        for pipe in (process.input, process.output):
            os.set_blocking(pipe, False)
        # Urgent bytes are bytes.
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self.input = Pump(client, process.input)
        self.output = Pump(process.output, client)

    def awaited(self) -> tuple[dict[int, int], int | None]:
        """The descriptors that have to get ready, with the events of poll(2); and when to look
        whatever they are, in nanoseconds of CLOCK_MONOTONIC."""
        found: dict[int, int] = {}
        now, look = time.monotonic_ns(), None
        for pump in (self.input, self.output):
            if pump.rest > now:
                look = min(pump.rest, look or pump.rest)
            elif pump.awaited is not None:
                found[pump.awaited] = found.get(pump.awaited, 0) | pump.event
        return found, look

    def ready(self, events: dict[int, int]) -> None:
        """Does what the descriptors have got ready for. events: as poll(2) gives them."""
        for pump, work in ((self.output, self.send), (self.input, self._receive)):
            if pump.awaited is not None:
                failed = select.POLLERR | select.POLLHUP
                if events.get(pump.awaited, 0) & (pump.event | failed):
                    work()

    def last_byte(self) -> int:
        """When the last one passed: CLOCK_MONOTONIC in nanoseconds."""
        return max(self.input.last, self.output.last)

    def send(self) -> None:
        """Hands on what the command has put out, as far as the client takes it."""
        for _ in range(IN_A_ROW):
            pump = self.output
            before = pump.moved
            if not pump.move():
                self.end_output()
            elif pump.moved - before >= USUAL or pump.awaited == pump.target:
                self._widen(pump.source)
            if pump.moved == before:
                return

    def end_output(self) -> None:
        """Ends the answer: the client sees its end, and what is left of it is lost."""
        if self.output.awaited is None:
            return
        self.output.awaited = None
        self.lost += _emptied(self.output.source)
        self._process.close_output()
        self._connection.end()

    def end_input(self) -> None:
        """Ends what the command gets."""
        self.input.awaited = None
        self._process.close_input()

    def _receive(self) -> None:
        if self.over:
            self._discard()
            return
        pump = self.input
        if pump.moved < self.limit and not pump.move(self.limit - pump.moved, self._client):
            self.end_input()
        elif pump.moved == self.limit:
            self._look_beyond()
        elif pump.awaited == pump.target:
            self._widen(pump.target)

    def _widen(self, pipe: int) -> None:
        """Gives a pipe more room, once, that was full or that nobody takes from: a wider one takes
        fewer turns, for a lot to come, and has a command end that a slow client would hold up."""
        if pipe not in self._wide:
            self._wide.add(pipe)
            self._process.widen(pipe)

    def _look_beyond(self) -> None:
        """Whether behind the last byte that the command may have there is the end, or one more."""
        try:
            beyond = self._client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            beyond = b""
        self.over = bool(beyond)
        self.end_input()
        if self.over:
            self.input.awaited = self.input.source

    def _discard(self) -> None:
        """Reads on, so that a client that writes first comes to read the answer."""
        try:
            more = self._client.recv(CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        self._discarded += len(more)
        if not more or self._discarded > MOST_DISCARDED:
            self.input.awaited = None


def _hardly_block(client: socket.socket) -> None:
    """Has splice(2) wait for the client's side for a moment at most, whatever its flags are. With
    O_NONBLOCK it takes one piece at a time, and a stream a third longer."""
    for size in (8, 4):  # of the two fields of struct timeval, which depends on the architecture
        soon = (0).to_bytes(size, sys.byteorder) + (1_000).to_bytes(size, sys.byteorder)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            client.setsockopt(socket.SOL_SOCKET, option, soon)
        if any(client.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 2 * size)):
            return


def _emptied(pipe: int) -> int:
    """How many bytes a pipe has had, which is empty now. Looks at no more than it can hold, for
    somebody may go on writing."""
    count = 0
    try:
        while count < CHUNK and (part := os.read(pipe, CHUNK - count)):
            count += len(part)
    except BlockingIOError:
        pass
    return count


def _ready(descriptor: int, event: int) -> bool:
    """Whether the descriptor is ready now."""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(0))
