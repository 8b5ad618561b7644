"""What the server and a worker say to each other, one message each (unix(7), SOCK_SEQPACKET).

A worker is the command's user, and a command can do to it what that user can. So the server, which
is root, believes only the form of what a worker says: so many numbers within bounds, and texts that
are shown as text. Whose connection it was, and what the service is, the server knows by itself.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from spawnhelper import outcome
from spawnhelper.doors.inherited import Connection
from spawnhelper.outcome import Problem, Refusal, shown
from spawnhelper.stages.serve import Ended

# To a worker: serve this connection, whose descriptor comes along; its turn has come; it has waited
# for long enough.
CONNECTION, TURN, NO_TURN = b"C", b"T", b"N"
# From a worker: it can take a connection; it has to be replaced; it cannot become what it is to be;
# its connection waits for its turn; the command has ended, and the client takes its time; what
# became of a command that ran, and of a connection that got none.
READY, SPENT, UNFIT, WAITS, LEAVES, ENDED, REFUSED = b"R", b"S", b"U", b"W", b"L", b"E", b"F"
# The last two have what the worker does next: it goes on with the connection, or one of the first
# two. Each message wakes the server, so there is to be one where one is enough.
STAYS = b"-"
RESULTS = (*outcome.ENDED, *outcome.NEVER_RAN)
MEASURES = ("duration", "cpu", "peak", "killed", "undelivered", "pid", "came", "out")
LARGEST = (1 << 63) - 1
ABSENT = -1
# The result, the status, whether nothing is left of the command and whether the client may be
# sending, the measures, the time waited, three ports.
NUMBERS = struct.Struct(f"!{4 + len(MEASURES) + 1 + 3}q")
# Three addresses and a sentence; then the file, the line and the sentence of each problem. Each of
# them ends with a NUL.
TEXTS, TEXTS_OF_PROBLEM, MOST_PROBLEMS = 4, 3, 4
END = b"\0"
LONGEST_TEXT = 4096
MOST_TEXTS = TEXTS + MOST_PROBLEMS * TEXTS_OF_PROBLEM
LONGEST = 2 + NUMBERS.size + MOST_TEXTS * (LONGEST_TEXT + len(END))
# Plain numbers cost less than members of an enumeration.
TRUNCATED, NOT_INHERITED = int(socket.MSG_CTRUNC), int(socket.MSG_CMSG_CLOEXEC)
LEVEL, RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
DESCRIPTOR = struct.Struct("i")
ROOM = socket.CMSG_SPACE(DESCRIPTOR.size)
LONGEST_TASK = 256  # an address, its interface and a port
MOST_DIGITS = 9


class Garbled(Exception):
    """A message that no worker of ours sends."""


class Task(NamedTuple):
    """A connection for a worker. family: of its socket. remote: who it is from, which the socket
    itself does not tell any more where it is reset already; None for AF_UNIX."""

    descriptor: int
    family: int
    remote: tuple[str, int] | None


def hand_over(channel: socket.socket, task: Task) -> None:
    """Gives a connection to a worker. Raises OSError where that is gone."""
    rights = (LEVEL, RIGHTS, DESCRIPTOR.pack(task.descriptor))
    remote = "" if task.remote is None else "{} {}".format(*task.remote)
    channel.sendmsg([CONNECTION + f"{task.family} {remote}".encode()], [rights])


def take_over(channel: socket.socket) -> Task | bytes:
    """What the server says: the next connection, TURN or NO_TURN; b"" where there will be none.
    Blocks."""
    message, rights, flags, _ = channel.recvmsg(LONGEST_TASK, ROOM, NOT_INHERITED)
    if message in (TURN, NO_TURN):
        return message
    if message[:1] != CONNECTION or flags & TRUNCATED or len(rights) != 1:
        return b""
    (descriptor,) = DESCRIPTOR.unpack(rights[0][2])
    family, _, remote = message[1:].decode().partition(" ")
    host, _, port = remote.rpartition(" ")
    return Task(int(descriptor), int(family), (host, int(port)) if host else None)


def report(connection: Connection, ended: Ended | Refusal, then: bytes) -> bytes:
    """A worker's word for what became of a connection. then: STAYS, READY or SPENT."""
    waited = ABSENT if connection.waited is None else connection.waited
    ports, hosts = [ABSENT] * 3, [""] * 3
    if connection.proxy is not None:  # else the server knows them by itself
        ends = (connection.remote, connection.local, connection.proxy)
        ports = [ABSENT if end is None else end[1] for end in ends]
        hosts = ["" if end is None else end[0] for end in ends]
    if isinstance(ended, Refusal):
        kind, status, flags = REFUSED, ended.status, (True, bool(ended.answer))
        measures = [ABSENT] * len(MEASURES)
        texts = [*hosts, ended.sentence]
        for problem in ended.problems[:MOST_PROBLEMS]:
            line = "" if problem.line is None else str(problem.line)
            texts += [problem.file, line, problem.sentence]
    else:
        kind, status = ENDED, ABSENT if ended.status is None else ended.status
        flags = (ended.childless, ended.sending)
        found = [getattr(ended, name) for name in MEASURES]
        measures = [ABSENT if value is None else min(value, LARGEST) for value in found]
        texts = [*hosts, ""]
    result = RESULTS.index(ended.result)
    numbers = NUMBERS.pack(result, status, *flags, *measures, waited, *ports)
    return kind + then + numbers + _packed(texts)


