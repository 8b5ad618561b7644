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
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

if __name__ == "__main__":
    sys.path.append(__file__.rpartition("/spawnhelper/")[0])  # as in __main__.py

import _prctl
from systemd import daemon

from spawnhelper import board, record
from spawnhelper.conf import files, service
from spawnhelper.conf.service import Service
from spawnhelper.conf.watch import Watch
from spawnhelper.doors import handover, pool, wire
from spawnhelper.doors.inherited import Connection, address
from spawnhelper.doors.lobby import Lobby
from spawnhelper.doors.notices import Notices
from spawnhelper.doors.pool import NEVER, NSEC_PER_SEC, Held, Nursery, Worker
from spawnhelper.doors.registrar import Registrar
from spawnhelper.doors.turnstile import Turnstile
from spawnhelper.outcome import ERR, RESOURCES, STOPPED, TIME_LIMIT, WARNING, Refusal, shown
from spawnhelper.post import Outbox
from spawnhelper.signals import Signals
from spawnhelper.stages import command, plan, reasons, supervise
from spawnhelper.stages.plan import Plan

NSEC_PER_USEC = 1_000
NSEC_PER_MSEC = 1_000_000
TICK = 1 * NSEC_PER_SEC  # between looks at what has a deadline
SOON = 20 * NSEC_PER_MSEC  # for what was killed to be gone
# Beyond what the service's limits come to: a machine can be slow.
GRACE = 10 * NSEC_PER_SEC
LONGEST_DELIVERY = 960 * NSEC_PER_SEC  # its own bounds, one after the other
SEEING_OFF = 40 * NSEC_PER_SEC  # of a client that goes on sending
IDLE_FOR = 100 * NSEC_PER_SEC  # as Postfix's workers (master(5), max_idle)
SPARE = 1
MOST_BEGINNING = 4
FIRST_BACKOFF, LONGEST_BACKOFF = 1 * NSEC_PER_SEC, 10 * NSEC_PER_SEC
DEAF_FOR = 1 * NSEC_PER_SEC  # when a connection cannot be accepted
REFUSED_PAUSE = 10 * NSEC_PER_SEC  # between two records of connections above a limit
NO_WORKER = "no worker can be made: "
STOP_TIME = 80 * NSEC_PER_SEC  # before systemd loses patience
LAST_RECORDS = 5 * NSEC_PER_SEC  # for a journal that takes none, at the end
# So many at a time.
MOST_HEARD = 256
MOST_SAID = 16
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
        self.send_buffers = {each.fileno(): _send_buffer(each) for each in listeners}
        self.signals = Signals()
        self.notices = Notices()
        waiting = (each.encode("latin-1") for each in found.get("records", ()))
        self.registrar = Registrar(name, Outbox(waiting, found.get("lost", 0)))
        self.outbox = self.registrar.outbox
        kept = [each["pid"] for each in found.get("workers", ())]
        self.board = board.Board(name, kept)
        self.workers: dict[int, Worker] = {}  # by the descriptor of their channel
        self.idle: list[Worker] = []
        self.beginning: set[Worker] = set()
        self.next: deque[Held] = deque()  # accepted, and waiting for a worker
        self.held = 0
        self.sources: Counter[str] = Counter()
        self.turnstile = Turnstile()
        self.settings: Service | None = None
        self.plan: Plan | None = None
        self.problem: Refusal | None = None  # with the files
        self.unfit: Refusal | None = None  # why there can be no workers now
        self.stopping: int | None = None  # since when
        self.served = found.get("served", 0)
        self._poll = select.epoll()
        self._poll.register(self.signals.descriptor, select.EPOLLIN)
        self.lobby = Lobby(self._poll)
        self._accepting = False
        self._asked = False  # whether somebody may be in a backlog
        self._deaf_until = 0
        self._deaf = False
        self._births_at = 0
        self._backoff = FIRST_BACKOFF
        self._over_limit = found.get("over_limit", 0)
        self._over_limit_at = 0
        self._looks_at = 0
        self._orphans = False  # whether somebody may have come to us whose worker has ended
        # Whether a worker could be made, here or by the program before: with all connections taken
        # there is no room for another one.
        self._able = before is not None
        self._told = False
        self._trial: int | None = None
        self._trial_until = 0
        self._reload = False
        groups = [each["group"] for each in found.get("workers", ())]
        descriptors = found.get("descriptors", pool.raise_descriptors())
        self.nursery = Nursery(descriptors, found.get("groups", 0), groups)
        _prctl.prctl(_prctl.PR_SET_CHILD_SUBREAPER, 1)
        self._load()
        if before is not None:
            self._resume(before)

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
        for worker in (*self.idle, *self.beginning):
            worker.retire()
        self.idle.clear()
        self.beginning.clear()
        self.unfit = None
        self._births_at, self._backoff = 0, FIRST_BACKOFF

    # The loop.

    def run(self) -> None:
        """Serves until it is stopped, and nobody is left."""
        self.signals.listen()
        self._bury()  # those who ended before anybody listened
        while not self._over():
            self._wake()
            self._refuse_hopeless()
            self._listen()
            for descriptor, _ in self._poll.poll(self._pause(), MOST_HEARD):
                self._handle(descriptor)
            self._accept()
            if time.monotonic_ns() >= self._looks_at:
                self._look_at_the_clock()
        self.outbox.give_up()

    def _over(self) -> bool:
        if self.stopping is None or self.workers:
            return False
        late = time.monotonic_ns() - self.stopping >= LAST_RECORDS
        return late or not (self.outbox or self.registrar.explaining)

    def _pause(self) -> float:
        """How long there is nothing to do by the clock, in seconds."""
        now = time.monotonic_ns()
        if len(self.workers) > len(self.idle) or self.lobby or self.stopping is not None:
            self._look_by(now + TICK)
        if self.outbox.due is not None:
            self._look_by(self.outbox.due)
        return max(0, self._looks_at - now) / NSEC_PER_SEC

    def _look_by(self, when: int) -> None:
        self._looks_at = min(self._looks_at, when)

    def _handle(self, descriptor: int) -> None:
        if descriptor in self.workers:
            self._hear(self.workers[descriptor])
        elif descriptor in self.listeners:
            self._asked = True
        elif descriptor == self.signals.descriptor:
            self._hear_signals()
        elif descriptor in self.lobby:
            self.lobby.let_go(descriptor)

    def _open(self) -> bool:
        """Whether one more connection is accepted now: then there is a worker for it, or will be,
        or it is refused."""
        if self.stopping is not None or self.next or self._deaf:
            return False
        return self.plan is None or self.held < self.plan.service.max_connections

    def _listen(self) -> None:
        """Hears of new connections only while they are accepted."""
        on = self._open()
        if on == self._accepting:
            return
        self._accepting = on
        for descriptor in self.listeners:
            if on:
                self._poll.register(descriptor, select.EPOLLIN)
            else:
                self._poll.unregister(descriptor)

    def _wake(self) -> None:
        """Makes workers, as far as they are needed, and not all at once."""
        if self.plan is None or self.stopping is not None:
            return
        serving, beginning = self.held - len(self.next), len(self.beginning)
        room = self.plan.service.max_connections - serving - len(self.idle) - beginning
        wanted = SPARE - len(self.idle) - beginning
        if (self._asked or self.next) and not self.idle:  # they come faster than workers get free
            wanted = min(MOST_BEGINNING, 1 + serving // 4) - beginning
        if wanted <= 0 or room <= 0 or time.monotonic_ns() < self._births_at:
            return
        for _ in range(min(wanted, room)):
            try:
                worker = self.nursery.born(self.plan)
            except OSError as error:
                self._misborn(_no_worker(f"{error.strerror}"))
                return
            self.workers[worker.channel.fileno()] = worker
            self.beginning.add(worker)
            self._poll.register(worker.channel.fileno(), select.EPOLLIN)
            self.board.note(worker.pid, board.BEGINS)
        if self.nursery.trouble:
            self.outbox.say(WARNING, f"{self.name}: {self.nursery.trouble}")
            self.nursery.trouble = ""

    # Connections.

    def _accept(self) -> None:
        """Takes in who is in a backlog."""
        for _ in range(MOST_ACCEPTED):
            if not (self._asked and self._open()):
                return
            connection = self._accepted()
            if connection is None:
                self._asked = False
                return
            self._admit(connection)

    def _accepted(self) -> Connection | None:
        """The next connection of any listener, None where there is none."""
        for listener in self.listeners.values():
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
            client = socket.socket(fileno=accepted)
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
        self._look_by(self._deaf_until)

    def _admit(self, connection: Connection) -> None:
        """Has a connection served as the files are now, or refuses it."""
        if self.watch.changed():
            self._load()
        client = connection.socket
        if not connection.connected or connection.only_counted:
            client.close()
            return
        if self.plan is None:
            assert self.problem is not None
            self._refuse(connection, self.problem)
            return
        try:
            service.check_idle_limit(self.plan.service, tcp=connection.tcp)
        except Refusal as refusal:
            self._refuse(connection, refusal)
            return
        held = Held(connection, self.plan, _source(connection))
        if 0 < self.plan.service.per_source <= self.sources[held.source]:
            client.close()
            self._over_limit += 1
            self.board.refused += 1
            self._look_by(self._over_limit_at)
            return
        self._count(held)
        self._hand_on(held)

    def _hand_on(self, held: Held) -> None:
        """Gives a connection to a worker, or has it wait for one."""
        while self.idle:
            worker = self.idle.pop()
            try:
                task = wire.Task(held.connection.socket.fileno(), held.connection.remote)
                wire.hand_over(worker.channel, task)
            except OSError:  # it is just dying
                worker.kill("it did not take a connection")
                continue
            worker.held, held.worker = held, worker
            self.board.note(worker.pid, board.BUSY, record.client_of(held.connection))
            worker.deadline = time.monotonic_ns() + _longest(held.plan)
            return
        self.next.append(held)

    def _refuse_hopeless(self) -> None:
        """Refuses those that wait for a worker where none will come."""
        if not self.next:
            return
        refusal = self.problem
        if self.stopping is not None:
            refusal = Refusal(STOPPED, os.EX_OK, "stopped while waiting for a worker")
        elif self.unfit is not None and not self.beginning and self.held == len(self.next):
            refusal = self.unfit
        while self.next and refusal is not None:
            held = self.next.popleft()
            self._refuse(held.connection, refusal)
            self._let_go(held)

    def _refuse(self, connection: Connection, refusal: Refusal) -> None:
        """Ends a connection that no worker is for."""
        self.board.turned_away += 1
        self.registrar.refused(connection, self.settings, refusal)
        connection.end()
        self.lobby.keep(connection.socket)

    def _let_go(self, held: Held) -> None:
        """Counts a connection no more."""
        self.turnstile.leave(held)
        self._give_turns()
        self.held -= 1
        self.sources[held.source] -= 1
        if not self.sources[held.source]:
            del self.sources[held.source]
        self.served += 1

    # Workers.

    def _hear(self, worker: Worker) -> None:
        """What a worker has said, so much at a time. That it is gone its end as a process tells."""
        for _ in range(MOST_SAID):
            try:
                message = worker.channel.recv(wire.LONGEST + 1)
            except BlockingIOError:
                return
            except ConnectionResetError:  # once, where a task was unread; a report can follow
                worker.untaken = True
                continue
            except OSError:
                message = b""
            if not message:
                self._hang_up(worker)
                return
            try:
                self._obey(worker, message)
            except wire.Garbled:
                self._end(worker, "it said what none would say")
                self._hang_up(worker)
                return

    def _end(self, worker: Worker, fault: str) -> None:
        """Ends a worker that is of no use any more, and all that it started."""
        worker.kill(fault)
        if worker in self.idle:
            self.idle.remove(worker)

    def _hang_up(self, worker: Worker) -> None:
        """Hears a worker no more, which has closed its side or is to end."""
        try:
            self._poll.unregister(worker.channel.fileno())
        except OSError:
            return  # it has been done before
        if worker in self.idle:
            self.idle.remove(worker)
        worker.deadline = min(worker.deadline, time.monotonic_ns() + pool.END_TIME)

    def _obey(self, worker: Worker, message: bytes) -> None:
        kind, held = message[:1], worker.held
        done = held is None or held.reported
        if kind == wire.READY and done and worker not in self.idle:
            self._ready(worker)
        elif kind == wire.SPENT and done and worker.ready and worker not in self.idle:
            self._free(worker)
            worker.retire()
        elif kind == wire.UNFIT and not worker.ready:
            worker.fault = wire.complained(message)
        elif held is None or held.reported:
            raise wire.Garbled
        elif kind == wire.WAITS and not held.turn and held.waits_until is None:
            self._queue(worker, held)
        elif kind == wire.LEAVES:
            self.turnstile.leave(held)
            self._give_turns()
            worker.deadline = time.monotonic_ns() + LONGEST_DELIVERY + GRACE
        elif kind in (wire.ENDED, wire.REFUSED):
            ended = wire.reported(message, held.connection)
            held.reported = True
            worker.deadline = time.monotonic_ns() + SEEING_OFF
            self.turnstile.leave(held)
            self._give_turns()
            self.registrar.reported(held, ended)
        else:
            raise wire.Garbled

    def _ready(self, worker: Worker) -> None:
        first = not worker.ready
        worker.ready = True
        worker.deadline = NEVER
        self.beginning.discard(worker)
        self._free(worker)
        if worker.plan is not self.plan or self.stopping is not None or worker.retired:
            worker.retire()
            return
        if first:
            self.unfit = None
            self._births_at, self._backoff = 0, FIRST_BACKOFF
            self._able = True
            if not self._told:
                self._look_by(0)
        worker.idle_since = time.monotonic_ns()
        self.idle.append(worker)
        if self.next:
            self._hand_on(self.next.popleft())

    def _free(self, worker: Worker) -> None:
        """Lets go of a worker's connection."""
        held, worker.held = worker.held, None
        self.board.note(worker.pid, board.IDLE)
        if held is not None:
            held.connection.socket.close()
            self._let_go(held)

    def _misborn(self, refusal: Refusal) -> None:
        """No worker can be made now. It is tried again by the clock, for the reason may be gone."""
        if self.unfit is None:
            why = str(refusal).removeprefix(NO_WORKER)
            self.outbox.say(ERR, f"{self.name}: {NO_WORKER}{why}; it is tried again")
        self.unfit = refusal
        self._births_at = time.monotonic_ns() + self._backoff
        self._backoff = min(2 * self._backoff, LONGEST_BACKOFF)
        self._look_by(self._births_at)

    def _bury(self) -> None:
        """Looks which children have ended, or were stopped, which no worker does by itself."""
        by_pid = {worker.pid: worker for worker in self.workers.values()}
        for _ in range(MOST_REAPED):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = by_pid.get(pid)
            if worker is not None and os.WIFSTOPPED(status):
                self._end(worker, "it was stopped")
            elif worker is not None:
                self._buried(worker, status)
            elif pid == self._trial and not os.WIFSTOPPED(status):
                self._tried(status)
            elif pid in self.registrar.explaining and not os.WIFSTOPPED(status):
                self.registrar.explaining.remove(pid)
            else:
                self._orphans = True
                self._look_by(0)
        os.kill(os.getpid(), signal.SIGCHLD)  # there are more

    def _buried(self, worker: Worker, status: int) -> None:
        """Takes note of a worker's end: its connection ends in order, and is recorded."""
        self._hear(worker)  # its last words
        self._hang_up(worker)
        del self.workers[worker.channel.fileno()]
        worker.channel.close()
        self.nursery.end(worker.group)
        self._orphans = True
        self._look_by(time.monotonic_ns() + SOON)
        held = worker.held
        if held is not None and worker.untaken and not held.reported:
            worker.held = None
            self._once_more(held)
        elif held is not None and not held.reported:
            worker.held = None
            self._failed(worker, held, status)
        else:
            self._free(worker)
        self.board.note(worker.pid, board.GONE)
        if worker in self.beginning:
            self.beginning.remove(worker)
            self._misborn(_unfit(worker, status))

    def _once_more(self, held: Held) -> None:
        """Has another worker serve a connection that its first one has not even taken."""
        held.worker = None
        self.board.turned_away -= 1  # it is counted with each worker
        if self.plan is not None:
            held.plan = self.plan
        self._hand_on(held)

    def _failed(self, worker: Worker, held: Held, status: int) -> None:
        """Ends a connection whose worker has ended before it had reported."""
        fate = record.exit_of(status)[0]
        why = f"{worker.fault}, and was ended" if worker.fault else fate
        sentence = f"its worker did not come to the end of it: {why}; what was left is ended"
        result = TIME_LIMIT if worker.late else RESOURCES
        self.registrar.failed(held, Refusal(result, os.EX_SOFTWARE, sentence))
        held.connection.take_back()
        held.connection.end()
        self.lobby.keep(held.connection.socket)
        self._let_go(held)

    def _end_orphans(self) -> bool:
        """Kills the children that nobody here has made: what a worker left that has ended, where
        its control group did not end them. Whether there were any."""
        known = {worker.pid for worker in self.workers.values()} | self.registrar.explaining
        try:
            left = [pid for pid in pool.children() if pid not in known and pid != self._trial]
        except OSError:
            return False
        for pid in left[:MOST_REAPED]:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass  # it has ended meanwhile
        return bool(left)

    # Turns.

    def _queue(self, worker: Worker, held: Held) -> None:
        worker.deadline = NEVER
        now = time.monotonic_ns()
        self.turnstile.wait(held, now)
        self._give_turns()
        self._end_waits(now)

    def _give_turns(self) -> None:
        while (held := self.turnstile.next()) is not None:
            self._answer(held, wire.TURN, _longest(held.plan))

    def _end_waits(self, now: int) -> None:
        """Tells those whose QueueLimit= is over."""
        for held in self.turnstile.overdue(now):
            self._answer(held, wire.NO_TURN, GRACE + SEEING_OFF)
        self._look_by(self.turnstile.due())

    def _answer(self, held: Held, message: bytes, span: int) -> None:
        worker = held.worker
        if worker is None:
            return
        worker.deadline = time.monotonic_ns() + span
        try:
            worker.channel.send(message)
        except OSError:
            worker.kill("it did not hear of its turn")

    # Time, signals, systemd.

    def _look_at_the_clock(self) -> None:
        now = time.monotonic_ns()
        self._looks_at = NEVER
        if now >= self._deaf_until:
            self._deaf = False
        if self.outbox.due is not None and now >= self.outbox.due:
            self.outbox.send()
        self._end_waits(now)
        self._look_at_workers(now)
        self.lobby.look(now)
        if self._orphans:
            self._orphans = self._end_orphans()
        if self.nursery.look() or self._orphans:
            self._look_by(now + SOON)
        if now >= self._over_limit_at:
            self._tell_of_refused(now)
        if self._trial is not None and now >= self._trial_until:
            os.kill(self._trial, signal.SIGKILL)
            self._trial_until = now + TICK
        self._tell()
        for due in (
            self._over_limit_at if self._over_limit else None,
            self._trial_until if self._trial is not None else None,
            self._deaf_until if self._deaf else None,
            self._births_at,
        ):
            if due is not None and due > now:
                self._look_by(due)

    def _tell_of_refused(self, now: int) -> None:
        """Says how many connections were above MaxConnectionsPerSource=, but not of each."""
        if self._over_limit and self.plan is not None:
            self.registrar.too_many(self.plan.service, self._over_limit)
            self._over_limit, self._over_limit_at = 0, now + REFUSED_PAUSE

    def _look_at_workers(self, now: int) -> None:
        over = self.stopping is not None and now - self.stopping >= STOP_TIME
        for worker in list(self.workers.values()):
            if over or now >= worker.deadline:
                worker.late = not over and worker.held is not None and not worker.fault
                self._end(worker, "it was stopped" if over else "it did not report in time")
        while len(self.idle) > SPARE and now - self.idle[0].idle_since >= IDLE_FOR:
            self.idle.pop(0).retire()
        if len(self.idle) > SPARE:
            self._look_by(self.idle[0].idle_since + IDLE_FOR)

    def _hear_signals(self) -> None:
        numbers = self.signals.hear()
        if signal.SIGCHLD in numbers:
            self._bury()
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._stop()
        if signal.SIGHUP in numbers:
            self._try()

    def _stop(self) -> None:
        """Stops accepting, and has each worker stop its command."""
        if self.stopping is not None:
            return
        self.notices.say("STOPPING=1")
        self.stopping = time.monotonic_ns()
        self._tell_of_refused(self.stopping)
        self.idle.clear()
        self.beginning.clear()
        for worker in self.workers.values():
            worker.retired = True
            try:
                os.kill(worker.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass

    def _tell(self) -> None:
        """Tells systemd how it is; that it is ready once a worker could be made, or none is
        needed."""
        if not self._told and (self._able or self.plan is None):
            self._told = True
            self.notices.say("READY=1")
        busy = self.held - len(self.next)
        text = f"{busy} busy, {len(self.idle)} idle, {self.served} served"
        if self.unfit is not None or self.problem is not None:
            text += f"; {self.unfit or self.problem}"
        self.notices.status(text)
        self.board.beat(self.notices.due)
        self._look_by(self.notices.due)

    # Another program.

    def _try(self) -> None:
        """Has the program that there is now tried, to become it."""
        self._reload = True
        if self.stopping is not None or self._trial is not None:
            return
        self._reload = False
        self.notices.reloading()
        try:
            self._trial = handover.try_out(__file__)
        except OSError as error:
            self._stay(f"it cannot be tried: {error.strerror}")
            return
        self._trial_until = time.monotonic_ns() + handover.TRIAL_TIME
        self._look_by(self._trial_until)

    def _tried(self, status: int) -> None:
        """Becomes the program that was tried, if that can be executed."""
        self._trial = None
        if self.stopping is not None:
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
        """Executes the program. What workers have in hand they bring to its end."""
        for worker in self.idle:
            worker.retire()
        self.idle.clear()
        clients = [*self.next, *(each.held for each in self.workers.values() if each.held)]
        kept = [
            *self.listeners,
            *self.workers,
            *(each.connection.socket.fileno() for each in clients),
            *self.lobby,
        ]
        try:
            handover.execute(__file__, self.name, self._state(), kept)
        except OSError as error:
            self._stay(f"{error.strerror}")

    def _state(self) -> dict[str, Any]:
        return {
            "listeners": list(self.listeners),
            "workers": [handover.of_worker(each) for each in self.workers.values()],
            "next": [handover.of_held(each) for each in self.next],
            "waiting": [each.connection.socket.fileno() for each in self.turnstile.waiting()],
            "lobby": list(self.lobby),
            "explaining": list(self.registrar.explaining),
            "records": [each.decode("latin-1") for each in self.outbox.waiting()],
            "lost": self.outbox.lost,
            "served": self.served,
            "over_limit": self._over_limit,
            "groups": self.nursery.count,
            "descriptors": self.nursery.descriptors,
        }

    def _resume(self, before: dict[str, Any]) -> None:
        """Goes on with what the program before had in hand."""
        for each in before["workers"]:
            worker = handover.worker_of(each)
            self.workers[worker.channel.fileno()] = worker
            self._poll.register(worker.channel.fileno(), select.EPOLLIN)
            if worker.held is not None:
                self._count(worker.held)
        for each in before["next"]:
            held = handover.held_of(each)
            if self.plan is not None:
                held.plan, held.known = self.plan, True
            self._count(held)
            self.next.append(held)
        places = {number: place for place, number in enumerate(before["waiting"])}
        clients = [each.held for each in self.workers.values() if each.held is not None]
        clients.sort(key=lambda held: places.get(held.connection.socket.fileno(), 0))
        for held in clients:
            self.turnstile.take_back(held)
        for number in before["lobby"]:
            self.lobby.keep(handover.inherited(number))
        self.registrar.explaining.update(before["explaining"])
        self._give_turns()

    def _count(self, held: Held) -> None:
        self.sources[held.source] += 1
        self.held += 1


def _no_worker(why: str) -> Refusal:
    return Refusal(RESOURCES, os.EX_OSERR, f"{NO_WORKER}{why}")


def _unfit(worker: Worker, status: int) -> Refusal:
    """Why a worker did not become what its commands are to be."""
    if not worker.fault or worker.plan is None:
        return _no_worker(record.exit_of(status)[0])
    try:
        return reasons.refusal(worker.plan.service, worker.fault)
    except (Refusal, OSError):
        return _no_worker(worker.fault.partition(" ")[2])


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


def _longest(made: Plan) -> int:
    """How long a worker may take for a connection until its command has ended, in nanoseconds."""
    settings = made.service
    if settings.time_limit is None:
        return NEVER >> 1
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
    """Serves the service of this name with the listeners that systemd, or the program that this
    process was before, has handed over."""
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
