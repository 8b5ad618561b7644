"""What becomes of spawn(8)'s services in Postfix: the columns of master.cf, spawn(8)'s arguments,
and the parameters of main.cf."""

from __future__ import annotations

import os

from spawnhelper.conf.values import CONNECTION_VARIABLES, DIGITS, FACILITIES, consists_of
from spawnhelper.moving.draft import Draft, quoted
from spawnhelper.moving.job import EVERYWHERE, OPEN_FILES
from spawnhelper.moving.machine import Machine
from spawnhelper.moving.postfix.job import NEVER_STARTED, NOT_KNOWN, NOT_TOLD, PostfixJob
from spawnhelper.moving.postfix.listening import NOT_A_STREAM, PRIVATE_INET, listen, private
from spawnhelper.moving.postfix.main_cf import seconds
from spawnhelper.moving.postfix.reader import Postfix, split, stripped
from spawnhelper.moving.source import Given
from spawnhelper.moving.traps import Row, Trap, note, nothing, refusal

MOST_COMMANDS = 1000  # of MaxCommands=
ROOM = 256  # connections that wait, besides those that are served
# What spawn(8) gives to a command, besides what export_environment names: Postfix runs with LANG=C.
SEARCH_PATH = "/usr/bin:/bin"
LANG = "C"
NEVER_RAN = Trap(
    "with y or - in this column Postfix cannot run the command as its user, so it never ran",
    "find out whether anybody needs the service",
    key="User",
)
NO_WAKEUP = Trap(
    "nobody connects to the service at regular times by itself", "use a timer, systemd.timer(5)"
)
CHROOT = Trap(
    "the command runs in RootDirectory=, as in Postfix, where chroot is not recommended for it",
    "remove RootDirectory= if the command does not need it",
    key="RootDirectory",
)
CHROOT_UNSURE = refusal(
    "whether - means a chroot depends on the version and the compatibility_level of Postfix",
    "write y or n in the fifth column",
)
NO_MAIN_CF = Trap(
    "main.cf was not read, so what it says is missing: time limits, and where the queue is",
    "copy main.cf beside master.cf, and run this again",
    key="TimeLimit",
)
NO_LIMIT = Trap(
    "Postfix has no limit for it, and systemd resets connections above MaxConnections=, 256",
    "raise MaxConnections= in [Socket] if more can come at a time",
    key="MaxConnections",
)
MANY = Trap(
    "MaxCommands= is 1000 at most, so further clients are reset instead of waiting",
    "raise MaxConnections= in [Socket] if more can come at a time",
    key="MaxConnections",
)
WITHOUT_EFFECT = note("spawn(8) does not go by it, so nothing of it is lost")
OF_DEBUGGING = note("more to log has no equal here, and each connection has its record")
DOLLAR = Trap(
    "a word with $ is handed over as it stands; only pipe(8) fills in such names", "", key="Argv"
)
FROM_SYSTEMD = Trap(
    "the variables {names} come from systemd's environment, not from Postfix's",
    "write what is missing in Environment=",
    key="PassEnvironment",
)
OF_CONNECTION = Trap(
    "{name} tells about the connection here, and cannot be set", "give it another name"
)


def _unprivileged(job: PostfixJob, given: Given) -> None:
    if job.is_flag(given) and given.value != "n":
        job.say(NEVER_RAN, given)


def _chroot(job: PostfixJob, given: Given) -> None:
    if given.value == "-":
        level = job.parameter("compatibility_level", "0") if _has_level(job) else "0"
        digits = level.partition(".")[0].strip()
        if digits.isascii() and digits.isdigit() and int(digits[:9]) > 0:
            return
        job.say(CHROOT_UNSURE, given)
    elif job.is_flag(given) and given.value != "n":
        job.chroot = True
        job.say(CHROOT, given)
        job.set("RootDirectory", job.parameter("queue_directory"), given)


def _has_level(job: PostfixJob) -> bool:
    return "compatibility_level" in job.parameters.values


def _wakeup(job: PostfixJob, given: Given) -> None:
    number = given.value.removesuffix("?")
    if not (number.isascii() and number.isdigit()) and number != "-":
        job.say(NEVER_STARTED, given, why="this is no time between two wakeups")
    elif number not in ("0", "-"):
        job.say(NO_WAKEUP, given)


def _processes(job: PostfixJob, given: Given) -> None:
    text = given.value
    if text == "-":
        given = job.given("default_process_limit")
        text = job.parameter("default_process_limit")
    if not text:
        return  # which has been said
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        job.say(NEVER_STARTED, given, why=f"{text} is no number of processes")
    elif int(text) == 0:
        job.say(NO_LIMIT, given)
        job.draft.socket("MaxConnections", str(ROOM))
    elif int(text) > MOST_COMMANDS:
        job.say(MANY, given)
        job.draft.socket("MaxConnections", str(int(text)))
    else:
        job.set("MaxCommands", str(int(text)), given)
        job.set("QueueLimit", "infinity", given)
        job.draft.socket("MaxConnections", str(int(text) + ROOM))


