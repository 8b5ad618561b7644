"""Whether what a service's files come to can still be what was read: a stat(2) of each.

A folder tells of files that come and go, and of links; a file of what is in it and whose it is. The
way there counts as well, for a folder that others can write is one whose files are not followed.
"""

from __future__ import annotations

import os
import time

from spawnhelper.conf import files
from spawnhelper.conf.service import Service

# The kernel's clock for times of files ticks so slowly that two changes can have the same time.
TICK = 20_000_000  # nanoseconds
ALWAYS = ("/etc/passwd", "/etc/group", "/etc/localtime")
Seen = tuple[int, int, int, int]


class Watch:
    """The files that a service was read from, as they were before that."""

    def __init__(self, name: str) -> None:
        self._begun = time.time_ns()
        self._settled = False
        self._paths = _paths(name)
        self._seen = _look(self._paths)

    def also(self, settings: Service) -> None:
        """Watches what the service names, too. To be called once it has been read."""
        named = (settings.banner, settings.banner_refused, settings.root_directory)
        more = [path for path in (*named, settings.argv[0]) if path and path[0] == "/"]
        self._paths += more
        self._seen += _look(more)

    def changed(self) -> bool:
        """Whether to read them anew."""
        if _look(self._paths) != self._seen:
            return True
        if not self._settled and time.time_ns() - self._begun > TICK:
            self._settled = True  # a change just after the look could not be told; once more
            return self._youngest() > self._begun - TICK
        return False

    def _youngest(self) -> int:
        return max((seen[0] for seen in self._seen if seen is not None), default=0)


def _paths(name: str) -> list[str]:
    """Every file that can be one of the service's, and every name on the way there."""
    file = files.file_of(name)
    folders = files.drop_in_folders(file)
    wanted = [
        *(f"{folder}/{name}{files.SUFFIX}" for folder in (files.DIRECTORY, files.VENDOR)),
        *folders,
        *files.sources(file),
        files.DEFAULTS,
        *ALWAYS,
    ]
    return list(dict.fromkeys(step for path in wanted for step in ("/", *files.walk(path))))


def _look(paths: list[str]) -> list[Seen | None]:
    return [_stat(path) for path in paths]


def _stat(path: str) -> Seen | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ctime_ns, found.st_ino, found.st_dev, found.st_size
