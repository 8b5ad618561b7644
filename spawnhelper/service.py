"""A service file to a Service: spawn.conf(5)."""

from __future__ import annotations

import _stat as stat  # the C module behind stat

from spawnhelper import syntax
from spawnhelper.outcome import Problem, Refusal, misconfigured, shown
from spawnhelper.settings import KEYS, SETTINGS
from spawnhelper.values import NAME_CHARACTERS, consists_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from spawnhelper.syntax import Assignment
    from spawnhelper.values import Directory
else:
    import posix as os

DIRECTORY = "/etc/spawn"
SUFFIX = ".conf"
SECTIONS = ("Socket", "Spawn")
LONGEST_FILE = 1 << 20
LONGEST_NAME = 200  # NAME stands in names of units, which have 255 bytes
OURS = {
    "Accept": "each connection has a process of its own",
    "Service": "spawn@.service serves every connection",
    "FileDescriptorName": "it carries the name of the service",
}
NOT_STREAMS = (
    "ListenDatagram",
    "ListenSequentialPacket",
    "ListenFIFO",
    "ListenSpecial",
    "ListenNetlink",
    "ListenMessageQueue",
    "ListenUSBFunction",
)


class Service:
    """What a service file says. The attributes are those of the settings table, times in
    microseconds; None is a limit that is off, or a value that the file leaves open."""

    user: tuple[str, str | None]
    group: str | None
    supplementary_groups: list[str]
    refuse_users: list[str]
    argv: list[str]
    time_limit: int | None
    kill_delay: int
    standard_error: str
    environment: dict[str, str]
    pass_environment: list[str]
    working_directory: Directory
    umask: int
    no_new_privileges: bool
    log: str

    def __init__(self, name: str, file: str) -> None:
        self.name = name
        self.file = file
        self.lines: dict[str, int] = {}
        for setting in SETTINGS:
            setattr(self, setting.attribute, setting.default)

    def problem(self, key: str, sentence: str) -> Problem:
        """A problem with the value of this key, at its line."""
        return Problem(self.file, self.lines.get(key), sentence)


def file_of(name: str) -> str:
    """The path of the service's file."""
    return f"{DIRECTORY}/{name}{SUFFIX}"


def name_of(file: str) -> str:
    """The name of the service that this file is for."""
    return file.rpartition("/")[2].removesuffix(SUFFIX)


def installed() -> list[str]:
    """The names of all services that have a file, in alphabetical order."""
    try:
        entries = os.listdir(DIRECTORY)
    except FileNotFoundError:
        return []
    return sorted(
        entry.removesuffix(SUFFIX)
        for entry in entries
        if entry.endswith(SUFFIX) and entry[0] != "."
    )


def is_name(name: str) -> bool:
    """Whether a service can be called so: NAME is a part of names of units."""
    return (
        consists_of(name, NAME_CHARACTERS + "-.") and name[0] != "." and len(name) <= LONGEST_NAME
    )


def load(file: str) -> Service:
    """The service of this file, or a Refusal with every problem that the file has."""
    assignments, problems = read(file)
    service, further = _follow(file, assignments)
    problems += further + _socket_problems(file, assignments)
    if problems:
        # What is missing comes last: it may be what a line was meant for.
        problems.sort(key=lambda problem: (problem.line is None, problem.line or 0))
        raise misconfigured(*problems)
    return service


def socket_section(file: str) -> tuple[list[Assignment], list[Problem]]:
    """The [Socket] section of this file, and why systemd cannot be given it, if so."""
    assignments, problems = read(file)
    problems += _socket_problems(file, assignments)
    return [assignment for assignment in assignments if assignment.section == "Socket"], problems


def lenient_socket_section(file: str) -> list[Assignment]:
    """The [Socket] section as far as it can be made out, by whomever it was written: it tells
    whose an address is, and is not followed."""
    try:
        descriptor = _open(file)
    except Refusal:
        return []
    lines = syntax.lenient_lines(_content(descriptor))
    assignments, _ = syntax.parse(lines, file, SECTIONS)
    return [assignment for assignment in assignments if assignment.section == "Socket"]


def _socket_problems(file: str, assignments: list[Assignment]) -> list[Problem]:
    """What is wrong with the [Socket] section."""
    problems = []
    listens = False
    for assignment in assignments:
        key, line = assignment.key, assignment.line
        if assignment.section != "Socket":
            continue
        if key in OURS:
            sentence = f"{key}= is set by spawnhelper: {OURS[key]}; remove the line"
            problems.append(Problem(file, line, sentence))
        elif key in NOT_STREAMS:
            sentence = f"{key}= is no stream of bytes; write ListenStream="
            problems.append(Problem(file, line, sentence))
        elif key == "ListenStream":
            listens = bool(assignment.value)
    if not listens:
        sentence = "[Socket] has no ListenStream=; write where to listen, as in 127.0.0.1:10031"
        problems.append(Problem(file, None, sentence))
    return problems


