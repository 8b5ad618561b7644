"""The one table of the keys of [Spawn]: parser, check and manual page all read it."""

from __future__ import annotations

from spawnhelper.conf import quantities, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from spawnhelper.conf.addresses import Prefix

SECOND = quantities.USEC_PER_SEC
EVERY, WITHIN = "", "within"
NOT_GROUPS = "needs root; remove the line, for the command has the groups that you have"
NOT_ROOT = "needs root; remove the line"


class Setting:
    """One key of [Spawn].

    attribute: where Service keeps it. parse: its text to its value, or ValueError. default: the
    value where the file is silent; default_text: the same as a person writes it. required: the
    file must give it. repeats: a further assignment adds to the value instead of replacing it.
    secret: no sentence shows the value, or a piece of it. own: whether a service of one's own can
    have it (spawn-user(7)): EVERY value; WITHIN what its manager has; or why NOT, and what would be
    right, as the end of a sentence.
    meaning: a sentence or two for the manual page. origin: where the meaning comes from.
    """

    __slots__ = (
        "attribute",
        "default",
        "default_text",
        "key",
        "meaning",
        "origin",
        "own",
        "parse",
        "repeats",
        "required",
        "secret",
    )

    def __init__(
        self,
        key: str,
        attribute: str,
        parse: Callable[[str], object],
        default: object,
        default_text: str,
        meaning: str,
        origin: str,
        *,
        repeats: bool = False,
        required: bool = False,
        secret: bool = False,
        own: str = EVERY,
    ) -> None:
        self.key = key
        self.attribute = attribute
        self.parse = parse
        self.default = default
        self.default_text = default_text
        self.meaning = meaning
        self.origin = origin
        self.repeats = repeats
        self.required = required
        self.secret = secret
        self.own = own


# The resource limits of systemd.exec(5): what each is, and how its value is written.
TIME, SIZE, NUMBER = "a time span", "a size", "a number"
LIMITS: dict[str, tuple[str, str, Callable[[str], int | None]]] = {
    "LimitCPU": ("Processor time", f"{TIME}, in full seconds", quantities.seconds),
    "LimitFSIZE": ("How large a file it can write", SIZE, quantities.size),
    "LimitDATA": ("Its data segment", SIZE, quantities.size),
    "LimitSTACK": ("Its stack", SIZE, quantities.size),
    "LimitCORE": ("Its core dump", SIZE, quantities.size),
    "LimitRSS": ("Resident memory, which Linux does not enforce", SIZE, quantities.size),
    "LimitNOFILE": ("How many descriptors it can have open", NUMBER, quantities.count),
    "LimitAS": ("Its address space", SIZE, quantities.size),
    "LimitNPROC": ("How many processes its user can have, anywhere", NUMBER, quantities.count),
    "LimitMEMLOCK": ("Locked memory", SIZE, quantities.size),
    "LimitLOCKS": ("File locks, which Linux does not enforce", NUMBER, quantities.count),
    "LimitSIGPENDING": ("Queued signals of its user", NUMBER, quantities.count),
    "LimitMSGQUEUE": ("POSIX message queues of its user", SIZE, quantities.size),
    "LimitNICE": (
        "How far it can raise its priority",
        "a nice level with its sign, or 1 to 40",
        quantities.nice_limit,
    ),
    "LimitRTPRIO": ("Its real-time priority", NUMBER, quantities.count),
    "LimitRTTIME": (
        "Processor time without a pause under real-time scheduling",
        f"{TIME}, a bare number is microseconds",
        quantities.microseconds,
    ),
}


def _limit(key: str) -> Setting:
    what, kind, parse = LIMITS[key]
    return Setting(
        key,
        f"limit_{key.removeprefix('Limit').lower()}",
        quantities.limits(parse),
        None,
        "unchanged",
        f"{what}: {kind}, or two as `SOFT:HARD`; `infinity` is no limit.",
        "setrlimit(2), xinetd.conf(5) rlimit_*",
        own=WITHIN,
    )


