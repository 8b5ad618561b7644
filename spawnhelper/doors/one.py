"""The door of Accept=yes: one inherited connection, one record, and the end of the process."""

from __future__ import annotations

import sys
from posix import environ

from spawnhelper import manager
from spawnhelper.conf import files, service
from spawnhelper.doors import inherited
from spawnhelper.outcome import EXEC_FAILED, RESOURCES, Refusal
from spawnhelper.signals import Signals
from spawnhelper.stages import command, identity, serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from spawnhelper.conf.service import Service
    from spawnhelper.doors.inherited import Connection
    from spawnhelper.doors.turns import Place
    from spawnhelper.stages.command import Process
    from spawnhelper.stages.identity import Identity
    from spawnhelper.stages.serve import Ended
else:
    import posix as os


class One:
    """The stages' door to this process. who: the command's user, once it is known."""

    who: Identity
    program: str

    def __init__(self) -> None:
        self.signals = Signals()
        self._place: Place | None = None

    def prepare(self, settings: Service) -> None:
        """Resolves the identity and finds the program, or raises Refusal."""
        self.who = identity.resolve(settings)
        identity.check_reach(settings, self.who)
        self.program = command.find(settings)

    def enter(self, settings: Service, connection: Connection) -> None:
        """Waits for the turn, or raises Refusal."""
        from spawnhelper.doors import turns

        self._place = turns.wait(settings, connection, self.signals)

    def leave(self) -> None:
        """Gives the turn to the next, if there was one."""
        if self._place is not None:
            self._place.leave()
            self._place = None

    leave_early = leave

    def start(self, settings: Service, connection: Connection) -> Process:
        """Forks the command, which goes first. Raises Refusal."""
        process = command.start(settings, self.who, connection, self.program)
        process.give_way()
        # Now, for an upgrade may replace what is used only at the end.
        from spawnhelper import record  # noqa: F401
        from spawnhelper.doors import dropped  # noqa: F401

        return process


def main(arguments: list[str]) -> int:
    """Serves the inherited connection; an exit status of sysexits.h, 0 once a command has ended.

    arguments: the connection's unit, for the record; or --file FILE, as `spawnctl run` gives it,
    to follow one service file wherever it is.
    """
    arguments = manager.chosen(arguments)
    file = arguments[1] if arguments[:1] == ["--file"] else None
    unit = arguments[0] if file is None and arguments else ""
    connection: Connection | None = None
    name = "" if file is None else files.name_of(file)
    settings: Service | None = None
    door: One | None = None
    ended: Ended | Refusal
    try:
        connection = inherited.take(environ, unit)
        door = One()  # now, for take() leaves no other descriptor open
        if connection.only_counted:
            return 0
        name = name or connection.service
        if not name:  # before systemd 257 nothing but the local address tells
            from spawnhelper.doors import whose

            name = whose.service_of(connection)
        settings = service.load(file or files.file_of(name))
        if file is not None and settings.standard_error == "journal":
            settings.standard_error = command.TERMINAL
        service.check_idle_limit(settings, tcp=connection.tcp)
        ended = serve.serve(settings, connection, door)
    except Refusal as refusal:
        ended = refusal
    except Exception as error:
        sys.excepthook(*sys.exc_info())
        sentence = f"{type(error).__name__}: {error}"
        ended = Refusal(RESOURCES, os.EX_SOFTWARE, sentence)

    from spawnhelper import record
    from spawnhelper.doors import dropped

    if isinstance(ended, Refusal) and ended.result == EXEC_FAILED and settings is not None:
        from spawnhelper.stages import reasons

        ended = reasons.refusal(settings, ended.sentence)
    if isinstance(ended, Refusal):
        if connection is not None and door is not None:
            serve.turn_away(connection, ended, door.signals)
        fields = record.of_refusal(unit, connection, name, settings, ended)
    else:
        assert connection is not None
        assert settings is not None
        assert door is not None
        fields = record.of_end(unit, connection, settings, door.who.user, ended)
    if settings is None or record.wanted(settings.log, ended.result):
        record.write(fields, foreground=file is not None)
    if unit and settings is not None:
        dropped.say(settings)
    if connection is not None and door is not None:
        serve.see_off(connection, ended, door.signals)
    return ended.status if isinstance(ended, Refusal) else 0
