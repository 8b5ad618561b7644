"""The stages of a connection in their order, whichever door it came by.

The client waits for the command, so its start has a budget: before it, nothing is loaded beyond the
interpreter's own modules, C modules that are part of it, _prctl, and the files of this package that
are named here or in the door. What only some services need is imported where they need it, what
only the supervision needs behind the start. tests/test_budget.py holds this to account.
"""

from __future__ import annotations

from spawnhelper.outcome import SUCCESS, UNDELIVERED, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from spawnhelper.conf.service import Service
    from spawnhelper.doors.inherited import Connection
    from spawnhelper.signals import Signals
    from spawnhelper.stages.command import Process
    from spawnhelper.stages.relay import Relay

    class Door(Protocol):
        """What a stage needs that is not the same behind every door."""

        signals: Signals

        def prepare(self, service: Service) -> None:
            """Finds out as whom the command runs, and which program it is, or raises Refusal."""

        def enter(self, service: Service, connection: Connection) -> None:
            """Returns when it is the connection's turn (MaxCommands=), or raises Refusal."""

        def leave_early(self) -> None:
            """Gives the turn to the next, if there was one: the command has ended, and the client
            may take its time."""

        def leave(self) -> None:
            """The same at the end, where it has not been done."""

        def start(self, service: Service, connection: Connection) -> Process:
            """Starts the command, or raises Refusal."""


class Ended:
    """What became of a command that ran. result: a word of SPAWN_RESULT=. status: as wait(2) has
    it, None where the command is killed and not yet gone. duration, cpu: microseconds, the latter
    of all that the command started; peak: bytes, of the largest of them. killed: how many processes
    it left behind. childless: whether nothing is left of it. came, out: bytes from the client and
    to it, None where nobody counts. undelivered: bytes that are not known to have arrived. sending:
    whether the client may be sending still."""

    __slots__ = (
        "came",
        "childless",
        "cpu",
        "duration",
        "killed",
        "out",
        "peak",
        "pid",
        "result",
        "sending",
        "status",
        "undelivered",
    )

    result: str
    status: int | None
    pid: int
    duration: int
    cpu: int
    peak: int
    killed: int
    childless: bool
    came: int | None
    out: int | None
    undelivered: int
    sending: bool


def serve(service: Service, connection: Connection, door: Door) -> Ended:
    """Runs the service's command for the connection, and sees to it that the client gets all of its
    answer, and its end. Blocks until then. Raises Refusal where no command ran."""
    if service.proxied:
        from spawnhelper.stages import proxy

        proxy.receive(service, connection, door.signals)
    if service.restricted:
        from spawnhelper.stages import admission

        admission.check(service, connection)
    door.prepare(service)
    if service.max_commands is not None:
        door.enter(service, connection)
    try:
        if service.banner is not None:
            from spawnhelper.stages import banner

            banner.greet(service, connection, door.signals)
        process = door.start(service, connection)
        try:
            return _follow(process, service, connection, door)
        finally:
            process.close_input()
            process.close_output()
    finally:
        door.leave()


def _follow(process: Process, service: Service, connection: Connection, door: Door) -> Ended:
    """From the command's start to the arrival of its answer."""
    from spawnhelper.stages.delivery import Delivery
    from spawnhelper.stages.supervise import Supervision
    from spawnhelper.stages.traffic import Meter

    relay: Relay | None = None
    if service.size_limit is not None:
        from spawnhelper.stages.relay import Relay

        relay = Relay(connection, process, service.size_limit)
    meter = Meter(connection, relay, process.started)
    with Supervision(process, service, meter, relay, door.signals) as supervision:
        supervision.until_end()
        counted = meter.count()
        if relay is None:
            connection.end()
        supervision.sweep()
    delivery = Delivery(connection, relay, meter, supervision, door.leave_early)
    ended = Ended()
    ended.undelivered = delivery.deliver()
    ended.sending = delivery.sending
    ended.came, ended.out = counted if relay is None else meter.count()
    lost = ended.undelivered and supervision.result == SUCCESS
    ended.result = UNDELIVERED if lost else supervision.result
    ended.pid = process.pid
    for name in ("status", "duration", "cpu", "peak", "killed", "childless"):
        setattr(ended, name, getattr(supervision, name))
    return ended


def turn_away(connection: Connection, refusal: Refusal, signals: Signals) -> None:
    """Ends a connection that gets no command, without a byte to the client but for a banner."""
    if refusal.answer:
        from spawnhelper.stages import banner

        try:
            banner.send(connection, refusal.answer, signals)
        except Refusal:
            pass  # a stop; what counts is why there was no command
    connection.end()


def sees_off(ended: Ended | Refusal) -> bool:
    """Whether see_off() waits for the client."""
    return bool(ended.answer) if isinstance(ended, Refusal) else ended.sending


def see_off(connection: Connection, ended: Ended | Refusal, signals: Signals) -> None:
    """Lets a client that is still sending come to its end, for a bounded time, before the
    connection is closed."""
    if sees_off(ended):
        from spawnhelper.stages import delivery

        refused = isinstance(ended, Refusal)
        bound = delivery.AFTER_REFUSAL if refused else delivery.AFTER_ANSWER
        delivery.linger(connection, bound, signals)
    connection.close_quietly()
