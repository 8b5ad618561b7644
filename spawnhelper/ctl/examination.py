"""Everything that is wrong with a service file, by the functions that refuse it when it counts."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TypeVar

from spawnhelper import manager
from spawnhelper.conf import files, listeners, own, service
from spawnhelper.conf.settings import LIMITS
from spawnhelper.ctl import units
from spawnhelper.outcome import Problem, Refusal, misconfigured
from spawnhelper.stages import banner, command, executables, identity, reasons

T = TypeVar("T")
UNIT = "check"  # any name that a connection's unit could have


@contextlib.contextmanager
def as_the_helper() -> Iterator[None]:
    """Gives up root's way around permissions, which spawn@.service does not have either. Raises
    Refusal where a library is missing."""
    if os.geteuid() != 0:
        yield
        return
    try:
        import prctl
    except ImportError as error:
        raise command.without_library(error) from None
    had = prctl.cap_effective.dac_override, prctl.cap_effective.dac_read_search
    prctl.cap_effective.dac_override = prctl.cap_effective.dac_read_search = False
    try:
        yield
    finally:
        prctl.cap_effective.dac_override, prctl.cap_effective.dac_read_search = had


def rehearse(settings: service.Service, who: identity.Identity, program: str) -> list[Problem]:
    """What only the command's own user can tell: whether the program and the folder are open to it,
    and all that the program needs.

    Needs root. The sentences are those of a connection's record.
    """
    found = (
        reasons.of_program(settings, who, program, allowed_capabilities(settings.template)),
        reasons.of_folder(settings, who),
    )
    return [problem for problem in found if problem is not None]


@cache
def allowed_capabilities(template: str) -> int:
    """What a file can give to a command, as bits: of what this machine has, what the unit that
    serves connections has as it is installed."""
    told = _shown(template, "CapabilityBoundingSet")
    if not told:
        return executables.bounding_set()
    return executables.bits(told["CapabilityBoundingSet"]) & executables.bounding_set()


@cache
def reach(template: str) -> own.Reach:
    """How far a user's manager has such a unit go, which may be less than its sessions may."""
    names = ["Nice", "OOMScoreAdjust", "LimitNICESoft", *LIMITS]
    told = _shown(template, ",".join(names))
    if not told:
        return own.reach()
    hard = {key: None if told[key] == "infinity" else int(told[key]) for key in LIMITS}
    soft = told["LimitNICESoft"]
    lowest = -own.MOST_NICE if soft == "infinity" else own.MOST_NICE - int(soft)
    return own.Reach(min(int(told["Nice"]), lowest), int(told["OOMScoreAdjust"]), hard)


def _shown(template: str, names: str) -> dict[str, str]:
    """What the manager has for a unit of this template; nothing where there is none to be asked."""
    unit = template.replace("@", f"@{UNIT}")
    ask = ["systemctl", *manager.now.option, "show", f"--property={names}", unit]
    try:
        told = subprocess.run(ask, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(line.split("=", 1) for line in told.splitlines())


def examine(file: str, *, thorough: bool = True) -> Refusal | None:
    """Everything that a connection, the generator or the kernel would refuse about this file, or
    None: by the same functions that refuse it there. thorough: whether the command's own user is
    asked, too, where root asks."""
    found = Findings()
    if file == manager.now.defaults:
        found.of(service.check_defaults)
        return found.refusal()
    if found.of(service.read, file) is None:  # nothing is to be said of what it has in it
        return found.refusal()
    settings = found.of(service.load, file)
    if settings is not None:
        who = found.of(identity.resolve, settings)
        if manager.now.own:
            found.of(own.check_reach, settings, reach(settings.template))
        program = found.of(command.find, settings)
        for key, path in (("Banner", settings.banner), ("BannerRefused", settings.banner_refused)):
            if path is not None:
                found.of(banner.text, settings, key, path)
        kinds = {each.family == socket.AF_UNIX for each in listeners.claimed(file)}
        if kinds == {True}:
            found.of(service.check_rules, settings)
        for unix in kinds:
            found.of(partial(service.check_idle_limit, settings, tcp=not unix))
            found.of(partial(service.check_proxies, settings, tcp=not unix))
        if who and program and thorough and os.geteuid() == manager.now.uid:
            found.problems += rehearse(settings, who, program)
    found.of(listeners.checked_sections, file)
    found.problems += [problem for _, problem in conflicts(file, drafts=False)]
    found.problems += found.of(listeners.unknown_owners, file) or []
    return found.refusal()


@cache
def _claimed(file: str) -> list[listeners.Listener]:
    """Where another file means to listen. Files are compared with each other, all with all."""
    return listeners.claimed(file)


def conflicts(file: str, *, drafts: bool) -> list[tuple[str, Problem]]:
    """The addresses of this file that other services have, too, whose sockets are enabled or on; or
    those of drafts, which claim nothing as long as neither is so."""
    name = files.name_of(file)
    found = listeners.conflicts(file, _claimed)
    others = {other for other, _ in found if other != name}
    claiming = units.claiming(others) if others else set()
    return [each for each in found if (each[0] in {name, *claiming}) != drafts]


class Findings:
    """What one stage after the other refuses. status: the first one's."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.status = 0
        self._known: set[str] = set()

    def of(self, stage: Callable[..., T], *arguments: object) -> T | None:
        """What the stage makes of its arguments, None where it refuses them."""
        try:
            return stage(*arguments)
        except Refusal as refusal:
            new = [each for each in refusal.problems if str(each) not in self._known]
            self.problems += new
            self._known.update(map(str, new))
            self.status = self.status or refusal.status
            return None

    def refusal(self) -> Refusal | None:
        """All of it, None where there is nothing."""
        if not self.problems:
            return None
        return misconfigured(*self.problems, status=self.status or os.EX_CONFIG)