def _option(job: PostfixJob, given: Given) -> None:
    name = given.words[0]
    service = job.draft.found.name
    if name not in PARAMETERS and name != f"{service}_time_limit":
        job.say(WITHOUT_EFFECT, given)


def _debugging(job: PostfixJob, given: Given) -> None:
    job.say(OF_DEBUGGING, given)


def _user(job: PostfixJob, given: Given) -> None:
    user, _, group = given.value.partition(":")
    for name in filter(None, (user, group)):
        if consists_of(name, DIGITS):
            job.say(NEVER_STARTED, given, why=f"{name} is a number, and it knows names only")
            return
    owner = job.parameter("mail_owner")
    job.account(user, group, given, owner)
    if owner != "postfix":
        job.set("RefuseUsers", owner, job.given("mail_owner"))


def _argv(job: PostfixJob, given: Given) -> None:
    words = given.words
    if not words[0]:
        job.say(NEVER_STARTED, given, why="there is no command behind argv=")
        return
    if any("$" in word for word in words):
        job.say(DOLLAR, given)
    job.command(words, given)
    if not job.chroot and (folder := job.parameter("queue_directory")):
        job.set("WorkingDirectory", folder, given)
    job.set("UMask", "0077", given)
    job.set("KillDelay", "0", given)


def _unknown(job: PostfixJob, given: Given) -> None:
    job.say(NEVER_STARTED, given, why="it knows user= and argv= only")


def _time_limit(job: PostfixJob, given: Given) -> None:
    """Of the service itself, or else of all that run commands."""
    own = f"{job.draft.found.name}_time_limit"
    if own in job.parameters.values:
        given = job.given(own)
    text = job.parameter(given.word)
    try:
        job.set("TimeLimit", f"{seconds(text)}s", given)
    except ValueError:
        if text:
            job.say(NEVER_STARTED, given, why="this is no time, as in 3600s")
    if job.missing:
        job.say(NO_MAIN_CF)


def _environment(job: PostfixJob, given: Given) -> None:
    text = job.parameter("export_environment", "TZ MAIL_CONFIG LANG")
    passed: list[str] = []
    job.set("Environment", f"PATH={SEARCH_PATH}", given)
    for word in split(text.replace(",", " ")):
        name, equals, value = stripped(word).partition("=")
        name, value = name.strip(), value.strip()
        if name in CONNECTION_VARIABLES:
            job.say(OF_CONNECTION, given, name=name)
        elif equals:
            job.set("Environment", quoted(f"{name}={value}"), given)
        elif name == "MAIL_CONFIG":
            job.set("Environment", quoted(f"{name}={_folder(job)}"), given)
        elif name == "LANG":
            job.set("Environment", f"{name}={LANG}", given)
        elif name != "TZ":  # which is always there
            passed.append(name)
    if passed and job.set("PassEnvironment", " ".join(passed), given):
        job.say(FROM_SYSTEMD, given, names=" ".join(passed))


def _folder(job: PostfixJob) -> str:
    """Where Postfix finds its configuration: where this one is, unless it is a copy."""
    beside = os.path.dirname(os.path.abspath(job.parameters.file))
    if beside.startswith("/etc/") and "config_directory" not in job.parameters.values:
        return beside
    return job.parameter("config_directory", "/etc/postfix")


def _identifier(job: PostfixJob, given: Given) -> None:
    job.set("SyslogIdentifier", f"{job.parameter('syslog_name', 'postfix')}/spawn", given)


def _facility(job: PostfixJob, given: Given) -> None:
    facility = job.parameter("syslog_facility", "mail").lower()
    job.set("SyslogFacility", facility if facility in FACILITIES else "mail", given)


