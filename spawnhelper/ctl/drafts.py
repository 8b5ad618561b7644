"""Texts of service files before they are there: read, judged as what they are to be, and put into
their place at once."""

from __future__ import annotations

import os
import stat
import sys
import tempfile

from spawnhelper import manager
from spawnhelper.conf import files
from spawnhelper.ctl import examination
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.outcome import Refusal, printable

INPUT = "-"
MODE = 0o644


def read(given: str) -> bytes:
    """The text of a file, whosever it is, or of standard input. Raises Refusal."""
    if given == INPUT:
        return sys.stdin.buffer.read(files.LONGEST_FILE + 1)
    return files.text(os.path.abspath(given))


def judged(file: str, text: bytes) -> Refusal | None:
    """What would be wrong with the service whose file had this text; None for nothing."""
    files.drafts[file] = text
    try:
        with examination.as_the_helper():
            return examination.examine(file)
    finally:
        del files.drafts[file]


def put(file: str, text: bytes, *, like: os.stat_result | None = None, new: bool) -> None:
    """Has the file have this text, at once and for good; of a link, what it leads to. like: a file
    whose mode it is to have, and, where it is not new, whose owner and group. new: whether there
    must not be one yet. Raises Complaint."""
    try:
        if not new:
            file = os.path.realpath(file)
        _make_folder(os.path.dirname(file))
        descriptor, name = tempfile.mkstemp(dir=os.path.dirname(file), prefix=".spawnctl-")
        try:
            with open(descriptor, "wb") as out:
                out.write(text)
                if like is not None and not new and os.geteuid() == 0:
                    os.fchown(descriptor, like.st_uid, like.st_gid)
                os.fchmod(descriptor, MODE if like is None else stat.S_IMODE(like.st_mode))
                out.flush()
                os.fsync(descriptor)
            if new:
                os.link(name, file)
            else:
                os.rename(name, file)
        finally:
            if os.path.exists(name):
                os.unlink(name)
    except FileExistsError:
        edit = manager.now.words("spawnctl") + " edit"
        raise Complaint(os.EX_CANTCREAT, f"{file} is there already; {edit} it") from None
    except OSError as error:
        sentence = f"{printable(file)} cannot be written: {error.strerror}"
        raise Complaint(os.EX_CANTCREAT, sentence) from None


def _make_folder(path: str) -> None:
    """Has there be such a folder, in which nobody else can write."""
    before = os.umask(0o022)
    try:
        os.makedirs(path, exist_ok=True)
    finally:
        os.umask(before)
