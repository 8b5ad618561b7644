"""A service's files to a Service: spawn.conf(5)."""

from __future__ import annotations

from spawnhelper import manager
from spawnhelper.conf import files, syntax
from spawnhelper.conf.settings import KEYS, LIMITS, SETTINGS, Setting
from spawnhelper.conf.values import DIGITS, boolean, consists_of, words
from spawnhelper.outcome import Problem, Refusal, misconfigured, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from spawnhelper.conf.addresses import Prefix
    from spawnhelper.conf.syntax import Assignment
    from spawnhelper.conf.values import Directory

SECTIONS = ("Socket", "Spawn", "Service")
MOST_PROBLEMS = 50
ONE_MORE = "here is one more problem, and the rest is not looked at; mend these first"
MAX_CONNECTIONS = 256  # of spawn@.socket
MOST_DIGITS = 9  # systemd has 32 bits
# How directives begin that only a unit can have.
OF_UNITS = (
    "Memory",
    "CPU",
    "Tasks",
    "IO",
    "Private",
    "Protect",
    "Restrict",
    "SystemCall",
    "IPAddr",
)
OURS = {
    "Service": "Accept= says who serves connections",
    "FileDescriptorName": "it carries the name of the service",
}
NO_STREAM = "is no stream of bytes"
NOT_STREAMS = {
    "ListenDatagram": "has no connections, and a service of UDP needs a unit of its own",
    "ListenSequentialPacket": NO_STREAM,
    "ListenFIFO": NO_STREAM,
    "ListenSpecial": NO_STREAM,
    "ListenNetlink": NO_STREAM,
    "ListenMessageQueue": NO_STREAM,
    "ListenUSBFunction": NO_STREAM,
}


class Service:
    """What a service's files say. The attributes are those of the settings table, times in
    microseconds, sizes in bytes; None is a limit that is off, or a value that is left open.
    banners: by their keys, as far as they have been read already; or what is wrong there. standing:
    whether there is a server for all connections (Accept=no). max_connections, per_source:
    MaxConnections= and MaxConnectionsPerSource= that systemd goes by, as far as the service's files
    say; 0 without the latter."""

    user: tuple[str, str | None] | None
    group: str | None
    supplementary_groups: list[str]
    refuse_users: list[str]
    argv: list[str]
    argv0: str | None
    time_limit: int | None
    kill_delay: int
    idle_limit: int | None
    size_limit: int | None
    max_commands: int | None
    queue_limit: int | None
    standard_error: str
    environment: dict[str, str]
    pass_environment: list[str]
    working_directory: Directory
    root_directory: str | None
    umask: int
    nice: int | None
    oom_score_adjust: int | None
    no_new_privileges: bool
    allow_from: list[Prefix]
    deny_from: list[Prefix]
    access_times: list[tuple[int, int]]
    banner: str | None
    banner_refused: str | None
    proxy_protocol: str
    proxy_from: list[Prefix]
    proxy_time_limit: int
    success_exit_status: list[int]
    log: str
    summary_interval: int
    syslog_identifier: str | None
    syslog_facility: int
    standing: bool
    max_connections: int
    per_source: int

    def __init__(self, name: str, file: str) -> None:
        self.name = name
        self.file = file
        self.standing = False
        self.max_connections = MAX_CONNECTIONS
        self.per_source = 0
        self.given: dict[str, list[Assignment]] = {}
        self.banners: dict[str, bytes | tuple[Problem, ...]] = {}
        for setting in SETTINGS:
            setattr(self, setting.attribute, setting.default)

    @property
    def template(self) -> str:
        """The unit whose instances serve its connections."""
        return "spawn-server@.service" if self.standing else "spawn@.service"

    @property
    def proxied(self) -> bool:
        """Whether a proxy tells who the client is."""
        return self.proxy_protocol != "no"

    @property
    def restricted(self) -> bool:
        """Whether not everybody may connect at any time."""
        return bool(self.allow_from or self.deny_from or self.access_times)

    def has_required(self, setting: Setting) -> bool:
        """Whether what the file must say of a key is said. Who runs a service of one's own, all
        know."""
        known = manager.now.own and setting.key == "User"
        return not setting.required or known or setting.key in self.given

    def limits(self) -> dict[str, tuple[int, int]]:
        """The resource limits that are set, as soft and hard, by the key of each."""
        found = {key: getattr(self, KEYS[key].attribute) for key in LIMITS}
        return {key: pair for key, pair in found.items() if pair is not None}

    def problem(self, key: str, sentence: str, word: str | None = None) -> Problem:
        """A problem with the value of this key, at the line that gave it; of a list, at the last
        line that has the word."""
        given = self.given.get(key, [])
        for each in reversed(given):
            if word is None or word in words(each.value):
                return Problem(each.file, each.line, sentence)
        return Problem(self.file, None, sentence)


