"""What systemd handed over: one connected stream socket (sd_listen_fds(3)), and its two ends."""

from __future__ import annotations

import sys

from spawnhelper import manager
from spawnhelper.conf import files
from spawnhelper.conf.values import unmapped
from spawnhelper.outcome import RESOURCES, Refusal, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Mapping
    from typing import Any
else:
    import _socket as socket  # the Python wrapper builds enumerations: half an interpreter start
    import posix as os

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
UNNAMED = "connection"  # FileDescriptorName= of a connection before systemd 257
CREDENTIALS_SIZE = 12  # struct ucred: pid, uid, gid
READ_AT_ONCE = 1 << 16
NO_LINGER = bytes(8)  # struct linger: off
NO_PEER = 0xFFFFFFFF  # the uid in it as long as nobody is connected


class Connection:
    """One accepted connection.

    service: the name that came with the descriptor, "" where systemd gives none. family: AF_INET,
    AF_INET6 or AF_UNIX, as of the listener. local, remote: (address, port) of TCP, an IPv4-mapped
    address written as IPv4; None for AF_UNIX, and for a remote end that nobody knows any more.
    path: the listener's path for AF_UNIX, an abstract one with @ for NUL. peer: pid, uid and gid
    for AF_UNIX. proxy: the real peer, or the path, once a proxy has said who the ends are.
    waited: microseconds until it had its turn, with MaxCommands=.
    Attributes that do not apply are None. read, written: bytes that the helper itself has taken
    from the connection, or has put there. ended: our side is.
    """

    __slots__ = (
        "_peername",
        "ended",
        "family",
        "local",
        "path",
        "peer",
        "proxy",
        "read",
        "remote",
        "service",
        "socket",
        "waited",
        "written",
    )

    def __init__(self, connection: socket.socket, service: str) -> None:
        self.socket = connection
        self.service = service
        self.family = int(connection.family)
        self.local: tuple[str, int] | None = None
        self.remote: tuple[str, int] | None = None
        self.path: str | None = None
        self.peer: tuple[int, int, int] | None = None
        self.proxy: tuple[str, int] | None = None
        self.waited: int | None = None
        self.read = 0
        self.written = 0
        self.ended = False
        self._peername = _peername(connection)
        if self.family == socket.AF_UNIX:
            self.path = _path(connection.getsockname())
            self.peer = _peer(connection)
        else:
            self.local = address(connection.getsockname())
            self.remote = None if self._peername is None else address(self._peername)

    @property
    def tcp(self) -> bool:
        """Whether the kernel knows what went over it (tcp(7), TCP_INFO)."""
        return self.family != socket.AF_UNIX

    @property
    def connected(self) -> bool:
        """Whether there is somebody at the other end, or was."""
        if self.peer is not None:
            return self.peer[1] != NO_PEER
        return self.local is not None and self.local[1] != 0

    @property
    def only_counted(self) -> bool:
        """Whether this is no client, but rearm.py, which wants systemd to have counted one more."""
        if self.peer is None or self.peer[1] != manager.now.uid:
            return False
        return bool(self._peername == files.COUNTED % self.peer[0])

    def unmoved(self) -> bool:
        """Whether the socket leads where it did at first: a command that has it can connect it
        elsewhere."""
        return self._peername is not None and _peername(self.socket) == self._peername

    def announce(self, remote: tuple[str, int], local: tuple[str, int]) -> None:
        """Takes a proxy's word for who the two ends are."""
        self.proxy = self.remote or (self.path or "", 0)
        self.remote, self.local = address(remote), address(local)

    def variables(self) -> dict[str, str]:
        """The variables that tell the command about its connection: those of systemd.exec(5),
        UCSPI-TCP and UCSPI-UNIX."""
        found = {"PROTO": "UNIX" if self.local is None else "TCP"}
        if self.local is not None:
            found["TCPLOCALIP"] = self.local[0]
            found["TCPLOCALPORT"] = str(self.local[1])
        if self.remote is not None:
            found["TCPREMOTEIP"] = found["REMOTE_ADDR"] = self.remote[0]
            found["TCPREMOTEPORT"] = found["REMOTE_PORT"] = str(self.remote[1])
        if self.local is None and self.path is not None:
            found["UNIXLOCALPATH"] = self.path
        if self.local is None and self.peer is not None:
            pid, uid, gid = self.peer
            found["UNIXREMOTEPID"] = str(pid)
            found["UNIXREMOTEEUID"] = str(uid)
            found["UNIXREMOTEEGID"] = str(gid)
        return found

    def end(self) -> None:
        """Lets the client see the end now: systemd closes its own copy of the descriptor only when
        the unit is gone. What the client may still send is not refused, which would reset the
        connection and cost the client an answer that it has not read yet."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
            self.ended = True
        except OSError:
            pass  # the client was first

    def take_back(self) -> None:
        """Undoes what a command that had the socket can have set such that its end is no end: a
        reset instead of one, and unread bytes that nobody is told of (socket(7))."""
        for option, value in (
            (socket.SO_LINGER, NO_LINGER),
            (socket.SO_RCVLOWAT, 1),
            (socket.SO_OOBINLINE, 1),
        ):
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, option, value)
            except OSError:
                pass  # a path has no urgent bytes

    def read_on(self) -> int | None:
        """Throws away what the client has sent and nobody has read: how many bytes, 0 where there
        are none yet, None where no more will come. Never blocks."""
        try:
            return len(self.socket.recv(READ_AT_ONCE, socket.MSG_DONTWAIT)) or None
        except BlockingIOError:
            return 0
        except OSError:
            return None

    def close_quietly(self) -> None:
        """Sees to it that the close, which is systemd's, tells the client at a path no more than
        the end: a byte that came unread just before would make it a reset."""
        if self.tcp:
            return
        try:
            self.socket.shutdown(socket.SHUT_RD)
        except OSError:
            return
        while self.read_on():
            pass


def take(environment: Mapping[bytes, bytes], unit: str) -> Connection:
    """The connection that was handed over; a Refusal where it was not exactly one.

    unit: the connection's unit, "" without one. No other inherited descriptor stays open, and the
    connection is not inherited further.
    """
    for_us = environment.get(b"LISTEN_PID") == str(os.getpid()).encode()
    count = environment.get(b"LISTEN_FDS", b"0") if for_us else b"0"
    if count != b"1":
        count_shown = shown(count.decode(errors="replace"))
        raise _not_ours(f"{count_shown} connections were handed over")
    os.closerange(FIRST_DESCRIPTOR + 1, 0x7FFFFFFF)
    while (spare := os.open("/dev/null", os.O_RDWR)) < FIRST_DESCRIPTOR:
        pass  # a standard stream was closed; nothing else may get its number
    os.close(spare)
    try:
        os.set_inheritable(FIRST_DESCRIPTOR, False)
        connection = socket.socket(fileno=FIRST_DESCRIPTOR)
        kind = connection.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        listening = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise _not_ours(f"descriptor 3 is no socket: {error.strerror}") from None
    if kind != socket.SOCK_STREAM:
        raise _not_ours("descriptor 3 is no stream socket")
    if listening:
        raise _not_ours("descriptor 3 is a listening socket")
    if connection.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        raise _not_ours("descriptor 3 is neither a TCP nor an AF_UNIX socket")
    name = environment.get(b"LISTEN_FDNAMES", b"").decode(errors="replace")
    if "/" in name:
        raise _not_ours(f"{shown(name)} is no name of a service")
    found = Connection(connection, "" if name == UNNAMED else name)
    if not found.connected:
        raise _not_ours("descriptor 3 is not connected")
    if found.remote is None and found.tcp:
        found.remote = _remote(unit)
    return found


def adopted(descriptor: int, family: int) -> socket.socket:
    """The socket of a connection that another process, or the kernel, has given."""
    return socket.socket(family, socket.SOCK_STREAM, 0, descriptor)


def _not_ours(what: str) -> Refusal:
    enable = f"{manager.now.words('systemctl')} enable --now spawn@NAME.socket"
    sentence = f"{what}; start the socket instead: {enable}"
    return Refusal(RESOURCES, os.EX_USAGE, sentence)


def address(name: tuple[str, int] | tuple[str, int, int, int]) -> tuple[str, int]:
    """Address and port; of a link-local address with its interface, as systemd writes it."""
    host = unmapped(name[0])
    if len(name) == 4 and name[3]:
        try:
            host = f"{host}%{socket.if_indextoname(name[3])}"
        except OSError:
            host = f"{host}%{name[3]}"
    return host, name[1]


def _peername(connection: socket.socket) -> Any:
    """As the kernel has it, None where the connection is reset already."""
    try:
        return connection.getpeername()
    except OSError:
        return None


def _remote(unit: str) -> tuple[str, int] | None:
    """The client of a connection that is reset already: systemd has put its address into the
    unit's name."""
    host, _, port = unit.removesuffix(".service").rpartition("-")[2].rpartition(":")
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except (OSError, ValueError):
        return None
    known = port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536
    return (host, int(port)) if known else None


def _path(name: str | bytes) -> str:
    """An AF_UNIX name as ss(8) writes it; an abstract one comes as bytes."""
    if isinstance(name, str):
        return name
    return name.replace(b"\0", b"@").decode(errors="surrogateescape")


def _peer(connection: socket.socket) -> tuple[int, int, int]:
    octets = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS_SIZE)
    pid, uid, gid = (
        int.from_bytes(octets[at : at + 4], sys.byteorder) for at in range(0, CREDENTIALS_SIZE, 4)
    )
    return pid, uid, gid
