"""What becomes of the services of xinetd(8): the attributes of xinetd.conf(5)."""

from __future__ import annotations

from collections.abc import Callable

from spawnhelper.moving.access import Rules
from spawnhelper.moving.draft import Draft, service_name
from spawnhelper.moving.job import EVERYWHERE, OPEN_FILES
from spawnhelper.moving.machine import Machine
from spawnhelper.moving.source import Found, Given
from spawnhelper.moving.traps import Row, Trap, note, nothing, refusal
from spawnhelper.moving.xinetd import commands, merge
from spawnhelper.moving.xinetd.clients import (
    CLOSED_NAMES,
    LIBWRAPPED,
    LOCALHOST,
    NO_IPV6,
    NOBODY,
    NOT_ADDRESSES,
    RESOLVED_NAMES,
    UNSAID_NAMES,
    no_access,
    only_from,
    times,
)
from spawnhelper.moving.xinetd.job import DISABLED, UNLIMITED, YES, XinetdJob
from spawnhelper.moving.xinetd.reader import BROKEN, Xinetd

ROOM = 256  # MaxConnections= of spawn@.socket
PASSED_OVER = refusal("xinetd passes over the whole service: {why}", "correct the source")
LACKS = refusal("xinetd does not start a service without {word}", "correct the source")
IGNORED = Trap("xinetd ignores the line, and it is left out: {why}", "find out what it was to do")
UNKNOWN = Trap(
    "xinetd does not know the attribute and ignores it, and it is left out",
    "find out what it was to do",
)
WAITS = refusal(
    "with wait = yes the command accepts the connections itself",
    "give it an ordinary .socket unit with Accept=no and a .service unit, systemd.socket(5)",
)
NOT_STREAM = refusal(
    "a socket of type {kind} is no stream, and spawnhelper serves nothing else",
    "keep it in xinetd, or give it a unit of its own, systemd.socket(5)",
)
NOT_TCP = refusal("the protocol is not tcp", "keep it in xinetd")
INTERNAL = refusal(
    "xinetd serves this itself, without a command", "keep it in xinetd, or do without it"
)
RPC = refusal(
    "rpc services register with rpcbind(8), which spawnhelper does not", "keep it in xinetd"
)
TCPMUX = refusal(
    "the service is reached through tcpmux, which nobody serves here",
    "give it a port, and tell its clients",
)
SENSOR = refusal("a sensor of xinetd runs no command", "keep it in xinetd")
REDIRECT = refusal(
    "the service passes connections on, and runs no command", "see systemd-socket-proxyd(8)"
)
OTHER_PORT = refusal(
    "/etc/services has port {known} for {name}, so xinetd does not start the service",
    "correct the port, or add type = UNLISTED",
)
IDENT = refusal(
    "with IDONLY only clients that answer an RFC 1413 query may connect, and nobody asks here",
    "decide who may connect",
)
FAMILY = note(
    "without bind and flags Debian's xinetd takes IPv4 and IPv6, and so it is here",
    key="ListenStream",
)
NO_FLAG = Trap("the flag {name} has no equal here", "")
ROOMY = Trap(
    "xinetd has no limit for it, and systemd resets connections above MaxConnections=, 256",
    "raise MaxConnections= in [Socket] if more can come at a time",
    key="MaxConnections",
)
RATE = Trap(
    "that so many connections a second close the port for a while has no equal here",
    "limit those at a time with MaxConnections=, or the rate by a packet filter",
    key="MaxConnections",
)
LOAD = Trap("no connection is refused for the load of the machine", "limit MaxConnections=")
DENY_TIME = Trap("no client is kept out for a time because it came to a sensor", "")
MDNS = Trap("nobody announces the service by mDNS", "use avahi.service(5)")
NOBODY_AT_A_TIME = note("nobody may connect, for the number is 0", key="DenyFrom")


def _broken(job: XinetdJob, given: Given) -> None:
    job.say(PASSED_OVER, given, why=given.value)


def _socket_type(job: XinetdJob, given: Given) -> None:
    if given.value.lower() != "stream":
        job.say(NOT_STREAM, given, kind=given.value)