def read(file: str) -> tuple[list[Assignment], list[Problem]]:
    """What the file assigns, and what of its lines is no assignment; a Refusal where this is no
    service file that can be trusted."""
    name = name_of(file)
    if not file.endswith(SUFFIX):
        sentence = "the name does not end with .conf; rename the file"
        raise misconfigured(Problem(shown(file), None, sentence))
    if not is_name(name):
        sentence = "a service is named with letters, digits, - _ and .; rename the file"
        raise misconfigured(Problem(shown(file), None, sentence))
    descriptor = _open(file)
    try:
        _check_writers(file, descriptor)
    except Refusal:
        os.close(descriptor)
        raise
    text = _content(descriptor)
    if len(text) > LONGEST_FILE:
        sentence = "the service file is longer than 1 MiB; shorten it"
        raise misconfigured(Problem(file, None, sentence))
    return syntax.parse(syntax.strict_lines(text, file), file, SECTIONS)


def _open(file: str) -> int:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        sentence = "there is no such service file; create it, see spawn.conf(5)"
        raise misconfigured(Problem(file, None, sentence), status=os.EX_NOINPUT) from None
    except OSError as error:
        sentence = f"the service file cannot be opened: {error.strerror}"
        raise misconfigured(Problem(file, None, sentence), status=os.EX_NOINPUT) from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise misconfigured(Problem(file, None, "this is not a regular file; replace it by one"))


def _check_writers(file: str, descriptor: int) -> None:
    """Refuses what others than root, or who runs this, can write or replace."""
    folder = "folder of the service file"
    places = [("service file", os.fstat(descriptor)), (folder, os.stat(_folder_of(file)))]
    real = os.readlink(f"/proc/self/fd/{descriptor}")
    if real != file:  # a symbolic link somewhere on the way
        places.append((folder, os.stat(_folder_of(real))))
    for what, of in places:
        sentence = ""
        if of.st_uid not in (0, os.geteuid()):
            sentence = f"the {what} belongs to uid {of.st_uid}; make root its owner"
        # In a folder with the sticky bit others can add files, but not replace this one.
        sticky = what == folder and of.st_mode & stat.S_ISVTX
        if of.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
            sentence = f"others than root can write the {what}; chmod go-w it"
        if sentence:
            raise misconfigured(Problem(file, None, sentence))


def _folder_of(file: str) -> str:
    return file.rpartition("/")[0] or ("/" if file[0] == "/" else ".")


def _content(descriptor: int) -> bytes:
    """What the descriptor gives, up to just more than a service file may have; it is closed."""
    text = b""
    try:
        while len(text) <= LONGEST_FILE and (part := os.read(descriptor, LONGEST_FILE)):
            text += part
    finally:
        os.close(descriptor)
    return text


def _follow(file: str, assignments: list[Assignment]) -> tuple[Service, list[Problem]]:
    service = Service(name_of(file), file)
    problems = []
    for assignment in assignments:
        if assignment.section != "Spawn":
            continue
        sentence = _assign(service, assignment)
        if sentence is not None:
            problems.append(Problem(file, assignment.line, sentence))
    elsewhere = {each.key: each.line for each in assignments if each.section != "Spawn"}
    for setting in SETTINGS:
        if setting.required and setting.key not in service.lines:
            sentence = f"[Spawn] has no {setting.key}=; it is required"
            if setting.key in elsewhere:
                sentence += f", and line {elsewhere[setting.key]} has it in [Socket]"
            problems.append(Problem(file, None, sentence))
    if service.group is not None and service.user and service.user[1] is not None:
        problems.append(
            service.problem("Group", "User= names a group already; give it in one place only")
        )
    return service, problems


def _assign(service: Service, assignment: Assignment) -> str | None:
    """Gives the service the value; what is wrong with it, if anything."""
    key, text = assignment.key, assignment.value
    setting = KEYS.get(key)
    if setting is None:
        return f"unknown key {shown(key)}= in [Spawn]{_nearest(key)}"
    first = key not in service.lines
    if not text:  # an empty value resets
        service.lines.pop(key, None)
        empty = type(setting.default)() if setting.repeats else setting.default
        setattr(service, setting.attribute, empty)
        return None
    service.lines[key] = assignment.line
    try:
        value = setting.parse(text)
    except ValueError as error:
        hint = "; a comment needs a line of its own" if " #" in text else ""
        return f"{key}={shown(text)} {error}{hint}"
    if setting.repeats and not first:
        value = _joined(getattr(service, setting.attribute), value)
    setattr(service, setting.attribute, value)
    return None


def _joined(old: object, new: object) -> object:
    """The value of a list key after one more assignment."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old | new
    assert isinstance(old, list)
    assert isinstance(new, list)
    return old + new


def _nearest(key: str) -> str:
    import difflib  # costs more than the rest of a connection; here nothing is served any more

    known = {each.lower(): each for each in KEYS}
    near = difflib.get_close_matches(key.lower(), known, 1, 0.5)
    return f"; did you mean {known[near[0]]}=?" if near else "; spawn.conf(5) lists the keys"
