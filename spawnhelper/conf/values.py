"""The text of a value to what it means. Each function raises ValueError with the end of a sentence
that began with `KEY=TEXT`: what is wrong with it, and what would be right."""

from __future__ import annotations

import pwd

from spawnhelper.outcome import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# systemd.syntax(7), "Quoting".
ESCAPES = {
    "a": 7,
    "b": 8,
    "f": 12,
    "n": 10,
    "r": 13,
    "t": 9,
    "v": 11,
    "\\": 92,
    '"': 34,
    "'": 39,
    "s": 32,
}
PREFIXES = "-@+!:|"  # of ExecStart= in systemd.service(5)
# What tells a command about its connection, and where the names come from. No file may set one.
CONNECTION_VARIABLES = (
    "REMOTE_ADDR",  # systemd.exec(5)
    "REMOTE_PORT",
    "PROTO",  # UCSPI, https://cr.yp.to/proto/ucspi.txt
    "TCPLOCALIP",  # UCSPI-TCP, tcpserver's environment
    "TCPLOCALPORT",
    "TCPREMOTEIP",
    "TCPREMOTEPORT",
    "UNIXLOCALPATH",  # UCSPI-UNIX, unixserver's environment
    "UNIXREMOTEPID",
    "UNIXREMOTEEUID",
    "UNIXREMOTEEGID",
    "SPAWN_SERVICE",
)
LONGEST_ACCOUNT = 256  # LOGIN_NAME_MAX
LONGEST_IDENTIFIER = 64
MINUTES_PER_DAY = 24 * 60
# syslog(3), by the names of SyslogFacility= in systemd.exec(5).
FACILITY_NAMES = "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp"
FACILITIES = {name: number for number, name in enumerate(FACILITY_NAMES.split())} | {
    f"local{number}": 16 + number for number in range(8)
}
DIGITS = "0123456789"
MAPPED = "::ffff:"  # RFC 4291, 2.5.5.2
NAME_CHARACTERS = DIGITS + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"


def boolean(text: str) -> bool:
    """A boolean as systemd writes and reads it."""
    word = text.lower()
    if word in ("1", "yes", "y", "true", "t", "on"):
        return True
    if word in ("0", "no", "n", "false", "f", "off"):
        return False
    raise ValueError("is neither yes nor no")


