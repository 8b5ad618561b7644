"""Writes service files to a folder: all of them or none."""

from __future__ import annotations

import contextlib
import os
import tempfile

from spawnhelper import manager
from spawnhelper.conf import files
from spawnhelper.moving.draft import Draft

OPEN, CLOSED = 0o644, 0o600  # CLOSED where others cannot read the source either


class Failed(Exception):
    """Nothing was written; str() is the sentence that says why."""


def write(drafts: list[Draft], source: str, folder: str, *, force: bool) -> list[str]:
    """Writes a file for each draft, and returns their paths.

    Whatever keeps one of them from being written raises Failed, and leaves the folder as it was.
    force: replace files that are there. Needs root where the folder is root's.
    """
    paths = [os.path.join(folder, f"{each.name}{files.SUFFIX}") for each in drafts]
    if there := [found for path in paths for found in _drop_ins(path)]:
        raise Failed(f"{', '.join(there)} would add to the new files; move it away")
    if not force and (there := [found for path in paths for found in _files(path)]):
        raise Failed(f"{', '.join(there)} would be replaced; use --force if that is meant")
    made = not os.path.isdir(folder)
    try:
        if made:
            os.mkdir(folder, 0o755)
        with contextlib.ExitStack() as undo:
            if made:
                undo.callback(os.rmdir, folder)
            new = [_new(draft, source, folder, undo) for draft in drafts]
            for temporary, path in zip(new, paths, strict=True):
                _put(temporary, path, undo, force=force)
            undo.pop_all()
    except OSError as error:
        where = error.filename or folder
        raise Failed(f"{where}: {error.strerror}; nothing was written") from None
    for left in new:
        for name in (left, f"{left}.old"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
    return paths


def _files(path: str) -> list[str]:
    """The files of the service that are there already. A vendor's would be replaced, too."""
    found = [path]
    first, *others = manager.now.folders
    if os.path.dirname(path) == first:
        found += [os.path.join(folder, os.path.basename(path)) for folder in others]
    return [each for each in found if os.path.lexists(each)]


def _drop_ins(path: str) -> list[str]:
    """The folders of drop-ins of the service that are there already."""
    return [each for each in files.drop_in_folders(path) if os.path.lexists(each)]


def _new(draft: Draft, source: str, folder: str, undo: contextlib.ExitStack) -> str:
    """The whole file under a name that no service has."""
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".new", dir=folder)
    undo.callback(os.unlink, temporary)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(draft.text(source))
        file.flush()
        os.fchmod(descriptor, OPEN if draft.found.mode & 0o004 else CLOSED)
        os.fsync(descriptor)
    return temporary


def _put(temporary: str, path: str, undo: contextlib.ExitStack, *, force: bool) -> None:
    """Gives the file its name. link(2), other than rename(2), replaces nothing."""
    if force and os.path.lexists(path):
        old = f"{temporary}.old"
        os.link(path, old, follow_symlinks=False)
        os.link(temporary, f"{temporary}.put")
        undo.callback(os.replace, old, path)
        os.replace(f"{temporary}.put", path)
    else:
        os.link(temporary, path)
        undo.callback(os.unlink, path)
