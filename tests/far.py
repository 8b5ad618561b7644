"""A network with 50 ms of round trip to it. In the machine, whose kernel may lack netem."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from conftest import run

HERE, THERE = "198.51.100.1", "198.51.100.2"
ONE_WAY = 0.025  # seconds
SPACE = "far-away"
ENTER = ("ip", "netns", "exec", SPACE)  # before the command of a client there
NEAR_END, FAR_END = "near-end", "far-end"
FORWARDER = Path(__file__).with_name("forwarder.py")
QUEUE = "10000"  # packets that wait for the forwarder, which shares the processors with all else


@contextlib.contextmanager
def network() -> Iterator[None]:
    """The network: a namespace with THERE, whose only way leads to HERE, which is ours."""
    run("ip", "netns", "add", SPACE)
    try:
        command = ["/usr/bin/python3", str(FORWARDER), str(ONE_WAY), NEAR_END, FAR_END]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as forwarder:
            assert forwarder.stdin is not None
            assert forwarder.stdout is not None
            with forwarder.stdin:
                assert forwarder.stdout.readline() == b"on\n"
                _connect()
                yield
    finally:
        run("ip", "netns", "del", SPACE)


def _connect() -> None:
    """Gives the devices their places and addresses."""
    run("ip", "link", "set", FAR_END, "netns", SPACE)
    ends = (((), NEAR_END, HERE, THERE), (("-n", SPACE), FAR_END, THERE, HERE))
    for where, device, own, peer in ends:
        run("ip", *where, "addr", "add", own, "peer", peer, "dev", device)
        run("ip", *where, "link", "set", device, "txqueuelen", QUEUE, "up")