def one_of(*words: str) -> Callable[[str], str]:
    """A parser of one word out of a few."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"is none of {', '.join(words)}")
        return text

    return parse


def file_mode(text: str) -> int:
    """A mask of permission bits, octal, from 0 to 0777."""
    if not consists_of(text, "01234567") or int(text, 8) > 0o777:
        raise ValueError("is not a file mode; write it in octal, from 0 to 0777")
    return int(text, 8)


def words(text: str) -> list[str]:
    """The words of a value: split at white space, quotes and C escapes resolved (systemd.syntax(7),
    "Quoting"). A quote may also open inside a word, as systemd reads it."""
    if not any(character in text for character in "\\\"'"):  # nearly always
        return [word for word in text.replace("\t", " ").split(" ") if word]
    found: list[str] = []
    word = bytearray()
    inside = False  # a word: an empty pair of quotes is one, too
    quote = ""
    at = 0
    while at < len(text):
        character = text[at]
        at += 1
        if not quote and character in " \t":
            if inside:
                found.append(_text(word))
                word = bytearray()
            inside = False
            continue
        inside = True
        if character == "\\":
            octets, at = _escape(text, at)
            word += octets
        elif character == quote:
            quote = ""
        elif not quote and character in "\"'":
            quote = character
        else:
            word += character.encode()
    if quote:
        raise ValueError(f"has a quote that is not closed; add the closing {quote}")
    if inside:
        found.append(_text(word))
    return found


def command_line(text: str) -> list[str]:
    """A command and its arguments. The command has an absolute path, or is a plain name."""
    argv = words(text)
    if not argv or not argv[0]:
        raise ValueError("names no command; write the command and its arguments")
    plain = argv[0].lstrip(PREFIXES)
    prefix = argv[0].removesuffix(plain)
    if prefix and (plain.startswith("/") or "/" not in plain):
        name = ", and Argv0= for another name" if "@" in prefix else ""
        raise ValueError(
            f"begins with {prefix}, which has no meaning here; write {shown(plain)}{name}"
        )
    if "/" in argv[0] and not argv[0].startswith("/"):
        raise ValueError(
            "begins with a relative path; write an absolute one, or a plain name to be looked up"
        )
    if argv[0].endswith("/"):
        raise ValueError("names a folder; write the path of a program")
    return argv


def user_and_group(text: str) -> tuple[str, str | None]:
    """`user` or `user:group`, each a name or a number."""
    user, colon, group = text.partition(":")
    if not _account(user) or (colon and not _account(group)):
        raise ValueError("is not an account; write user or user:group")
    return user, group if colon else None


def group(text: str) -> str:
    """The name or number of one group."""
    if not _account(text):
        raise ValueError("is not a group; write the name of one group")
    return text


def one_word(text: str) -> str:
    """One word, quoted as in systemd.syntax(7)."""
    found = words(text)
    if len(found) != 1 or not found[0]:
        raise ValueError("is not one word; put it in quotes")
    return found[0]


def identifier(text: str) -> str:
    """What stands before the colon of a line in the journal."""
    if not text.isprintable() or len(text.encode()) > LONGEST_IDENTIFIER:
        raise ValueError(
            f"is no identifier; write up to {LONGEST_IDENTIFIER} bytes of printable text"
        )
    return text


def facility(text: str) -> int:
    """The number of a facility of syslog(3)."""
    if text not in FACILITIES:
        raise ValueError(f"is none of {', '.join(FACILITIES)}")
    return FACILITIES[text]


def path(text: str) -> str:
    """An absolute path that says where it leads: without `..`."""
    if not text.startswith("/") or ".." in text.split("/"):
        raise ValueError("is not an absolute path; write one, without ..")
    return text


def day_spans(text: str) -> list[tuple[int, int]]:
    """Spans of the day, `HH:MM-HH:MM`, as minutes after midnight; the end may be 24:00, and may lie
    before the start: behind midnight."""
    found = []
    for word in words(text):
        start, _, end = word.partition("-")
        span = _minutes(start), _minutes(end)
        if span[0] == span[1] or span[0] == MINUTES_PER_DAY:
            raise ValueError("lasts no time; write 00:00-24:00 for the whole day")
        found.append(span)
    return found


def accounts(text: str) -> list[str]:
    """Names or numbers of users or groups, separated by white space."""
    found = words(text)
    for name in found:
        if not _account(name):
            raise ValueError("is not a list of names; separate them with spaces")
    return found


def variable_names(text: str) -> list[str]:
    """Names of environment variables, separated by white space."""
    found = words(text)
    for number, name in enumerate(found, 1):
        _check_variable(name, number)
    return found


def variables(text: str) -> dict[str, str]:
    """Assignments to environment variables, `NAME=VALUE`, quoted where a value has white space."""
    found = {}
    for number, assignment in enumerate(words(text), 1):
        name, equals, value = assignment.partition("=")
        if not equals:
            right = "write NAME=VALUE, in quotes if it has white space"
            raise ValueError(f"has no = in word {number}; {right}")
        _check_variable(name, number)
        found[name] = value
    return found


class Directory:
    """A working directory: home, or a path, which optional tolerates not to exist."""

    __slots__ = ("home", "optional", "path")

    def __init__(self, path: str, *, home: bool = False, optional: bool = False) -> None:
        self.path = path
        self.home = home
        self.optional = optional


def working_directory(text: str) -> Directory:
    """An absolute path or `~`; `-` before it: no failure if it does not exist."""
    path = text.removeprefix("-")
    optional = path != text
    if path == "~":
        return Directory("", home=True, optional=optional)
    if not path.startswith("/"):
        raise ValueError("is not an absolute path; write one, or ~ for the user's home")
    return Directory(path, optional=optional)


def unmapped(host: str) -> str:
    """An address, an IPv4-mapped one written as IPv4."""
    return host[len(MAPPED) :] if host.startswith(MAPPED) and "." in host else host


def account_of(name: str) -> pwd.struct_passwd | None:
    """The account of this name or number, None where this machine has none."""
    try:
        return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except (KeyError, OverflowError, ValueError):
        return None


def group_of(name: str) -> int | None:
    """The number of the group of this name or number, None where this machine has none."""
    import grp  # most commands have the group of their user

    try:
        return grp.getgrgid(int(name)).gr_gid if name.isdigit() else grp.getgrnam(name).gr_gid
    except (KeyError, OverflowError, ValueError):
        return None


def consists_of(text: str, characters: str) -> bool:
    """Whether the text has one of these characters at least, and no other."""
    return bool(text) and not text.strip(characters)


def _escape(text: str, at: int) -> tuple[bytes, int]:
    """The octets that the escape whose letter is at `at` stands for, and where it ends."""
    letter = text[at : at + 1]
    if letter in ESCAPES and letter:
        return bytes((ESCAPES[letter],)), at + 1
    for introducer, digits, base, octet in (
        ("x", 2, 16, True),
        ("u", 4, 16, False),
        ("U", 8, 16, False),
        ("", 3, 8, True),
    ):
        if introducer and letter != introducer:
            continue
        start = at + len(introducer)
        number = text[start : start + digits]
        valid = "01234567" if base == 8 else "0123456789abcdefABCDEF"
        if len(number) < digits or not consists_of(number, valid):
            break
        value = int(number, base)
        if value == 0:
            raise ValueError("has an escape for the NUL byte; no argument can hold one")
        if octet and value < 256:
            return bytes((value,)), start + digits
        if not octet and value < 0x110000 and not 0xD800 <= value < 0xE000:
            return chr(value).encode(), start + digits
        break
    raise ValueError("has an unknown escape; write \\\\ for a backslash")


def _text(octets: bytearray) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 once its escapes are resolved") from None


def _minutes(text: str) -> int:
    hour, colon, minute = text.partition(":")
    if colon and len(hour) == len(minute) == 2 and consists_of(hour + minute, DIGITS):
        total = int(hour) * 60 + int(minute)
        if int(minute) < 60 and total <= MINUTES_PER_DAY:
            return total
    raise ValueError("is no span of the day; write HH:MM-HH:MM, as in 22:00-06:00")


def _account(name: str) -> bool:
    """Whether this can be the name or the number of a user or group at all."""
    if len(name) > LONGEST_ACCOUNT or name[:1] in ("-", ".", "@", "$"):
        return False
    return consists_of(name, NAME_CHARACTERS + "-.@$")


def _check_variable(name: str, number: int) -> None:
    """Refuses what names no variable that a file may set. number: which word of the value has it;
    the name itself may be a piece of a secret."""
    if not consists_of(name, NAME_CHARACTERS) or name[0] in DIGITS:
        raise ValueError(f"has no name of a variable in word {number}; use letters, digits and _")
    if name in CONNECTION_VARIABLES:
        raise ValueError(f"has {name}, which tells about the connection; remove it")
