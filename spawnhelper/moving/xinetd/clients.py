"""Who may connect to a service of xinetd, and when."""

from __future__ import annotations

from spawnhelper.moving.access import Rule, Rules, network
from spawnhelper.moving.source import Given
from spawnhelper.moving.traps import Trap, note, refusal
from spawnhelper.moving.xinetd import values
from spawnhelper.moving.xinetd.job import DISABLED, XinetdJob

NOT_ADDRESSES = refusal(
    "{word} is no address as xinetd reads it, so it is not sure who may connect",
    "write addresses and prefixes as in 10.0.0.0/8 2001:db8::/32",
)
CLOSED_NAMES = Trap(
    "{names} are names, which are left out, and let in nobody",
    "use --resolve, or write their addresses in AllowFrom=",
    key="AllowFrom",
)
RESOLVED_NAMES = Trap(
    "{names} have become the addresses that they have today",
    "change AllowFrom= when they change",
    key="AllowFrom",
)
UNSAID_NAMES = refusal(
    "{names} are names, and AllowFrom= and DenyFrom= have none, so that they could not be kept out",
    "write their addresses",
)
LOCALHOST = Trap(
    "localhost has become 127.0.0.1 and ::1",
    "add other addresses of it, if there are any",
    key="AllowFrom",
)
NO_IPV6 = note("on IPv4, where the service listens, xinetd finds no client in {words}")
NOBODY = note("nobody may connect, for the list is empty", key="DenyFrom")
LIBWRAPPED = Trap(
    "xinetd asks hosts.allow and hosts.deny each time: what they say today is in the file",
    "change AllowFrom= and DenyFrom= when they change",
    key="AllowFrom",
)


def ask_libwrap(job: XinetdJob, daemon: str, given: Given) -> None:
    """Has the clients only that hosts.allow and hosts.deny let in for this daemon."""
    gates = len(job.gates)
    job.wrapped(daemon, given)
    if len(job.gates) > gates:
        job.say(LIBWRAPPED, given)


def _clients(job: XinetdJob, given: Given) -> values.Clients:
    try:
        ipv6 = any(each[0] == "[" or ":" not in each for each in job.draft.values("ListenStream"))
        found = values.clients(given.words, ipv6=ipv6)
    except ValueError as error:
        job.say(NOT_ADDRESSES, given, word=str(error))
        return values.Clients()
    if found.local:
        job.say(LOCALHOST, given)
    if found.ipv6:
        job.say(NO_IPV6, given, words=" ".join(found.ipv6))
    return found


def only_from(job: XinetdJob, given: Given) -> None:
    """Has these clients only."""
    found = _clients(job, given)
    resolved: list[str] = []
    closed: list[str] = []
    for name in found.names:
        addresses = job.machine.addresses(name) if job.machine.resolve else []
        usable = not name.startswith((".", "#")) and addresses
        (resolved if usable else closed).append(name)
        found.networks += [network(each) for each in addresses] if usable else []
    if resolved:
        job.say(RESOLVED_NAMES, given, names=" ".join(resolved))
    if closed:
        job.say(CLOSED_NAMES, given, names=" ".join(closed))
    if not found.networks:
        job.say(NOBODY, given)
    job.gates.append(Rules((Rule(tuple(found.networks), True),), otherwise=False))


def no_access(job: XinetdJob, given: Given) -> None:
    """Has none of these clients."""
    found = _clients(job, given)
    if found.names:
        job.say(UNSAID_NAMES, given, names=" ".join(found.names))
    job.gates.append(Rules((Rule(tuple(found.networks), False),), otherwise=True))


def times(job: XinetdJob, given: Given) -> None:
    """Adds AccessTimes=."""
    try:
        job.set("AccessTimes", values.times(given.words), given)
    except ValueError:
        job.say(DISABLED, given)
