"""What systemd hands over, of any kind: one connection or a sentence, and no word of it that is not
the kernel's own reaches the command."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from spawnhelper.conf import addresses, files
from spawnhelper.conf.service import Service
from spawnhelper.conf.values import CONNECTION_VARIABLES
from spawnhelper.doors import inherited
from spawnhelper.outcome import RESOURCES, Refusal
from spawnhelper.stages import command

LISTEN = {b"LISTEN_PID": b"self", b"LISTEN_FDS": b"1", b"LISTEN_FDNAMES": b"fuzz"}
WORDS = [
    b"\0LISTEN_PID=self",
    b"\0LISTEN_FDS=1",
    b"\0LISTEN_FDNAMES=",
    b"\0REMOTE_ADDR=",
    b"\0REMOTE_PORT=",
    b"\0TCPREMOTEIP=",
    b"\0SPAWN_SERVICE=",
    b"\0LANG=",
    b"\0OTHER=",
    b"spawn@1-127.0.0.1:2-127.0.0.1:3.service",
    b"spawn@1-::1:2-2001:db8::1:3.service",
    b".service",
]


def tcp() -> list[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    for end in (ours, theirs):  # no port is used up by what has ended
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return [ours, theirs]


def reset() -> list[socket.socket]:
    ours, theirs = tcp()
    theirs.close()
    return [ours]


def pipe() -> list[socket.socket]:
    reader, writer = os.pipe()
    os.close(writer)
    found = socket.socket()
    os.dup2(reader, found.fileno())
    os.close(reader)
    return [found]


KINDS: list[Callable[[], list[socket.socket]]] = [
    tcp,
    reset,
    lambda: list(socket.socketpair()),
    lambda: list(socket.socketpair(type=socket.SOCK_SEQPACKET)),
    lambda: [socket.socket(type=socket.SOCK_DGRAM)],
    lambda: [socket.create_server(("127.0.0.1", 0))],
    lambda: [socket.socket()],
    pipe,
]
CONNECTED = KINDS[:3]


def one(octets: bytes) -> None:
    kind = KINDS[octets[0] % len(KINDS)] if octets else tcp
    unit, *pieces = octets[1:].split(b"\0")
    environment = LISTEN | dict(piece.split(b"=", 1) for piece in pieces if b"=" in piece)
    if environment[b"LISTEN_PID"] == b"self":
        environment[b"LISTEN_PID"] = str(os.getpid()).encode()
    for_us = environment[b"LISTEN_PID"] == str(os.getpid()).encode()
    ends = kind()
    os.dup2(ends[0].fileno(), inherited.FIRST_DESCRIPTOR)
    known = {end.fileno() for end in ends}
    try:
        connection = inherited.take(environment, unit.decode(errors="surrogateescape"))
    except Refusal as refusal:
        says_why(refusal)
        os.close(inherited.FIRST_DESCRIPTOR)
    else:
        assert for_us
        assert environment[b"LISTEN_FDS"] == b"1"
        assert kind in CONNECTED
        assert set(map(int, os.listdir("/proc/self/fd"))) - {4} <= {0, 1, 2, 3}  # 4: that folder
        speaks_for_itself(connection, environment)
        connection.socket.close()
    for end in ends:
        end.detach()
    for descriptor in known:
        try:
            os.close(descriptor)
        except OSError:
            pass


def says_why(refusal: Refusal) -> None:
    assert refusal.result == RESOURCES
    assert str(refusal).isprintable(), str(refusal)


def speaks_for_itself(connection: inherited.Connection, environment: dict[bytes, bytes]) -> None:
    name = connection.service
    assert files.file_of(name or "x").count("/") == 3
    if connection.remote is not None:
        host, port = connection.remote
        addresses.numbered(host)
        assert 0 < port < 65536
    settings = Service(name, "/etc/spawn/fuzz.conf")
    settings.pass_environment = ["LANG", "OTHER"]
    command.__dict__["environ"] = environment
    told = command.environment(settings, connection)
    own = connection.variables() | {"SPAWN_SERVICE": name}
    assert {key: told[key] for key in CONNECTION_VARIABLES if key in told} == own
    assert set(told) - set(own) <= {"PATH", "TZ", "LANG", "OTHER"}
