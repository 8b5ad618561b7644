"""Which service is meant: by its name, its file, a drop-in, or one of its units. And which user."""

from __future__ import annotations

import os
import pwd
import re

from spawnhelper.conf import files

DROP_INS = f"{files.SUFFIX}.d"
SERVER = "spawn-server@"


def file_of(wanted: str) -> str:
    """The file of a service that is named by it, by a drop-in, by its name, or by a unit of
    its."""
    if "/" in wanted or wanted.endswith(files.SUFFIX):
        wanted = os.path.abspath(wanted)
        folder, base = os.path.split(os.path.dirname(wanted))
        if not base.endswith(DROP_INS):
            return wanted
        file = os.path.join(folder, base.removesuffix(".d"))
        ours = folder in (files.DIRECTORY, files.VENDOR)
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


def name_of(wanted: str) -> str:
    """The service that is named by its name, its socket unit, its server's, or its file."""
    name = files.name_of(wanted)
    if name.startswith(SERVER):
        return name.removeprefix(SERVER).removesuffix(".service")
    return name.removeprefix("spawn@").removesuffix(".socket")