ROWS: tuple[Row[PostfixJob], ...] = (
    Row(
        "type",
        "",
        "`unix` and `inet` are converted.",
        nothing,
    ),
    Row(
        "service",
        "ListenStream=",
        "For `unix` the path in the queue: queue_directory`/private/`NAME, or `public` if the "
        "service is not private; so smtpd(8) finds it under the same name. For `inet` "
        "HOST`:`PORT; a port alone is open at the addresses of inet_interfaces and "
        "inet_protocols.",
        listen,
        (NOT_A_STREAM, NOT_KNOWN),
    ),
    Row(
        "private",
        "ListenStream=, DirectoryMode=",
        "Which folder of the queue the path is in.",
        private,
        (PRIVATE_INET,),
    ),
    Row("unpriv", "", "spawn(8) needs `n`.", _unprivileged, (NEVER_RAN,)),
    Row(
        "chroot",
        "RootDirectory=",
        "`y` is the queue directory, `n` is nothing.",
        _chroot,
        (CHROOT, CHROOT_UNSURE),
    ),
    Row("wakeup", "", "`-` and `0` are nothing.", _wakeup, (NO_WAKEUP,)),
    Row(
        "maxproc",
        "MaxCommands=, QueueLimit=infinity, MaxConnections=",
        "So many commands at a time, further clients wait; `-` is default_process_limit. "
        "MaxConnections= is 256 more, for those who wait. MaxConnectionsPerSource= is not set: on "
        "a path all of Postfix is one source.",
        _processes,
        (NO_LIMIT, MANY, NEVER_STARTED),
    ),
    Row("command", "", "`spawn` is converted; all other daemons are Postfix's own.", nothing),
    Row(
        "-o",
        "",
        "Counts for the parameters below, before main.cf.",
        _option,
        (WITHOUT_EFFECT,),
    ),
    Row("-v", "", "Nothing.", _debugging, (OF_DEBUGGING,)),
    Row("-D", "", "Nothing.", _debugging, (OF_DEBUGGING,)),
    Row(
        "user",
        "User=",
        "The same, `user` or `user:group`. Neither has supplementary groups.",
        _user,
        (NEVER_STARTED,),
    ),
    Row(
        "argv",
        "Argv=, WorkingDirectory=, UMask=0077, KillDelay=0",
        "The words, quoted where needed; `{ }` around a word are taken off. The command begins in "
        "the queue directory, or in / of its RootDirectory=, with the umask of spawn(8), and is "
        "killed without SIGTERM, as there.",
        _argv,
        (DOLLAR, NEVER_STARTED),
    ),
    Row("", "", "Anything else is an error for spawn(8).", _unknown, (NEVER_STARTED,)),
)
PARAMETER_ROWS: tuple[Row[PostfixJob], ...] = (
    Row(
        "command_time_limit",
        "TimeLimit=",
        "NAME`_time_limit` where main.cf has it for the service, else this, else 1000s. Before "
        "Postfix 3.10 a command was not ended in fact.",
        _time_limit,
        (NO_MAIN_CF, NEVER_STARTED, NOT_KNOWN),
    ),
    Row(
        "export_environment",
        "Environment=, PassEnvironment=",
        "NAME=VALUE as it is; MAIL_CONFIG and LANG as Postfix has them, and PATH as spawn(8) sets "
        "it. TZ is always there.",
        _environment,
        (FROM_SYSTEMD, OF_CONNECTION),
    ),
    Row(
        "syslog_name",
        "SyslogIdentifier=",
        "With `/spawn` behind it, as Postfix logs about spawn(8).",
        _identifier,
        (NOT_TOLD,),
    ),
    Row("syslog_facility", "SyslogFacility=", "The same; `mail` without it.", _facility),
    Row(
        "default_process_limit",
        "MaxCommands=",
        "Where maxproc is `-`; 100 without it.",
        nothing,
    ),
    Row("mail_owner", "RefuseUsers=", "No command runs as this user.", nothing),
    Row(
        "queue_directory",
        "ListenStream=, WorkingDirectory=",
        "`/var/spool/postfix` without it.",
        nothing,
    ),
    Row("inet_interfaces", "ListenStream=", "Where a port has no host.", nothing),
    Row("inet_protocols", "ListenStream=, BindIPv6Only=", "Where a port has no host.", nothing),
    Row("compatibility_level", "", "Tells what `-` for chroot means.", nothing),
    Row("config_directory", "Environment=", "What MAIL_CONFIG is.", nothing),
)
BY_WORD = {row.word: row for row in ROWS}
PARAMETERS = {row.word: row for row in PARAMETER_ROWS}
GENERAL = (
    *EVERYWHERE,
    OPEN_FILES,
    note("above MaxConnections= a client is reset, where Postfix has it wait in the backlog"),
    note("before Postfix 3.10 NAME_time_limit ended no command; TimeLimit= does"),
)
MISSING = {
    "user": "there is no user=",
    "argv": "there is no argv=",
}


def convert(source: Postfix, machine: Machine) -> list[Draft]:
    """A draft for every line of master.cf."""
    drafts = []
    for found in source.reading.services:
        draft = Draft(found)
        drafts.append(draft)
        if found.off or found.foreign:
            continue
        job = PostfixJob(draft, machine, source)
        for given in found.given:
            BY_WORD.get(given.word, BY_WORD[""]).convert(job, given)
        for word, why in MISSING.items():
            if found.of(word) is None:
                job.say(NEVER_STARTED, why=why)
        for row in PARAMETER_ROWS:
            row.convert(job, job.given(row.word))
    return drafts
