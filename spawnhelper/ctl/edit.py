"""Edit a service file as visudo(8) does: a copy, which is checked, put in place, and applied.

A file of /usr/lib/spawn is replaced by one in /etc/spawn. A copy with a mistake never counts: the
editor can be called again, or the file stays as it was.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile

from spawnhelper import manager
from spawnhelper.conf import files
from spawnhelper.ctl import apply, drafts, words
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.outcome import Refusal, printable

VARIABLES = ("SUDO_EDITOR", "VISUAL", "EDITOR")
EDITORS = ("editor", "nano", "vi")
AGAIN, LEAVE = "e", "x"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("service", metavar="NAME", help="a service")
    parser.add_argument(
        "--no-apply", action="store_true", help="leave systemd and the sockets as they are"
    )


def run(options: argparse.Namespace) -> int:
    """Edits it; the exit status of apply, or of sysexits.h."""
    if os.geteuid() != manager.now.uid:
        raise Complaint(os.EX_NOPERM, "to edit a service needs root")
    name = words.name_of(options.service)
    source = files.file_of(name)
    if name not in files.installed() or not files.is_name(name):
        new = manager.now.words("spawnctl") + " new"
        raise Complaint(os.EX_NOINPUT, f"there is no service file {source}; see {new}")
    file = files.new_file_of(name)
    try:
        before = files.text(source)
    except Refusal as refusal:
        raise Complaint(refusal.status, str(refusal)) from None
    found = os.stat(source)
    after = _edited(file, before)
    if after is None:
        print(f"{source}: left as it was", file=sys.stderr)
        return os.EX_CONFIG
    if after == before:
        print(f"{source}: unchanged")
        return 0
    try:
        if files.text(source) != before:
            raise Complaint(os.EX_TEMPFAIL, f"{source} has changed meanwhile")
        drafts.put(file, after, like=found, new=source != file)
    except (Complaint, Refusal) as error:
        raise Complaint(error.status, f"{error}; your copy is {_kept(after)}") from None
    print(f"{file}: saved")
    return 0 if options.no_apply else apply.apply([name])


def _edited(file: str, text: bytes) -> bytes | None:
    """The text as the editor leaves it, once it is good; None where the person gives up."""
    command = _editor()
    with tempfile.TemporaryDirectory(prefix="spawnctl-") as folder:
        copy = os.path.join(folder, os.path.basename(file))
        with open(copy, "wb") as out:
            out.write(text)
        while True:
            try:
                ended = subprocess.run([*command, copy], check=False).returncode
            except OSError as error:
                sentence = f"the editor {printable(command[0])} cannot be run: {error.strerror}"
                raise Complaint(os.EX_UNAVAILABLE, sentence) from None
            if ended != 0:
                sentence = f"the editor ended with {ended}, and the file is left as it was"
                raise Complaint(os.EX_UNAVAILABLE, sentence)
            with open(copy, "rb") as made:
                after = made.read(files.LONGEST_FILE + 1)
            refusal = drafts.judged(file, after) if after != text else None
            if refusal is None:
                return after
            for problem in refusal.problems:
                print(problem, file=sys.stderr)
            if not _again():
                return None


def _editor() -> list[str]:
    """The person's editor, with its arguments."""
    for variable in VARIABLES:
        if command := shlex.split(os.environ.get(variable, "")):
            return command
    found = next((name for name in EDITORS if shutil.which(name)), EDITORS[0])
    return [found]


def _again() -> bool:
    """Whether to call the editor once more. Nobody but a person can tell."""
    if not sys.stdin.isatty():
        return False
    while True:
        question = f"{AGAIN} to edit it again, {LEAVE} to leave the file as it was: "
        try:
            answer = input(question).strip().lower()
        except EOFError:
            return False
        if answer in (AGAIN, LEAVE):
            return answer == AGAIN


def _kept(text: bytes) -> str:
    """A file with the text, which is not to be lost."""
    descriptor, name = tempfile.mkstemp(prefix="spawnctl-", suffix=files.SUFFIX)
    with open(descriptor, "wb") as out:
        out.write(text)
    return name
