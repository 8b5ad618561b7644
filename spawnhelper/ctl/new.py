"""Write the file of a new service, with what most services need, and say how to have it listen.

It is checked before it is written. An address that another service has, or another program listens
at, is refused.
"""

from __future__ import annotations

import argparse
import os
import sys

from spawnhelper import manager
from spawnhelper.conf import files, listeners
from spawnhelper.ctl import drafts, examination, health, words
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.outcome import Problem, shown

PLAIN = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./~^-{}[]()<>|&;!?*$#"
)
TEMPLATE = """\
# The service {name}: spawn.conf(5) has all keys, {show} --defaults {name} what holds now.
[Socket]
{listen}
{accept}# So many connections at a time; further ones {above}. One client can take all of them,
# unless MaxConnectionsPerSource= says how many it can have.
MaxConnections={most}

[Spawn]
# The command, and as whom it runs. No shell reads it: for | > $VAR write /bin/sh -c '...'.
{user}Argv={argv}
# Wall-clock time that a connection may take. SizeLimit= and IdleLimit= limit bytes and silence.
TimeLimit={limit}
{allow}# What it writes to standard error goes to the journal, and {status} shows it after a
# failure. Without this line the client gets it.
StandardError=journal
"""
ANYBODY = """\
# Who may connect, besides nobody else: addresses and prefixes, separated by blanks.
#AllowFrom=127.0.0.0/8 ::1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("service", metavar="NAME", help="how to call the service")
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        required=True,
        help="where to listen, as in 127.0.0.1:10031, 10031 or /run/spawn/x; may be repeated",
    )
    parser.add_argument(
        "--user", metavar="USER", required=not manager.now.own, help="as whom the command runs"
    )
    parser.add_argument("--time-limit", metavar="SPAN", default="1000s", help="TimeLimit= (1000s)")
    parser.add_argument(
        "--max-connections", metavar="N", default="256", help="MaxConnections= (256)"
    )
    parser.add_argument(
        "--allow-from", metavar="PREFIX", action="append", help="AllowFrom=; may be repeated"
    )
    parser.add_argument(
        "--server", action="store_true", help="one server for all connections (Accept=no)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the file, and do not write it")
    parser.add_argument(
        "command", nargs="+", metavar="COMMAND", help="the command and its arguments, behind --"
    )


def run(options: argparse.Namespace) -> int:
    """Writes it; an exit status of sysexits.h."""
    name = words.name_of(options.service)
    if not files.is_name(name):
        raise Complaint(os.EX_USAGE, f"{shown(name)} is no name for a service; {files.NAMED}")
    if os.geteuid() != manager.now.uid and not options.dry_run:
        raise Complaint(os.EX_NOPERM, "to write a service file needs root; --dry-run does not")
    file = files.new_file_of(name)
    if os.path.lexists(file):
        edit = f"{manager.now.words('spawnctl')} edit"
        raise Complaint(os.EX_CANTCREAT, f"{file} is there already; {edit} {name}")
    text = _text(name, options)
    problems = _problems(file, text.encode(errors="surrogateescape"))
    if options.dry_run:
        print(text, end="")
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return os.EX_CONFIG
    if not options.dry_run:
        drafts.put(file, text.encode(errors="surrogateescape"), new=True)
        listen = f"{manager.now.words('spawnctl')} apply --enable {name}"
        print(f"{file}: written; {listen} has it listen")
    return 0


def quoted(word: str) -> str:
    """A word as systemd.syntax(7) has it: in quotes where it needs them."""
    if word and PLAIN.issuperset(word):
        return word
    escaped = "".join(
        f"\\x{ord(each):02x}"
        if ord(each) < 32 or ord(each) == 127
        else f"\\{each}"
        if each in '\\"'
        else each
        for each in word
    )
    return f'"{escaped}"'


def _text(name: str, options: argparse.Namespace) -> str:
    above = "wait" if options.server else "are dropped"
    allow = ANYBODY
    if options.allow_from:
        allow = f"AllowFrom={' '.join(options.allow_from)}\n"
    values = {
        "listen": "\n".join(f"ListenStream={each}" for each in options.listen),
        "most": options.max_connections,
        "user": "" if options.user is None else f"User={options.user}\n",
        "argv": " ".join(map(quoted, options.command)),
        "limit": options.time_limit,
    }
    for each in (*values.values(), allow):
        if any(line.endswith("\\") for line in each.splitlines()) or "\r" in each:
            raise Complaint(os.EX_USAGE, f"{shown(each)} cannot stand in a service file")
    one_line = (*options.listen, options.user or "", options.time_limit, options.max_connections)
    for each in one_line:
        if "\n" in each:
            raise Complaint(os.EX_USAGE, f"{shown(each)} is more than one line")
    accept = "# One server for all connections, see spawn-server(8).\nAccept=no\n"
    spawnctl = manager.now.words("spawnctl")
    return TEMPLATE.format(
        name=name,
        above=above,
        allow=allow,
        accept=accept if options.server else "",
        show=f"{spawnctl} show",
        status=f"{spawnctl} status",
        **values,
    )


def _problems(file: str, text: bytes) -> list[Problem]:
    """What would be wrong with the service, and who has its addresses already."""
    refusal = drafts.judged(file, text)
    problems = [] if refusal is None else list(refusal.problems)
    kernel = health.Kernel()
    files.drafts[file] = text
    try:
        if not problems:
            with examination.as_the_helper():
                problems += [each for _, each in listeners.conflicts(file)]
        if not problems:
            for each in listeners.claimed(file):
                if sentence := kernel.taken(each):
                    sentence += "; choose another address, or end that first"
                    problems.append(Problem(file, each.line, sentence))
    finally:
        del files.drafts[file]
    return problems
