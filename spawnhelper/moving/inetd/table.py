"""What becomes of the services of inetd(8): the fields of inetd.conf."""

from __future__ import annotations

import re

from spawnhelper.conf.values import DIGITS, consists_of
from spawnhelper.moving.draft import Draft, service_name
from spawnhelper.moving.inetd.job import InetdJob
from spawnhelper.moving.inetd.listening import (
    BRACKETS,
    NO_ADDRESS,
    ONLY_IPV4,
    PROTOCOLS,
    TCPMUX,
    listen,
)
from spawnhelper.moving.job import EVERYWHERE
from spawnhelper.moving.machine import INETUTILS, OPENBSD, Machine
from spawnhelper.moving.source import Given, Reading
from spawnhelper.moving.traps import Row, Trap, note, nothing, refusal

MOST_ARGUMENTS = 20  # MAXARGV of the BSDs and of openbsd-inetd
MOST_COMMANDS = 1000  # of MaxCommands=
MOST_DIGITS = 9  # of a number
DAEMONS = "/usr/sbin"  # where tcpd(8) looks for a daemon without a path
TCPD = "tcpd"
WAIT = re.compile(r"(no)?wait(?:([./:])(.*))?", re.IGNORECASE)
BUFFERS = {"rcvbuf": "ReceiveBuffer", "sndbuf": "SendBuffer"}
SIZE = re.compile(r"[0-9]{1,9}[kKmM]?")
OPTIONS = "/etc/default/openbsd-inetd"
LIBWRAP = re.compile(r"^\s*OPTIONS=.*-\w*l", re.MULTILINE)
NOT_STREAM = refusal(
    "a socket of type {kind} is no stream, and spawnhelper serves nothing else",
    "keep it in inetd, or give it a unit of its own, systemd.socket(5)",
)
WAITS = refusal(
    "with wait the command accepts the connections itself",
    "give it an ordinary .socket unit with Accept=no and a .service unit, systemd.socket(5)",
)
RPC = refusal(
    "rpc services register with rpcbind(8), which spawnhelper does not", "keep it in inetd"
)
INTERNAL = refusal(
    "inetd serves this itself, without a command", "keep it in inetd, or do without it"
)
NOT_TCP = refusal("the protocol {protocol} is neither tcp nor unix", "keep it in inetd")
BAD_WAIT = refusal("inetd knows wait and nowait, and passes over this line", "correct the source")
RATE = Trap(
    "that so many starts a minute close the service for ten minutes has no equal here",
    "limit those at a time with MaxCommands= or MaxConnections=",
    key="MaxConnections",
)
RATE_OF_ADDRESS = Trap(
    "how many starts a minute one address can have has no equal here",
    "limit those at a time with MaxConnectionsPerSource=",
    key="MaxConnections",
)
RESETS = Trap(
    "above so many connections of an address systemd resets further ones, as inetd closed them",
    "",
    key="MaxConnectionsPerSource",
)
IGNORED = note("{inetd} reads this as nowait, and so it is read here")
LOGIN_CLASS = Trap("there are no login classes here, so {name} is dropped", "use limits, Limit...=")
TRUNCATED = Trap(
    "inetd hands over 20 words, and so the rest of them is dropped", "remove them", key="Argv"
)
QUOTES = Trap(
    "quotes group words in some inetds, and in Debian's openbsd-inetd and here they are letters "
    "like others",
    "correct Argv= if they should group",
    key="Argv",
)
GROUPED = note("the quotes group words, as in inetutils-inetd")
NO_DAEMON = refusal("tcpd(8) is given no daemon", "correct the source")
TTCP = Trap("T/TCP and faith have no equal here, so {name} is dropped", "")
LIBWRAPPED = Trap(
    "inetd runs with -l here, so hosts.allow and hosts.deny count for it: what they say today is "
    "in the file",
    "change AllowFrom= and DenyFrom= when they change",
    key="AllowFrom",
)
WRAPPED = Trap(
    "tcpd(8) asks hosts.allow and hosts.deny each time: what they say today is in the file",
    "change AllowFrom= and DenyFrom= when they change",
    key="AllowFrom",
)
OPEN = note("tcpd(8) is gone: hosts.allow and hosts.deny of today let everybody in")


