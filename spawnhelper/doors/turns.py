"""Waiting one's turn: MaxCommands= and QueueLimit=. Loaded where there is a MaxCommands=.

Each helper of a service has a number, and a socket with that number and its process id as its name
in the service's folder. Numbers never come again. The helpers with the lowest ones have their
turn, as many as MaxCommands= says, and show it in their names. A helper that leaves, or ends in
whatever way, no longer counts. Nobody else keeps the count.

A helper that leaves calls the first that waits. That one also watches the processes of those whose
turn it is, for one that is killed calls nobody. A helper that waits further back is connected to
the one before, which hangs up when its own turn has come.
"""

from __future__ import annotations

import fcntl
import select
import time
from posix import environ

from spawnhelper import manager
from spawnhelper.outcome import QUEUE_LIMIT, RESOURCES, Refusal, printable
from spawnhelper.stages import banner
from spawnhelper.stages.wait import until_any

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import socket

    from spawnhelper.conf.service import Service
    from spawnhelper.doors.inherited import Connection
    from spawnhelper.signals import Signals
else:
    import _socket as socket
    import posix as os

LAST = ".last"  # the file with the last number that was given
TURN = "+"  # behind the name of one that has its turn
NSEC_PER_USEC = 1_000
MOST_WAITING = 4096  # net.core.somaxconn


def wait(service: Service, connection: Connection, signals: Signals) -> Place:
    """Returns when it is this connection's turn, which it has until it leaves its place, or this
    process ends.

    Raises Refusal when QueueLimit= is over before, the client goes away, or the unit is stopped.
    """
    begun = time.monotonic_ns()
    folder = _folder()
    try:
        place = Place(_opened(folder, service.name))
        try:
            _wait(place, service, connection, begun, signals)
        except BaseException:
            place.leave()
            raise
    except OSError as error:
        sentence = f"MaxCommands= cannot be kept in {printable(folder)}: {error.strerror}"
        raise Refusal(RESOURCES, os.EX_OSERR, sentence) from None
    connection.waited = (time.monotonic_ns() - begun) // NSEC_PER_USEC
    return place


def _wait(
    place: Place, service: Service, connection: Connection, begun: int, signals: Signals
) -> None:
    assert service.max_commands is not None
    deadline = None
    if service.queue_limit is not None:
        deadline = begun + service.queue_limit * NSEC_PER_USEC
    client = connection.socket.fileno()
    while ahead := place.ahead(service.max_commands):
        # That the client is gone poll(2) says by itself.
        awaited = [(client, 0), (place.own, select.POLLIN), *ahead]
        while (ready := until_any(awaited, deadline, "its turn", signals)) == [place.own]:
            place.accept()
            if place.first:
                break  # it may be one that has left; else it is who waits behind
        if client in ready:
            raise refusal(service, "the client went away")
        if not ready:
            raise refusal(service, "QueueLimit= was over")
    place.enter()


