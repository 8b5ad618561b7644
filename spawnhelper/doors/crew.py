"""The workers of a standing server at work: who has which connection, and who waits for one."""

from __future__ import annotations

import os
import select
import signal
import time
from collections import Counter, deque

from spawnhelper import record
from spawnhelper.board import BEGINS, BUSY, GONE, IDLE, Board
from spawnhelper.conf.service import Service
from spawnhelper.doors import pool, wire
from spawnhelper.doors.inherited import Connection
from spawnhelper.doors.lobby import Lobby
from spawnhelper.doors.pace import MOST_AT_ONCE, Pace
from spawnhelper.doors.pool import NEVER, NSEC_PER_SEC, Held, Nursery, Worker
from spawnhelper.doors.registrar import Registrar
from spawnhelper.doors.turnstile import Turnstile
from spawnhelper.outcome import ERR, RESOURCES, STOPPED, TIME_LIMIT, WARNING, Refusal
from spawnhelper.stages import reasons, supervise
from spawnhelper.stages.plan import Plan
from spawnhelper.stages.serve import Ended

NSEC_PER_USEC = 1_000
SOON = 20_000_000  # nanoseconds, for what was killed to be gone
# Beyond what the service's limits come to: a machine can be slow.
GRACE = 10 * NSEC_PER_SEC
LONGEST_DELIVERY = 960 * NSEC_PER_SEC  # its own bounds, one after the other
SEEING_OFF = 40 * NSEC_PER_SEC  # of a client that goes on sending
IDLE_FOR = 100 * NSEC_PER_SEC  # as Postfix's workers (master(5), max_idle)
SPARE = 1
MOST_LEAVING = 4  # at a time: hundreds that end at once would have the processors to themselves
FIRST_BACKOFF, LONGEST_BACKOFF = 1 * NSEC_PER_SEC, 10 * NSEC_PER_SEC
MOST_KILLED_YOUNG = 2 * MOST_AT_ONCE  # in a row, before it counts as a reason why there can be none
STOP_TIME = 80 * NSEC_PER_SEC  # before systemd loses patience
# So many at a time.
MOST_SAID = 16
MOST_KILLED = 512
MOST_LEFT = 64  # control groups that nobody needs any more


class Clock:
    """When there is something to do that no descriptor tells of. due: CLOCK_MONOTONIC in
    nanoseconds."""

    def __init__(self) -> None:
        self.due = 0

    def look_by(self, when: int) -> None:
        """Has it be done by then."""
        self.due = min(self.due, when)


