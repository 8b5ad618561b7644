"""The door of Accept=no: a standing server that accepts, counts, hands on and records.

It is root, and the only one with privileges. It reads no byte of a client and runs no command; that
is for its workers, each of which has become the service's user before it has a client. It accepts
only what it can hand on: who comes above MaxConnections= waits in the kernel's backlog, in order.
Nothing here waits for anybody: one loop, of bounded steps, in which whatever cannot be done at once
is done later, by the clock.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

if __name__ == "__main__":  # as in __main__.py
    sys.path.insert(0, __file__.rpartition("/spawnhelper/")[0])
    from spawnhelper import LIBRARIES

    sys.path += LIBRARIES

import _prctl
from systemd import daemon

from spawnhelper import board, manager, record
from spawnhelper.conf import files, service
from spawnhelper.conf.service import Service
from spawnhelper.conf.watch import Watch
from spawnhelper.doors import handover, pool
from spawnhelper.doors.crew import SOON, Clock, Crew
from spawnhelper.doors.inherited import Connection, address, adopted
from spawnhelper.doors.notices import Notices
from spawnhelper.doors.pool import NEVER, NSEC_PER_SEC, Held, Nursery
from spawnhelper.doors.registrar import Registrar
from spawnhelper.outcome import ERR, Refusal, shown
from spawnhelper.post import Outbox
from spawnhelper.signals import Signals
from spawnhelper.stages import command, plan
from spawnhelper.stages.plan import Plan

TICK = 1 * NSEC_PER_SEC  # between looks at what has a deadline
PROBLEM_PAUSE = 1 * NSEC_PER_SEC  # before files that cannot be followed are read again
DEAF_FOR = 1 * NSEC_PER_SEC  # when a connection cannot be accepted
DROPPED_PAUSE = 10 * NSEC_PER_SEC  # between two records of connections above a limit
LAST_RECORDS = 5 * NSEC_PER_SEC  # for a journal that takes none, at the end
# So many at a time.
MOST_HEARD = 256
MOST_ACCEPTED = 64
MOST_REAPED = 512


class Server:
    """The server of one service, for as long as it runs. before: what the program that it was
    before has handed on."""

    def __init__(
        self, name: str, listeners: list[socket.socket], before: dict[str, Any] | None = None
    ) -> None:
        found = {} if before is None else before
        self.name = name
        self.listeners = {each.fileno(): each for each in listeners}
        self._by_turns = deque(listeners)
        self.send_buffers = {each.fileno(): _send_buffer(each) for each in listeners}
        self.signals = Signals()
        self.notices = Notices()
        self.settings: Service | None = None
        self.plan: Plan | None = None
        self.problem: Refusal | None = None  # with the files
        self.clock = Clock()
        self._poll = select.epoll()
        self._poll.register(self.signals.descriptor, select.EPOLLIN)
        groups = [each["group"] for each in found.get("workers", ())]
        descriptors = found.get("descriptors", pool.raise_descriptors())
        nursery = Nursery(descriptors, found.get("groups", 0), groups)
        kept = [each["pid"] for each in found.get("workers", ())]
        self.board = board.Board(name, kept)
        waiting = (each.encode("latin-1") for each in found.get("records", ()))
        self.outbox = Outbox(waiting, found.get("lost", 0))
        self.registrar = Registrar(name, self.outbox, self.board)
        self.crew = Crew(self.registrar, self.board, nursery, self._poll, self.clock)
        self._accepting = False
        self._asked = False  # whether somebody may be in a backlog
        self._deaf_until = 0
        self._deaf = False
        self._over_limit = found.get("over_limit", 0)
        self._over_limit_at = 0
        self._told = False
        self._trial: int | None = None
        self._trial_until = 0
        self._reload = False
        self._alone = 0  # since when, at a stop
        _prctl.prctl(_prctl.PR_SET_CHILD_SUBREAPER, 1)
        self._load()
        if before is not None:
            handover.resume(before, self.crew, self.registrar)

    # The files.

    def _load(self) -> None:
        """Reads the service's files anew. Workers of what they said before take no more."""
        time.tzset()
        self.watch = Watch(self.name)
        self.settings = self.plan = self.problem = None
        try:
            self.settings = service.load(files.file_of(self.name))
            self.watch.also(_named(self.settings))
            self.plan = plan.made(self.settings)
        except Refusal as refusal:
            self.problem = refusal
        self.crew.follow(self.settings, self.plan)
        self._loaded_at = time.monotonic_ns()  # now, for it can take its time

    def _is_to_try_again(self) -> bool:
        """Whether what was wrong with the files may be so no more, though they are as they were: an
        account can be anywhere, and memory can have been short."""
        return self.problem is not None and time.monotonic_ns() - self._loaded_at >= PROBLEM_PAUSE

    # The loop.

    def run(self) -> None:
        """Serves until it is stopped, and nobody is left."""
        self.signals.listen()
        self._bury()  # those who ended before anybody listened
        while not self._over():
            self.crew.wake(asked=self._asked)
            self.crew.refuse_hopeless(self.problem)
            self._listen()
            for descriptor, _ in self._poll.poll(self._pause(), MOST_HEARD):
                self._handle(descriptor)
            self._accept()
            if time.monotonic_ns() >= self.clock.due:
                self._look_at_the_clock()
        self.outbox.give_up()

    def _over(self) -> bool:
        if self.crew.stopping is None or self.crew.workers or self.crew.next:
            return False
        self.registrar.summaries.write()
        self._alone = self._alone or time.monotonic_ns()
        late = time.monotonic_ns() - self._alone >= LAST_RECORDS
        return late or not (self.outbox or self.registrar.explaining)

    def _pause(self) -> float:
        """How long there is nothing to do by the clock, in seconds."""
        now = time.monotonic_ns()
        crew = self.crew
        if len(crew.workers) > len(crew.idle) or crew.lobby or crew.stopping is not None:
            self.clock.look_by(now + TICK)
        for due in (self.outbox.due, self.registrar.summaries.due):
            if due is not None:
                self.clock.look_by(due)
        return max(0, self.clock.due - now) / NSEC_PER_SEC

    def _handle(self, descriptor: int) -> None:
        if descriptor in self.crew.workers:
            self.crew.hear(self.crew.workers[descriptor])
        elif descriptor in self.listeners:
            self._asked = True
        elif descriptor == self.signals.descriptor:
            self._hear_signals()
        elif descriptor in self.crew.lobby:
            self.crew.lobby.hear(descriptor)

    def _room(self) -> int:
        """How many more connections are accepted now: as many as there are workers for, and one
        that will have one; any, where all are refused."""
        if self.crew.stopping is not None or self.crew.next or self._deaf:
            return 0
        if self.plan is None:
            return MOST_ACCEPTED
        left = self.plan.service.max_connections - self.crew.held
        return min(left, len(self.crew.idle) + 1)

    def _listen(self) -> None:
        """Hears of new connections only while they are accepted."""
        on = self._room() > 0
        if on == self._accepting:
            return
        self._accepting = on
        for descriptor in self.listeners:
            if on:
                self._poll.register(descriptor, select.EPOLLIN)
            else:
                self._poll.unregister(descriptor)

    # Connections.

    def _accept(self) -> None:
        """Takes in who is in a backlog, the first one without a look at who else is."""
        for most in (1, MOST_ACCEPTED):
            taken: list[Connection] = []
            for _ in range(min(most, self._room())):
                connection = self._accepted() if self._asked else None
                if connection is None:
                    self._asked = False
                    break
                taken.append(connection)
            # Whoever has changed the files before they connected is served as they are now.
            if taken and (self._is_to_try_again() or self.watch.changed()):
                self._load()
            for connection in taken:
                self._admit(connection)

    def _accepted(self) -> Connection | None:
        """The next connection of any listener, None where there is none."""
        for _ in self.listeners:
            listener = self._by_turns[0]
            self._by_turns.rotate()
            try:
                accepted, remote = listener._accept()  # type: ignore[attr-defined]  # of _socket
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno not in (errno.ECONNABORTED, errno.EPROTO):  # reset already
                    self._turn_deaf(error)
                    return None
                continue
            self._deaf_until = 0
            client = adopted(accepted, listener.family)
            if (size := self.send_buffers[listener.fileno()]) is not None:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            connection = Connection(client, self.name)
            if connection.remote is None and connection.tcp:  # it was reset since
                connection.remote = address(remote)
            return connection
        return None

    def _turn_deaf(self, error: OSError) -> None:
        """Leaves clients in the backlog for a while: descriptors or memory have run out."""
        if not self._deaf_until:
            what = f"connections cannot be accepted for now: {error.strerror}; they wait"
            self.outbox.say(ERR, f"{self.name}: {what}")
        self._deaf = True
        self._deaf_until = time.monotonic_ns() + DEAF_FOR
        self.clock.look_by(self._deaf_until)

    def _admit(self, connection: Connection) -> None:
        """Has a connection served, or refuses it."""
        client = connection.socket
        if not connection.connected or connection.only_counted:
            client.close()
            return
        if self.plan is None:
            assert self.problem is not None
            self.crew.refuse(connection, self.problem)
            return
        try:
            service.check_idle_limit(self.plan.service, tcp=connection.tcp)
        except Refusal as refusal:
            self.crew.refuse(connection, refusal)
            return
        held = Held(connection, self.plan, _source(connection))
        if 0 < self.plan.service.per_source <= self.crew.sources[held.source]:
            client.close()
            self._over_limit += 1
            self.board.dropped += 1
            self.clock.look_by(self._over_limit_at)
            return
        self.crew.admit(held)

    def _bury(self) -> None:
        """Looks which children have ended, or were stopped, which no worker does by itself."""
        by_pid = {worker.pid: worker for worker in self.crew.workers.values()}
        for _ in range(MOST_REAPED):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = by_pid.get(pid)
            if worker is not None:
                self.crew.child(worker, status)
            elif pid == self._trial and not os.WIFSTOPPED(status):
                self._tried(status)
            elif pid in self.registrar.explaining and not os.WIFSTOPPED(status):
                self.registrar.explaining.remove(pid)
            else:
                self.crew.orphans = True
                self.clock.look_by(0)
        os.kill(os.getpid(), signal.SIGCHLD)  # there are more

    # Time, signals, systemd.

    def _look_at_the_clock(self) -> None:
        now = time.monotonic_ns()
        self.clock.due = NEVER
        if now >= self._deaf_until:
            self._deaf = False
        summaries = self.registrar.summaries
        if summaries.due is not None and now >= summaries.due:
            summaries.write()
        if self.outbox.due is not None and now >= self.outbox.due:
            self.outbox.send()
        self.crew.look(now)
        if self.crew.orphans:
            self.crew.end_orphans(self._others())
        if self.crew.orphans:
            self.clock.look_by(now + SOON)
        if now >= self._over_limit_at:
            self._tell_of_dropped(now)
        if self._trial is not None and now >= self._trial_until:
            os.kill(self._trial, signal.SIGKILL)
            self._trial_until = now + TICK
        self._tell()
        for due in (
            self._over_limit_at if self._over_limit else None,
            self._trial_until if self._trial is not None else None,
            self._deaf_until if self._deaf else None,
        ):
            if due is not None and due > now:
                self.clock.look_by(due)

    def _others(self) -> set[int]:
        """The children that are no workers."""
        return self.registrar.explaining | ({self._trial} if self._trial is not None else set())

    def _tell_of_dropped(self, now: int) -> None:
        """Says how many connections were above MaxConnectionsPerSource=, but not of each."""
        if self._over_limit and self.plan is not None:
            self.registrar.too_many(self.plan.service, self._over_limit)
            self._over_limit, self._over_limit_at = 0, now + DROPPED_PAUSE

    def _hear_signals(self) -> None:
        numbers = self.signals.hear()
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._stop()
        if signal.SIGHUP in numbers:
            self._try()
        if signal.SIGCHLD in numbers:  # last: it may be the trial's end, and this another program
            self._bury()

    def _stop(self) -> None:
        """Stops accepting, and has each worker stop its command."""
        if self.crew.stopping is None:
            now = time.monotonic_ns()
            self.notices.say("STOPPING=1")
            self._tell_of_dropped(now)
            self.crew.stop(now)

    def _tell(self) -> None:
        """Tells systemd how it is; that it is ready once a worker could be made, or none is
        needed."""
        crew = self.crew
        if not self._told and (crew.able or self.plan is None):
            self._told = True
            self.notices.say("READY=1")
        text = f"{crew.busy} busy, {len(crew.idle)} idle, {crew.served} served"
        if crew.unfit is not None or self.problem is not None:
            text += f"; {crew.unfit or self.problem}"
        self.notices.status(text)
        self.board.beat(self.notices.due)
        self.clock.look_by(self.notices.due)

    # Another program.

    def _try(self) -> None:
        """Has the program that there is now tried, to become it."""
        self._reload = True
        if self.crew.stopping is not None or self._trial is not None:
            return
        self._reload = False
        self.notices.reloading()
        try:
            self._trial = handover.try_out(__file__)
        except OSError as error:
            self._stay(f"it cannot be tried: {error.strerror}")
            return
        self._trial_until = time.monotonic_ns() + handover.TRIAL_TIME
        self.clock.look_by(self._trial_until)

    def _tried(self, status: int) -> None:
        """Becomes the program that was tried, if that can be executed."""
        self._trial = None
        if self.crew.stopping is not None:
            return
        if self._reload:  # it may be another one by now
            self._try()
        elif status:
            self._stay(f"{record.exit_of(status)[0]} when it was tried")
        else:
            self._become()

    def _stay(self, why: str) -> None:
        """Goes on as the program that this is."""
        what = "the program that is installed now is not executed, and this one goes on"
        self.outbox.say(ERR, f"{self.name}: {what}: {why}")
        self.notices.say("READY=1")

    def _become(self) -> None:
        """Executes the program. What workers have in hand they bring to its end. Signals come once
        the program has handlers for them."""
        signal.pthread_sigmask(signal.SIG_BLOCK, pool.HELD_BACK)
        for number in self.signals.hear():
            os.kill(os.getpid(), number)
        crew = self.crew
        crew.retire()
        self.registrar.summaries.write()
        clients = [*crew.next, *(each.held for each in crew.workers.values() if each.held)]
        kept = [
            *self.listeners,
            *crew.workers,
            *(each.connection.socket.fileno() for each in clients),
            *crew.lobby,
        ]
        state = handover.state_of(crew, self.registrar)
        state |= {"listeners": list(self.listeners), "over_limit": self._over_limit}
        try:
            handover.execute(__file__, self.name, state, kept)
        except OSError as error:
            self._stay(f"{error.strerror}")
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, pool.HELD_BACK)


