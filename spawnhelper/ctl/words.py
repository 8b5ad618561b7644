"""Which service is meant: by its name, its file, a drop-in, or one of its units. And which user."""

from __future__ import annotations

import argparse
import os
import pwd
import re
from collections.abc import Sequence

from spawnhelper import manager
from spawnhelper.conf import files
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.outcome import shown

DROP_INS = f"{files.SUFFIX}.d"
SERVER = "spawn-server@"  # how the unit of a standing server begins


def file_of(wanted: str) -> str:
    """The file of a service that is named by it, by a drop-in, by its name, or by a unit of
    its."""
    if "/" in wanted or wanted.endswith(files.SUFFIX):
        wanted = os.path.abspath(wanted)
        folder, base = os.path.split(os.path.dirname(wanted))
        if not base.endswith(DROP_INS):
            return wanted
        file = os.path.join(folder, base.removesuffix(".d"))
        ours = folder in manager.now.folders
        return files.file_of(files.name_of(file)) if ours else file
    return files.file_of(name_of(wanted))


def named(client: str) -> str:
    """A client of a path with the name of its user, as far as this machine knows it."""
    found = re.search(r"\buid (\d{1,10})$", client)
    if found is None:
        return client
    try:
        name = pwd.getpwuid(int(found[1])).pw_name
    except (KeyError, OverflowError):
        return client
    return f"{client[: found.start()]}{name} ({found[1]})"


def uid_of(name: str) -> str:
    """The uid of a user. Raises Complaint."""
    try:
        return str(pwd.getpwnam(name).pw_uid)
    except KeyError:
        sentence = f"--user={shown(name)} is no account of this machine"
        raise Complaint(os.EX_USAGE, sentence) from None


def services_of(options: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """The services that are named, of one manager or, with --user-unit, of all users'. Raises
    Complaint where that is both."""
    if names and options.user_unit:
        sentence = "--user-unit is for services of users' own; leave out it, or the other names"
        raise Complaint(os.EX_USAGE, sentence)
    return [name_of(each) for each in (*names, *options.user_unit)]


def name_of(wanted: str) -> str:
    """The service that is named by its name, its socket unit, its server's, or its file."""
    name = files.name_of(wanted)
    if name.startswith(SERVER):
        return name.removeprefix(SERVER).removesuffix(".service")
    return name.removeprefix("spawn@").removesuffix(".socket")
