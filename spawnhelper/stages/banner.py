"""What a client is told before the command starts, or instead. Loaded where there is a banner."""

from __future__ import annotations

import _stat as stat
import select
import time

from spawnhelper.conf import files
from spawnhelper.outcome import DENIED, Refusal, misconfigured, shown
from spawnhelper.stages.wait import NSEC_PER_MSEC, until_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import socket

    from spawnhelper.conf.service import Service
    from spawnhelper.doors.inherited import Connection
    from spawnhelper.signals import Signals
else:
    import _socket as socket
    import posix as os

LONGEST = 1 << 16
SEND_TIME = 5  # seconds


def greet(service: Service, connection: Connection, signals: Signals) -> None:
    """Sends Banner=; a Refusal where the client does not take it."""
    assert service.banner is not None
    if not send(connection, text(service, "Banner", service.banner), signals):
        sentence = f"Banner= was not taken by the client within {SEND_TIME}s"
        raise Refusal(DENIED, os.EX_OK, problems=(service.problem("Banner", sentence),))


def for_refused(service: Service) -> bytes:
    """What BannerRefused= has for one who may not connect."""
    if service.banner_refused is None:
        return b""
    return text(service, "BannerRefused", service.banner_refused)


def text(service: Service, key: str, path: str) -> bytes:
    """The content of a banner's file; a Refusal where there is none that could be sent."""
    read = service.banners.get(key)
    if read is not None:
        if isinstance(read, bytes):
            return read
        raise misconfigured(*read)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            found = os.read(descriptor, LONGEST + 1) if regular else b""
            whose = files.distrust(path, descriptor)  # it can lead to what only root may read
        finally:
            os.close(descriptor)
    except OSError as error:
        sentence = f"{key}={shown(path)}: {error.strerror}; create the file, or remove the line"
        raise misconfigured(service.problem(key, sentence)) from None
    if not regular:
        raise misconfigured(service.problem(key, f"{key}={shown(path)} is not a regular file"))
    if whose:
        raise misconfigured(service.problem(key, f"{key}={shown(path)}: {whose}"))
    if len(found) > LONGEST:
        sentence = f"{key}={shown(path)} is longer than 64 KiB; shorten the file"
        raise misconfigured(service.problem(key, sentence))
    return found


def send(connection: Connection, octets: bytes, signals: Signals) -> bool:
    """Whether the client took it in time; one that is gone took it.

    Raises Refusal when the unit is stopped meanwhile.
    """
    deadline = time.monotonic_ns() + SEND_TIME * 1_000 * NSEC_PER_MSEC
    client = connection.socket
    try:
        while octets:
            ready = until_ready(client.fileno(), select.POLLOUT, deadline, signals)
            if not ready or time.monotonic_ns() >= deadline:
                return False
            try:
                count = client.send(octets, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue  # the kernel is short of memory
            connection.written += count
            octets = octets[count:]
    except OSError:
        pass
    return True
