"""The client: the same for every server. It connects, sends a line, and reads what comes of it."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from dataclasses import dataclass, field

Address = tuple[str, int]
LINE = b"a line\n"
PATIENCE = 20.0  # seconds without anything that happens
PIECE = 1 << 18  # bytes
ARRIVING_FOR = 4  # seconds
LEAST_ARRIVING = 10  # connections


@dataclass
class Visits:
    """What became of a number of connections: seconds to the first byte and to the end of file,
    of each that was served; how many were not; the seconds to the last end of file."""

    first: list[float] = field(default_factory=list)
    end: list[float] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Connections a second that were served."""
        return len(self.end) / self.seconds if self.seconds else 0.0


@dataclass
class _Open:
    socket: socket.socket
    begun: float
    first: float | None = None
    said: bytes = b""


def listens(address: Address) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError:
        return False
    return True


def visit(address: Address, count: int, at_once: int) -> Visits:
    """So many connections, so many at a time: each says a line, hears it, and ends."""
    visits = Visits()
    poll = select.epoll()
    going: dict[int, _Open] = {}
    left = count
    begun = time.monotonic()
    while left or going:
        while left and len(going) < at_once:
            left -= 1
            opened = _open(address)
            going[opened.socket.fileno()] = opened
            poll.register(opened.socket, select.EPOLLOUT)
        events = poll.poll(PATIENCE)
        if not events:
            visits.failed += len(going)
            for opened in going.values():
                opened.socket.close()
            going.clear()
            continue
        visits.seconds = time.monotonic() - begun  # what never ends is no part of it
        for descriptor, event in events:
            if _over(going[descriptor], event, poll, visits):
                going.pop(descriptor).socket.close()
    return visits


def _over(opened: _Open, event: int, poll: select.epoll, visits: Visits) -> bool:
    """Goes on with one connection; whether it is over."""
    try:
        if event & select.EPOLLOUT and not event & select.EPOLLERR:
            opened.socket.send(LINE)
            poll.modify(opened.socket, select.EPOLLIN)
            return False
        part = opened.socket.recv(1024)
        now = time.monotonic()
        opened.said += part
        if opened.first is None and part:
            opened.first = now - opened.begun
        if opened.said == LINE and part:
            opened.socket.shutdown(socket.SHUT_WR)
    except OSError:
        visits.failed += 1
        return True
    if part:
        return False
    if opened.first is None or opened.said != LINE:
        visits.failed += 1
    else:
        visits.first.append(opened.first)
        visits.end.append(now - opened.begun)
    return True


def _open(address: Address) -> _Open:
    made = socket.socket()
    made.setblocking(False)
    begun = time.monotonic()
    with contextlib.suppress(BlockingIOError):
        made.connect(address)
    return _Open(made, begun)


def arrive(address: Address, rate: int) -> Visits:
    """Connections that come so many a second, for a few seconds, whether or not those before are
    over; as visit() has them."""
    count = max(LEAST_ARRIVING, ARRIVING_FOR * rate)
    visits = Visits()
    poll = select.epoll()
    going: dict[int, _Open] = {}
    begun = time.monotonic()
    come = 0
    while come < count or going:
        due = begun + come / rate
        while come < count and time.monotonic() >= due:
            opened = _open(address)
            going[opened.socket.fileno()] = opened
            poll.register(opened.socket, select.EPOLLOUT)
            come += 1
            due = begun + come / rate
        patience = PATIENCE if come == count else max(0.0, due - time.monotonic())
        events = poll.poll(patience)
        if not events and come == count:
            visits.failed += len(going)
            for opened in going.values():
                opened.socket.close()
            break
        for descriptor, event in events:
            if _over(going[descriptor], event, poll, visits):
                going.pop(descriptor).socket.close()
    visits.seconds = time.monotonic() - begun
    return visits


def hold(address: Address, count: int) -> list[socket.socket]:
    """So many connections more, each of which has had its answer and stays open; fewer, if the
    server takes no more."""
    held: list[socket.socket] = []
    while len(held) < count:
        try:
            made = socket.create_connection(address, timeout=PATIENCE)
        except OSError:
            break
        try:
            made.sendall(LINE)
            answered = made.recv(1024) == LINE
        except OSError:
            answered = False
        if not answered:
            made.close()
            break
        held.append(made)
    return held


def burst(address: Address, count: int) -> int:
    """How many of so many connections at once are answered."""
    return len(visit(address, count, count).end)


def upload(address: Address, size: int) -> float:
    """Bytes a second to a command that counts them, to its answer. Raises RuntimeError where it
    does not get all of them."""
    piece = memoryview(bytes(PIECE))
    begun = time.monotonic()
    with socket.create_connection(address, timeout=PATIENCE) as made:
        for at in range(0, size, PIECE):
            made.sendall(piece[: size - at])
        made.shutdown(socket.SHUT_WR)
        answer = made.makefile("rb").read()
    if answer.split() != [b"%d" % size]:
        raise RuntimeError(f"{size} bytes were sent, and the answer is {answer!r}")
    return size / (time.monotonic() - begun)


def download(address: Address, size: int) -> float:
    """Bytes a second from a command that writes so many. Raises RuntimeError where fewer come."""
    piece = bytearray(PIECE)
    came = 0
    begun = time.monotonic()
    with socket.create_connection(address, timeout=PATIENCE) as made:
        while part := made.recv_into(piece):
            came += part
    if came != size:
        raise RuntimeError(f"{came} of {size} bytes came")
    return size / (time.monotonic() - begun)
