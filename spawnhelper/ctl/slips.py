"""Notes about Argv=: words that mean something elsewhere and nothing here, and what its program is
without."""

from __future__ import annotations

import os
import re
import stat

from spawnhelper.conf import files
from spawnhelper.conf.service import Service
from spawnhelper.outcome import Problem, shown
from spawnhelper.stages import command, executables

CAPABILITY = "security.capability"
OPERATORS = ("|", "||", "&", "&&", "<", "<<", ">", ">>", "2>", "2>>", "2>&1", "&>")
REDIRECTION = re.compile(r"[0-9]?[<>]&?[\w/.-]+")
VARIABLE = re.compile(r"(?:[\w./:=,@+-]*\$(?:[A-Za-z_]\w*|\{\w+\}))+[\w./:=,@+-]*")


def of(settings: Service) -> list[Problem]:
    """What to think about for the command."""
    return [*_words(settings), *_line_ends(settings), *_privileges(settings)]


def _words(settings: Service) -> list[Problem]:
    program, *arguments = settings.argv
    sentences = []
    if arguments[:1] == [program.rpartition("/")[2]]:
        sentences.append(
            f"Argv= gives the command its own name {shown(arguments[0])} as an argument; remove the"
            " second word, which inetd.conf(5) has and this file has not"
        )
    sentences += [_sentence(word, program) for word in arguments if _is_slip(word)][:1]
    if "#" in arguments:
        sentences.append(
            "Argv= has the word #, which begins no comment here: the command gets it, and what "
            "follows; put a comment on a line of its own"
        )
    return [settings.problem("Argv", sentence) for sentence in sentences]


def _is_slip(word: str) -> bool:
    patterns = (REDIRECTION, VARIABLE)
    return word in OPERATORS or any(pattern.fullmatch(word) for pattern in patterns)


def _sentence(word: str, program: str) -> str:
    if VARIABLE.fullmatch(word):
        return (
            f"Argv= has the word {shown(word)}, in which nothing is expanded; write "
            f"/bin/sh -c 'exec {shown(program)} \"{shown(word)}\"'"
        )
    return f"Argv= has the word {shown(word)}, and no shell reads it; write /bin/sh -c '...'"


def _line_ends(settings: Service) -> list[Problem]:
    """A carriage return that is a part of an argument: of the interpreter's name it is a mistake,
    and a few interpreters pass over it."""
    program = command.find(settings)
    try:
        descriptor = os.open(_place(settings, program), os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # open to execution only
        return []
    with open(descriptor, "rb") as file:
        line = file.read(executables.HEAD).partition(b"\n")[0]
    if not line.startswith(b"#!") or not line.endswith(b"\r"):
        return []
    sentence = (
        f"Argv={shown(program)}: its #! line ends with a carriage return, which the interpreter "
        "gets as a part of its last argument; save it with Unix line ends"
    )
    return [settings.problem("Argv", sentence)]


def _place(settings: Service, program: str) -> str:
    """Where the program is on the machine."""
    root = settings.root_directory or ""
    return root + files.walk(program, root)[-1]


def _privileges(settings: Service) -> list[Problem]:
    """A program that NoNewPrivileges= keeps from what it is there for."""
    if not settings.no_new_privileges:
        return []
    program = command.find(settings)
    file = _place(settings, program)
    try:
        mode = os.stat(file).st_mode
        capable = CAPABILITY in os.listxattr(file)
    except OSError:  # only the command's user can tell
        return []
    has = [
        what
        for what, there in (
            ("is set-user-ID", mode & stat.S_ISUID),
            ("is set-group-ID", mode & stat.S_ISGID),
            ("has file capabilities", capable),
        )
        if there
    ]
    sentence = (
        f"Argv={shown(program)} {' and '.join(has)}, to no effect with NoNewPrivileges=yes; write "
        "NoNewPrivileges=no if the command needs it"
    )
    return [settings.problem("Argv", sentence)] if has else []