def load(file: str) -> Service:
    """The service of this file, or a Refusal with every problem that it and what belongs to it
    has."""
    assignments, problems = read(file)
    service, further = _follow(file, assignments)
    for each in assignments:
        if each.section == "Socket" and each.key == "MaxConnections":
            service.max_connections = _number(each.value, MAX_CONNECTIONS)
        elif each.section == "Socket" and each.key == "MaxConnectionsPerSource":
            # A value that only systemd can read stands for 1: dropped.py asks too often.
            service.per_source = _number(each.value, 1 if each.value else 0)
    service.standing = is_standing(assignments)
    problems += further + _unit_problems(file, assignments)
    if service.log == "summary" and not service.standing:
        sentence = (
            "Log=summary is for the server of Accept=no, which is there to write it; write "
            "Log=failures, or Accept=no in [Socket]"
        )
        problems.append(service.problem("Log", sentence))
    if problems:
        # What is missing comes last: it may be what a line was meant for.
        order = {each.file: at for at, each in reversed(list(enumerate(assignments)))}
        problems.sort(key=lambda each: (each.line is None, order.get(each.file, 0), each.line or 0))
        raise misconfigured(*problems)
    return service


def _is_boolean(text: str) -> bool:
    """Whether systemd can read it; an empty value resets."""
    try:
        boolean(text or "yes")
    except ValueError:
        return False
    return True


def _number(text: str, otherwise: int) -> int:
    known = consists_of(text, DIGITS) and len(text) <= MOST_DIGITS
    return int(text) if known else otherwise


def is_standing(assignments: list[Assignment]) -> bool:
    """Whether [Socket] asks for the standing server: Accept=no, where yes is the default. A word
    that is neither counts as yes; that it is wrong others say."""
    standing = False
    for each in assignments:
        if each.section == "Socket" and each.key == "Accept":
            try:
                standing = bool(each.value) and not boolean(each.value)
            except ValueError:
                standing = False
    return standing


def check_idle_limit(service: Service, *, tcp: bool) -> None:
    """Refuses a limit of something that nobody can tell on this kind of connection."""
    if service.idle_limit is None or service.size_limit is not None or tcp:
        return
    sentence = (
        "IdleLimit= needs SizeLimit= where ListenStream= is a path, for the kernel does not tell "
        "when a byte passed; add it, or listen on TCP"
    )
    raise misconfigured(service.problem("IdleLimit", sentence))


def check_proxies(service: Service, *, tcp: bool) -> None:
    """Refuses a list of proxies with none that could connect to this kind of listener."""
    if not service.proxied or any((prefix.width != 0) == tcp for prefix in service.proxy_from):
        return
    has, kind = ("no address", "one of TCP") if tcp else ("not unix", "a path")
    sentence = f"ProxyFrom= has {has}, and ListenStream= is {kind}; nobody could be served there"
    raise misconfigured(service.problem("ProxyFrom", sentence))


def check_rules(service: Service) -> None:
    """Refuses rules about addresses for a service whose clients have none."""
    for key in ("AllowFrom", "DenyFrom"):
        given = service.given.get(key)
        if given and given[-1].file != manager.now.defaults and not service.proxied:
            sentence = (
                f"{key}= is about addresses, and clients of a path have none; see SocketMode="
            )
            raise misconfigured(service.problem(key, sentence))


def read(file: str) -> tuple[list[Assignment], list[Problem]]:
    """What the service of this file assigns, and which lines are no assignments; a Refusal where
    there is no service file that can be trusted."""
    files.check_name(file)
    files.check_folders(file)
    return _parsed(files.sources(file))


def check_defaults() -> None:
    """Refuses defaults that no service could follow."""
    assignments, problems = _parsed([manager.now.defaults])
    problems += _assign_all(Service("", manager.now.defaults), assignments)
    if problems:
        raise misconfigured(*problems)


