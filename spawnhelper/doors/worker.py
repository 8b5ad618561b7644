"""A worker of the standing server: it becomes the service's user, and serves one connection after
the other.

Its commands are of the same user. They can signal it, stop it and change its limits, but neither
trace it nor read its memory or descriptors: a process that has changed its user is not dumpable
(prctl(2), PR_SET_DUMPABLE), and it executes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import resource
import select
import socket
import sys
import time
from typing import NoReturn

import _prctl

from spawnhelper.conf.service import Service
from spawnhelper.doors import turns, wire
from spawnhelper.doors.inherited import Connection, adopted
from spawnhelper.outcome import RESOURCES, Refusal, shown
from spawnhelper.signals import Signals
from spawnhelper.stages import (
    admission,
    banner,
    command,
    delivery,
    proxy,
    relay,
    serve,
    supervise,
    traffic,
)
from spawnhelper.stages.plan import Plan
from spawnhelper.stages.serve import Ended
from spawnhelper.stages.wait import until_any

# Whatever adds up does so only so far. Who comes while the next one is made waits for that, and a
# hundred, as Postfix has it (master(5), max_use), would be one of a hundred connections.
MOST_USES = 1_000
NSEC_PER_USEC = 1_000
# The least soft limits that do not touch a worker, whatever it does: it sets these once, and its
# commands inherit them. Others each command gets for itself, which takes a fork.
HARMLESS = {
    "LimitAS": 256 << 20,  # a worker has a tenth of it
    "LimitCORE": 0,
    "LimitDATA": 256 << 20,
    "LimitFSIZE": 0,
    "LimitLOCKS": 0,
    "LimitMEMLOCK": 0,
    "LimitMSGQUEUE": 0,
    "LimitNICE": 0,
    "LimitNOFILE": 64,
    "LimitRSS": 0,  # which does nothing (getrlimit(2))
    "LimitRTPRIO": 0,
    "LimitRTTIME": 0,
    "LimitSIGPENDING": 64,
    "LimitSTACK": 1 << 20,
}
RLIM_NLIMITS = 16  # asm-generic/resource.h
# What stages load when they need it. A worker has it from its server, for in its RootDirectory=
# there may be nothing to load it from, and after an upgrade it would be that of another version.
LOADED = (errno, fcntl, admission, banner, delivery, proxy, relay, supervise, traffic)


class Worker:
    """The stages' door to a worker. channel: to the server, which gives turns."""

    def __init__(self, plan: Plan, taken: command.Taken, channel: socket.socket) -> None:
        self.signals = Signals()
        self.plan = plan
        self.taken = taken
        self.channel = channel
        self._uses = 0
        self._condition = _condition()
        self._forks = bool(taken.limits)  # posix_spawn(3) sets none

    def prepare(self, service: Service) -> None:
        """Nothing: the server has."""

    def enter(self, service: Service, connection: Connection) -> None:
        """Waits until the server says that it is this connection's turn, or raises Refusal."""
        begun = time.monotonic_ns()
        self.channel.send(wire.WAITS)
        client = connection.socket.fileno()
        awaited = [(client, 0), (self.channel.fileno(), select.POLLIN)]
        ready = until_any(awaited, None, "its turn", self.signals)
        answer = self.channel.recv(1) if self.channel.fileno() in ready else b""
        if answer == wire.TURN:
            connection.waited = (time.monotonic_ns() - begun) // NSEC_PER_USEC
            return
        cause = "QueueLimit= was over" if answer == wire.NO_TURN else "the client went away"
        raise turns.refusal(service, cause)

    def leave_early(self) -> None:
        """Tells the server that the command has ended, and its turn with it."""
        self.channel.send(wire.LEAVES)

    def leave(self) -> None:
        """Nothing: the report says so."""

    def start(self, service: Service, connection: Connection) -> command.Process:
        """Starts the command, as what this process is. Raises Refusal."""
        plan = self.plan
        if not self._forks:
            # A journal that takes no stream now the command waits for, within its TimeLimit=.
            with contextlib.suppress(BlockingIOError):
                return command.spawn(service, plan.who, connection, plan.program, self.taken)
        return command.start(service, plan.who, connection, plan.program, self.taken)

    def serve(self, task: wire.Task) -> None:
        """Serves one connection, and reports what became of it, and what this worker does next."""
        self._uses += 1
        client = adopted(task.descriptor, task.family)
        try:
            connection = Connection(client, self.plan.service.name)
            connection.remote = connection.remote or task.remote
            ended: Ended | Refusal
            try:
                ended = serve.serve(self.plan.service, connection, self)
            except Refusal as refusal:
                ended = refusal
                serve.turn_away(connection, ended, self.signals)
            except Exception as error:
                sys.excepthook(*sys.exc_info())
                ended = Refusal(RESOURCES, os.EX_SOFTWARE, f"{type(error).__name__}: {error}")
                connection.end()
                self._uses = MOST_USES  # whatever it has started is ended with this
            stays = serve.sees_off(ended)
            if stays:
                self.channel.send(wire.report(connection, ended, wire.STAYS))
            serve.see_off(connection, ended, self.signals)
        finally:
            client.close()
        then = wire.READY if self._is_as_before(ended) else wire.SPENT
        self.channel.send(then if stays else wire.report(connection, ended, then))

    def _is_as_before(self, ended: Ended | Refusal) -> bool:
        """Whether this can serve one more."""
        left = not isinstance(ended, Refusal) and not ended.childless
        used_up = left or self.signals.stopped or self._uses == MOST_USES
        return not used_up and _condition() == self._condition


