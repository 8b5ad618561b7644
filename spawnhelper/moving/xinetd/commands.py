"""What runs for a service of xinetd: the account, the command, and what surrounds it."""

from __future__ import annotations

import re

from spawnhelper.conf.values import CONNECTION_VARIABLES, DIGITS, FACILITIES, consists_of
from spawnhelper.moving.draft import quoted
from spawnhelper.moving.source import Given
from spawnhelper.moving.traps import Trap, note, refusal
from spawnhelper.moving.xinetd import values
from spawnhelper.moving.xinetd.clients import (
    ask_libwrap,
)
from spawnhelper.moving.xinetd.job import DISABLED, XinetdJob

NICE_MOST = 19
# chroot(8), where it becomes an account.
CHROOT = re.compile(r"\S*/chroot --userspec=(\S+) (/\S*) (.+)")
CHROOTED = refusal(
    "chroot(8) starts a command as another account, which a service file can say by itself",
    "write User={user}, RootDirectory={root} and Argv={command}",
)
NO_DAEMON = refusal("tcpd(8) is given no daemon", "add flags = NAMEINARGS, and its name")
FROM_SYSTEMD = Trap(
    "these variables come from systemd's environment, not from xinetd's",
    "write what is missing in Environment=",
    key="PassEnvironment",
)
OF_CONNECTION = Trap("{name} tells about the connection here, and cannot be set", "")
BANNERS = Trap(
    "there is one banner before the command and one for who is refused; this one is left out",
    "put both texts in one file",
    key="Banner",
)
BUSY_BANNER = Trap(
    "who comes above instances or per_source is reset, and gets no banner", "", key="BannerRefused"
)
LOG_FILE = Trap(
    "the log is in the journal, not in a file of its own", "see spawnctl log", key="SyslogFacility"
)
LOG_LEVEL = note("the level of each record is that of its result", key="SyslogFacility")
USERID = Trap("nobody asks who the client's user is (RFC 1413)", "")
NICEST = note("the kernel has no value above 19, which is written", key="Nice")


def user(job: XinetdJob, given: Given) -> None:
    """Adds the account."""
    if found := CHROOT.fullmatch(" ".join((job.word("server"), job.word("server_args")))):
        account, root, command = found.groups()
        job.say(CHROOTED, given, user=account, root=root, command=command)
    group = job.word("group")
    if not group and consists_of(given.value, DIGITS):
        group = given.value  # xinetd has no other group for a number
    job.account(given.value, group, given)


def groups(job: XinetdJob, given: Given) -> None:
    """Adds the groups that the user is in."""
    if job.boolean(given) and not job.draft.has("refusal"):
        job.further_groups(job.word("user"), given, own=bool(job.word("group")))


def server(job: XinetdJob, given: Given) -> None:
    """Adds the command, and has the clients only that libwrap lets in for it."""
    program = given.value
    if not program.startswith("/"):
        job.say(DISABLED, given)
        return
    words = list(job.given["server_args"].words) if "server_args" in job.given else []
    name = program.rpartition("/")[2]
    if "NAMEINARGS" in job.flags and words:
        name = words.pop(0)
    if program.rpartition("/")[2] == "tcpd":
        last = name.rpartition("/")[2]
        if last in ("", "tcpd"):
            job.say(NO_DAEMON, given)
            return
        program = name if name.startswith("/") else f"/usr/sbin/{name}"
        name = last
        ask_libwrap(job, last, given)
    if "NOLIBWRAP" not in job.flags:
        ask_libwrap(job, job.word("libwrap") or name.rpartition("/")[2], given)
    job.command([program, *words], given, name)


def nice(job: XinetdJob, given: Given) -> None:
    """Adds Nice=."""
    text = given.value
    if consists_of(text, DIGITS) and len(text) < 6 and int(text) > NICE_MOST:
        job.say(NICEST, given)
        text = str(NICE_MOST)
    job.set("Nice", text, given)


def limit(job: XinetdJob, given: Given) -> None:
    """Adds a resource limit."""
    key = LIMITS[given.word]
    try:
        job.set(key, values.limit(given.value), given)
    except ValueError:
        job.say(DISABLED, given)


def environment(job: XinetdJob, given: Given) -> None:
    """Adds variables."""
    for word in given.words:
        name, equals, _ = word.partition("=")
        if not equals:
            job.say(DISABLED, given)
        elif name in CONNECTION_VARIABLES:
            job.say(OF_CONNECTION, given, name=name)
        else:
            job.set("Environment", quoted(word), given)


def passed(job: XinetdJob, given: Given) -> None:
    """Adds variables that come from outside."""
    if given.words and job.set("PassEnvironment", " ".join(map(quoted, given.words)), given):
        job.say(FROM_SYSTEMD, given)


def banner(job: XinetdJob, given: Given) -> None:
    """Adds the banner that everybody gets."""
    job.set("Banner", given.value, given)
    if "banner_fail" not in job.given:
        job.set("BannerRefused", given.value, given)


def banner_success(job: XinetdJob, given: Given) -> None:
    """Adds the banner of who may connect."""
    if "banner" in job.given:
        job.say(BANNERS, given)
    else:
        job.set("Banner", given.value, given)


def banner_fail(job: XinetdJob, given: Given) -> None:
    """Adds the banner of who may not."""
    if "banner" in job.given:
        job.say(BANNERS, given)
    job.set("BannerRefused", given.value, given)
    if "instances" in job.given or "per_source" in job.given:
        job.say(BUSY_BANNER, given)


def log_type(job: XinetdJob, given: Given) -> None:
    """Adds the facility of the log."""
    kind, *rest = given.words or [""]
    if kind.upper() == "FILE":
        job.say(LOG_FILE, given)
    elif kind.upper() == "SYSLOG" and rest and rest[0].lower() in FACILITIES:
        job.set("SyslogFacility", rest[0].lower(), given)
        if len(rest) > 1:
            job.say(LOG_LEVEL, given)
    else:
        job.say(DISABLED, given)


def log_on(job: XinetdJob, given: Given) -> None:
    """Says what of the log there is not."""
    if "USERID" in given.value.upper().split():
        job.say(USERID, given)


def umask(job: XinetdJob, given: Given) -> None:
    """Adds UMask=."""
    try:
        mask = int(given.value, 8)
    except ValueError:
        mask = -1
    if 0 <= mask <= 0o777:
        job.set("UMask", f"{mask:04o}", given)
    else:
        job.say(DISABLED, given)


LIMITS = {
    "rlimit_as": "LimitAS",
    "rlimit_cpu": "LimitCPU",
    "rlimit_data": "LimitDATA",
    "rlimit_files": "LimitNOFILE",
    "rlimit_rss": "LimitRSS",
    "rlimit_stack": "LimitSTACK",
}