def _parsed(sources: list[str]) -> tuple[list[Assignment], list[Problem]]:
    assignments: list[Assignment] = []
    problems: list[Problem] = []
    for source in sources:
        lines = syntax.strict_lines(files.trusted_text(source), source)
        found, wrong = syntax.parse(lines, source, _sections_of(source))
        assignments += found
        problems += wrong
    if len(problems) > MOST_PROBLEMS:
        more = problems[MOST_PROBLEMS]
        problems[MOST_PROBLEMS:] = [Problem(more.file, more.line, ONE_MORE)]
    return assignments, problems


def unit_sections(file: str) -> tuple[list[Assignment], list[Problem]]:
    """[Socket] and [Service] of this file's service, and why systemd cannot be given them, if
    so."""
    assignments, problems = read(file)
    problems += _unit_problems(file, assignments)
    return [assignment for assignment in assignments if assignment.section != "Spawn"], problems


def lenient_socket_section(file: str) -> list[Assignment]:
    """The [Socket] section as far as it can be made out, by whomever it was written: it tells
    whose an address is, and is not followed."""
    assignments: list[Assignment] = []
    try:
        sources = files.sources(file)
    except Refusal:
        sources = [file]
    for source in sources:
        try:
            lines = syntax.lenient_lines(files.text(source))
        except Refusal:
            continue
        assignments += syntax.parse(lines, source, _sections_of(source))[0]
    return [assignment for assignment in assignments if assignment.section == "Socket"]


def _sections_of(source: str) -> tuple[str, ...]:
    """The sections that this file can have. Every service has listeners of its own."""
    return ("Spawn",) if source == manager.now.defaults else SECTIONS


def _unit_problems(file: str, assignments: list[Assignment]) -> list[Problem]:
    """What is wrong with the sections that systemd gets."""
    problems = _socket_problems(file, assignments)
    for each in assignments:
        if each.section != "Spawn" and syntax.continues(each.value):  # in the drop-in for systemd
            sentence = "the line ends with a backslash; remove it, and the white space behind it"
            problems.append(Problem(each.file, each.line, sentence))
    if manager.now.own:
        from spawnhelper.conf import own  # the system's services have no use for it

        problems += own.problems(assignments)
    has_server = is_standing(assignments)
    if has_server or any(each.section == "Service" for each in assignments):
        from spawnhelper.conf import standing  # who has no server has no use for it

        problems += standing.problems(assignments, standing=has_server)
    return problems


def _socket_problems(file: str, assignments: list[Assignment]) -> list[Problem]:
    """What is wrong with the [Socket] section, whoever serves it."""
    problems = []
    listens = misplaced = False  # one mistake, one sentence
    for assignment in assignments:
        key, source, line = assignment.key, assignment.file, assignment.line
        if assignment.section != "Socket":
            continue
        if key in KEYS and KEYS[key].secret:
            sentence = f"{key}= in [Socket] is shown to everybody by systemd; put it below [Spawn]"
            problems.append(Problem(source, line, sentence))
        elif key in OURS:
            sentence = f"{key}= is set by spawnhelper: {OURS[key]}; remove the line"
            problems.append(Problem(source, line, sentence))
        elif key in NOT_STREAMS:
            sentence = f"{key}= {NOT_STREAMS[key]}; write ListenStream= for TCP or a path"
            problems.append(Problem(source, line, sentence))
        elif key == "SocketProtocol" and assignment.value not in ("", "tcp", "mptcp"):
            sentence = f"SocketProtocol={shown(assignment.value)} is not TCP; remove the line"
            problems.append(Problem(source, line, sentence))
        elif key == "Accept" and not _is_boolean(assignment.value):
            sentence = (
                f"Accept={shown(assignment.value)} is neither yes, a unit for each connection, nor "
                "no, a server for all"
            )
            problems.append(Problem(source, line, sentence))
        elif key == "ListenStream":
            listens = bool(assignment.value)
        misplaced = misplaced or key in NOT_STREAMS
    if not listens and not misplaced:
        sentence = "[Socket] has no ListenStream=; write where to listen, as in 127.0.0.1:10031"
        problems.append(Problem(file, None, sentence))
    return problems


