"""What works, and is still worth a word from `spawnctl check`."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator

from spawnhelper import manager
from spawnhelper.conf import files, listeners, service, values
from spawnhelper.conf.service import Service
from spawnhelper.conf.syntax import Assignment
from spawnhelper.ctl import rules, slips, trust
from spawnhelper.outcome import Problem, shown
from spawnhelper.stages import reasons

UNIX_NAMES_SINCE = 258  # a connection's unit has a socket cookie in its name (systemd.socket(5))
NAMED_SINCE = 257  # a connection comes with the name of its service (systemd.socket(5))
MPTCP_SINCE = 257
# systemd.exec(5): what is made for the user of a unit.
FOLDERS = tuple(
    f"{kind}Directory" for kind in ("Runtime", "State", "Cache", "Logs", "Configuration")
)
CREDENTIALS = ("LoadCredential", "LoadCredentialEncrypted", "ImportCredential", "SetCredential")
# What a shell can do with standard streams that cannot be opened by name.
OPENED = {"/dev/stdin": "<&0", "/dev/stdout": ">&1", "/dev/stderr": ">&2"}
PATTERN = frozenset("*?[%")  # glob(7), and specifiers of systemd.unit(5)
DIRECTIVES = "systemd.socket(5), systemd.service(5) and systemd.exec(5) list what there is"
VERIFY_TIME = 20  # seconds
VERIFIED = "spawnctl-verify"
# These end, or take it for a start without inetd, where standard input is no socket.
ASKING = ("rsync", "vsftpd", "in.ftpd", "in.telnetd")


def of(settings: Service, file: str) -> list[Problem]:
    """What to think about before this service is enabled."""
    notes = [
        *_collisions(settings, file),
        *_queue(settings),
        *_in_vain(settings, file),
        *_processes(settings),
        *_later_systemd(settings, file),
        *_of_service(file),
        *_missing(file),
        *_opened_streams(settings),
        *_warnings(settings),
        *_asking(settings),
        *rules.of(settings, file),
        *trust.of(settings),
        *slips.of(settings),
    ]
    said = {(each.file, each.line) for each in notes if each.line is not None}
    return notes + [each for each in _ignored(file) if (each.file, each.line) not in said]


def _collisions(settings: Service, file: str) -> list[Problem]:
    """Other services at paths, whose connections systemd cannot always tell from this one's. The
    connections of a server have no units."""
    mine = [each for each in listeners.claimed(file) if each.family == socket.AF_UNIX]
    if not mine or settings.standing or systemd() >= UNIX_NAMES_SINCE:
        return []
    others = [
        other
        for other in files.installed()
        if other != settings.name
        and any(each.family == socket.AF_UNIX for each in listeners.claimed(files.file_of(other)))
        and not service.is_standing(service.lenient_socket_section(files.file_of(other)))
    ]
    if not others:
        return []
    names = " or ".join(map(shown, others))
    sentence = (
        f"a client process that connects to {names}, too, can have a connection reset before "
        f"systemd {UNIX_NAMES_SINCE}; listen on TCP at 127.0.0.1 instead, or upgrade"
    )
    return [Problem(mine[0].file, mine[0].line, sentence)]


def _queue(settings: Service) -> list[Problem]:
    """A limit that is never reached."""
    if settings.max_commands is None or settings.max_commands < settings.max_connections:
        return []
    sentence = (
        f"MaxCommands={settings.max_commands} has nobody wait, for MaxConnections= is "
        f"{settings.max_connections}; raise that in [Socket]"
    )
    return [settings.problem("MaxCommands", sentence)]


def _in_vain(settings: Service, file: str) -> list[Problem]:
    """Keys of the service's own file that mean something with another one alone."""
    in_vain = {
        "QueueLimit": ("MaxCommands=", settings.max_commands is None),
        "ProxyTimeLimit": ("ProxyProtocol=", not settings.proxied),
        "SummaryInterval": ("Log=summary", settings.log != "summary"),
    }
    return [
        settings.problem(key, f"{key}= does nothing without {other}; add that, or remove the line")
        for key, (other, missing) in in_vain.items()
        if missing and key in settings.given and settings.given[key][-1].file == file
    ]