def reported(message: bytes, connection: Connection, *, proxied: bool) -> Ended | Refusal:
    """What a worker has reported, with what it says of the connection noted there. proxied: whether
    it can know better than the kernel who the client is.

    Raises Garbled.
    """
    try:
        numbers = NUMBERS.unpack_from(message, 2)
        texts = _texts(message[2 + NUMBERS.size :])
        result, status, childless, sending = numbers[:4]
        word = RESULTS[result]
    except (struct.error, IndexError) as error:
        raise Garbled from error
    if (len(texts) - TEXTS) % TEXTS_OF_PROBLEM:
        raise Garbled
    if next_of(message) not in (STAYS, READY, SPENT):
        raise Garbled
    if min(numbers) < ABSENT or result < 0 or status > 0xFFFF:
        raise Garbled
    *measures, waited, remote, local, proxy = numbers[4:]
    connection.waited = None if waited == ABSENT else waited
    if proxy != ABSENT and not proxied:
        raise Garbled
    if proxy != ABSENT:
        connection.remote, connection.local, connection.proxy = (
            None if port == ABSENT else (_shown(host), port)
            for host, port in zip(texts[:3], (remote, local, proxy), strict=True)
        )
    if message[:1] == REFUSED:
        if word not in outcome.NEVER_RAN:
            raise Garbled
        answer = b"." if sending else b""
        problems = _problems(texts[TEXTS:])
        return Refusal(word, status, _shown(texts[TEXTS - 1]), problems, answer)
    if word not in outcome.ENDED:
        raise Garbled
    ended = Ended()
    ended.result, ended.status = word, None if status == ABSENT else status
    ended.childless, ended.sending = bool(childless), bool(sending)
    for name, value in zip(MEASURES, measures, strict=True):
        setattr(ended, name, None if value == ABSENT else value)
    if None in (ended.duration, ended.cpu, ended.peak, ended.killed, ended.undelivered, ended.pid):
        raise Garbled
    return ended


def next_of(message: bytes) -> bytes:
    """What a worker that has reported does next."""
    return message[1:2]


def _problems(texts: Sequence[str]) -> tuple[Problem, ...]:
    found = []
    for at in range(0, len(texts), TEXTS_OF_PROBLEM):
        file, line, sentence = texts[at : at + TEXTS_OF_PROBLEM]
        known = line.isdecimal() and len(line) <= MOST_DIGITS
        found.append(Problem(_shown(file), int(line) if known else None, _shown(sentence)))
    return tuple(found)


def complaint(sentence: str) -> bytes:
    """A worker's word for why it cannot become what it is to be: `ERRNO KEY=WHAT: WHY`."""
    return UNFIT + sentence.encode(errors="replace")[:LONGEST_TEXT]


def complained(message: bytes) -> str:
    """The sentence of a complaint, as it can be shown."""
    return shown(message[1:].decode(errors="replace"), LONGEST_TEXT)


def _packed(texts: Sequence[str]) -> bytes:
    octets = "\0".join(texts).encode(errors="surrogateescape") + END
    if len(octets) <= LONGEST_TEXT and octets.count(END) == len(texts):  # as nearly always
        return octets
    return b"".join(map(_text, texts))


def _text(text: str) -> bytes:
    octets = text.encode(errors="surrogateescape")[:LONGEST_TEXT]
    return octets.replace(END, b"?") + END


def _texts(octets: bytes) -> list[str]:
    """What a worker has put there, as it is. Raises Garbled."""
    *texts, rest = octets.decode(errors="surrogateescape").split("\0")
    if rest or not TEXTS <= len(texts) <= MOST_TEXTS:
        raise Garbled
    return texts


def _shown(text: str) -> str:
    return shown(text, LONGEST_TEXT)