class Crew:
    """The workers and what they have in hand. settings: what the service's files say, None where
    they cannot be followed. plan: what new ones are to be, None where there are
    to be none. workers: by the descriptor of their channel. beginning: those of the plan that have
    not been ready yet. next: connections that wait for a worker. held: how many connections there
    are, those among them; sources: of whom, with MaxConnectionsPerSource=. served: how many there
    were. unfit: why there can be no workers now. able: whether there has been one. stopping: since
    when. orphans: whether somebody may have come to us whose worker has ended."""

    def __init__(
        self,
        registrar: Registrar,
        board: Board,
        nursery: Nursery,
        poll: select.epoll,
        clock: Clock,
    ) -> None:
        self.registrar = registrar
        self.board = board
        self.nursery = nursery
        self.clock = clock
        self.lobby = Lobby(poll)
        self.settings: Service | None = None
        self.plan: Plan | None = None
        self.workers: dict[int, Worker] = {}
        self.idle: list[Worker] = []
        self.beginning: set[Worker] = set()
        self._leaving: deque[Worker] = deque()  # not told yet
        self.next: deque[Held] = deque()
        self.held = 0
        self.sources: Counter[str] = Counter()
        self.served = 0
        self.turnstile = Turnstile()
        self.unfit: Refusal | None = None
        self.able = False
        self.stopping: int | None = None
        self.orphans = False
        self._poll = poll
        self._pace = Pace()
        self._said = ""  # why there could be none, the last time
        self._births_at = 0
        self._backoff = FIRST_BACKOFF
        self._killed_young = 0

    @property
    def busy(self) -> int:
        """How many connections have a worker."""
        return self.held - len(self.next)

    def follow(self, settings: Service | None, plan: Plan | None) -> None:
        """Has another plan from now on. Workers of the one before take no more."""
        self.settings = settings
        self.plan = plan
        self._leaving += (*self.idle, *self.beginning)
        self.idle.clear()
        self.beginning.clear()
        self.clock.look_by(0)
        self.unfit = None
        self._births_at, self._backoff = 0, FIRST_BACKOFF
        self._pace.begin()

    def retire(self) -> None:
        """Has those end who have nothing in hand, before this is another program."""
        for worker in (*self.idle, *self.beginning, *self._leaving):
            worker.retire()
        self.idle.clear()
        self.beginning.clear()
        self._leaving.clear()

    def stop(self, now: int) -> None:
        """Has each worker stop its command."""
        self.stopping = now
        self.idle.clear()
        self.beginning.clear()
        for worker in self.workers.values():
            worker.retired = True
            try:
                os.kill(worker.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass

    def admit(self, held: Held) -> None:
        """Has a connection served."""
        self.count(held)
        self._hand_on(held)

    def take_back(self, worker: Worker) -> None:
        """Goes on with a worker of the program before."""
        self.workers[worker.channel.fileno()] = worker
        self._poll.register(worker.channel.fileno(), select.EPOLLIN)
        if worker.held is not None:
            self.count(worker.held)

    def child(self, worker: Worker, status: int) -> None:
        """Takes note of what became of a worker's process."""
        if os.WIFSTOPPED(status):  # which no worker does by itself
            self._end(worker, "it was stopped")
        else:
            self._buried(worker, status)

    def look(self, now: int) -> None:
        """Does what is due."""
        self._end_waits(now)
        self._look_at_workers(now)
        self.lobby.look(now)
        if self.nursery.left:
            # It can have to wait until those that begin have joined theirs; but they may never end.
            if not self.beginning or len(self.nursery.left) >= MOST_LEFT:
                self.nursery.look()
            self.clock.look_by(now + SOON)
        if self._births_at > now:
            self.clock.look_by(self._births_at)

    def wake(self, *, asked: bool) -> None:
        """Makes workers, as far as they are needed, and not all at once. asked: whether somebody
        may be in a backlog."""
        if self.plan is None or self.stopping is not None:
            return
        serving, beginning = self.busy, len(self.beginning)
        room = self.plan.service.max_connections - serving - len(self.idle) - beginning
        wanted = SPARE - len(self.idle) - beginning
        if (asked or self.next) and not self.idle:  # they come faster than workers get free
            wanted = self._pace.most(serving) - beginning
            if wanted <= 0 < room:
                self.clock.look_by(self._pace.due)
        if wanted <= 0 or room <= 0 or time.monotonic_ns() < self._births_at:
            return
        groups = self.nursery.groups(min(wanted, room))
        while groups:
            try:
                worker = self.nursery.born(self.plan, groups[-1])
            except OSError as error:
                for group in groups:
                    self.nursery.end(group)
                self._misborn(_no_worker(f"{error.strerror}"))
                return
            groups.pop()
            self.workers[worker.channel.fileno()] = worker
            self.beginning.add(worker)
            self._poll.register(worker.channel.fileno(), select.EPOLLIN)
            self.board.note(worker.pid, BEGINS)
        if self.nursery.trouble:
            self.registrar.outbox.say(WARNING, f"{self.registrar.name}: {self.nursery.trouble}")
            self.nursery.trouble = ""

    def _hand_on(self, held: Held) -> None:
        """Gives a connection to a worker, or has it wait for one."""
        while self.idle:
            worker = self.idle.pop()
            try:
                connection = held.connection
                client = connection.socket.fileno()
                task = wire.Task(client, connection.family, connection.remote)
                wire.hand_over(worker.channel, task)
            except OSError:  # it is just dying
                worker.kill("it did not take a connection")
                continue
            worker.held, held.worker = held, worker
            self.board.note(worker.pid, BUSY, record.client_of(held.connection))
            worker.deadline = time.monotonic_ns() + _longest(held.plan)
            return
        self.next.append(held)

    def refuse_hopeless(self, problem: Refusal | None) -> None:
        """Refuses those that wait for a worker where none will come. problem: with the files."""
        if not self.next:
            return
        refusal = problem
        if self.stopping is not None:
            refusal = Refusal(STOPPED, os.EX_OK, "stopped while waiting for a worker")
        elif self.unfit is not None and not self.beginning and not self.busy:
            refusal = self.unfit
        while self.next and refusal is not None:
            held = self.next.popleft()
            self.refuse(held.connection, refusal)
            self._let_go(held)

    def refuse(self, connection: Connection, refusal: Refusal) -> None:
        """Ends a connection that no worker is for."""
        self.board.turned_away += 1
        self.registrar.refused(connection, self.settings, refusal)
        connection.end()
        self.lobby.keep(connection.socket)

    def count(self, held: Held) -> None:
        """Counts one connection more."""
        self.sources[held.source] += 1
        self.held += 1

    def _let_go(self, held: Held) -> None:
        """Counts a connection no more."""
        self.turnstile.leave(held)
        self.give_turns()
        self.held -= 1
        self.sources[held.source] -= 1
        if not self.sources[held.source]:
            del self.sources[held.source]
        self.served += 1

    def hear(self, worker: Worker, most: int = 1) -> None:
        """What a worker has said, so much at a time. That it is gone its end as a process tells."""
        for _ in range(most):
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
        elif kind == wire.WAITS and not (held.turn or held.left) and held.waits_until is None:
            self._queue(worker, held)
        elif kind == wire.LEAVES and not held.left:
            held.left = True
            self.turnstile.leave(held)
            self.give_turns()
            worker.deadline = time.monotonic_ns() + LONGEST_DELIVERY + GRACE
        elif kind in (wire.ENDED, wire.REFUSED):
            proxied = held.plan.service.proxied
            ended = wire.reported(message, held.connection, proxied=proxied)
            if isinstance(ended, Ended):
                self._pace.spend(ended.cpu)
            held.reported = True
            worker.deadline = time.monotonic_ns() + SEEING_OFF
            self.turnstile.leave(held)
            self.give_turns()
            self.registrar.reported(held, ended)
            if (then := wire.next_of(message)) != wire.STAYS:
                self._obey(worker, then)
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
            self.unfit, self._said = None, ""
            self._births_at, self._backoff = 0, FIRST_BACKOFF
            self._killed_young = 0
            self.able = True
            self.clock.look_by(0)
        worker.idle_since = time.monotonic_ns()
        self.idle.append(worker)
        if self.next:
            self._hand_on(self.next.popleft())

    def _free(self, worker: Worker) -> None:
        """Lets go of a worker's connection."""
        held, worker.held = worker.held, None
        self.board.note(worker.pid, IDLE)
        if held is not None:
            held.connection.socket.close()
            self._let_go(held)

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

    def _misborn(self, refusal: Refusal) -> None:
        """No worker can be made now. It is tried again by the clock, for the reason may be gone."""
        sentence = f"{self.registrar.name}: no worker now: {refusal}; it is tried again"
        if sentence != self._said:
            self.registrar.outbox.say(ERR, sentence)
        self._said = sentence
        self.unfit = refusal
        self._births_at = time.monotonic_ns() + self._backoff
        self._backoff = min(2 * self._backoff, LONGEST_BACKOFF)
        self.clock.look_by(self._births_at)

    def _buried(self, worker: Worker, status: int) -> None:
        """Takes note of a worker's end: its connection ends in order, and is recorded."""
        worker.ended = worker.retired = True
        self.hear(worker, MOST_SAID)  # its last words
        self._hang_up(worker)
        del self.workers[worker.channel.fileno()]
        worker.channel.close()
        self.nursery.end(worker.group)
        self.orphans = True
        self.clock.look_by(time.monotonic_ns() + SOON)
        held = worker.held
        if held is not None and worker.untaken and not (held.taken or held.reported):
            worker.held = None
            self._once_more(held)
        elif held is not None and not held.reported:
            worker.held = None
            self._failed(worker, held, status)
        else:
            self._free(worker)
        self.board.note(worker.pid, GONE)
        if worker in self.beginning:
            self.beginning.remove(worker)
            # A command can kill whoever has just become its user: that says nothing of the next.
            if os.WIFSIGNALED(status) and self._killed_young < MOST_KILLED_YOUNG:
                self._killed_young += 1
            else:
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

    def end_orphans(self, others: set[int]) -> None:
        """Kills the children that nobody here has made: what a worker left that has ended, where
        its control group did not end them. others: children that are no workers."""
        known = {worker.pid for worker in self.workers.values()} | others
        try:
            left = [pid for pid in supervise.children() if pid not in known]
        except OSError:
            left = []
        for pid in left[:MOST_KILLED]:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass  # it has ended meanwhile
        self.orphans = bool(left)

    def _queue(self, worker: Worker, held: Held) -> None:
        held.taken = True
        worker.deadline = NEVER
        now = time.monotonic_ns()
        self.turnstile.wait(held, now)
        self.give_turns()
        self._end_waits(now)

    def give_turns(self) -> None:
        """Tells those whose turn it is."""
        while (held := self.turnstile.next()) is not None:
            self._answer(held, wire.TURN, _longest(held.plan))

    def _end_waits(self, now: int) -> None:
        """Tells those whose QueueLimit= is over."""
        for held in self.turnstile.overdue(now):
            self._answer(held, wire.NO_TURN, GRACE + SEEING_OFF)
        self.clock.look_by(self.turnstile.due())

    def _answer(self, held: Held, message: bytes, span: int) -> None:
        worker = held.worker
        if worker is None:
            return
        worker.deadline = time.monotonic_ns() + span
        try:
            worker.channel.send(message)
        except OSError:
            worker.kill("it did not hear of its turn")

    def _look_at_workers(self, now: int) -> None:
        over = self.stopping is not None and now - self.stopping >= STOP_TIME
        for worker in list(self.workers.values()):
            if over or now >= worker.deadline:
                worker.late = not over and worker.held is not None and not worker.fault
                self._end(worker, "it was stopped" if over else "it did not report in time")
        while len(self.idle) > SPARE and now - self.idle[0].idle_since >= IDLE_FOR:
            self._leaving.append(self.idle.pop(0))
        if len(self.idle) > SPARE:
            self.clock.look_by(self.idle[0].idle_since + IDLE_FOR)
        for _ in range(min(MOST_LEAVING, len(self._leaving))):
            self._leaving.popleft().retire()
        if self._leaving:
            self.clock.look_by(now + SOON)


def _no_worker(why: str) -> Refusal:
    return Refusal(RESOURCES, os.EX_OSERR, f"no worker can be made: {why}")


def _unfit(worker: Worker, status: int) -> Refusal:
    """Why a worker did not become what its commands are to be."""
    if not worker.fault or worker.plan is None:
        return _no_worker(record.exit_of(status)[0])
    return reasons.refusal(worker.plan.service, worker.fault)


def _longest(made: Plan) -> int:
    """How long a worker may take for a connection until its command has ended, in nanoseconds."""
    settings = made.service
    if settings.time_limit is None:
        return NEVER >> 1
    spans = settings.time_limit + settings.kill_delay
    if settings.proxied:
        spans += settings.proxy_time_limit
    return spans * NSEC_PER_USEC + supervise.ANSWER_TIME + 2 * supervise.SWEEP_TIME + GRACE