def _protocol(job: XinetdJob, given: Given) -> None:
    if given.value.lower() not in ("tcp", "6"):
        job.say(NOT_TCP, given)


def _wait(job: XinetdJob, given: Given) -> None:
    if job.boolean(given):
        job.say(WAITS, given)


def _type(job: XinetdJob, given: Given) -> None:
    traps = {"INTERNAL": INTERNAL, "RPC": RPC, "TCPMUX": TCPMUX, "TCPMUXPLUS": TCPMUX}
    for word in given.value.upper().split():
        if word in traps:
            job.say(traps[word], given)
        elif word != "UNLISTED":
            job.say(DISABLED, given)


def _flags(job: XinetdJob, given: Given) -> None:
    for word in job.flags:
        if word == "NODELAY":
            job.draft.socket("NoDelay", "yes")
        elif word == "KEEPALIVE":
            job.draft.socket("KeepAlive", "yes")
        elif word == "IDONLY":
            job.say(IDENT, given)
        elif word == "SENSOR":
            job.say(SENSOR, given)
        elif word in ("INTERCEPT", "LABELED"):
            job.say(NO_FLAG, given, name=word)
        elif word not in ("REUSE", "NORETRY", "IPV4", "IPV6", "NAMEINARGS", "NOLIBWRAP"):
            job.say(DISABLED, given)


def _yes_or_no(job: XinetdJob, given: Given) -> None:
    job.boolean(given)


def _port(job: XinetdJob, given: Given) -> None:
    """The port of the service, whether it has a line of its own or not."""
    name = job.draft.found.name
    listed = "UNLISTED" not in job.word("type").upper().split()
    if listed:
        number = job.port(name, given)
        if number and given.words and number != given.value:
            job.say(OTHER_PORT, given, known=number, name=name)
            return
    elif not given.words:
        job.say(LACKS, given, word="port")
        return
    else:
        number = given.value
    if not number.isascii() or not number.isdigit():
        if number:
            job.say(DISABLED, given)
        return
    _listen(job, str(int(number)), given)


def _listen(job: XinetdJob, number: str, given: Given) -> None:
    bind = job.given.get("bind") or job.given.get("interface")
    ipv6_only = job.word("v6only").lower() == YES
    if bind is not None:
        host = bind.value
        hosts = ["127.0.0.1"] if host == "localhost" else job.addresses(host, bind)[:1]
        for each in hosts:
            job.listen(f"[{each}]:{number}" if ":" in each else f"{each}:{number}", bind)
            if ":" in each and ipv6_only:
                job.draft.socket("BindIPv6Only", "ipv6-only")
    elif "IPV4" in job.flags:
        job.listen(f"0.0.0.0:{number}", given)
    elif "IPV6" in job.flags:
        job.listen(f"[::]:{number}", given)
        job.draft.socket("BindIPv6Only", "ipv6-only" if ipv6_only else "both")
    else:
        job.listen(number if not ipv6_only else f"[::]:{number}", given)
        job.draft.socket("BindIPv6Only", "ipv6-only" if ipv6_only else "both")
        job.say(FAMILY)


def _instances(job: XinetdJob, given: Given) -> None:
    number = job.number(given)
    if number is None:
        job.say(ROOMY, given)
    elif number == 0:
        _shut(job, given)
    job.draft.socket("MaxConnections", str(number or ROOM))


def _shut(job: XinetdJob, given: Given) -> None:
    """Of a limit that lets in nobody, which systemd has not."""
    job.say(NOBODY_AT_A_TIME, given)
    job.gates.append(Rules((), otherwise=False))


def _per_source(job: XinetdJob, given: Given) -> None:
    number = job.number(given)
    if number == 0:
        _shut(job, given)
    elif number is not None:
        job.draft.socket("MaxConnectionsPerSource", str(number))


def _rate(job: XinetdJob, given: Given) -> None:
    if given.words != ["0", "0"]:
        job.say(RATE, given)


def _saying(trap: Trap) -> Callable[[XinetdJob, Given], None]:
    """A conversion that only says so."""

    def convert(job: XinetdJob, given: Given) -> None:
        job.say(trap, given)

    return convert


