"""The workers of the standing server, each in a control group of its own below the server's."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import time
from collections.abc import Iterable

from spawnhelper.doors import worker
from spawnhelper.doors.inherited import Connection
from spawnhelper.stages.plan import Plan

CGROUPS = "/sys/fs/cgroup"
GROUP = "worker-"
CHANNEL = 3  # a worker's only descriptor but for its streams
NEVER = (1 << 63) - 1  # nanoseconds
NSEC_PER_SEC = 1_000_000_000
BIRTH_TIME = 30 * NSEC_PER_SEC
# For what a worker does once it has nothing to do any more.
END_TIME = 10 * NSEC_PER_SEC
HELD_BACK = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}


class Held:
    """One connection that was accepted. source: who counts against MaxConnectionsPerSource=.
    taken: whether its worker has asked for a turn. turn: whether it has one; waits_until: when its
    wait for one is over, None while it does not wait. left: whether its command has ended.
    reported: whether its worker has said what became of it. known: whether all of its plan is, and
    not only what a record needs. worker: None until it has one."""

    __slots__ = (
        "connection",
        "known",
        "left",
        "plan",
        "reported",
        "source",
        "taken",
        "turn",
        "waits_until",
        "worker",
    )

    def __init__(self, connection: Connection, plan: Plan, source: str) -> None:
        self.connection = connection
        self.plan = plan
        self.source = source
        self.known = True
        self.taken = False
        self.turn = False
        self.left = False
        self.waits_until: int | None = None
        self.reported = False
        self.worker: Worker | None = None


class Worker:
    """One of them, as the server has it. channel: to it. group: its control group, None where there
    can be none. plan: None where the server was another program when it was born. held: its
    connection. ready: whether it has ever been. retired: whether it is to take no more. untaken:
    whether it has ended with its connection not even taken. ended: whether its number may be
    another process's by now. fault: why it was ended, "" where it was not. late: whether that was
    its time. deadline: when it must have done what it does; idle_since: both CLOCK_MONOTONIC in
    nanoseconds.
    """

    __slots__ = (
        "channel",
        "deadline",
        "ended",
        "fault",
        "group",
        "held",
        "idle_since",
        "late",
        "pid",
        "plan",
        "ready",
        "retired",
        "untaken",
    )

    def __init__(
        self, pid: int, channel: socket.socket, plan: Plan | None, group: str | None
    ) -> None:
        self.pid = pid
        self.channel = channel
        self.plan = plan
        self.group = group
        self.held: Held | None = None
        self.ready = False
        self.retired = False
        self.untaken = False
        self.ended = False
        self.late = False
        self.fault = ""
        self.idle_since = time.monotonic_ns()
        self.deadline = self.idle_since + BIRTH_TIME

    def kill(self, fault: str) -> None:
        """Ends it and all that its commands have left."""
        self.fault = self.fault or fault
        self.retired = True
        self.deadline = time.monotonic_ns() + END_TIME  # then once more
        if self.group is not None:
            _kill_group(self.group)
        if not self.ended:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)

    def retire(self) -> None:
        """Has it end once it has nothing to do."""
        if not self.retired:
            with contextlib.suppress(OSError):  # it has ended already
                self.channel.shutdown(socket.SHUT_WR)
        self.retired = True
        if self.held is None and self.ready:
            self.deadline = time.monotonic_ns() + END_TIME


class Nursery:
    """Where workers come from, and where their control groups end. trouble: a sentence to be said
    about it. count: of the control groups that were made; left: those that nobody needs any more.
    descriptors: how many a worker can have, and its commands, by the soft limit that systemd gave.

    To join a control group takes a grace period of the kernel, some 10 ms, unless cgroup2 has
    favordynmods (cgroup-v2.rst); and until then nobody can make or remove one. So those of workers
    that are born together are made before the first of them joins his.
    """

    def __init__(self, descriptors: int, count: int = 0, used: Iterable[str] = ()) -> None:
        self.descriptors = descriptors
        self.count = count
        self.trouble = ""
        self.left: list[str] = []
        self._troubled = False
        self._base = _own_group()
        if self._base is not None:
            self._tidy_up(self._base, set(used))

    def groups(self, count: int) -> list[str | None]:
        """Control groups for so many workers; None is one that there cannot be."""
        return [self._group() for _ in range(count)]

    def born(self, plan: Plan, group: str | None) -> Worker:
        """A new worker for this group, which says by itself when it is ready. Raises OSError; then
        nobody is in the group."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
        try:
            pid = os.fork()
            if pid == 0:
                os.dup2(theirs.fileno(), CHANNEL, inheritable=False)
                os.closerange(CHANNEL + 1, 0x7FFFFFFF)
                _limit_descriptors(self.descriptors)
                worker.run(plan, socket.socket(fileno=CHANNEL), group)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
        ours.setblocking(False)
        return Worker(pid, ours, plan, group)

    def end(self, group: str | None) -> None:
        """Ends what is left in a worker's control group. look() takes that away."""
        if group is not None:
            self.left.append(group)
            if _populated(group):
                _kill_group(group)

    def look(self) -> None:
        """Goes on with it."""
        self.left = [group for group in self.left if not _removed(group)]

    def _group(self) -> str | None:
        if self._base is None:
            return None
        self.count += 1
        group = f"{self._base}/{GROUP}{os.getpid()}-{self.count}"
        try:
            os.mkdir(group)
        except OSError as error:
            if not self._troubled:
                self.trouble = f"no control groups for workers: {group}: {error.strerror}"
            self._troubled = True
            return None
        self._troubled = False
        return group

    def _tidy_up(self, base: str, used: set[str]) -> None:
        """Takes away what a server that was killed has left."""
        with contextlib.suppress(OSError):
            for name in os.listdir(base):
                if name.startswith(GROUP) and f"{base}/{name}" not in used:
                    self.end(f"{base}/{name}")


def raise_descriptors() -> int:
    """Takes as many descriptors as this process may have, for it has those of all connections; how
    many it could have before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


def _limit_descriptors(soft: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard), hard))


def _own_group() -> str | None:
    """The folder of this process's control group."""
    with open("/proc/self/cgroup", encoding="utf-8") as groups:
        for line in groups:
            if line.startswith("0::"):
                return f"{CGROUPS}{line.removeprefix('0::').strip().rstrip('/')}"
    return None


def _kill_group(group: str) -> None:
    with contextlib.suppress(OSError), open(f"{group}/cgroup.kill", "w") as switch:
        switch.write("1")


def _populated(group: str) -> bool:
    try:
        with open(f"{group}/cgroup.events", encoding="utf-8") as events:
            return "populated 0" not in events.read()
    except OSError:
        return False  # it is gone


def _removed(group: str) -> bool:
    """Whether a control group is gone, with all that was in it. What was killed takes a moment."""
    try:
        os.rmdir(group)
    except FileNotFoundError:
        return True
    except OSError:
        _kill_group(group)
        return False
    return True