def run(plan: Plan, channel: socket.socket, group: str | None) -> NoReturn:
    """Becomes a worker, in a fresh child of the server, and serves until the server has gone, stops
    it, or has to replace it. group: the control group to be in. Needs root to begin with."""
    status = os.EX_OSERR
    try:
        worker = _born(plan, channel, group)
        if worker is not None:
            _work(worker, channel)
            status = os.EX_OK
    except (BrokenPipeError, ConnectionResetError):
        status = os.EX_OK  # the server has gone
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _born(plan: Plan, channel: socket.socket, group: str | None) -> Worker | None:
    """Takes on all that the commands are to be, once, in the order of a command's child, and as far
    as a process can have it before its child does; None where that fails, and the server is told.
    """
    service = plan.service
    key, what = "", "starting a session"
    try:
        os.setsid()
        command.reset_signals(but=command.IGNORED)  # a client that goes away must not end this
        os.umask(service.umask)
        if group is not None:
            what = f"joining {group}"
            with open(f"{group}/cgroup.procs", "w", encoding="utf-8") as members:
                members.write("0")
        key, what = "StandardError", service.standard_error
        errors = command.error_place(service)
        key, what = "LimitNOFILE", command.NR_OPEN
        limits = command.within_nr_open(command.limits_of(service))
        for step in command.take_on(service, plan.who, limits):
            key, what = step
        _prctl.prctl(_prctl.PR_SET_DUMPABLE, 0)
        _prctl.prctl(_prctl.PR_SET_CHILD_SUBREAPER, 1)
        key, what = "", "setting limits"
        return Worker(plan, command.Taken(_set_harmless(limits), errors), channel)
    except (OSError, RuntimeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        number = error.errno or 0 if isinstance(error, OSError) else 0
        channel.send(wire.complaint(f"{number} {key}={shown(what)}: {why}"))
        return None


def _set_harmless(limits: command.Limits) -> command.Limits:
    """Sets the limits that do not touch this process, and gives the others."""
    others = {}
    for key, (number, soft, hard) in limits.items():
        if soft == resource.RLIM_INFINITY or soft >= HARMLESS.get(key, math.inf):
            resource.setrlimit(number, (soft, hard))
        else:
            others[key] = number, soft, hard
    return others


def _work(worker: Worker, channel: socket.socket) -> None:
    """One connection after the other."""
    channel.send(wire.READY)
    while (task := _task(worker, channel)) is not None:
        worker.serve(task)


def _task(worker: Worker, channel: socket.socket) -> wire.Task | None:
    """The next connection; None where there will be none, or a stop has come."""
    worker.signals.hear()  # of the last command's end, most likely: it is not to wake this again
    with contextlib.suppress(Refusal):
        while until_any([(channel.fileno(), select.POLLIN)], None, "work", worker.signals):
            said = wire.take_over(channel)
            if isinstance(said, wire.Task):
                return said
            if not said:
                return None
            # Else it is about a turn that nobody waits for any more, the client having gone away.
    return None


def _condition() -> tuple[object, ...]:
    """What a command of the same user can change about this process, and the next would inherit."""
    limits = map(resource.getrlimit, range(RLIM_NLIMITS))
    policy = os.sched_getscheduler(0), os.sched_getparam(0), os.sched_getaffinity(0)
    return (*limits, os.getpriority(os.PRIO_PROCESS, 0), *policy)