def _processes(settings: Service) -> list[Problem]:
    """A limit on the processes of a user that the workers of a server use up by themselves."""
    limit = settings.limits().get("LimitNPROC")
    if not settings.standing or limit is None or not 0 <= limit[0] <= settings.max_connections:
        return []
    sentence = (
        "LimitNPROC= counts the server's workers, too, one for each connection, and "
        f"MaxConnections= is {settings.max_connections}; raise it above that"
    )
    return [settings.problem("LimitNPROC", sentence)]


def _later_systemd(settings: Service, file: str) -> list[Problem]:
    """Directives of [Socket] that an older systemd does not know, or that do less with it."""
    notes = []
    present = systemd()
    unnamed = present < NAMED_SINCE and not settings.standing
    for each in service.lenient_socket_section(file):
        if each.key == "SocketProtocol" and each.value == "mptcp" and present < MPTCP_SINCE:
            sentence = f"before systemd {MPTCP_SINCE} SocketProtocol=mptcp is ignored: this is TCP"
            notes.append(Problem(each.file, each.line, sentence))
        elif each.key == "Transparent" and _is_true(each.value) and unnamed:
            sentence = (
                f"before systemd {NAMED_SINCE} a connection that Transparent= brings from another "
                "address or port is refused, for only its own address tells whose it is; listen "
                "at a wildcard for other addresses, or upgrade"
            )
            notes.append(Problem(each.file, each.line, sentence))
    return notes


def _of_service(file: str) -> list[Problem]:
    """Directives of [Service] by which systemd makes files for the user of a unit, and the server's
    is root; and one by which records are elsewhere. Of one's own the server is the user itself."""
    if manager.now.own:
        return []
    notes = []
    for each in service.unit_sections(file)[0]:
        if each.section != "Service" or not each.value:
            continue
        if each.key in FOLDERS:
            sentence = (
                f"the folder of {each.key}= is root's, for the server is, and not the command's; "
                "see tmpfiles.d(5) for one of another user"
            )
            notes.append(Problem(each.file, each.line, sentence))
        elif each.key in CREDENTIALS:
            sentence = (
                f"the files of {each.key}= are for root, which the server is and the command is "
                "not; see spawn.conf(5), ACCOUNTS AND SECRETS"
            )
            notes.append(Problem(each.file, each.line, sentence))
        elif each.key == "LogNamespace":
            sentence = (
                f"the records are in a journal of their own, with limits of its own: journalctl "
                f"--namespace={each.value} shows them, plain journalctl does not, and spawnctl "
                "reads both; see systemd-journald.service(8)"
            )
            notes.append(Problem(each.file, each.line, sentence))
    return notes


def _missing(file: str) -> list[Problem]:
    """Files of [Service] without which systemd does not start the server."""
    notes: list[Problem] = []
    for each in service.unit_sections(file)[0]:
        if (each.section, each.key) != ("Service", "EnvironmentFile"):
            continue
        if not each.value:  # it resets the list
            notes.clear()
            continue
        named = each.value[0] == "/" and not PATTERN.intersection(each.value)
        if named and not reasons.exists(each.value):
            sentence = (
                f"there is no {shown(each.value)}, and without it the server does not start; "
                f"create it, or write EnvironmentFile=-{shown(each.value)}"
            )
            notes.append(Problem(each.file, each.line, sentence))
    return notes


def _is_true(text: str) -> bool:
    try:
        return values.boolean(text)
    except ValueError:
        return False


def _opened_streams(settings: Service) -> list[Problem]:
    """A name in /dev for what is a socket, which nobody can open."""
    if settings.size_limit is not None:
        return []
    for name, instead in OPENED.items():
        is_file = name == "/dev/stderr" and settings.standard_error == "null"
        if not is_file and any(name in word for word in settings.argv):
            sentence = f"{name} is a socket, which cannot be opened; in a shell write {instead}"
            return [settings.problem("Argv", sentence)]
    return []


def _warnings(settings: Service) -> list[Problem]:
    """Words that reach the client and nobody else, where nobody has said that they should."""
    if "StandardError" in settings.given:
        return []
    sentence = (
        f"what {shown(settings.argv[0].rpartition('/')[2])} writes to standard error goes to the "
        "client, and is nowhere else; write StandardError=journal, or StandardError=socket if that "
        "is meant"
    )
    return [settings.problem("Argv", sentence)]


