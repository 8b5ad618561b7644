"""Notes about other users of the machine, and what they could do to a service."""

from __future__ import annotations

import os
import re
import stat
from functools import cache

from spawnhelper import manager
from spawnhelper.conf import files, service
from spawnhelper.conf.service import Service
from spawnhelper.outcome import Problem, Refusal, shown
from spawnhelper.stages import identity

SECRET = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY", re.IGNORECASE)  # in the name of a variable


def of(settings: Service) -> list[Problem]:
    """What to think about for whom the service has to trust. Those of one user have no secrets
    from each other."""
    if manager.now.own:
        return []
    return [*_jail(settings), *_shared_secret(settings), *_shared_server(settings)]


def _jail(settings: Service) -> list[Problem]:
    """A root that others can exchange."""
    root = settings.root_directory
    why = root and files.distrust_way(root)
    if not why:
        return []
    sentence = f"RootDirectory={shown(root or '')} can be exchanged, for example by a link to /"
    return [settings.problem("RootDirectory", f"{sentence}: {why}")]


def _shared_secret(settings: Service) -> list[Problem]:
    """Variables with a secret that the commands of other services can read from /proc."""
    given = settings.given.get("Environment", [])
    closed = any(_is_closed(each.file) for each in given)
    if not closed and not any(map(SECRET.search, settings.environment)):
        return []
    others = [name for name, _ in _namesakes(settings)]
    if not others:
        return []
    sentence = (
        f"Environment= can be read by the commands of {' and '.join(map(shown, others))}, which "
        "have the same User=; give each service an account of its own"
    )
    return [settings.problem("Environment", sentence)]


def _is_closed(file: str) -> bool:
    """Whether not everybody can read it. What is still to be a file says nothing."""
    try:
        return not os.stat(file).st_mode & stat.S_IROTH
    except FileNotFoundError:
        return False


def _shared_server(settings: Service) -> list[Problem]:
    """Workers of a server that the commands of other services can end, or those of theirs by the
    commands of this one."""
    others = [name for name, standing in _namesakes(settings) if standing or settings.standing]
    if not others:
        return []
    have = "has" if len(others) == 1 else "have"
    sentence = (
        f"{' and '.join(map(shown, others))} {have} the same User=, and commands can end the "
        "workers that a server (Accept=no) has as that user; give each service an account of its "
        "own"
    )
    return [settings.problem("User", sentence)]


def _namesakes(settings: Service) -> list[tuple[str, bool]]:
    """The other services of this one's account, and whether each has a server."""
    uid = identity.resolve(settings).uid
    others = [name for name in files.installed() if name != settings.name]
    return [(name, _account_of(name)[1]) for name in others if _account_of(name)[0] == uid]


@cache
def _account_of(name: str) -> tuple[int | None, bool]:
    """The uid of a service's commands, None where its files are wrong, and whether it has a
    server."""
    try:
        settings = service.load(files.file_of(name))
        return identity.resolve(settings).uid, settings.standing
    except Refusal:
        return None, False
