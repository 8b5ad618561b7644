"""The path of a connection, from the inherited descriptor to the record.

The client waits for the command, so its start has a budget: before the fork, nothing beyond the
interpreter's own modules, C modules that are part of it, _prctl, and the files of this package
named below. What only some services need is imported where they need it, what only the waiting
parent needs behind the fork. tests/test_budget.py holds this to account.
"""

from __future__ import annotations

import sys
from posix import environ

from spawnhelper import command, files, identity, inherited, service
from spawnhelper.outcome import RESOURCES, SUCCESS, UNDELIVERED, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from spawnhelper.relay import Relay
    from spawnhelper.service import Service
    from spawnhelper.turns import Place
else:
    import posix as os


def main(arguments: list[str]) -> int:
    """Serves the inherited connection; an exit status of sysexits.h, 0 once a command has ended.

    arguments: the connection's unit, for the record; or --file FILE, as `spawnctl run` gives it,
    to follow one service file wherever it is.
    """
    file = arguments[1] if arguments[:1] == ["--file"] else None
    unit = arguments[0] if file is None and arguments else ""
    foreground = file is not None
    connection = None
    place: Place | None = None
    name = "" if file is None else files.name_of(file)
    settings = None
    try:
        command.hold_signals()
        connection = inherited.take(environ, unit)
        if connection.only_counted:
            return 0
        name = name or connection.service
        if not name:  # before systemd 257 nothing but the local address tells
            from spawnhelper import listeners

            name = listeners.service_of(connection)
        settings = service.load(file or files.file_of(name))
        service.check_idle_limit(settings, tcp=connection.tcp)
        if settings.proxied:
            from spawnhelper import proxy

            proxy.receive(settings, connection)
        if settings.restricted:
            from spawnhelper import admission

            admission.check(settings, connection)
        who = identity.resolve(settings)
        identity.check_reach(settings, who)
        program = command.find(settings)
        if settings.max_commands is not None:
            from spawnhelper import turns

            place = turns.wait(settings, connection)
        if settings.banner is not None:
            from spawnhelper import banner

            banner.greet(settings, connection)
        process = command.start(settings, who, connection, program)
        process.give_way()

        # Now, for an upgrade may replace what is used only at the end.
        from spawnhelper import record, refused, traffic
        from spawnhelper.delivery import Delivery
        from spawnhelper.supervise import Supervision

        relay: Relay | None = None
        if settings.size_limit is not None:
            from spawnhelper.relay import Relay

            relay = Relay(connection, process, settings.size_limit)
        meter = traffic.Meter(connection, relay, process.started)
        supervision = Supervision(process, settings, meter, relay)
        supervision.until_end()
        command.hold_stops()  # nothing is left to be passed on; from here they cut waits short
        counted = meter.count()
        if relay is None:
            connection.end()
        supervision.sweep()
        if place is not None:
            place.leave()  # a turn ends with its command
        delivery = Delivery(connection, relay, meter, supervision)
        undelivered = delivery.deliver()
        if relay is not None:
            counted = meter.count()
        result = supervision.result
        if undelivered and result == SUCCESS:
            result = UNDELIVERED
        if record.wanted(settings.log, result):
            fields = record.of_end(
                unit, connection, settings, who, supervision, result, counted, undelivered
            )
            record.write(fields, foreground=foreground)
        if unit:
            refused.say(settings)
        delivery.linger()
        connection.close_quietly()
        return 0
    except Refusal as refusal:
        return refuse(unit, connection, name, settings, refusal, foreground=foreground)
    except Exception as error:
        sys.excepthook(*sys.exc_info())
        sentence = f"{type(error).__name__}: {error}"
        fault = Refusal(RESOURCES, os.EX_SOFTWARE, sentence)
        return refuse(unit, connection, name, settings, fault, foreground=foreground)
    finally:
        if place is not None:
            place.leave()


def refuse(
    unit: str,
    connection: inherited.Connection | None,
    name: str,
    settings: Service | None,
    refusal: Refusal,
    *,
    foreground: bool,
) -> int:
    """Ends a connection that gets no command, without a byte to the client but for a banner.

    settings: None where it was refused before there were any.
    """
    from spawnhelper import record, refused

    if connection is not None:
        if refusal.answer:
            from spawnhelper import banner

            try:
                banner.send(connection, refusal.answer)
            except Refusal:
                pass  # a stop; what counts is why there was no command
        connection.end()
    if settings is None or record.wanted(settings.log, refusal.result):
        fields = record.of_refusal(unit, connection, name, settings, refusal)
        record.write(fields, foreground=foreground)
    if unit and settings is not None:
        refused.say(settings)
    if connection is not None and refusal.answer:
        from spawnhelper import delivery

        delivery.linger(connection, delivery.AFTER_REFUSAL)
        connection.close_quietly()
    return refusal.status
