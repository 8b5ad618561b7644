"""The one table of the keys of [Spawn]: parser, check and manual page all read it."""

from __future__ import annotations

from spawnhelper import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = values.USEC_PER_SEC


class Setting:
    """One key of [Spawn].

    attribute: where Service keeps it. parse: its text to its value, or ValueError. default: the
    value where the file is silent; default_text: the same as a person writes it. required: the
    file must give it. repeats: a further assignment adds to the value instead of replacing it.
    meaning: a sentence or two for the manual page. origin: where the meaning comes from.
    """

    __slots__ = (
        "attribute",
        "default",
        "default_text",
        "key",
        "meaning",
        "origin",
        "parse",
        "repeats",
        "required",
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


SETTINGS = (
    Setting(
        "User",
        "user",
        values.user_and_group,
        None,
        "",
        "The account that the command runs as: a name or a number, `user` or `user:group`. "
        "Never uid 0, gid 0, -1, or an account of RefuseUsers=.",
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
        "spawn(8) argv=",
        required=True,
    ),
    Setting(
        "TimeLimit",
        "time_limit",
        values.positive_time_span,
        1000 * SECOND,
        "1000s",
        "Wall-clock time that the command may take. Then it and its process group get SIGTERM.",
        "spawn(8) transport_time_limit",
    ),
    Setting(
        "KillDelay",
        "kill_delay",
        values.bounded_time_span(60),
        5 * SECOND,
        "5s",
        "Time between SIGTERM and SIGKILL when a limit is hit or the unit is stopped, up to "
        "60s. 0 means SIGKILL at once, as spawn(8) does.",
        "spawn(8)",
    ),
    Setting(
        "StandardError",
        "standard_error",
        values.one_of("socket", "journal", "null"),
        "socket",
        "socket",
        "Where the command's standard error goes: to the client, to the journal or nowhere.",
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
        "UMask",
        "umask",
        values.file_mode,
        0o022,
        "0022",
        "The file mode creation mask, octal.",
        "xinetd.conf(5) umask",
    ),
    Setting(
        "NoNewPrivileges",
        "no_new_privileges",
        values.boolean,
        True,
        "yes",
        "Whether set-user-ID programs and file capabilities are without effect for the command. "
        "With `no` such a program still gets none but the few capabilities of spawn@.service.",
        "systemd.exec(5)",
    ),
    Setting(
        "Log",
        "log",
        values.one_of("all", "failures", "none"),
        "all",
        "all",
        "Which ends of a command are recorded. That a command could not be run always is.",
        "xinetd.conf(5) log_on_success, log_on_failure",
    ),
)

KEYS = {setting.key: setting for setting in SETTINGS}
