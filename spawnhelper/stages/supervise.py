"""The wait for the command's end: its limits, a stop, and nobody left behind.

The command may be hostile. It can have children of this process come and go without an end, so
that each look at them is bounded, and they are looked at now and then only. Loaded after the fork.
"""

from __future__ import annotations

import select
import time

from spawnhelper import outcome
from spawnhelper.stages.command import not_started
from spawnhelper.stages.wait import milliseconds_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import signal
    from typing import Any, Self

    from spawnhelper.conf.service import Service
    from spawnhelper.signals import Signals
    from spawnhelper.stages.command import Process
    from spawnhelper.stages.relay import Relay
    from spawnhelper.stages.traffic import Meter
else:
    import _signal as signal
    import posix as os

NSEC_PER_USEC = 1_000
NSEC_PER_MSEC = 1_000_000
NSEC_PER_SEC = 1_000_000_000
USEC_PER_SEC = 1_000_000
# For a command whose client has sent too much.
ANSWER_TIME = 5_000 * NSEC_PER_MSEC
# A killed process can be stuck in the kernel; then systemd goes on to wait for it, and says so.
SWEEP_TIME = 1_000 * NSEC_PER_MSEC
# So many at a time, and so much time between: ten thousand a second, for a twentieth of a core.
MOST_REAPED = 512
REAP_PAUSE = 50 * NSEC_PER_MSEC
MOST_LISTED = 1 << 20  # bytes of a list of children
LONGEST_SENTENCE = 4096


