"""Service files to drop-ins for spawn@NAME.socket and spawn-server@NAME.service:
spawn-generator(8), systemd.generator(7)."""

from __future__ import annotations

import contextlib
import os
import sys

from spawnhelper import manager
from spawnhelper.conf import dropins, files
from spawnhelper.outcome import ERR, Problem, Refusal, shown

KMSG = "/dev/kmsg"
LONGEST_LINE = 900  # of 1024 bytes that the kernel takes for a record


def main(arguments: list[str]) -> int:
    """Writes the drop-ins into the first of systemd's three folders; with --explain NAME says
    instead why that service has none. With --user before all that it is about one's own.

    A service whose file cannot be followed is left out, and does not keep the others from it.
    """
    if arguments[:1] == [manager.OPTION] and len(arguments) == 4 and os.geteuid() == 0:
        return 0  # root's own: nothing is to be said of that at each login
    arguments = manager.chosen(arguments)
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
            texts = dropins.made(file)
        except (Refusal, OSError) as error:
            say(f"{error}; spawn@{shown(name)}.socket will not listen")
            continue
        for unit, text in texts.items():
            folder = os.path.join(arguments[0], f"{unit}.d")
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, files.DROP_IN), "w", encoding="utf-8") as out:
                out.write(text)
    return 0


def explain(file: str) -> str:
    """Why systemd has no listening address for this service, or no server."""
    try:
        made = dropins.made(file)
    except Refusal as refusal:
        return "\n".join(map(str, refusal.problems))
    unit = f"spawn@{files.name_of(file)}.socket"
    if list(made) == [unit] and os.path.exists(files.drop_in(unit)):
        sentence = "the service has no server; write Accept=no in [Socket] if it is to have one"
        return str(Problem(file, None, sentence))
    sentence = "systemd has not seen this service file yet; run "
    sentence += f"{manager.now.words('systemctl')} daemon-reload"
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