def _socket_type(job: InetdJob, given: Given) -> None:
    if given.value != "stream":
        job.say(NOT_STREAM, given, kind=given.value)


def _protocol(job: InetdJob, given: Given) -> None:
    protocol, *options = given.value.split(",")
    if protocol.startswith("rpc/"):
        job.say(RPC, given)
        return
    plain = protocol.removeprefix("faith/").removesuffix("/ttcp")
    if plain != protocol:
        job.say(TTCP, given, name=protocol)
    if plain not in PROTOCOLS and plain != "unix":
        if job.of("socktype") == "stream":
            job.say(NOT_TCP, given, protocol=protocol)
        return
    for option in options:
        name, _, size = option.partition("=")
        if name in BUFFERS and SIZE.fullmatch(size):
            job.draft.socket(BUFFERS[name], size.upper())
        else:
            job.say(NOT_TCP, given, protocol=given.value)


def _wait(job: InetdJob, given: Given) -> None:
    found = WAIT.fullmatch(given.value)
    if found is None:
        job.say(BAD_WAIT, given)
        return
    negated, separator, numbers = found.groups()
    if not negated:
        if job.of("socktype") == "stream":
            job.say(WAITS, given)
        return
    if separator in ("/", ":") and job.dialect:
        job.say(IGNORED, given, inetd=job.dialect)
    elif separator in (".", ":"):
        job.say(RATE, given)
    elif separator:
        _limits(job, [*numbers.split("/"), "", ""][:3], given)


def _limits(job: InetdJob, numbers: list[str], given: Given) -> None:
    """Commands at a time, starts a minute of an address, and connections of an address; 0 for no
    limit (FreeBSD's inetd(8))."""
    commands, rate, connections = (
        int(each) if consists_of(each, DIGITS) and len(each) <= MOST_DIGITS else 0
        for each in numbers
    )
    if 0 < commands <= MOST_COMMANDS:
        job.set("MaxCommands", str(commands), given)
        job.set("QueueLimit", "infinity", given)
    elif commands:
        job.draft.socket("MaxConnections", str(commands))
    if rate:
        job.say(RATE_OF_ADDRESS, given)
    if connections:
        job.draft.socket("MaxConnectionsPerSource", str(connections))
        job.say(RESETS, given)


def _user(job: InetdJob, given: Given) -> None:
    if job.of("server") == "internal":
        return
    name, slash, login_class = given.value.partition("/")
    if slash:
        job.say(LOGIN_CLASS, given, name=login_class)
    user, group = name, ""
    if ":" in name:
        user, _, group = name.partition(":")
    elif "." in name and job.machine.ids(name) is None:
        user, _, group = name.partition(".")
    job.account(user, group, given)
    if not job.draft.has("refusal"):
        job.further_groups(user, given)


def _server(job: InetdJob, given: Given) -> None:
    if given.value == "internal":
        job.say(INTERNAL, given)


def _arguments(job: InetdJob, given: Given) -> None:
    program, words = job.of("server"), list(given.words)
    if program == "internal":
        return
    _quotes(job, [program, *words], given)
    if job.dialect != INETUTILS and len(words) > MOST_ARGUMENTS:
        job.say(TRUNCATED, given)
        del words[MOST_ARGUMENTS:]
    last = program.rpartition("/")[2]
    name, arguments = (words[0], words[1:]) if words else (last, [])
    if last == TCPD:
        if name.rpartition("/")[2] in ("", TCPD):
            job.say(NO_DAEMON, given)
            return
        program = name if name.startswith("/") else f"{DAEMONS}/{name}"
        name = name.rpartition("/")[2]
        _ask_libwrap(job, name, given, WRAPPED)
    elif job.dialect == OPENBSD and LIBWRAP.search(job.machine.options(OPTIONS)):
        _ask_libwrap(job, name.rpartition("/")[2], given, LIBWRAPPED)
    job.command([program, *arguments], given, name)
    job.set("TimeLimit", "infinity", given)
    job.close(given)


