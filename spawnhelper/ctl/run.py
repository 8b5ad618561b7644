"""Serve one service file in the foreground, to try it.

No root and no installed unit is needed: systemd-socket-activate(1) accepts the connections, and the
same helper serves them. Without root the service's User= has to be yourself, and --as-me makes it
so. What StandardError=journal brings to the journal is shown here instead.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import spawnhelper
from spawnhelper import manager
from spawnhelper.conf import files, listeners, service
from spawnhelper.ctl import words
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.outcome import Refusal, shown
from spawnhelper.stages import command, identity

ACTIVATOR = "systemd-socket-activate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("file", metavar="NAME|FILE", help="a service, or a file")
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        help="listen here instead of at the file's ListenStream=; may be repeated",
    )
    parser.add_argument(
        "--as-me", action="store_true", help="run the command as yourself, whatever User= says"
    )


def run(options: argparse.Namespace) -> int:
    """Becomes the activator, or with --as-me runs it; an exit status of sysexits.h where that is
    not possible."""
    file = os.path.abspath(words.file_of(options.file))
    if not options.as_me:
        return _serve(file, options)
    with tempfile.TemporaryDirectory(prefix="spawnctl-") as folder:
        try:
            copy = _mine(file, folder)
        except Refusal as refusal:
            print(refusal, file=sys.stderr)
            return refusal.status
        return _serve(copy, options)


def _mine(file: str, folder: str) -> str:
    """A copy of the service's files, by which its command runs as whoever runs this."""
    copy = os.path.join(folder, os.path.basename(file))
    drop_ins = f"{copy}.d"
    os.mkdir(drop_ins)
    sources = [each for each in files.sources(file) if each != manager.now.defaults]
    for number, source in enumerate(sources):
        text = files.text(source)
        place = copy if source == file else f"{drop_ins}/{number:04}.conf"
        with open(place, "wb") as out:
            out.write(text)
    with open(f"{drop_ins}/me.conf", "w", encoding="utf-8") as out:
        out.write(f"[Spawn]\nGroup=\nSupplementaryGroups=\nUser={os.getuid()}:{os.getgid()}\n")
    return copy


def _serve(file: str, options: argparse.Namespace) -> int:
    try:
        settings = service.load(file)
        identity.check_reach(settings, identity.resolve(settings))
        command.find(settings)
        listeners.checked_sections(file)
    except Refusal as refusal:
        for problem in refusal.problems:
            print(problem, file=sys.stderr)
        return refusal.status
    activator = shutil.which(ACTIVATOR)
    if activator is None:
        print(f"spawnctl: {ACTIVATOR} is missing; install systemd", file=sys.stderr)
        return os.EX_UNAVAILABLE
    addresses = options.listen or [each.place for each in listeners.claimed(file)]
    for address in addresses:
        _try(address)
    passed = [*command.EXPORTED, *settings.pass_environment]
    if settings.max_commands is not None or manager.now.own:
        passed.append("XDG_RUNTIME_DIR")
    if manager.now.own:
        passed += ["HOME", "XDG_CONFIG_HOME"]
    arguments = [
        ACTIVATOR,
        "--accept",
        *(f"--listen={address}" for address in addresses),
        *(f"--setenv={name}" for name in passed if name in os.environ),
        sys.executable,
        *("-I", "-X", "utf8"),  # no -S: in a tree or a virtual environment site finds libraries
        os.path.join(os.path.dirname(spawnhelper.__file__), "__main__.py"),
        *manager.now.option,
        "--file",
        file,
    ]
    print(f"{settings.name}: serving {file} on {', '.join(addresses)}; ^C ends it", flush=True)
    environment = os.environ | {"SYSTEMD_LOG_LEVEL": "warning"}
    if not options.as_me:
        return os.execve(activator, arguments, environment)
    with subprocess.Popen([activator, *arguments[1:]], env=environment) as serving:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: serving.send_signal(number))
        status = serving.wait()  # then the copy can go
    return 128 - status if status < 0 else status


def _try(address: str) -> None:
    """Raises Complaint where nobody who runs this could listen."""
    try:
        family, host, port = listeners.address(address)
    except ValueError as error:
        raise Complaint(os.EX_USAGE, f"--listen={shown(address)} {error}") from None
    if family == socket.AF_UNIX:
        return
    try:
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
            trial.listen()
    except OSError as error:
        status = os.EX_NOPERM if error.errno == errno.EACCES else os.EX_UNAVAILABLE
        right = "; choose a port above 1023 with --listen" if status == os.EX_NOPERM else ""
        sentence = f"{address} cannot be listened at: {error.strerror}{right}"
        raise Complaint(status, sentence) from None
