"""The door of Accept=no: a standing server that accepts, counts, hands on and records.

It is root, and the only one with privileges. It reads no byte of a client and runs no command; that
is for its workers, each of which has become the service's user before it has a client. It accepts
only what it can hand on: who comes above MaxConnections= waits in the kernel's backlog, in order.
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
from collections import Counter, deque

if __name__ == "__main__":
    sys.path.append(__file__.rpartition("/spawnhelper/")[0])  # as in __main__.py

from systemd import daemon

from spawnhelper import record
from spawnhelper.conf import files, service
from spawnhelper.conf.service import Service
from spawnhelper.conf.watch import Watch
from spawnhelper.doors import wire
from spawnhelper.doors.inherited import Connection
from spawnhelper.doors.pool import Nursery, Worker
from spawnhelper.outcome import EXEC_FAILED, RESOURCES, TIME_LIMIT, Refusal
from spawnhelper.post import Outbox
from spawnhelper.signals import Signals
from spawnhelper.stages import command, plan, reasons, supervise
from spawnhelper.stages.plan import Plan
from spawnhelper.stages.serve import Ended

NSEC_PER_USEC = 1_000
LARGEST = (1 << 63) - 1
NSEC_PER_SEC = 1_000_000_000
TICK = 1  # seconds between looks at the clock while there is something to look for
# Beyond what the service's limits come to: a machine can be slow.
GRACE = 10 * NSEC_PER_SEC
LONGEST_DELIVERY = 960 * NSEC_PER_SEC  # its own bounds, one after the other
IDLE_FOR = 100 * NSEC_PER_SEC  # as Postfix's workers (master(5), max_idle)
SPARE = 1
MOST_BEGINNING = 4
MISBIRTH_PAUSE = 1 * NSEC_PER_SEC
STOP_TIME = 80 * NSEC_PER_SEC  # before systemd loses patience
MOST_HEARD = 256  # events at a time
MOST_EXPLAINING = 4
SEEN_OFF = 5 * NSEC_PER_SEC


class Held:
    """One connection that a worker has. deadline: CLOCK_MONOTONIC in nanoseconds, by which it must
    have reported. turn: whether it has one; waits_until: when the wait for it is over, None while
    it does not wait. source: who counts against MaxConnectionsPerSource=."""

    __slots__ = (
        "connection",
        "deadline",
        "late",
        "plan",
        "reported",
        "source",
        "turn",
        "waits_until",
    )

    def __init__(self, connection: Connection, plan: Plan, source: str) -> None:
        self.connection = connection
        self.plan = plan
        self.source = source
        self.deadline = 0
        self.turn = False
        self.waits_until: int | None = None
        self.reported = False
        self.late = False


class Server:
    """The server of one service, for as long as it runs."""

    def __init__(self, name: str, listeners: list[socket.socket]) -> None:
        self.name = name
        self.unit = f"spawn-server@{name}.service"
        self.listeners = {each.fileno(): each for each in listeners}
        self.signals = Signals()
        self.outbox = Outbox()
        self.nursery = Nursery()
        self.workers: dict[int, Worker] = {}  # by the descriptor of their channel
        self.idle: list[Worker] = []
        self.waiting: deque[Worker] = deque()  # for their turn
        self.turns = 0
        self.sources: Counter[str] = Counter()
        self.plan: Plan | None = None
        self.problem: Refusal | None = None
        self.stopping: int | None = None  # since when
        self._poll = select.epoll()
        self._poll.register(self.signals.descriptor, select.EPOLLIN)
        self._accepting = False
        self._asked = False  # whether somebody is in a backlog
        self._sending = False
        self._leaving: dict[int, tuple[socket.socket, int]] = {}
        self._no_births_until = 0
        self._served = 0
        self._told = False
        self._over_limit = 0
        self._explaining: set[int] = set()
        self._looks_at = 0
        self._load()

    # The files.

    def _load(self) -> None:
        """Reads the service's files anew."""
        time.tzset()
        self.watch = Watch(self.name)
        try:
            self.plan = plan.made(self.name)
            self.problem = None
            self.watch.also(self.plan.service)
        except Refusal as refusal:
            self.plan, self.problem = None, refusal
        for worker in self.idle:
            worker.retire()
        self.idle.clear()
        self._no_births_until = 0

    # The loop.

    def run(self) -> None:
        """Serves until it is stopped, and nobody is left."""
        self.signals.listen()
        while self.stopping is None or self.workers or self.outbox:
            self._wake()
            self._listen(on=self._room())
            pause = TICK if self.workers or self._leaving else -1
            for descriptor, _ in self._poll.poll(pause, MOST_HEARD):
                self._handle(descriptor)
            self._look_at_the_clock()
            self._accept()
        daemon.notify("STOPPING=1")

    def _handle(self, descriptor: int) -> None:
        if descriptor in self.workers:
            self._hear(self.workers[descriptor])
        elif descriptor in self.listeners:
            self._asked = True
        elif descriptor == self.signals.descriptor:
            self._hear_signals()
        elif descriptor == self.outbox.fileno():
            self.outbox.send()
        elif descriptor in self._leaving:
            self._see_off(descriptor)

    def _listen(self, *, on: bool) -> None:
        """Hears of new connections only while they can be accepted."""
        if on != self._accepting:
            self._accepting = on
            for descriptor in self.listeners:
                if on:
                    self._poll.register(descriptor, select.EPOLLIN)
                else:
                    self._poll.unregister(descriptor)
        if bool(self.outbox) != self._sending:
            self._sending = not self._sending
            if self._sending:
                self._poll.register(self.outbox.fileno(), select.EPOLLOUT)
            else:
                self._poll.unregister(self.outbox.fileno())

    def _room(self) -> bool:
        """Whether one more connection can be accepted, now or once a worker is ready."""
        if self.stopping is not None:
            return False
        if self.plan is None:
            return True
        busy = len(self.workers) - len(self.idle) - self._beginning()
        if busy >= self.plan.service.max_connections:
            return False
        return bool(self.idle) or not self._beginning()

    def _beginning(self) -> int:
        return sum(not worker.ready for worker in self.workers.values())

    def _wake(self) -> None:
        """Makes workers, as far as they are needed, and not all at once."""
        if self.plan is None or self.stopping is not None:
            return
        beginning = self._beginning()
        busy = len(self.workers) - len(self.idle) - beginning
        room = self.plan.service.max_connections - busy - len(self.idle) - beginning
        wanted = SPARE - len(self.idle) - beginning
        if self._asked and not self.idle:  # they come faster than workers get free
            wanted = max(wanted, min(MOST_BEGINNING, 1 + busy // 4) - beginning)
        if wanted <= 0 or room <= 0 or time.monotonic_ns() < self._no_births_until:
            return
        for _ in range(min(wanted, room)):
            try:
                worker = self.nursery.born(self.plan)
            except OSError as error:
                print(f"<3>no worker can be made: {error.strerror}", file=sys.stderr)
                self._no_births_until = time.monotonic_ns() + MISBIRTH_PAUSE
                return
            self.workers[worker.channel.fileno()] = worker
            self._poll.register(worker.channel.fileno(), select.EPOLLIN)

    # Connections.

    def _accept(self) -> None:
        """Hands on who is in a backlog, to the workers that are idle."""
        while self._asked and self.stopping is None:
            if self.watch.changed():
                self._load()
            if self.plan is not None and not (self.idle and self._room()):
                return
            client = self._next()
            if client is None:
                self._asked = False
                return
            self._hand_on(client)

    def _next(self) -> socket.socket | None:
        """The next connection of any listener, None where there is none."""
        for listener in self.listeners.values():
            try:
                accepted, _ = listener._accept()  # type: ignore[attr-defined]  # of _socket
                return socket.socket(fileno=accepted)
            except BlockingIOError:
                continue
            except OSError as error:  # it was reset already, or descriptors ran out
                if error.errno not in (errno.ECONNABORTED, errno.EPROTO):
                    print(f"<4>a connection is not accepted: {error.strerror}", file=sys.stderr)
                    return None
        return None

    def _hand_on(self, client: socket.socket) -> None:
        connection = Connection(client, self.name, "")
        if not connection.connected or connection.only_counted:
            client.close()
            return
        try:
            if self.plan is None:
                assert self.problem is not None
                raise self.problem
            service.check_idle_limit(self.plan.service, tcp=connection.tcp)
        except Refusal as refusal:
            self._refuse(connection, refusal)
            return
        held = Held(connection, self.plan, _source(connection))
        most = int(self.plan.service.per_source)
        if most and self.sources[held.source] >= most:
            self._too_many(client)
            return
        worker = self.idle.pop()
        held.deadline = time.monotonic_ns() + _longest(self.plan)
        try:
            wire.hand_over(worker.channel, client.fileno())
        except OSError:  # it is just dying; the next one has it
            self._give_up(worker)
            self._hand_on(client)
            return
        self.sources[held.source] += 1
        worker.held = held

    def _refuse(self, connection: Connection, refusal: Refusal) -> None:
        """Ends a connection that no worker is for."""
        self._record(connection, self.plan, refusal)
        connection.end()
        self._keep(connection.socket)

    def _keep(self, client: socket.socket) -> None:
        """Closes a connection once the client has ended, or after a while: with bytes unread, that
        nobody here reads, a close takes away what is on its way."""
        self._leaving[client.fileno()] = client, time.monotonic_ns() + SEEN_OFF
        self._poll.register(client.fileno(), select.EPOLLRDHUP)

    def _see_off(self, descriptor: int) -> None:
        client, _ = self._leaving.pop(descriptor)
        self._poll.unregister(descriptor)
        client.close()

    def _too_many(self, client: socket.socket) -> None:
        """Closes a connection of somebody who has as many as he may; that is said once a while."""
        client.close()
        self._over_limit += 1

    # Workers.

    def _hear(self, worker: Worker) -> None:
        """All that a worker has said. That it is gone its end as a process tells."""
        while True:
            try:
                message = worker.channel.recv(wire.LONGEST + 1)
            except BlockingIOError:
                return
            except ConnectionResetError:  # once, where a task was unread; a report can follow
                continue
            except OSError:
                message = b""
            if not message:
                self._forget(worker)
                return
            try:
                self._obey(worker, message)
            except wire.Garbled:
                print("<4>a worker says what none would say, and is ended", file=sys.stderr)
                self._give_up(worker)
                return

    def _forget(self, worker: Worker) -> None:
        """Hears a worker no more, which has closed its side."""
        try:
            self._poll.unregister(worker.channel.fileno())
        except OSError:
            pass  # it has been before

    def _obey(self, worker: Worker, message: bytes) -> None:
        kind, held = message[:1], worker.held
        if kind == wire.READY and (held is None or held.reported):
            self._ready(worker)
        elif kind == wire.SPENT and (held is None or held.reported):
            self._free(worker)
            worker.retire()
        elif kind == wire.UNFIT and not worker.ready:
            self._unfit(wire.complained(message))
        elif held is None or held.reported:
            raise wire.Garbled
        elif kind == wire.WAITS and not held.turn and held.waits_until is None:
            self._queue(worker, held)
        elif kind == wire.LEAVES:
            self._leave(held)
            held.deadline = time.monotonic_ns() + LONGEST_DELIVERY + GRACE
        elif kind in (wire.ENDED, wire.REFUSED):
            ended = wire.reported(message, held.connection)
            held.reported = True
            held.deadline = time.monotonic_ns() + 4 * GRACE
            self._leave(held)
            self._record(held.connection, held.plan, ended)
        else:
            raise wire.Garbled

    def _ready(self, worker: Worker) -> None:
        first = not worker.ready
        worker.ready = True
        self._free(worker)
        if worker.plan is not self.plan or self.stopping is not None:
            worker.retire()
            return
        worker.idle_since = time.monotonic_ns()
        self.idle.append(worker)
        if first:
            self._tell()

    def _free(self, worker: Worker) -> None:
        """Lets go of a worker's connection."""
        held, worker.held = worker.held, None
        if held is not None:
            held.connection.socket.close()
            self.sources[held.source] -= 1
            if not self.sources[held.source]:
                del self.sources[held.source]
            self._served += 1

    def _unfit(self, sentence: str) -> None:
        """A worker could not become the user: no other will be able to, until something changes."""
        problem = Refusal(RESOURCES, os.EX_OSERR, f"no worker can be made: {sentence}")
        if not self._told:
            print(f"<3>{problem}", file=sys.stderr)
        self.plan, self.problem = None, problem
        self._no_births_until = time.monotonic_ns() + MISBIRTH_PAUSE

    def _give_up(self, worker: Worker) -> None:
        """Ends a worker that is of no use any more, and all that it started."""
        if worker in self.idle:
            self.idle.remove(worker)
        worker.retired = True
        worker.kill()

    def _buried(self, worker: Worker, status: int) -> None:
        """Takes note of a worker's end: its connection ends in order, and is recorded."""
        self._hear(worker)  # its last words
        self._forget(worker)
        del self.workers[worker.channel.fileno()]
        if worker in self.idle:
            self.idle.remove(worker)
        held = worker.held
        if held is not None and not held.reported:
            fate, _ = record.exit_of(status)
            sentence = f"the worker ended before its command ({fate}), and what it left is ended"
            result = TIME_LIMIT if held.late else RESOURCES
            self._record(held.connection, held.plan, Refusal(result, os.EX_OSERR, sentence))
            self._leave(held)
            held.connection.end()
        self._free(worker)
        worker.close()
        if not worker.ready:
            self._no_births_until = time.monotonic_ns() + MISBIRTH_PAUSE

    # Turns.

    def _queue(self, worker: Worker, held: Held) -> None:
        settings = held.plan.service
        held.waits_until = LARGEST
        if settings.queue_limit is not None:
            held.waits_until = time.monotonic_ns() + settings.queue_limit * NSEC_PER_USEC
        self.waiting.append(worker)
        self._next_turn()
        if held.waits_until is not None and settings.queue_limit == 0:
            self._no_turn(worker, held)

    def _next_turn(self) -> None:
        """Gives turns to those who have waited longest, as far as there are any."""
        while self.waiting:
            worker = self.waiting[0]
            held = worker.held
            if held is None or held.waits_until is None:
                self.waiting.popleft()
                continue
            most = held.plan.service.max_commands
            if most is not None and self.turns >= most:
                return
            self.waiting.popleft()
            held.waits_until = None
            held.turn = True
            held.deadline = time.monotonic_ns() + _longest(held.plan)
            self.turns += 1
            self._say(worker, wire.TURN)

    def _no_turn(self, worker: Worker, held: Held) -> None:
        held.waits_until = None
        self.waiting.remove(worker)
        self._say(worker, wire.NO_TURN)

    def _leave(self, held: Held) -> None:
        held.waits_until = None
        if held.turn:
            held.turn = False
            self.turns -= 1
            self._next_turn()

    def _say(self, worker: Worker, message: bytes) -> None:
        try:
            worker.channel.send(message)
        except OSError:
            self._give_up(worker)

    # Time, signals, systemd.

    def _look_at_the_clock(self) -> None:
        now = time.monotonic_ns()
        if now < self._looks_at:
            return
        self._looks_at = now + TICK * NSEC_PER_SEC
        for worker in list(self.workers.values()):
            held = worker.held
            if held is not None and held.waits_until is not None:
                if now >= held.waits_until:
                    self._no_turn(worker, held)
            elif held is not None and now >= held.deadline:
                held.late = True
                self._give_up(worker)
        while len(self.idle) > SPARE and now - self.idle[0].idle_since >= IDLE_FOR:
            self.idle.pop(0).retire()
        for descriptor, (_, until) in list(self._leaving.items()):
            if now >= until:
                self._see_off(descriptor)
        if self.stopping is not None and now - self.stopping >= STOP_TIME:
            for worker in self.workers.values():
                worker.kill()
        if self._over_limit and self.plan is not None:
            fields = record.of_refused(self.plan.service, self._over_limit)
            self.outbox.put(fields)
            self._over_limit = 0
        self._tell()

    def _hear_signals(self) -> None:
        numbers = self.signals.hear()
        if signal.SIGCHLD in numbers:
            self._bury()
        if self.signals.stopped and self.stopping is None:
            self._stop()

    def _bury(self) -> None:
        """Looks which children have ended, or were stopped, which no worker does by itself."""
        by_pid = {worker.pid: worker for worker in self.workers.values()}
        for _ in range(MOST_HEARD):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._explaining.discard(pid)
            worker = by_pid.get(pid)
            if worker is not None and os.WIFSTOPPED(status):
                self._give_up(worker)
            elif worker is not None:
                self._buried(worker, status)
        os.kill(os.getpid(), signal.SIGCHLD)  # there are more

    def _stop(self) -> None:
        """Stops accepting, and has each worker stop its command."""
        daemon.notify("STOPPING=1")
        self.stopping = time.monotonic_ns()
        self._listen(on=False)
        self.idle.clear()
        for worker in self.workers.values():
            worker.retired = True
            try:
                os.kill(worker.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass

    def _tell(self) -> None:
        """Tells systemd what there is to tell."""
        busy = sum(worker.held is not None for worker in self.workers.values())
        status = f"{busy} busy, {len(self.idle)} idle, {self._served} served"
        ready = "" if self._told else "READY=1\n"
        self._told = True
        daemon.notify(f"{ready}WATCHDOG=1\nSTATUS={status}")

    def _record(self, connection: Connection, made: Plan | None, ended: Ended | Refusal) -> None:
        settings = None if made is None else made.service
        if settings is not None and not record.wanted(settings.log, ended.result):
            return
        if isinstance(ended, Refusal) and ended.result == EXEC_FAILED and settings is not None:
            self._explain(connection, settings, ended.sentence)
            return
        if isinstance(ended, Refusal):
            fields = record.of_refusal(self.unit, connection, self.name, settings, ended)
        else:
            assert made is not None
            assert settings is not None
            fields = record.of_end(self.unit, connection, settings, made.who.user, ended)
        self.outbox.put(fields)

    def _explain(self, connection: Connection, settings: Service, told: str) -> None:
        """Has a process of its own find out why a command did not start, which can take its time,
        and record it."""
        if len(self._explaining) >= MOST_EXPLAINING:
            self._record(connection, self.plan, Refusal(RESOURCES, os.EX_UNAVAILABLE, told))
            return
        try:
            pid = os.fork()
        except OSError as error:
            sentence = f"{told}; no process can be started: {error.strerror}"
            self._record(connection, self.plan, Refusal(RESOURCES, os.EX_OSERR, sentence))
            return
        if pid == 0:
            try:
                command.reset_signals()
                refusal = reasons.refusal(settings, told)
                fields = record.of_refusal(self.unit, connection, self.name, settings, refusal)
                record.write(fields, foreground=False)
            finally:
                os._exit(0)
        self._explaining.add(pid)


def _longest(made: Plan) -> int:
    """How long a worker may take for a connection until its command has ended, in nanoseconds."""
    settings = made.service
    if settings.time_limit is None:
        return LARGEST
    spans = settings.time_limit + settings.kill_delay
    if settings.proxied:
        spans += settings.proxy_time_limit
    return spans * NSEC_PER_USEC + supervise.ANSWER_TIME + 2 * supervise.SWEEP_TIME + GRACE


def _source(connection: Connection) -> str:
    """Who it is from, as systemd counts (systemd.socket(5), MaxConnectionsPerSource=)."""
    if connection.remote is not None:
        return connection.remote[0]
    return "" if connection.peer is None else str(connection.peer[1])


def main(arguments: list[str]) -> int:
    """Serves the service of this name with the listeners that systemd has handed over."""
    (name,) = arguments
    files.check_name(files.file_of(name))
    listeners = [socket.socket(fileno=number) for number in daemon.listen_fds()]
    if not listeners:
        print(f"<3>no listener was handed over; start spawn@{name}.socket", file=sys.stderr)
        return os.EX_USAGE
    for listener in listeners:
        listener.setblocking(False)
    gc.freeze()  # what workers share with this process
    Server(name, listeners).run()
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
