"""A long way between two networks: makes a tun device for each, and hands on what the one sends to
the other, each packet after a delay. far.py runs it; it ends with its standard input.

Arguments: the seconds that a packet is under way, and the names of the two devices.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA  # linux/if_tun.h, as what follows
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
LARGEST = 65536  # bytes of a packet
ROOM = 10_000  # packets under way in a direction; those beyond it are lost, as on any way


class Direction:
    """The way from one device to the other, both as descriptors."""

    def __init__(self, source: int, target: int, delay: float) -> None:
        self.source = source
        self._target = target
        self._delay = delay
        self._packets: deque[tuple[float, bytes]] = deque()

    def take(self) -> None:
        """Takes what the source sends."""
        due = time.monotonic() + self._delay
        try:
            while packet := os.read(self.source, LARGEST):
                if len(self._packets) < ROOM:
                    self._packets.append((due, packet))
        except BlockingIOError:
            pass

    def deliver(self) -> float:
        """Delivers the packets that are there by now; when the next one will be."""
        while self._packets and self._packets[0][0] <= time.monotonic():
            with contextlib.suppress(OSError):  # the device is not up yet, or has no room
                os.write(self._target, self._packets.popleft()[1])
        return self._packets[0][0] if self._packets else float("inf")


def main() -> None:
    one, other = (device(name) for name in sys.argv[2:])
    ways = [Direction(*ends, float(sys.argv[1])) for ends in ((one, other), (other, one))]
    poll = select.poll()
    for descriptor in (sys.stdin.fileno(), one, other):
        poll.register(descriptor, select.POLLIN)
    print("on", flush=True)
    while True:
        due = min(way.deliver() for way in ways) - time.monotonic()
        ready = {each for each, _ in poll.poll(min(max(due, 0), 1) * 1000)}
        if sys.stdin.fileno() in ready:
            return
        for way in ways:
            if way.source in ready:
                way.take()


def device(name: str) -> int:
    """The descriptor of a new tun device, which lives as long as that."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI)
    fcntl.ioctl(descriptor, TUNSETIFF, request)
    return descriptor


if __name__ == "__main__":
    main()
