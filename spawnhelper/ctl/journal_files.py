"""Which journal files there are, and which of them were not read."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from pathlib import Path
from typing import NamedTuple

from spawnhelper import manager
from spawnhelper.outcome import printable

PERSISTENT, VOLATILE = "/var/log/journal", "/run/log/journal"
REMOTE = f"{PERSISTENT}/remote"  # systemd-journal-remote(8)
SUFFIXES = (".journal", ".journal~")
OF_USERS = "user-"  # how files of users begin
# What libsystemd's error codes mean for a file (sd_journal_open_files(3)).
FAULTS = {
    "EBADMSG": "is no journal file, or is damaged",
    "ENODATA": "is cut short",
    "EPROTONOSUPPORT": "was written by a newer systemd than this one",
}
TO_READ_ALL = "root reads it, and members of the groups adm and systemd-journal do"
Identity = tuple[int, int]


class Unread(NamedTuple):
    """A journal file or folder that was not read, or not to its end, and why."""

    path: str
    reason: str
    forbidden: bool = False

    def __str__(self) -> str:
        right = f"; {TO_READ_ALL}" if self.forbidden else ""
        return f"{printable(self.path)}: {self.reason} (not read){right}"


class Expected:
    """The files that are to be read. paths: by what they are, for a rotation gives a file another
    name. unread: what is known not to be. of_users: whether those of all users are, or of the one
    manager that this is about."""

    def __init__(self, *, of_users: bool) -> None:
        self.paths: dict[Identity, str] = {}
        self.unread: list[Unread] = []
        self._of_users = of_users

    def add(self, file: str) -> None:
        """Notes this file."""
        self.paths[_identity(os.stat(file))] = file

    def add_folders(self, *folders: str) -> None:
        """Notes which files there are that can have records, before libsystemd opens them."""
        for folder in folders:
            try:
                for entry in self._with_records(listed(folder)):
                    self.paths[_identity(entry.stat())] = entry.path
            except FileNotFoundError:
                pass
            except OSError as error:
                self.unread.append(cannot_open(folder, error))

    def _with_records(self, entries: list[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
        """The journal files of the manager that this is about, or of all. journald has one for each
        user, unless the journal is volatile, or the user is of the system (SplitMode= of
        journald.conf(5)): then theirs is the system's."""
        found = [entry for entry in entries if entry.name.endswith(SUFFIXES)]
        if self._of_users:
            return found
        mine = tuple(f"{OF_USERS}{manager.now.uid}{mark}" for mark in ".@")
        own = [entry for entry in found if entry.name.startswith(mine)]
        return own or [entry for entry in found if not entry.name.startswith(OF_USERS)]

    def closed(self) -> list[str]:
        """Those that are not open. libsystemd leaves out what it cannot open, and what it finds to
        be damaged from there on; it does not say so, but it closes the file."""
        held = open_now()
        return [path for key, path in self.paths.items() if key not in held]


def open_now() -> set[Identity]:
    """The files that this process has open."""
    held = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            held.add(_identity(os.fstat(int(descriptor))))
        except OSError:
            pass  # the one that listed the folder
    return held


def place_of(key: Identity, path: str) -> str:
    """Where the file is now that was there."""
    try:
        if _identity(os.stat(path)) == key:
            return path
    except OSError:
        pass
    with contextlib.suppress(OSError):  # one of them has gone since, or the folder
        for each in listed(os.path.dirname(path)):
            if _identity(each.stat()) == key:
                return each.path
    return path


def of_machine() -> list[str]:
    """Where this machine's own journal is."""
    machine = Path("/etc/machine-id").read_text().strip()
    return [f"{place}/{machine}" for place in (VOLATILE, PERSISTENT)]


def of_namespace(namespace: str) -> list[str]:
    """Where this machine's journal of a namespace is; * is any of them."""
    name = "*" if namespace == "*" else glob.escape(namespace)
    patterns = (f"{place}.{name}" for place in of_machine())
    return [folder for pattern in patterns for folder in sorted(glob.glob(pattern))]


def is_of_machine(name: str) -> bool:
    """Whether libsystemd looks for journals in a folder of this name: a machine's id, with a
    namespace behind a dot."""
    return re.fullmatch(r"[0-9a-f]{32}(\..*)?", name) is not None


def listed(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder, by name. Raises OSError."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def damaged(path: str) -> Unread:
    """What is to be said of a file that was closed on the way."""
    return Unread(path, "is damaged; what lies behind the damage was not read")


def cannot_open(path: str, error: OSError | SystemError) -> Unread:
    """What is to be said of a file that cannot be opened. error: the kernel's, or cysystemd's."""
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return Unread(path, reason, isinstance(error, PermissionError))
    reason, code = error.args
    return Unread(path, FAULTS.get(code, reason), code in ("EACCES", "EPERM"))


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino
