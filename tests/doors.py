"""The two doors of a service, as far as the tests have to tell them apart: what differs by nature
is here, once each. `now` is the door of the test that runs."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from pathlib import Path

PACKAGE = "/usr/lib/spawnhelper/spawnhelper"
TURNS = "/run/spawn/turns"  # where helpers of Accept=yes keep them
PIDFD_GETFD = 438  # of the unified table of system calls
FIRST_OTHER = 3  # descriptor that is no standard stream


def shown(*arguments: str) -> list[dict[str, str]]:
    """What `systemctl show` says, for each unit that is there."""
    command = ["systemctl", "show", *arguments]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    blocks = [block for block in text.strip().split("\n\n") if block]
    return [dict(line.split("=", 1) for line in block.splitlines()) for block in blocks]


class Accept:
    """Accept=yes. name: of the door, in a test's. line: of [Socket]. template: whose instances
    serve connections; start: what they execute. unit: how the name of such an instance begins.
    pipes: the user with whose pipes the kernel counts those of SizeLimit=."""

    name = "Accept=yes"
    line = ""
    template = "spawn@.service"
    start = f"/usr/bin/python3 -I -S -X utf8 {PACKAGE}/__main__.py %n"
    unit = "spawn@"
    pipes = "root"

    def units(self) -> list[str]:
        """The unit of each connection that somebody serves, or has been served just now."""
        listing = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "spawn@*.service"]
        text = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
        return [line.split()[0] for line in text.splitlines()]

    def coming(self) -> bool:
        """Whether there is a connection, though what is to serve it may be held before its
        start."""
        return bool(self.units())

    def in_line(self, service: str) -> int:
        """How many of a service's connections have their turn, or wait for it."""
        return len(list(Path(TURNS, service).glob("[0-9]*")))

    def servers(self) -> list[int]:
        """The processes that serve more than one connection."""
        return []

    def helpers(self) -> list[int]:
        """The processes that serve a connection each."""
        return [int(each["MainPID"]) for each in shown("--property=MainPID", *self.units())]

    def helper_of(self, client: socket.socket) -> int:
        """The process that serves this client, which comes by TCP."""
        end = "-{}:{}.service".format(*client.getsockname())
        (unit,) = (unit for unit in self.units() if unit.endswith(end))
        (found,) = shown("--property=MainPID", unit)
        return int(found["MainPID"])


class Standing(Accept):
    """Accept=no."""

    name = "Accept=no"
    line = "Accept=no"
    template = "spawn-server@.service"
    start = f"/usr/bin/python3 -I -S -X utf8 {PACKAGE}/doors/server.py %i"
    unit = "spawn-server@"
    pipes = "nobody"  # who the worker is, as the command

    def units(self) -> list[str]:
        """A server has a descriptor of each connection until its record is written."""
        return [
            each["Id"]
            for each in self._servers()
            if each["MainPID"] != "0"
            for _ in _clients(int(each["MainPID"]))
        ]

    def coming(self) -> bool:
        starting = [each for each in self._servers() if each["ActiveState"] == "activating"]
        return bool(starting or self.units())

    def in_line(self, service: str) -> int:
        (found,) = shown("--property=MainPID", f"spawn-server@{service}.service")
        server = int(found["MainPID"])
        return len([pid for pid in _serving(server) if _sleeps(pid)]) if server else 0

    def servers(self) -> list[int]:
        return [int(each["MainPID"]) for each in self._servers() if each["MainPID"] != "0"]

    def helpers(self) -> list[int]:
        return [worker for server in self.servers() for worker in _serving(server)]

    def helper_of(self, client: socket.socket) -> int:
        end = client.getsockname()
        for server in self.servers():
            for other in _clients(server):
                if _peer(other) == end:
                    (worker,) = (w for w in children(server) if _inode(other) in _sockets(w))
                    return worker
        raise AssertionError(f"no server has the connection from {end}")

    def _servers(self) -> list[dict[str, str]]:
        return shown("--property=Id,MainPID,ActiveState", "spawn-server@*.service")


def children(pid: int) -> list[int]:
    """The processes that it is the parent of."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _serving(server: int) -> list[int]:
    """The workers that have a connection."""
    held = {_inode(client) for client in _clients(server)}
    return [worker for worker in children(server) if held & _sockets(worker).keys()]


def _sockets(pid: int) -> dict[str, int]:
    """The sockets of a process and their descriptors, but for the standard streams."""
    found = {}
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(entry.path)
            except FileNotFoundError:
                continue  # it has just been closed
            if target.startswith("socket:") and int(entry.name) >= FIRST_OTHER:
                found[target] = int(entry.name)
    except FileNotFoundError:
        pass  # it has ended
    return found


def _sleeps(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    except OSError:
        return False  # it has ended


def _inode(one: socket.socket) -> str:
    return os.readlink(f"/proc/self/fd/{one.fileno()}")


def _peer(one: socket.socket) -> object:
    try:
        return one.getpeername()
    except OSError:
        return None


def _clients(pid: int) -> list[socket.socket]:
    """The connections of a process, as descriptors of this one."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return []
    found = []
    try:
        for number in _sockets(pid).values():
            descriptor = ctypes.CDLL(None).syscall(PIDFD_GETFD, process, number, 0)
            if descriptor < 0:
                continue  # it has just been closed
            try:
                one = socket.socket(fileno=descriptor)
            except OSError:  # the number is another file's by now
                os.close(descriptor)
                continue
            listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if one.type == socket.SOCK_STREAM and not listens:
                found.append(one)
    finally:
        os.close(process)
    return found


YES, NO = Accept(), Standing()
BOTH = (YES, NO)
now = YES

# The tests that are not for a door, and why.
LOADED = "a server has loaded all that it needs before it has a client"
NOT_FOR = {
    ("Accept=no", f"test_{test}"): reason
    for test, reason in {
        "outcomes::test_the_client_does_not_wait_for_the_unit": "a connection has no unit",
        "admission::test_a_refused_client_never_causes_a_fork": "workers are forked beforehand",
        "turns::test_where_turns_cannot_be_kept": "a server keeps the turns in its memory",
        "silence::test_missing_library_before_the_fork": LOADED,
        "silence::test_missing_library_for_the_journal": LOADED,
        "silence::test_traceback": LOADED,
        "silence::test_fault_in_the_helper_is_recorded": LOADED,
    }.items()
}
