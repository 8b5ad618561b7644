"""Clients that ask for an answer of some size, send more than is read, and take their time.

As a program it is all the clients of one address, so that they can be in a network of their own
and, before systemd 258, never in the way of those of another service at a path. ask() runs it.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

FOLDER = Path("/var/tmp/spawn-answers")
ANSWER, SCRIPT = FOLDER / "answer", FOLDER / "script"
LONGEST = 8 << 20  # bytes of an answer
# Reads the first line only, as many a shell CGI, or nothing, where its argument has the size.
COMMAND = f"""\
size=$1
test "$size" || read -r size
exec head -c "$size" {ANSWER}
"""
LATE = 10.0  # seconds
SLOW = (64 << 10, 0.02)  # bytes each so many seconds
PATIENCE = 120.0  # seconds without a byte


class Case(NamedTuple):
    """size: of the answer asked for, in bytes. sent: how much the client sends for it. how: "fast",
    "slow", "late", or "half-closed", which shuts down its side once all is sent."""

    size: int
    sent: int
    how: str


class Got(NamedTuple):
    """What one client got. size: of the answer, in bytes. clean: it ended by its end, not a
    reset."""

    size: int
    clean: bool


def prepare() -> None:
    """Makes FOLDER, with what the command needs."""
    FOLDER.mkdir(exist_ok=True)
    ANSWER.write_bytes(random.randbytes(LONGEST))
    SCRIPT.write_text(COMMAND)


def remove() -> None:
    for file in (ANSWER, SCRIPT):
        file.unlink()
    FOLDER.rmdir()


def ask(
    address: tuple[str, int] | str, cases: Sequence[Case], enter: Sequence[str], at_once: int
) -> list[Got]:
    """What a client for each of the cases gets. enter: what begins the command line, to have the
    clients elsewhere. at_once: how many clients there are at a time."""
    told = json.dumps([address, cases, at_once])
    program = [*enter, "/usr/bin/python3", __file__]
    done = subprocess.run(program, input=told, check=True, stdout=subprocess.PIPE, text=True)
    return [Got(*each) for each in json.loads(done.stdout)]


def talk(address: tuple[str, int] | str, case: Case, answer: bytes) -> Got:
    """One client."""
    line = f"{case.size}\n".encode()
    request = line + b"x" * (case.sent - len(line))
    most, pause = SLOW if case.how == "slow" else (SLOW[0], 0.0)
    count = 0
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as client:
        client.settimeout(PATIENCE)
        client.connect(address)
        sender = threading.Thread(target=send, args=(client, request, case.how == "half-closed"))
        sender.start()
        time.sleep(LATE if case.how == "late" else 0)
        try:
            while part := client.recv(most):
                if part != answer[count : count + len(part)]:
                    return Got(count, clean=False)
                count += len(part)
                time.sleep(pause)
            return Got(count, clean=True)
        except OSError:
            return Got(count, clean=False)
        finally:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)  # the sender may wait, and would go on to
            sender.join()


def send(client: socket.socket, request: bytes, half_closed: bool) -> None:
    """Sends it all, as far as somebody takes it."""
    with contextlib.suppress(OSError):  # who reads is told
        client.sendall(request)
        if half_closed:
            client.shutdown(socket.SHUT_WR)


def main() -> None:
    address, told, at_once = json.load(sys.stdin)
    where = address if isinstance(address, str) else tuple(address)
    answer = ANSWER.read_bytes()
    with ThreadPoolExecutor(at_once) as pool:
        got = list(pool.map(lambda each: talk(where, Case(*each), answer), told))
    json.dump(got, sys.stdout)


if __name__ == "__main__":
    main()
