"""Service files to drop-ins for spawn@NAME.socket: spawn-generator(8), systemd.generator(7)."""

from __future__ import annotations

import contextlib
import os
import sys

from spawnhelper.conf import files, listeners, service
from spawnhelper.outcome import ERR, Problem, Refusal, shown

# What spawn@.socket has for a service without a drop-in gives way to the service's own.
RESET = "ListenStream=\nExecStartPre=\n"
# The server serves every listener of its service. One that cannot start is not to be started
# without an end (systemd.socket(5)).
STANDING = ("Service=spawn-server@%i.service", "TriggerLimitIntervalSec=2s")
KMSG = "/dev/kmsg"
LONGEST_LINE = 900  # of 1024 bytes that the kernel takes for a record


def main(arguments: list[str]) -> int:
    """Writes the drop-ins into the first of systemd's three folders; with --explain NAME says
    instead why that service has none.

    A service whose file cannot be followed is left out, and does not keep the others from it.
    """
    if arguments[:1] == ["--explain"] and len(arguments) == 2:
        print(explain(files.file_of(arguments[1])), file=sys.stderr)
        return os.EX_CONFIG
    if len(arguments) != 3:
        print("usage: spawn-generator NORMAL-DIR EARLY-DIR LATE-DIR", file=sys.stderr)
        print("       spawn-generator --explain NAME", file=sys.stderr)
        return os.EX_USAGE
    try:
        names = files.installed()
    except Refusal as refusal:
        say(f"{refusal}; no service will listen")
        return os.EX_CONFIG
    for name in names:
        file = files.file_of(name)
        try:
            text = drop_in(file)
        except (Refusal, OSError) as error:
            say(f"{error}; spawn@{shown(name)}.socket will not listen")
            continue
        folder = os.path.join(arguments[0], f"spawn@{name}.socket.d")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, files.DROP_IN), "w", encoding="utf-8") as out:
            out.write(text)
    return 0


def drop_in(file: str) -> str:
    """What systemd is told about the service's socket; a Refusal where the file is not good."""
    section = listeners.checked_section(file)
    lines = [f"{each.key}={each.value}" for each in section]
    if service.is_standing(section):
        lines += STANDING
    head = f"# Made by spawn-generator(8) from {file}\n[Unit]\nSourcePath={file}\n\n[Socket]\n"
    return head + RESET + "\n".join(lines) + "\n"


def explain(file: str) -> str:
    """Why systemd has no listening address for this service."""
    try:
        drop_in(file)
    except Refusal as refusal:
        return "\n".join(map(str, refusal.problems))
    sentence = "systemd has not seen this service file yet; run systemctl daemon-reload"
    return str(Problem(file, None, sentence))


def say(sentence: str) -> None:
    """To the kernel's log: a generator runs when the journal may not."""
    try:
        log = os.open(KMSG, os.O_WRONLY | os.O_NOCTTY)  # and never made where there is none
    except OSError:
        print(sentence, file=sys.stderr)
        return
    text = f"<{ERR}>spawn-generator: {sentence}".encode(errors="backslashreplace")
    with contextlib.suppress(OSError), open(log, "wb", buffering=0) as out:
        out.write(text[:LONGEST_LINE] + b"\n")
