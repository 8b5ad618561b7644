"""What a service of one's own cannot have (spawn-user(7)): what needs root, in each of its
sections, and what is beyond the limits that its manager has."""

from __future__ import annotations

from spawnhelper.conf.settings import EVERY, KEYS, LIMITS, WITHIN
from spawnhelper.outcome import Problem, misconfigured, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from spawnhelper.conf.listeners import Listener
    from spawnhelper.conf.service import Service
    from spawnhelper.conf.syntax import Assignment
else:
    import posix as os

# Directives of [Socket] and [Service], and why not.
NOT = {
    "SocketUser": "needs root; remove the line, for the socket is yours",
    "SocketGroup": "needs root; remove the line, for the socket is yours",
    "Transparent": "needs root; remove the line",
    "Mark": "needs root; remove the line",
    "LogNamespace": "is for the system's services; remove the line",
}
PORTS = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
OOM = "/proc/self/oom_score_adj"
MOST_NICE = 20  # less RLIMIT_NICE is the lowest nice value that one may have (getrlimit(2))


class Reach:
    """How far the processes of a user's manager may go without root. nice, oom: the lowest values
    that they may have. limits: the hard ones, by their keys; None is no limit."""

    __slots__ = ("limits", "nice", "oom")

    def __init__(self, nice: int, oom: int, limits: Mapping[str, int | None]) -> None:
        self.nice = nice
        self.oom = oom
        self.limits = limits


def problems(assignments: list[Assignment]) -> list[Problem]:
    """The lines that need root, whatever their manager's limits are."""
    found = []
    for each in assignments:
        why = NOT.get(each.key, "")
        if each.section == "Spawn":
            why = KEYS[each.key].own if each.key in KEYS else EVERY
        if not each.value or why in (EVERY, WITHIN):
            continue
        found.append(Problem(each.file, each.line, f"{each.key}= {why}"))
    return found


def closed_ports(listeners: list[Listener]) -> list[Problem]:
    """The ports at which only root may listen."""
    first = _number(PORTS)
    right = f"needs root; write a port from {first} on"
    return [
        Problem(each.file, each.line, f"ListenStream={shown(each.text)} {right}")
        for each in listeners
        if 0 < each.port < first
    ]


def reach() -> Reach:
    """That of this process."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NICE)
    lowest = -MOST_NICE if soft < 0 else MOST_NICE - soft
    limits: dict[str, int | None] = {}
    for key in LIMITS:
        number = getattr(resource, f"RLIMIT_{key.removeprefix('Limit')}", None)
        if number is not None:
            hard = resource.getrlimit(number)[1]
            limits[key] = None if hard == resource.RLIM_INFINITY else hard
    return Reach(min(os.getpriority(os.PRIO_PROCESS, 0), lowest), _number(OOM), limits)


def check_reach(settings: Service, within: Reach) -> None:
    """Refuses values beyond what a process may have that is not root."""
    wrong = []
    for key, value, least in (
        ("Nice", settings.nice, within.nice),
        ("OOMScoreAdjust", settings.oom_score_adjust, within.oom),
    ):
        if value is not None and value < least:
            sentence = f"{key}={value} needs root; write {least} or more"
            wrong.append(settings.problem(key, sentence))
    for key, (_, hard) in settings.limits().items():
        most = within.limits.get(key)
        if most is not None and (hard < 0 or hard > most):
            text = shown(settings.given[key][-1].value)
            sentence = f"{key}={text} is more than you may have; write at most {most}"
            wrong.append(settings.problem(key, sentence))
    if wrong:
        raise misconfigured(*wrong)


def _number(file: str) -> int:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    text = os.read(descriptor, 16)
    os.close(descriptor)
    return int(text)