def _prefixes(text: str) -> list[Prefix]:
    from spawnhelper.conf import addresses  # most services have no use for it

    return addresses.prefixes(text)


def _proxies(text: str) -> list[Prefix]:
    from spawnhelper.conf import addresses

    return addresses.proxies(text)


def _good_ends(text: str) -> list[int]:
    from spawnhelper.conf import statuses  # likewise

    return statuses.good_ends(text)


SETTINGS = (
    Setting(
        "User",
        "user",
        values.user_and_group,
        None,
        "",
        "The account that the command runs as: a name or a number, `user` or `user:group`. "
        "Never uid 0, gid 0, -1, or an account of RefuseUsers=. A service of one's own runs as "
        "oneself, and need not say so.",
        "spawn(8) user=",
        required=True,
    ),
    Setting(
        "Group",
        "group",
        values.group,
        None,
        "the user's",
        "The primary group of the command.",
        "spawn(8) user=",
        own=NOT_GROUPS,
    ),
    Setting(
        "SupplementaryGroups",
        "supplementary_groups",
        values.accounts,
        [],
        "",
        "Further groups of the command. Without them it has its primary group alone, whatever "
        "the group database says about the user.",
        "xinetd.conf(5) groups",
        repeats=True,
        own=NOT_GROUPS,
    ),
    Setting(
        "RefuseUsers",
        "refuse_users",
        values.accounts,
        ["postfix"],
        "postfix",
        "Accounts that no command may run as, besides root: neither with their uid nor with "
        "their primary gid. A list of one's own replaces the default. An account that does not "
        "exist is passed over.",
        "spawn(8) mail_owner",
        repeats=True,
    ),
    Setting(
        "Argv",
        "argv",
        values.command_line,
        None,
        "",
        "The command and its arguments, quoted as in systemd.syntax(7). No shell reads it and "
        "nothing in it is expanded. A first word without a slash is looked up in "
        "/usr/local/sbin, /usr/local/bin, /usr/sbin and /usr/bin.",
        "spawn(8) argv=, systemd.service(5) ExecStart=, xinetd.conf(5) server, server_args",
        required=True,
    ),
    Setting(
        "Argv0",
        "argv0",
        values.one_word,
        None,
        "Argv='s first word",
        "What the command sees as its own name, argv[0].",
        "xinetd.conf(5) NAMEINARGS",
    ),
    Setting(
        "TimeLimit",
        "time_limit",
        quantities.positive_time_span,
        1000 * SECOND,
        "1000s",
        "Wall-clock time that the command may take. Then it and its process group get SIGTERM.",
        "spawn(8) transport_time_limit",
    ),
    Setting(
        "KillDelay",
        "kill_delay",
        quantities.bounded_time_span(0, 60),
        5 * SECOND,
        "5s",
        "Time between SIGTERM and SIGKILL when a limit is hit or the unit is stopped, up to "
        "60s. 0 means SIGKILL at once, as spawn(8) does.",
        "spawn(8)",
    ),
    Setting(
        "IdleLimit",
        "idle_limit",
        quantities.positive_time_span,
        None,
        "infinity",
        "Ends the command, as at its TimeLimit=, when no byte has passed either way for this long. "
        "On a path it also needs SizeLimit=, because bytes are counted only then. A byte that the "
        "client's side does not acknowledge has not passed.",
        "tcp(7) TCP_INFO",
    ),
    Setting(
        "SizeLimit",
        "size_limit",
        quantities.size,
        None,
        "infinity",
        "How many bytes the command may get from the client; not one more reaches it. When the "
        "client sends more, the command's input ends; it has 5s to answer and to end, and is then "
        "ended as at its TimeLimit=. With a limit the command's streams are pipes instead of the "
        "socket.",
        "pipe(8) size",
    ),
    Setting(
        "MaxCommands",
        "max_commands",
        quantities.or_infinity(quantities.integer(1, 1000)),
        None,
        "infinity",
        "How many commands of the service run at a time, from 1 to 1000, or `infinity` for as many "
        "as there are connections. Further connections wait for their turn, in the order in which "
        "they came, and count against MaxConnections= meanwhile. Banner= is for those whose turn "
        "it is.",
        "Postfix master(5) maxproc",
    ),
    Setting(
        "QueueLimit",
        "queue_limit",
        quantities.time_span,
        60 * SECOND,
        "60s",
        "How long a connection waits for its turn, where there is a MaxCommands=. Then it is "
        "closed. 0 means that it does not wait, `infinity` that it waits as long as its client.",
        "Postfix master(5) maxproc",
    ),
    Setting(
        "StandardError",
        "standard_error",
        values.one_of("socket", "journal", "null"),
        "socket",
        "socket",
        "Where the command's standard error goes: with `socket` to the client, with `journal` "
        "there, with `null` nowhere.",
        "spawn(8)",
    ),
    Setting(
        "Environment",
        "environment",
        values.variables,
        {},
        "",
        "Variables for the command, `NAME=VALUE`, quoted as in systemd.syntax(7). Besides them it "
        "has TZ and LANG, the PATH of Argv=, the variables of PassEnvironment= and those of the "
        "connection; only the last cannot be set here.",
        "systemd.exec(5)",
        repeats=True,
        secret=True,
    ),
    Setting(
        "PassEnvironment",
        "pass_environment",
        values.variable_names,
        [],
        "",
        "Variables that the command takes over from systemd where they are set there.",
        "spawn(8) export_environment",
        repeats=True,
        secret=True,  # who writes NAME=VALUE here means the other
    ),
    Setting(
        "WorkingDirectory",
        "working_directory",
        values.working_directory,
        values.Directory("/"),
        "/",
        "An absolute path, or `~` for the user's home. With `-` before it a folder that "
        "cannot be entered is replaced by `/`.",
        "systemd.exec(5)",
    ),
    Setting(
        "RootDirectory",
        "root_directory",
        values.path,
        None,
        "",
        "The folder that is / for the command (chroot(2)). Argv= and WorkingDirectory= are paths "
        "in it; users, groups and the other files are those of the machine.",
        "master(5) chroot",
        own=NOT_ROOT,
    ),
    Setting(
        "UMask",
        "umask",
        values.file_mode,
        0o022,
        "0022",
        "The file mode creation mask, octal.",
        "xinetd.conf(5) umask",
    ),
    Setting(
        "Nice",
        "nice",
        quantities.integer(-20, 19),
        None,
        "unchanged",
        "The scheduling priority, from -20, the most favoured, to 19.",
        "xinetd.conf(5) nice",
        own=WITHIN,
    ),
    Setting(
        "OOMScoreAdjust",
        "oom_score_adjust",
        quantities.integer(-1000, 1000),
        None,
        "unchanged",
        "How ready the kernel is to kill the command when memory runs out, from -1000, never, to "
        "1000.",
        "systemd.exec(5)",
        own=WITHIN,
    ),
    *map(_limit, LIMITS),
    Setting(
        "NoNewPrivileges",
        "no_new_privileges",
        values.boolean,
        True,
        "yes",
        "Whether set-user-ID programs and file capabilities are without effect for the command. "
        "With `no` such a program still gets none but the few capabilities of spawn@.service. A "
        "program whose file needs another one does not start, with either.",
        "systemd.exec(5)",
    ),
    Setting(
        "AllowFrom",
        "allow_from",
        _prefixes,
        [],
        "everybody",
        "Addresses and prefixes that may connect; nobody else may. Never names. Where DenyFrom= "
        "has the address, too, the longer prefix decides, and of equal ones DenyFrom=. Does not "
        "apply to paths.",
        "xinetd.conf(5) only_from",
        repeats=True,
    ),
    Setting(
        "DenyFrom",
        "deny_from",
        _prefixes,
        [],
        "nobody",
        "Addresses and prefixes that may not connect.",
        "xinetd.conf(5) no_access",
        repeats=True,
    ),
    Setting(
        "AccessTimes",
        "access_times",
        values.day_spans,
        [],
        "always",
        "When clients may connect: `HH:MM-HH:MM`, local time, the end not included; `22:00-06:00` "
        "runs past midnight. Open connections are not closed.",
        "xinetd.conf(5) access_times",
        repeats=True,
    ),
    Setting(
        "Banner",
        "banner",
        values.path,
        None,
        "",
        "A file of up to 64 KiB that the client gets before the command starts.",
        "xinetd.conf(5) banner",
    ),
    Setting(
        "BannerRefused",
        "banner_refused",
        values.path,
        None,
        "",
        "A file of up to 64 KiB that the client gets instead, if AllowFrom=, DenyFrom=, "
        "AccessTimes= or ProxyFrom= refuse it, or QueueLimit= is over.",
        "xinetd.conf(5) banner_fail",
    ),
    Setting(
        "ProxyProtocol",
        "proxy_protocol",
        values.one_of("no", "v1", "v2", "any"),
        "no",
        "no",
        "Which header of the PROXY protocol every connection has to begin with: `v1`, `v2`, `any` "
        "of the two, or `no` header. The client is the one that it names, or the proxy itself, for "
        "AllowFrom=, the command and the record. A connection that ends instead, or right behind a "
        "header that names nobody but the proxy, is a health check: no command runs, and it is no "
        "failure.",
        "PROXY protocol, 2 and 4",
    ),
    Setting(
        "ProxyFrom",
        "proxy_from",
        _proxies,
        [],
        "nobody",
        "Whose header is believed, with ProxyProtocol=: addresses, prefixes, or `unix` for "
        "whoever can connect to a path. Nobody else is served.",
        "PROXY protocol, 2",
        repeats=True,
    ),
    Setting(
        "ProxyTimeLimit",
        "proxy_time_limit",
        quantities.bounded_time_span(1, 3600),
        10 * SECOND,
        "10s",
        "How long the header may take, from 1s to 1h. The protocol asks for 3s at least.",
        "PROXY protocol, 2",
    ),
    Setting(
        "SuccessExitStatus",
        "success_exit_status",
        _good_ends,
        [],
        "0",
        "Ends of the command that are `success` in the record, besides exit status 0: statuses, "
        "their names in systemd.exec(5) without EXIT_ and EX_, and signals, as in `255 TEMPFAIL "
        "SIGPIPE`. No signal is one by itself, and a core dump never is. A command that a limit or "
        "a stop has ended keeps that result.",
        "systemd.service(5)",
        repeats=True,
    ),
    Setting(
        "Log",
        "log",
        values.one_of("all", "failures", "none", "summary"),
        "all",
        "all",
        "Which ends of a command are recorded: `all`, `failures`, which is all but success, or "
        "`none`. Always recorded: connections that got no command, those that were denied or "
        "waited in vain among them, but not those that a stop met; and how many were dropped. "
        "Health checks: only with `all`. With Accept=no it can be `summary`: each failure has its "
        "record, successes and health checks one record in each SummaryInterval=.",
        "xinetd.conf(5) log_on_success, log_on_failure",
    ),
    Setting(
        "SummaryInterval",
        "summary_interval",
        quantities.bounded_time_span(1, 86_400),
        60 * SECOND,
        "60s",
        "How long a record of Log=`summary` is about, from 1s to 86400s. It ends at a round time, "
        "as at each full minute, and at a stop or a reload of the server.",
        "spawnctl(1), stats",
    ),
    Setting(
        "SyslogIdentifier",
        "syslog_identifier",
        values.identifier,
        None,
        "spawn",
        "What stands before the colon in the journal, of the record and of what StandardError="
        "`journal` brings there. The latter's default is the command's file name.",
        "systemd.exec(5)",
    ),
    Setting(
        "SyslogFacility",
        "syslog_facility",
        values.facility,
        values.FACILITIES["daemon"],
        "daemon",
        "The facility of the record: " + ", ".join(values.FACILITIES) + ".",
        "systemd.exec(5)",
    ),
)

KEYS = {setting.key: setting for setting in SETTINGS}