def _follow(file: str, assignments: list[Assignment]) -> tuple[Service, list[Problem]]:
    service = Service(files.name_of(file), file)
    problems = _assign_all(service, assignments)
    if len(problems) > MOST_PROBLEMS:  # what seems to be missing may be in the rest
        return service, problems
    elsewhere = {each.key: each for each in assignments if each.section != "Spawn"}
    for setting in SETTINGS:
        if not service.has_required(setting):
            sentence = f"[Spawn] has no {setting.key}=; it is required"
            if misplaced := elsewhere.get(setting.key):
                place = f"{misplaced.file}:{misplaced.line}"
                sentence += f", and {place} has it in [{misplaced.section}]"
            problems.append(Problem(file, None, sentence))
    if service.group is not None and service.user and service.user[1] is not None:
        problems.append(
            service.problem("Group", "User= names a group already; give it in one place only")
        )
    if service.proxied and "ProxyFrom" not in service.given:
        sentence = "ProxyProtocol= needs ProxyFrom=; write whose header is believed"
        problems.append(service.problem("ProxyProtocol", sentence))
    return service, problems


def _assign_all(service: Service, assignments: list[Assignment]) -> list[Problem]:
    problems: list[Problem] = []
    secret = ""  # a key whose value may go on in what seems to be the next
    file = ""
    for assignment in assignments:
        if assignment.section != "Spawn":
            continue
        setting = KEYS.get(assignment.key)
        if assignment.file != file or setting is not None:
            secret = assignment.key if setting is not None and setting.secret else ""
        file = assignment.file
        if setting is None:
            sentence: str | None = _unknown(assignment.key, secret)
        else:
            sentence = _assign(service, setting, assignment)
        if sentence is not None and len(problems) == MOST_PROBLEMS:
            sentence = ONE_MORE
        if sentence is not None:
            problems.append(Problem(assignment.file, assignment.line, sentence))
        if len(problems) > MOST_PROBLEMS:
            break
    return problems


def _assign(service: Service, setting: Setting, assignment: Assignment) -> str | None:
    """Gives the service the value; what is wrong with it, if anything."""
    key, text = assignment.key, assignment.value
    if not text:  # an empty value resets
        service.given.pop(key, None)
        empty = type(setting.default)() if setting.repeats else setting.default
        setattr(service, setting.attribute, empty)
        return None
    service.given.setdefault(key, []).append(assignment)
    try:
        value = setting.parse(text)
    except ValueError as error:
        hint = "; a comment needs a line of its own" if " #" in text else ""
        return f"{key}={'' if setting.secret else shown(text)} {error}{hint}"
    before = getattr(service, setting.attribute)
    if setting.repeats and before is not setting.default:
        _add(before, value)
        return None
    setattr(service, setting.attribute, value)
    return None


def _add(old: object, new: object) -> None:
    """Adds one more assignment to the value of a list key."""
    if isinstance(old, dict) and isinstance(new, dict):
        old.update(new)
        return
    assert isinstance(old, list)
    assert isinstance(new, list)
    old += new


def _unknown(key: str, secret: str) -> str:
    """What is wrong with a key that is none. secret: a key right above, whose value has come to an
    end too early if this was meant to be a piece of it; then it is not shown."""
    word = key.replace("\t", " ").partition(" ")[0]
    if word in KEYS:
        return f"the line has no = behind {word}; write {word}=VALUE"
    if secret:
        return f"this line below {secret}= has no key of [Spawn]{_nearest(word, 0.8)}"
    if word.startswith(OF_UNITS):
        edit = f"{manager.now.words('systemctl')} edit spawn@.service"
        return (
            f"{shown(word)}= is for a unit, not for a command; with Accept=no write it in "
            f"[Service], for this service, or with {edit} for all"
        )
    return f"unknown key {shown(word)}= in [Spawn]{_nearest(word)}"


def _nearest(key: str, likeness: float = 0.5) -> str:
    for setting in SETTINGS:
        elsewhere = setting.origin.replace("=", "").replace(",", "").lower().split()
        if key.lower() in elsewhere:
            return f"; did you mean {setting.key}=?"

    import difflib  # costs more than the rest of a connection; here nothing is served any more

    known = {each.lower(): each for each in KEYS}
    near = difflib.get_close_matches(key.lower(), known, 1, likeness)
    return f"; did you mean {known[near[0]]}=?" if near else "; spawn.conf(5) lists the keys"
