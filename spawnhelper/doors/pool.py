"""The workers of the standing server, each in a control group of its own below the server's."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from spawnhelper.doors import worker
from spawnhelper.stages.plan import Plan

if TYPE_CHECKING:
    from spawnhelper.doors.server import Held

CGROUPS = "/sys/fs/cgroup"
CHANNEL = 3  # a worker's only descriptor but for its streams
HELD_BACK = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}


class Worker:
    """One of them, as the server has it. channel: to it. group: its control group, None where there
    can be none. held: its connection. ready: whether it has ever been. idle_since: CLOCK_MONOTONIC
    in nanoseconds."""

    __slots__ = ("channel", "group", "held", "idle_since", "pid", "plan", "ready", "retired")

    def __init__(self, pid: int, channel: socket.socket, plan: Plan, group: str | None) -> None:
        self.pid = pid
        self.channel = channel
        self.plan = plan
        self.group = group
        self.held: Held | None = None
        self.ready = False
        self.retired = False
        self.idle_since = time.monotonic_ns()

    def kill(self) -> None:
        """Ends it and all that its commands have left."""
        if self.group is not None:
            with contextlib.suppress(OSError), open(f"{self.group}/cgroup.kill", "w") as switch:
                switch.write("1")
                return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def retire(self) -> None:
        """Has it end once it has nothing to do."""
        if not self.retired:
            self.retired = True
            self.channel.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Takes back what was for it. It has ended."""
        self.channel.close()
        if self.group is not None:
            self.kill()
            for _ in range(50):  # what was killed is gone after a millisecond or so
                try:
                    os.rmdir(self.group)
                    return
                except FileNotFoundError:
                    return
                except OSError:
                    time.sleep(0.002)


class Nursery:
    """Where workers come from."""

    def __init__(self) -> None:
        self._base = _own_group()
        self._count = 0

    def born(self, plan: Plan) -> Worker:
        """A new worker, which says by itself when it is ready. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        group = self._group()
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
        try:
            pid = os.fork()
            if pid == 0:
                os.dup2(theirs.fileno(), CHANNEL, inheritable=False)
                os.closerange(CHANNEL + 1, 0x7FFFFFFF)
                worker.run(plan, socket.socket(fileno=CHANNEL), group)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
        ours.setblocking(False)
        return Worker(pid, ours, plan, group)

    def _group(self) -> str | None:
        if self._base is None:
            return None
        self._count += 1
        group = f"{self._base}/worker-{os.getpid()}-{self._count}"
        try:
            os.mkdir(group)
        except OSError as error:
            why = f"{group}: {error.strerror}"
            print(f"<4>no control groups for workers: {why}", file=sys.stderr)
            self._base = None
            return None
        return group


def _own_group() -> str | None:
    """The folder of this process's control group."""
    with open("/proc/self/cgroup", encoding="utf-8") as groups:
        for line in groups:
            if line.startswith("0::"):
                return f"{CGROUPS}{line.removeprefix('0::').strip()}"
    return None
