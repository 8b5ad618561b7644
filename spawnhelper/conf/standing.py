"""What holds where a service has a server for all its connections (Accept=no): what [Service] can
have, and what [Socket] cannot have then.

No sentence shows a value of [Service]: what is there can be a piece of a secret.
"""

from __future__ import annotations

from string import ascii_letters

from spawnhelper import manager
from spawnhelper.conf import files, quantities
from spawnhelper.conf.settings import KEYS
from spawnhelper.conf.values import DIGITS, boolean, consists_of, words
from spawnhelper.outcome import Problem, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from spawnhelper.conf.syntax import Assignment

# The hard limit of descriptors that systemd gives is enough for so many (pool.py).
MOST_CONNECTIONS = 10_000
# Of a journal: it becomes a part of the names of units and folders.
NAMESPACE = f"{DIGITS}{ascii_letters}-_"
LONGEST_NAMESPACE = 64
SHORTEST_WATCHDOG = 10 * quantities.USEC_PER_SEC
# Where records go, and what StandardError=journal brings.
NEEDED = (
    "/run/systemd/journal/socket",
    "/run/systemd/journal/stdout",
)
FAMILIES = ("AF_UNIX", "AF_LOCAL")  # of the same number


def _is_off(text: str) -> bool:
    try:
        return not boolean(text or "no")
    except ValueError:
        return False


def _is_off_or(word: str) -> Callable[[str], bool]:
    return lambda text: text == word or _is_off(text)


def _is_patient(text: str) -> bool:
    """Whether a watchdog waits longer than the server is silent."""
    try:
        span = quantities.time_span(text)
    except ValueError:
        return True  # systemd complains, and goes on with what was before
    return not span or span >= SHORTEST_WATCHDOG


def _hides_nothing(text: str) -> bool:
    """Whether no path of these leads above what the server needs."""
    # The server's board, where spawnctl looks, and where systemd hears of the server.
    needs = (*NEEDED, f"{manager.now.runtime}/servers", f"{manager.now.run}/systemd/notify")
    for word in words(text):
        path = word.lstrip("-+").partition(":")[0].replace("%t", manager.now.run)
        if path.startswith("/"):
            path = files.walk(path)[-1].rstrip("/")
            if any(f"{needed}/".startswith(f"{path}/") for needed in needs):
                return False
    return True


def _is_namespace(text: str) -> bool:
    return len(text) <= LONGEST_NAMESPACE and consists_of(text or "x", NAMESPACE)


class Rule:
    """Directives of systemd that [Service] cannot have.

    names: as systemd has them; a * at the end stands for any letters. why: the end of a sentence
    that begins with their name: what is wrong, and what would be right. fits: which values are all
    right nevertheless, None where none is: an empty one may well take away what the server needs.
    """

    __slots__ = ("fits", "names", "why")

    def __init__(self, names: str, why: str, fits: Callable[[str], bool] | None = None) -> None:
        self.names = tuple(names.split())
        self.why = why
        self.fits = fits

    def has(self, key: str) -> bool:
        """Whether it is about this directive."""
        return any(
            key.startswith(name[:-1]) if name[-1] == "*" else key == name for name in self.names
        )


# The first that is about a directive decides. What is in none goes to systemd as it stands.
RULES = (
    Rule(
        "Environment",
        "is shown to everybody by systemd; write it in [Spawn], or a file's name in "
        "EnvironmentFile= here, and in PassEnvironment= there what commands get of it",
    ),
    Rule(" ".join(KEYS), "is a key of [Spawn]; move the line there"),
    Rule(
        "DynamicUser SetLoginEnvironment PAMName",
        "is for a unit with a user of its own; remove the line: User= in [Spawn] is for commands",
    ),
    Rule(
        "CapabilityBoundingSet AmbientCapabilities SecureBits",
        "is set by spawnhelper, for what the server needs of them; remove the line: commands have "
        "no capability",
    ),
    Rule(
        "PrivateUsers",
        "keeps the server from becoming the service's user; remove the line, or write "
        "PrivateUsers=full, where systemd knows it",
        _is_off_or("full"),
    ),
    Rule(
        "ProtectControlGroups",
        "keeps the server from a control group for each worker; remove the line, or write "
        "ProtectControlGroups=private, for systemd 257 and later",
        _is_off_or("private"),
    ),
    Rule(
        "RestrictAddressFamilies",
        "has no AF_UNIX, without which the server reaches neither its workers nor the journal; "
        "add it",
    ),
    Rule(
        "InaccessiblePaths InaccessibleDirectories TemporaryFileSystem",
        "hides folders in /run by which the server reaches the journal, systemd and spawnctl; name "
        "others",
        _hides_nothing,
    ),
    Rule(
        "Root*",
        "hides the service files and the accounts of this machine from the server; write "
        "RootDirectory= in [Spawn]",
    ),
    Rule(
        "LogNamespace",
        "is no name of a journal; write one of letters, digits, - and _",
        _is_namespace,
    ),
    Rule(
        "LogLevelMax LogFilterPatterns LogRateLimit*",
        "can keep records out of the journal; remove the line, and see Log= in [Spawn]",
    ),
    Rule(
        "RuntimeMaxSec RuntimeRandomizedExtraSec",
        "ends the connections of all clients at once; write TimeLimit= in [Spawn]",
    ),
    Rule(
        "Timeout*",
        "is set by spawnhelper, and longer than any KillDelay=; write that in [Spawn]",
    ),
    Rule(
        "RuntimeDirectory",
        "is empty, which takes away the folder in which spawnctl finds the server; name a further "
        "one",
        bool,
    ),
    Rule(
        "WatchdogSec",
        "is too short for a server that is well; write 10s or more",
        _is_patient,
    ),
    Rule(
        "Type ExitType NotifyAccess RemainAfterExit GuessMainPID PIDFile BusName ExecCondition "
        "ExecStart* ExecReload* ExecStop* ReloadSignal RefreshOnReload Restart* StartLimit* "
        "KillMode KillSignal SendSIGHUP SendSIGKILL FinalKillSignal WatchdogSignal OOMPolicy "
        "Delegate* RuntimeDirectory* Sockets NonBlocking OpenFile FileDescriptorStore* "
        "USBFunction* Standard* TTY* Syslog*",
        "is set by spawnhelper, whose server the unit is; remove the line",
    ),
)


