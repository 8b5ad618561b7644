"""The path of a connection, from the inherited descriptor to the record.

The client waits for the command, so its start has a budget: before the fork, nothing beyond the
interpreter's own modules, C modules that are part of it, _prctl, and the files of this package
named below. What only the waiting parent needs is imported behind the fork. tests/test_budget.py
holds this to account.
"""

from __future__ import annotations

import sys
from posix import environ

from spawnhelper import command, identity, inherited, service
from spawnhelper.outcome import RESOURCES, Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
else:
    import posix as os


def main(arguments: list[str]) -> int:
    """Serves the inherited connection; an exit status of sysexits.h, 0 once a command has ended.

    arguments: the connection's unit, for the record; or --file FILE, as `spawnctl run` gives it,
    to follow one service file wherever it is.
    """
    file = arguments[1] if arguments[:1] == ["--file"] else None
    unit = arguments[0] if file is None and arguments else ""
    connection = None
    foreground = file is not None
    name = "" if file is None else service.name_of(file)
    try:
        command.hold_signals()
        connection = inherited.take(environ, unit)
        name = name or connection.service
        if not name:  # before systemd 257 nothing but the local address tells
            from spawnhelper import listeners

            name = listeners.service_of(connection)
        settings = service.load(file or service.file_of(name))
        who = identity.resolve(settings)
        identity.check_reach(settings, who)
        process = command.start(settings, who, connection)

        from spawnhelper import record, traffic
        from spawnhelper.supervise import Supervision

        supervision = Supervision(process, settings)
        supervision.until_end()
        counted = traffic.count(connection)
        connection.end()
        supervision.sweep()
        if record.wanted(settings.log, supervision.result):
            fields = record.of_end(unit, connection, settings, who, supervision, counted)
            record.write(fields, foreground=foreground)
        return 0
    except Refusal as refusal:
        return refuse(unit, connection, name, refusal, foreground=foreground)
    except Exception as error:
        sys.excepthook(*sys.exc_info())
        sentence = f"{type(error).__name__}: {error}"
        fault = Refusal(RESOURCES, os.EX_SOFTWARE, sentence)
        return refuse(unit, connection, name, fault, foreground=foreground)


def refuse(
    unit: str,
    connection: inherited.Connection | None,
    name: str,
    refusal: Refusal,
    *,
    foreground: bool,
) -> int:
    """Ends a connection that gets no command, without a byte to the client."""
    from spawnhelper import record

    if connection is not None:
        connection.end()
    record.write(record.of_refusal(unit, connection, name, refusal), foreground=foreground)
    return refusal.status