ROWS: tuple[Row[XinetdJob], ...] = (
    Row(BROKEN, "", "A service that xinetd passes over is not converted.", _broken, (PASSED_OVER,)),
    Row("type", "", "`UNLISTED` is converted.", _type, (INTERNAL, RPC, TCPMUX)),
    Row("socket_type", "", "`stream` is converted.", _socket_type, (NOT_STREAM,)),
    Row("protocol", "", "`tcp` is converted.", _protocol, (NOT_TCP,)),
    Row("wait", "", "`no` is converted.", _wait, (WAITS,)),
    Row(
        "flags",
        "NoDelay=, KeepAlive=, Argv0=, ListenStream=",
        "`NODELAY`, `KEEPALIVE`, `NAMEINARGS`, `IPv4` and `IPv6`; `REUSE`, `NORETRY` and "
        "`NOLIBWRAP` are nothing.",
        _flags,
        (IDENT, SENSOR, NO_FLAG),
    ),
    Row(
        "port",
        "ListenStream=, BindIPv6Only=",
        "The number, or that of the service's name in /etc/services.",
        _port,
        (OTHER_PORT, FAMILY),
    ),
    Row("bind", "ListenStream=", "An address before the port. It is never an interface.", nothing),
    Row("interface", "ListenStream=", "The same as bind.", nothing),
    Row("v6only", "BindIPv6Only=", "`yes` is ipv6-only, for an IPv6 address.", _yes_or_no),
    Row("id", "", "The name of the file.", nothing),
    Row("disable", "", "With `yes` the service is not converted.", _yes_or_no),
    Row("enabled", "", "Services that it does not name are not converted.", nothing),
    Row("disabled", "", "Services that it names are not converted.", nothing),
    Row(
        "user",
        "User=",
        "Of a number the group is the same number.",
        commands.user,
        (commands.CHROOTED,),
    ),
    Row("group", "User=", "The group behind the colon.", nothing),
    Row(
        "groups",
        "SupplementaryGroups=",
        "With `yes` the groups that the user is in; no command has others.",
        commands.groups,
    ),
    Row(
        "server",
        "Argv=, Argv0=",
        "The program; argv[0] is the last part of its path. A daemon behind tcpd(8) is the "
        "program. "
        "hosts.allow and hosts.deny, which Debian's xinetd asks about every service unless the "
        "flag `NOLIBWRAP` is set, become lists of addresses.",
        commands.server,
        (commands.NO_DAEMON, LIBWRAPPED),
    ),
    Row(
        "server_args",
        "Argv=",
        "The words behind the program, cut at blanks; quotes are letters like others. With "
        "`NAMEINARGS` the first is argv[0].",
        nothing,
    ),
    Row("libwrap", "AllowFrom=, DenyFrom=", "The daemon's name for hosts.allow.", nothing),
    Row(
        "only_from",
        "AllowFrom=",
        "Zeros at the right are wildcards in xinetd, and not here: 10.0.0.0 becomes 10.0.0.0/8, "
        "and 0.0.0.0 becomes 0.0.0.0/0, which has no IPv6. a.b.{1,2} becomes a.b.1.0/24 and "
        "a.b.2.0/24. ::/0 becomes ::/0 0.0.0.0/0 where the service listens on IPv6, and nothing "
        "where it does not. An empty list is nobody: DenyFrom=0.0.0.0/0 ::/0.",
        only_from,
        (NOT_ADDRESSES, CLOSED_NAMES, RESOLVED_NAMES, LOCALHOST, NO_IPV6, NOBODY),
    ),
    Row(
        "no_access",
        "DenyFrom=",
        "Read like only_from. xinetd refuses whoever is in both lists, and here the longer prefix "
        "decides, so what lies within it is left out of AllowFrom=.",
        no_access,
        (NOT_ADDRESSES, UNSAID_NAMES, LOCALHOST),
    ),
    Row(
        "access_times",
        "AccessTimes=",
        "The last minute belongs to a span in xinetd, and not here: 2:00-8:59 becomes 02:00-09:00.",
        times,
    ),
    Row("instances", "MaxConnections=", "The same number.", _instances, (ROOMY, NOBODY_AT_A_TIME)),
    Row("per_source", "MaxConnectionsPerSource=", "The same number.", _per_source),
    Row("cps", "", "`0 0` is nothing.", _rate, (RATE,)),
    Row("max_load", "", "Nothing.", _saying(LOAD), (LOAD,)),
    Row("deny_time", "", "Nothing.", _saying(DENY_TIME), (DENY_TIME,)),
    Row("mdns", "", "Nothing.", _saying(MDNS), (MDNS,)),
    Row("redirect", "", "Not converted.", _saying(REDIRECT), (REDIRECT,)),
    Row("rpc_version", "", "Not converted.", nothing),
    Row("rpc_number", "", "Not converted.", nothing),
    Row("nice", "Nice=", "The same number.", commands.nice, (commands.NICEST,)),
    Row("umask", "UMask=", "The same.", commands.umask),
    *(
        Row(word, f"{key}=", "UNLIMITED is infinity.", commands.limit)
        for word, key in commands.LIMITS.items()
    ),
    Row(
        "env",
        "Environment=",
        "The same, quoted where needed.",
        commands.environment,
        (commands.OF_CONNECTION,),
    ),
    Row(
        "passenv",
        "PassEnvironment=",
        "Without it xinetd's whole environment went along, and here nothing does.",
        commands.passed,
        (commands.FROM_SYSTEMD,),
    ),
    Row("banner", "Banner=, BannerRefused=", "The same file.", commands.banner),
    Row(
        "banner_success", "Banner=", "The same file.", commands.banner_success, (commands.BANNERS,)
    ),
    Row(
        "banner_fail",
        "BannerRefused=",
        "The same file.",
        commands.banner_fail,
        (commands.BANNERS, commands.BUSY_BANNER),
    ),
    Row(
        "log_type",
        "SyslogFacility=",
        "The facility of `SYSLOG`.",
        commands.log_type,
        (commands.LOG_FILE, commands.LOG_LEVEL),
    ),
    Row(
        "log_on_success",
        "Log=",
        "Each connection has its record.",
        commands.log_on,
        (commands.USERID,),
    ),
    Row(
        "log_on_failure",
        "Log=",
        "Each connection has its record.",
        commands.log_on,
        (commands.USERID,),
    ),
)
# What any of these can come to.
ANYWHERE = (DISABLED, LACKS, IGNORED, UNKNOWN)
TCPLESS = {"INTERNAL", "RPC", "TCPMUX", "TCPMUXPLUS"}  # types that need no port or server
REQUIRED = ("socket_type", "wait", "user", "server")
GENERAL = (
    *EVERYWHERE,
    OPEN_FILES,
    note("REMOTE_HOST, which xinetd sets to the client's address, is REMOTE_ADDR"),
    note("without passenv the command had xinetd's whole environment"),
    note("the primary group is among the supplementary ones, too, as initgroups(3) has it"),
)