def problems(assignments: list[Assignment], *, standing: bool) -> list[Problem]:
    """What systemd cannot be told about the server, or about a socket that has one; or that there
    is no server to be told about."""
    section = [each for each in assignments if each.section == "Service"]
    if standing:
        socket = [each for each in assignments if each.section == "Socket"]
        return [*_of_socket(socket), *_of_service(section)]
    if not section:
        return []
    sentence = (
        "[Service] is for the server of Accept=no; with Accept=yes each connection has a unit of "
        "its own, by the one template of all services, spawn@.service. Write Accept=no in "
        "[Socket], or remove the section"
    )
    return [Problem(section[0].file, section[0].line, sentence)]


def _of_service(section: list[Assignment]) -> Iterable[Problem]:
    for each in section:
        rule = next((rule for rule in RULES if rule.has(each.key)), None)
        if rule is None or each.key == "RestrictAddressFamilies":
            continue
        if not _fits(rule, each.value):
            yield _problem(each, f"{each.key}= in [Service] {rule.why}")
    yield from _without_unix(section)


def _fits(rule: Rule, value: str) -> bool:
    try:
        return rule.fits is not None and rule.fits(value)
    except ValueError:  # quotes that systemd cannot read either, and passes over
        return True


def _without_unix(section: list[Assignment]) -> list[Problem]:
    """RestrictAddressFamilies= adds up, by the rules of systemd.exec(5): the first one says whether
    families are allowed or forbidden, and a ~ whether those of its line are added or taken away."""
    allows: bool | None = None
    last = None
    named = False  # whether AF_UNIX is one of those that are allowed, or forbidden
    for each in section:
        if each.key != "RestrictAddressFamilies":
            continue
        last = each
        if not each.value:
            allows, named = None, False
        elif each.value == "none":
            allows, named = True, False
        else:
            adds = not each.value.startswith("~")
            allows = adds if allows is None else allows
            if not {*FAMILIES}.isdisjoint(each.value.lstrip("~").split()):
                named = adds == allows
    if last is None or allows is None or named == allows:
        return []
    (rule,) = (rule for rule in RULES if rule.has(last.key))
    return [_problem(last, f"{last.key}= in [Service] {rule.why}")]


def _of_socket(section: list[Assignment]) -> Iterable[Problem]:
    for each in section:
        text, given = each.value, f"{each.key}={shown(each.value)}"
        if not text:  # an empty value resets
            continue
        if each.key == "MaxConnections" and not _is_number(text, 1):
            yield _problem(each, f"{given} is no number from 1 to {MOST_CONNECTIONS}")
        elif each.key == "MaxConnectionsPerSource" and not _is_number(text, 0):
            sentence = f"{given} is no number up to {MOST_CONNECTIONS}, or 0 for no limit"
            yield _problem(each, sentence)
        elif each.key.startswith("TriggerLimit") and _is_nothing(text):
            sentence = (
                f"{given} has a server that cannot start started again without an end; remove the "
                "line"
            )
            yield _problem(each, sentence)


def _is_number(text: str, least: int) -> bool:
    known = consists_of(text, DIGITS) and len(text) <= quantities.MOST_DIGITS
    return known and least <= int(text) <= MOST_CONNECTIONS


def _is_nothing(text: str) -> bool:
    try:
        return quantities.time_span(text) == 0
    except ValueError:
        return False


def _problem(at: Assignment, sentence: str) -> Problem:
    return Problem(at.file, at.line, sentence)
