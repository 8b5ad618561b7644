"""Notes about other users of the machine, and what they could do to a service."""

from __future__ import annotations

import os
import re
import stat

from spawnhelper.conf import files, service
from spawnhelper.conf.service import Service
from spawnhelper.outcome import Problem, Refusal, shown
from spawnhelper.stages import identity

SECRET = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY", re.IGNORECASE)  # in the name of a variable


def of(settings: Service) -> list[Problem]:
    """What to think about for whom the service has to trust."""
    return [*_jail(settings), *_shared_secret(settings)]


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
    closed = any(not os.stat(each.file).st_mode & stat.S_IROTH for each in given)
    if not closed and not any(map(SECRET.search, settings.environment)):
        return []
    uid = identity.resolve(settings).uid
    others = [name for name in files.installed() if name != settings.name and _uid_of(name) == uid]
    if not others:
        return []
    sentence = (
        f"Environment= can be read by the commands of {' and '.join(map(shown, others))}, which "
        "have the same User=; give each service an account of its own"
    )
    return [settings.problem("Environment", sentence)]


def _uid_of(name: str) -> int | None:
    try:
        return identity.resolve(service.load(files.file_of(name))).uid
    except Refusal:
        return None