def _ignored(file: str) -> list[Problem]:
    """Directives of [Socket] and [Service] that this systemd does not know: it says so in the
    journal, and goes on without them."""
    sections = service.unit_sections(file)[0]
    notes = []
    for section, suffix in (("Socket", "socket"), ("Service", "service")):
        given = [each for each in sections if each.section == section]
        if not given:
            continue
        try:
            notes += [
                Problem(each.file, each.line, f"systemd {why}; {DIRECTIVES}")
                for each, why in _verified(given, section, suffix)
            ]
        except _Unverified as error:
            sentence = (
                f"whether systemd knows all of [{section}] cannot be told, for systemd-analyze "
                f"{error}; once that is mended, check again"
            )
            notes.append(Problem(file, None, sentence))
    return notes


class _Unverified(Exception):
    """systemd-analyze(1) has not looked, and what became of it."""


def _verified(
    given: list[Assignment], section: str, suffix: str
) -> Iterator[tuple[Assignment, str]]:
    """What systemd-analyze(1) has against these lines. It gets them in a unit of their own, each
    in a line that tells which it is. Raises _Unverified."""
    needed = "ExecStart=/bin/true\n" if suffix == "service" else "Accept=yes\n"
    head = f"[Unit]\nDefaultDependencies=no\n[{section}]\n{needed}"
    skipped = head.count("\n") + 1
    with tempfile.TemporaryDirectory(prefix="spawnctl-") as folder:
        unit = f"{folder}/{VERIFIED}@.{suffix}"
        with open(unit, "w", encoding="utf-8", errors="surrogateescape") as out:
            out.write(head + "".join(f"{each.key}={each.value}\n" for each in given))
        with open(f"{folder}/{VERIFIED}@.service", "a", encoding="utf-8") as out:
            if suffix == "socket":
                out.write("[Service]\nExecStart=/bin/true\n")
        said = _verify(folder, unit)
    refused = any("bad unit file setting" in line for line in said)
    matches = [re.fullmatch(rf"{re.escape(unit)}:(\d+): (.*)", line) for line in said]
    # It reads no further than the line for which it refuses the unit.
    last = next((each for each in reversed(matches) if each), None) if refused else None
    for found in matches:
        at = int(found[1]) - skipped if found else -1
        # What it takes, and only warns of, is not ignored.
        if found and 0 <= at < len(given) and (found is last or "ignoring" in found[2]):
            known = re.match(r"Unknown (key|lvalue)", found[2])
            key = given[at].key
            why = f"does not know {shown(key)}=" if known else f"does not take {shown(key)}= so"
            if "ignoring" not in found[2]:
                why += ", and with it does not take the unit"
            yield given[at], why


def _verify(folder: str, unit: str) -> list[str]:
    """What systemd-analyze(1) says of the unit in this folder. Raises _Unverified."""
    command = ["systemd-analyze", *manager.now.option, "verify", "--man=no"]
    try:
        done = subprocess.run(
            [*command, unit.replace("@.", "@x.")],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERIFY_TIME,
            env=os.environ | {"LC_ALL": "C.UTF-8", "SYSTEMD_UNIT_PATH": f"{folder}:"},
        )
    except subprocess.TimeoutExpired:
        raise _Unverified(f"took longer than {VERIFY_TIME}s") from None
    except OSError as error:
        raise _Unverified(f"cannot be run: {error.strerror}") from None
    if done.returncode and VERIFIED not in done.stderr:  # else it is about the unit
        said = shown(done.stderr.strip().rpartition("\n")[2])
        raise _Unverified(f"ended with {done.returncode}: {said}")
    return done.stderr.splitlines()


def _asking(settings: Service) -> list[Problem]:
    """A daemon that does not work without a socket."""
    program = settings.argv[0].rpartition("/")[2]
    if settings.size_limit is None or program not in ASKING:
        return []
    sentence = (
        f"{program} needs the socket as its standard input, and with SizeLimit= that is a pipe; "
        "remove the line"
    )
    return [settings.problem("SizeLimit", sentence)]


def systemd() -> int:
    """The version of the systemd that is installed; that of the future where there is none."""
    try:
        told = subprocess.run(["systemctl", "--version"], check=False, capture_output=True)
        return int(told.stdout.split()[1])
    except (OSError, LookupError, ValueError):
        return UNIX_NAMES_SINCE
