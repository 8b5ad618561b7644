"""What a service's files come to: what is decided before there is a connection. The server's
alone."""

from __future__ import annotations

from spawnhelper.conf.service import Service
from spawnhelper.outcome import Problem, Refusal
from spawnhelper.stages import banner, command, identity
from spawnhelper.stages.identity import Identity


class Plan:
    """A service that can be followed, with its user and its program. Its banners have been read,
    for a worker must not trust what its user could have put in their place."""

    __slots__ = ("program", "service", "who")

    def __init__(self, settings: Service, who: Identity, program: str) -> None:
        self.service = settings
        self.who = who
        self.program = program


def made(settings: Service) -> Plan:
    """The plan of a service whose files have just been read. Raises Refusal."""
    who = identity.resolve(settings)
    identity.check_reach(settings, who)
    program = command.find(settings)
    for key, path in (("Banner", settings.banner), ("BannerRefused", settings.banner_refused)):
        if path is not None:
            settings.banners[key] = _banner(settings, key, path)
    return Plan(settings, who, program)


def _banner(settings: Service, key: str, path: str) -> bytes | tuple[Problem, ...]:
    """The text, or what is wrong with it: that counts only where it is to be sent."""
    try:
        return banner.text(settings, key, path)
    except Refusal as refusal:
        return refusal.problems
