"""Where the kernel listens, and for whom: /proc/net (proc_pid_net(5)).

Needs no root, but for holder(). What is in a network namespace of its own is not seen.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from typing import NamedTuple

TCP_LISTEN = "0A"  # tcp_states.h
ACCEPTS = 0x10000  # __SO_ACCEPTCON of net.h
WORD = 8  # hexadecimal digits


class Listening(NamedTuple):
    """A socket that listens. host: an address, an IPv4-mapped one as IPv4; or a path, @ for the NUL
    of an abstract one, with port 0. uid: whose it is, None where the kernel does not tell."""

    family: int
    host: str
    port: int
    inode: int
    uid: int | None


def listening() -> list[Listening]:
    """All of them."""
    return [
        *_tcp("/proc/net/tcp", socket.AF_INET),
        *_tcp("/proc/net/tcp6", socket.AF_INET6),
        *_unix("/proc/net/unix"),
    ]


def held_by(pid: int) -> set[int] | None:
    """The inodes of a process's sockets, None where they are not for this user to see."""
    inodes = set()
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                try:
                    target = os.readlink(entry.path)
                except FileNotFoundError:
                    continue  # it has just been closed
                if target.startswith("socket:["):
                    inodes.add(int(target[8:-1]))
    except OSError:
        return None
    return inodes


def holder(inode: int) -> tuple[int, str] | None:
    """The pid and the name of a process that has this socket; None where there is none that this
    user may look at. Of several it is the one with the lowest pid."""
    for pid in sorted(int(entry) for entry in os.listdir("/proc") if entry.isdecimal()):
        if inode in (held_by(pid) or ()):
            try:
                with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
                    return pid, comm.read().strip()
            except OSError:
                continue  # it has just ended
    return None


def _tcp(table: str, family: int) -> Iterator[Listening]:
    for line in _rows(table):
        values = line.split()
        if values[3] != TCP_LISTEN:
            return  # those that listen come first
        address, _, port = values[1].partition(":")
        yield Listening(family, _host(address), int(port, 16), int(values[9]), int(values[7]))


def _host(digits: str) -> str:
    """An address as the kernel writes it: words of the machine's own byte order."""
    words = (int(digits[at : at + WORD], 16) for at in range(0, len(digits), WORD))
    octets = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    text = socket.inet_ntop(socket.AF_INET if len(octets) == 4 else socket.AF_INET6, octets)
    return text.removeprefix("::ffff:") if "." in text else text


def _unix(table: str) -> Iterator[Listening]:
    for line in _rows(table):
        values = line.split(" ", 6)
        inode, _, path = values[-1].lstrip().partition(" ")
        if int(values[3], 16) & ACCEPTS and path:
            yield Listening(socket.AF_UNIX, path, 0, int(inode), None)


def _rows(table: str) -> Iterator[str]:
    """The lines of a table without its heading; none where the kernel does not have it."""
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as rows:
            next(rows, None)
            yield from (row.rstrip("\n") for row in rows)
    except FileNotFoundError:
        return
