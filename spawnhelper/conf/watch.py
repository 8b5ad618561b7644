"""Whether what a service's files come to can still be what was read: a stat(2) of each.

A folder tells of files that come and go, and of links; a file of what is in it and whose it is. The
way there counts as well, for a folder that others can write is one whose files are not followed.
But a folder changes with whatever else is in it, /etc often; whether that matters a closer look
tells.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable

from spawnhelper import manager
from spawnhelper.conf import files
from spawnhelper.outcome import Refusal

# The kernel's clock for times of files ticks so slowly that two changes can have the same time.
TICK = 20_000_000  # nanoseconds
ALWAYS = ("/etc/passwd", "/etc/group", "/etc/localtime")  # whoever can write the way there
Seen = tuple[int, ...]  # the time of the last change comes first


class Watch:
    """The files that a service is read from, as they are just before that."""

    def __init__(self, name: str) -> None:
        self._begun = time.time_ns()
        self._name = name
        self._named: list[str] = []
        self._paths: list[str] = []
        self._seen: list[Seen | None] = []
        paths = _paths(name)
        for path, seen in zip(paths, _look(paths), strict=True):
            # Of one that is not there its folder tells, or what that is to be in, when it comes.
            if seen is not None or os.path.dirname(path) not in paths:
                self._paths.append(path)
                self._seen.append(seen)
        self._fresh = self._changed_lately(self._seen)
        self._closer = {path: _look_closer(path) for path in paths}
        self._unsure = self._changed_lately(self._closer.values())

    def also(self, paths: Iterable[str]) -> None:
        """Watches what the service names, too. To be called once it has been read."""
        self._named = list(paths)
        seen = _look(self._named)
        self._paths += self._named
        self._seen += seen
        self._fresh = self._fresh or self._changed_lately(seen)
        self._closer |= zip(self._named, seen, strict=True)  # of a RootDirectory= all may matter
        self._unsure = self._unsure or self._changed_lately(seen)

    def changed(self) -> bool:
        """Whether to read them anew. That is so as well where one changed while they were read, or
        just before: a further change could have the same time, and not be told from it."""
        if not self._fresh and _look(self._paths) == self._seen:
            return False
        if self._unsure:
            return True
        now = Watch(self._name)
        now.also(self._named)
        if now._unsure or now._closer != self._closer:
            return True
        self._paths, self._seen, self._fresh = now._paths, now._seen, now._fresh
        return False

    def _changed_lately(self, seen: Iterable[Seen | None]) -> bool:
        earliest, latest = self._begun - TICK, time.time_ns() + TICK
        return any(each is not None and earliest <= each[0] <= latest for each in seen)


def _paths(name: str) -> list[str]:
    """Every file that can be one of the service's, and every name on the way there."""
    file = files.file_of(name)
    folders = files.drop_in_folders(file)
    try:
        sources = files.sources(file)
    except Refusal:  # a folder that cannot be read, as reading it will tell
        sources = []
    wanted = [
        *(f"{folder}/{name}{files.SUFFIX}" for folder in manager.now.folders),
        *folders,
        *sources,
        manager.now.defaults,
    ]
    steps = (step for path in wanted for step in ("/", *files.walk(path)))
    return list(dict.fromkeys([*steps, *ALWAYS]))


def _look(paths: list[str]) -> list[Seen | None]:
    return [_stat(path) for path in paths]


def _stat(path: str) -> Seen | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ctime_ns, found.st_ino, found.st_dev, found.st_size


def _look_closer(path: str) -> Seen | None:
    """The same, but of a folder only what it is; what is in there has a look of its own."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if stat.S_ISDIR(found.st_mode):
        return 0, found.st_ino, found.st_dev, found.st_mode, found.st_uid, found.st_gid
    return found.st_ctime_ns, found.st_ino, found.st_dev, found.st_size