def convert(source: Xinetd, machine: Machine) -> list[Draft]:
    """A draft for every service."""
    return [_converted(source, machine, found) for found in source.reading.services]


def _converted(source: Xinetd, machine: Machine, found: Found) -> Draft:
    merged, ignored = merge.of_service(source, found)
    draft = Draft(found)
    if "id" in merged:
        draft.name = service_name(merged["id"].value)
    job = XinetdJob(draft, machine)
    job.given = merged
    if found.given and found.given[0].word == BROKEN:
        _broken(job, found.given[0])
        return draft
    found.off = merge.is_off(source, found, job.word)
    if found.off:
        return draft
    for each in ignored:
        job.say(IGNORED if each.why else UNKNOWN, each.given, why=each.why)
    own = Given("service", [found.name], found.place, f"service {found.name}")
    if not TCPLESS & {word.upper() for word in job.word("type").split()}:
        for word in REQUIRED:
            if word not in merged and not ("redirect" in merged and word == "server"):
                job.say(LACKS, own, word=word)
        merged.setdefault("port", Given("port", [], found.place, f"service {found.name}"))
    merged.setdefault("instances", Given("instances", [UNLIMITED], found.place, own.text))
    for row in ROWS:
        if row.word in merged:
            row.convert(job, merged[row.word])
    job.set("TimeLimit", "infinity", own)
    job.close(own)
    return draft