def _send_buffer(listener: socket.socket) -> int | None:
    """What SendBuffer= has for the connections to a path, which do not inherit it; None where it
    is not set."""
    if listener.family != socket.AF_UNIX:
        return None
    with socket.socket(socket.AF_UNIX) as usual:
        default = usual.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    size = listener.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    return None if size == default else size // 2  # the kernel doubles it (socket(7))


def _named(settings: Service) -> Iterable[str]:
    """The files beside its own that a service comes from: its banners, and wherever its program can
    be."""
    root = settings.root_directory or ""
    name = settings.argv[0]
    programs = [name] if name[0] == "/" else [f"{each}/{name}" for each in command.PATH.split(":")]
    named = [settings.banner, settings.banner_refused, settings.root_directory]
    named += [root + files.walk(each, root)[-1] for each in programs]
    return [each for each in named if each]


def _source(connection: Connection) -> str:
    """Who it is from, as systemd counts (systemd.socket(5), MaxConnectionsPerSource=)."""
    if connection.remote is not None:
        return connection.remote[0]
    return "" if connection.peer is None else str(connection.peer[1])


def main(arguments: list[str]) -> int:
    """Serves the service of this name with the listeners that systemd, or the program that this
    process was before, has handed over."""
    arguments = manager.chosen(arguments)
    if arguments[:1] == [handover.TRY]:
        return os.EX_OK if arguments[1:] == [str(handover.FORMAT)] else os.EX_PROTOCOL
    name, *more = arguments
    if not files.is_name(name):
        print(f"<3>{shown(name)} is no name of a service", file=sys.stderr)
        return os.EX_USAGE
    before = handover.read(int(more[1])) if more[:1] == [handover.RESUME] else None
    if before is None:
        listeners = [socket.socket(fileno=number) for number in daemon.listen_fds()]
    else:
        listeners = [handover.inherited(number) for number in before["listeners"]]
    if not listeners:
        print(f"<3>no listener was handed over; start spawn@{name}.socket", file=sys.stderr)
        return os.EX_USAGE
    for listener in listeners:
        listener.setblocking(False)
    gc.freeze()  # what workers share with this process
    Server(name, listeners, before).run()
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