class Place:
    """This process's place among a service's helpers. folder: a descriptor of their folder. own:
    the descriptor at which those behind call; it is open for as long as this process lives."""

    def __init__(self, folder: int) -> None:
        self.folder = folder
        self._watched: list[int] = []
        self._waiter: socket.socket | None = None
        self._behind: list[socket.socket] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.own = self._socket.fileno()
        last = os.open(LAST, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            fcntl.flock(last, fcntl.LOCK_EX)
            number = int(os.read(last, 20) or b"0") + 1
            os.pwrite(last, b"%020d" % number, 0)
            self.name = f"{number:020}-{os.getpid()}"
            self._socket.bind(self._path(self.name))
            self._socket.listen(MOST_WAITING)
        finally:
            os.close(last)

    @property
    def first(self) -> bool:
        """Whether nobody waits ahead."""
        return self._waiter is None

    def ahead(self, most: int) -> list[tuple[int, int]]:
        """What tells that somebody ahead is gone, or has got the turn, as descriptors and events
        for poll(2); nothing when it is this process's turn."""
        while True:
            self._forget()
            earlier = sorted(name for name in os.listdir(self.folder) if LAST < name < self.name)
            if len(earlier) < most:
                return []
            waiting = [name for name in earlier if not name.endswith(TURN)]
            if not waiting:
                if all(self._watch(name) for name in earlier):
                    return [(each, select.POLLIN) for each in self._watched]
            elif waiter := self._connected(waiting[-1]):
                self._waiter = waiter
                if self._exists(waiting[-1]):  # else it may not have known of us
                    return [(waiter.fileno(), select.POLLIN)]

    def accept(self) -> None:
        """Keeps who calls, as long as they are connected; most often there is one at most."""
        poll = select.poll()
        for each in self._behind:
            poll.register(each, 0)
        gone = {descriptor for descriptor, _ in poll.poll(0)}
        self._behind = [each for each in self._behind if each.fileno() not in gone]
        try:
            while True:
                accepted, _ = self._socket._accept()  # type: ignore[attr-defined]  # of _socket
                self._behind.append(socket.socket(fileno=accepted))
        except BlockingIOError:
            pass

    def enter(self) -> None:
        """Tells whoever is next that this process does not wait any more."""
        self._forget()
        waited, self.name = self.name, self.name + TURN
        os.rename(waited, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        self.accept()
        self._behind.clear()
        self._socket.listen(0)  # for those who want to know whether this process lives

    def leave(self) -> None:
        """Gives the place up, for who waits first."""
        try:
            self._remove(self.name)
            waiting = [name for name in os.listdir(self.folder) if name > LAST]
            any(self._call(name) for name in sorted(waiting) if not name.endswith(TURN))
        except OSError:
            pass  # then whoever waits finds out
        self._behind.clear()  # they look anew who is ahead
        self._socket.close()

    def _call(self, name: str) -> bool:
        """Has the one with this name look anew. One that does not listen yet will, by itself."""
        other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            other.connect(self._path(name))
        except BlockingIOError:
            pass  # it is about to look at all those calls
        except OSError:
            return False
        return True

    def _watch(self, name: str) -> bool:
        """Whether there is such a process, whose end is watched from now on."""
        try:
            self._watched.append(os.pidfd_open(int(name.partition("-")[2].removesuffix(TURN))))
        except ProcessLookupError:
            self._remove(name)
            return False
        return self._connected(name) is not None  # else it is another one with that number

    def _connected(self, name: str) -> socket.socket | None:
        """A socket that is connected to the one with this name; None if nobody is there, and then
        the name is taken away."""
        other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            other.connect(self._path(name))
        except BlockingIOError:
            pass  # others are waiting for an answer that nobody will give: somebody lives
        except FileNotFoundError:
            return None
        except ConnectionRefusedError:
            self._remove(name)
            return None
        return other

    def _path(self, name: str) -> str:
        """A path that is short enough for a socket, wherever the folder is."""
        return f"/proc/self/fd/{self.folder}/{name}"

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.folder)
        except FileNotFoundError:
            return False
        return True

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.folder)
        except FileNotFoundError:
            pass

    def _forget(self) -> None:
        for descriptor in self._watched:
            os.close(descriptor)
        self._watched.clear()
        self._waiter = None


def _folder() -> str:
    """The folder of the folders of services."""
    if os.geteuid() == 0:
        return f"{manager.SYSTEM.runtime}/turns"
    own = environ.get(b"XDG_RUNTIME_DIR", b"").decode(errors="surrogateescape")
    if not own:
        raise Refusal(RESOURCES, os.EX_NOPERM, "MaxCommands= needs root, or $XDG_RUNTIME_DIR")
    return f"{own}/spawn/turns"


def _opened(folder: str, name: str) -> int:
    """A descriptor of the folder for a service's helpers, which is made if need be."""
    for path, mode in (
        (folder.rpartition("/")[0], 0o755),
        (folder, 0o700),
        (f"{folder}/{name}", 0o700),
    ):
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            pass
    return os.open(f"{folder}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def refusal(service: Service, cause: str) -> Refusal:
    """The Refusal of a connection that has waited in vain."""
    sentence = f"{cause} while MaxCommands={service.max_commands} commands ran"
    problems = [service.problem("MaxCommands", sentence)]
    answer = b""
    try:
        answer = banner.for_refused(service)
    except Refusal as broken:  # a broken banner does not hide why there was to be one
        problems += broken.problems
    return Refusal(QUEUE_LIMIT, os.EX_OK, problems=tuple(problems), answer=answer)