class Supervision:
    """One command and what descends from it, until all of it has ended; to be used with `with`.

    result: a word of SPAWN_RESULT=. status: the command's wait status (wait(2)), None as long as
    it lives. duration: of the command. cpu: of all that has ended. peak: the largest resident set
    of one process. killed: how many processes that the command left had to be. Microseconds and
    bytes. meter: tells when the last byte passed. relay: what hands the bytes on, None where the
    command has the socket. childless: whether nothing of the command is left.
    """

    def __init__(
        self,
        process: Process,
        service: Service,
        meter: Meter,
        relay: Relay | None,
        signals: Signals,
    ) -> None:
        self.process = process
        self.service = service
        self.meter = meter
        self.relay = relay
        self.result = ""
        self.status: int | None = None
        self.duration = 0
        self.cpu = 0
        self.peak = 0
        self.killed = 0
        self.childless = False
        self.signals = signals
        self._signalled: set[int] = set()
        self._swept = False
        self._ended = os.pidfd_open(process.pid)
        self._look_at: int | None = None  # when to look at children; None: when one has ended
        self._heard = process.failure is None
        self._idle_from = process.started

    def __enter__(self) -> Self:
        self.signals.listen()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._swept:  # as where the child could not become the command
            self.sweep()
        os.close(self._ended)
        if not self._heard and self.process.failure is not None:  # the child is stuck on its way
            self._heard = True
            os.close(self.process.failure)

    def until_end(self) -> None:
        """Waits until the command has ended, by itself, at a limit or by a stop.

        Raises Refusal where it could not be started.
        """
        self._wait_for_result()
        if self.result == outcome.SIZE_LIMIT:
            self._wait(_earlier(time.monotonic_ns() + ANSWER_TIME, self._deadline()), or_stop=True)
        if self.status is None:
            self._terminate(self.service.kill_delay)
        self.duration = (time.monotonic_ns() - self.process.started) // NSEC_PER_USEC

    def _wait_for_result(self) -> None:
        """Waits until there is a word for what becomes of the command."""
        deadline = self._deadline()
        while not self.result:
            self._reap()
            now = time.monotonic_ns()
            if self.relay is not None and self.relay.over:
                self.result = outcome.SIZE_LIMIT  # even if its end was the command's answer
            elif self.status is not None:
                self._hear_child()
                self.result = _result(self.status, self.service)
            elif self.signals.stopped:
                self.result = outcome.STOPPED
            elif deadline is not None and now >= deadline:
                self.result = outcome.TIME_LIMIT
            elif self._idle(now):
                self.result = outcome.IDLE_LIMIT
            else:
                self._pause(_earlier(deadline, self._idle_deadline()))

    def _deadline(self) -> int | None:
        """When the command's time is over."""
        if self.service.time_limit is None:
            return None
        return self.process.started + self.service.time_limit * NSEC_PER_USEC

    def _idle_deadline(self) -> int | None:
        """When the connection will have been idle for too long, as far as is known."""
        if self.service.idle_limit is None:
            return None
        return self._idle_from + self.service.idle_limit * NSEC_PER_USEC

    def _idle(self, now: int) -> bool:
        """Whether the connection has been; asks only when it is time."""
        deadline = self._idle_deadline()
        if deadline is not None and now >= deadline:
            self._idle_from = self.meter.last_byte()
            deadline = self._idle_deadline()
        return deadline is not None and now >= deadline

    def sweep(self) -> None:
        """Kills whatever the command left behind.

        Only children of this process are killed, for nobody else can reap them, so that their
        numbers stay theirs; the children of a killed one become ours, and are next.
        """
        deadline = time.monotonic_ns() + SWEEP_TIME
        self._swept = True
        self.signals.ignore()
        while True:
            more = self._reap_some()
            left = deadline - time.monotonic_ns()
            if self.childless or left <= 0:
                return
            for pid in children():  # also while there are more to be reaped: some make others
                if _kill(pid, signal.SIGKILL):
                    self._signalled.add(pid)
            if not more:
                signal.sigtimedwait((signal.SIGCHLD,), left / NSEC_PER_SEC)

    def _wait(self, deadline: int | None, *, or_stop: bool = False) -> None:
        """Returns once the command has ended, the deadline has passed, or a stop has come."""
        while True:
            self._reap()
            if self.status is not None:
                self._hear_child()
                return
            if or_stop and self.signals.stopped:
                return
            if deadline is not None and time.monotonic_ns() >= deadline:
                return
            self._pause(deadline)

    def _terminate(self, kill_delay: int) -> None:
        """Ends the command's process group: politely first, where there is a delay."""
        group = self.process.pid
        if kill_delay:
            _kill_group(group, signal.SIGTERM)
            _kill_group(group, signal.SIGCONT)
            self._wait(time.monotonic_ns() + kill_delay * NSEC_PER_USEC)
        if self.status is None:
            _kill_group(group, signal.SIGKILL)
            self._wait(time.monotonic_ns() + SWEEP_TIME)

    def _pause(self, deadline: int | None) -> None:
        """Sleeps until a signal or word from the child comes, or the deadline, in nanoseconds."""
        awaited = {self._ended: select.POLLIN, self.signals.descriptor: select.POLLIN}
        if not self._heard and self.process.failure is not None:
            awaited[self.process.failure] = select.POLLIN
        deadline = _earlier(deadline, self._look_at)
        if self.relay is not None:
            moving, look = self.relay.awaited()
            awaited |= moving
            deadline = _earlier(deadline, look)
        timeout = None if deadline is None else milliseconds_until(deadline)
        poll = select.poll()
        for descriptor, event in awaited.items():
            poll.register(descriptor, event)
        events = dict(poll.poll(timeout))
        if self.signals.descriptor in events and signal.SIGCHLD in self.signals.hear():
            self.signals.ignore()  # from here on children are looked at by the clock
            self._look_at = 0
        if not self._heard and self.process.failure in events:
            self._hear_child()
        if self.relay is not None:
            self.relay.ready(events)

    def _hear_child(self) -> None:
        """Hears the child out, which is silent if it became the command."""
        if self._heard or self.process.failure is None:
            return
        self._heard = True
        try:
            told = os.read(self.process.failure, LONGEST_SENTENCE).decode(errors="replace")
        except BlockingIOError:
            told = ""
        os.close(self.process.failure)
        if told:
            raise not_started(told)

    def _reap(self) -> None:
        """Takes note of the command's end, and now and then of other children's."""
        if self.status is None:
            self._note(*os.wait4(self.process.pid, os.WNOHANG))
        if self._look_at is None or time.monotonic_ns() < self._look_at:
            return
        if self._reap_some():
            self._look_at = time.monotonic_ns() + REAP_PAUSE
        else:
            self._look_at = None
            self.signals.listen()

    def _reap_some(self) -> bool:
        """Whether there were children that had ended; takes note of so many at most."""
        for count in range(MOST_REAPED):
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                self.childless = True
                return False
            if pid == 0:
                return count > 0
            self._note(pid, status, usage)
        return True

    def _note(self, pid: int, status: int, usage: Any) -> None:
        """Adds up what a child that has ended has used; pid is 0 where none has."""
        if pid == 0:
            return
        self.cpu += round((usage.ru_utime + usage.ru_stime) * USEC_PER_SEC)
        self.peak = max(self.peak, usage.ru_maxrss * 1024)
        if pid == self.process.pid and self.status is None:  # else the number has come again
            self.status = status
        elif pid in self._signalled and os.WIFSIGNALED(status):
            self._signalled.remove(pid)
            self.killed += 1


def _earlier(one: int | None, other: int | None) -> int | None:
    """The earlier of two deadlines, of which None never comes."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _result(status: int, service: Service) -> str:
    """The word for a command that ended by itself."""
    if status == 0 or status in service.success_exit_status:
        return outcome.SUCCESS
    if os.WIFEXITED(status):
        return outcome.EXIT_CODE
    return outcome.CORE_DUMP if os.WCOREDUMP(status) else outcome.SIGNAL


def children() -> list[int]:
    """The processes that this one is the parent of (proc_pid_task(5)), as far as the list is short
    enough to be read; who is further back comes next. Raises OSError."""
    descriptor = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        while len(text) < MOST_LISTED and (part := os.read(descriptor, 65536)):
            text += part
    finally:
        os.close(descriptor)
    return [int(pid) for pid in text.rpartition(b" ")[0].split()]


def _kill(pid: int, number: int) -> bool:
    """Whether there is such a process to be signalled."""
    try:
        os.kill(pid, number)
    except OSError:
        return False  # it has ended already, or another user's program runs in it
    return True


def _kill_group(group: int, number: int) -> None:
    """Signals the command's process group, or the child where it has not made one yet."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        _kill(group, number)
    except PermissionError:
        pass
