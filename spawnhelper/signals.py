"""Signals as something that poll(2) can wait for: a stop, and a child that has ended."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import signal
else:
    import _signal as signal  # signal.py builds enumerations: half an interpreter start
    import posix as os

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CHILD = (signal.SIGCHLD,)


class Signals:
    """What this process does with signals from now on, as a whole; there can be one of these.

    descriptor: gets readable when something has come. stopped: whether a stop has. That a child has
    ended is not heard of unless somebody listens.
    """

    __slots__ = ("descriptor", "stopped")

    def __init__(self) -> None:
        self.stopped = False
        signal.pthread_sigmask(signal.SIG_BLOCK, (*STOPS, *CHILD))
        self.descriptor, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (*STOPS, *CHILD):
            signal.signal(number, lambda *_: None)  # what counts is the byte in the pipe
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def hear(self) -> bytes:
        """The numbers of the signals that have come; takes note of a stop."""
        try:
            numbers = os.read(self.descriptor, 4096)
        except BlockingIOError:
            return b""
        self.stopped = self.stopped or any(number in STOPS for number in numbers)
        return numbers

    def listen(self) -> None:
        """Has children that end be heard of, one that has ended already among them."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, CHILD)

    def ignore(self) -> None:
        """Has them not be heard of any more: they can end so often that nothing else is done."""
        signal.pthread_sigmask(signal.SIG_BLOCK, CHILD)