def _quotes(job: InetdJob, words: list[str], given: Given) -> None:
    lines = " ".join(line for _, line in job.draft.found.lines)
    if job.dialect == INETUTILS:
        if any(mark in lines for mark in "\"'"):
            job.say(GROUPED, given)
    elif any(mark in word for word in words for mark in "\"'"):
        job.say(QUOTES, given)


def _ask_libwrap(job: InetdJob, daemon: str, given: Given, trap: Trap) -> None:
    job.wrapped(daemon, given)
    if job.gates:
        job.say(trap, given)
    elif trap is WRAPPED and not job.draft.has("refusal"):
        job.say(OPEN, given)


ROWS: tuple[Row[InetdJob], ...] = (
    Row(
        "socktype",
        "",
        "`stream` is converted.",
        _socket_type,
        (NOT_STREAM,),
    ),
    Row(
        "protocol",
        "ReceiveBuffer=, SendBuffer=",
        "`unix`, and `tcp`, which is IPv4 and IPv6 for openbsd-inetd and IPv4 for the others; "
        "`tcp4`, `tcp6`, `tcp46`, `tcp6only`. For inetutils-inetd `tcp6` is both, and `tcp46` is "
        "IPv4; for the others `tcp6` is IPv6 alone.",
        _protocol,
        (RPC, NOT_TCP, TTCP),
    ),
    Row(
        "host",
        "ListenStream=",
        "A line that has HOST`:` alone goes for all lines behind it that have no host.",
        nothing,
    ),
    Row(
        "service",
        "ListenStream=, BindIPv6Only=, SocketMode=0666",
        "A name of services(5), a number, HOST`:`PORT with several hosts as `a,b:`, or a path.",
        listen,
        (TCPMUX, NO_ADDRESS, BRACKETS, ONLY_IPV4),
    ),
    Row(
        "wait",
        "MaxCommands=, QueueLimit=infinity, MaxConnectionsPerSource=",
        "`nowait` is converted. `nowait/A/B/C` of FreeBSD is A commands at a time, while others "
        "wait, and C connections of one address.",
        _wait,
        (WAITS, BAD_WAIT, RATE, RATE_OF_ADDRESS, RESETS, IGNORED),
    ),
    Row(
        "user",
        "User=, SupplementaryGroups=",
        "`user`, `user:group`, or `user.group` where there is no user of the whole name.",
        _user,
        (LOGIN_CLASS,),
    ),
    Row("server", "Argv=", "The path of the program.", _server, (INTERNAL,)),
    Row(
        "arguments",
        "Argv=, Argv0=, AllowFrom=, DenyFrom=, TimeLimit=infinity",
        "The first word is argv[0]; without any it is the last part of the path. A daemon behind "
        "tcpd(8) is the program, and what hosts.allow and hosts.deny say about its name becomes "
        "lists of addresses.",
        _arguments,
        (TRUNCATED, QUOTES, GROUPED, NO_DAEMON, WRAPPED, LIBWRAPPED, OPEN),
    ),
)
BY_WORD = {row.word: row for row in ROWS}
GENERAL = (
    *EVERYWHERE,
    note("above MaxConnections=, 256, a client is reset; inetd has no such limit"),
    note("256 starts a minute, 40 in inetutils-inetd, closed a service for ten minutes; no more"),
)


def convert(reading: Reading, machine: Machine) -> list[Draft]:
    """A draft for every service of inetd.conf."""
    drafts = []
    for found in reading.services:
        draft = Draft(found)
        if not found.name.startswith("/"):
            draft.name = service_name(found.name.rpartition(":")[2])
        drafts.append(draft)
        if not found.off:
            job = InetdJob(draft, machine)
            for row in ROWS:
                if given := found.of(row.word):
                    row.convert(job, given)
    return drafts
