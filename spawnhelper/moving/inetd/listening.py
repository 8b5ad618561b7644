"""Where a service of inetd listens: its name, with the host before it, and its protocol."""

from __future__ import annotations

from spawnhelper.moving.inetd.job import InetdJob
from spawnhelper.moving.machine import INETUTILS
from spawnhelper.moving.source import Given
from spawnhelper.moving.traps import REFUSAL, Trap, refusal

BOTH, IPV4, IPV6 = "both", "IPv4", "IPv6"
PROTOCOLS = {"tcp": "", "tcp4": IPV4, "tcp6": "", "tcp46": BOTH, "tcp6only": IPV6}
TCPMUX = refusal(
    "the service is reached through tcpmux, which nobody serves here",
    "give it a port, and tell its clients",
)
NO_ADDRESS = refusal(
    "no address before the port is one of {protocol}, so inetd does not listen",
    "correct the source",
)
BRACKETS = Trap(
    "{inetd} does not listen at {name}: openbsd-inetd takes brackets around the whole list only, "
    "and inetutils-inetd none",
    "add another ListenStream= if somebody needs it",
    key="ListenStream",
)
ONLY_IPV4 = Trap(
    "inetd of Debian's openbsd-inetd listens with tcp on IPv4 and IPv6, and the others on IPv4; "
    "none of Debian's is installed here, and IPv4 alone was taken",
    "write the port alone in ListenStream= for both",
    key="ListenStream",
)


def listen(job: InetdJob, given: Given) -> None:
    """Adds where the service listens, unless it is no stream."""
    protocol = job.of("protocol").partition(",")[0].removeprefix("faith/").removesuffix("/ttcp")
    if given.value.startswith("tcpmux/"):
        job.say(TCPMUX, given)
    elif protocol == "unix":
        job.listen(given.value, given)
        job.draft.socket("SocketMode", "0666")
    elif protocol in PROTOCOLS and job.of("socktype") == "stream":
        _at_hosts(job, given, protocol)


def _at_hosts(job: InetdJob, given: Given, protocol: str) -> None:
    hosts, colon, name = given.value.rpartition(":")
    if not colon:
        hosts = job.of("host")
    number = job.port(name, given)
    if not number:
        return
    family = _family(job, protocol)
    found = False
    for address in _addresses(job, hosts, given):
        if address == "*":
            found = True
            if protocol == "tcp" and not job.dialect:
                job.say(ONLY_IPV4, given)
                _wildcard(job, number, IPV4, given)
            else:
                _wildcard(job, number, family, given)
        elif family in (BOTH, IPV6 if ":" in address else IPV4):
            found = True
            place = f"[{address}]" if ":" in address else address
            job.listen(f"{place}:{number}", given)
    if not found and not job.draft.has(REFUSAL):
        job.say(NO_ADDRESS, given, protocol=protocol)


def _addresses(job: InetdJob, hosts: str, given: Given) -> list[str]:
    """The addresses of a list of hosts; * for a wildcard, which an empty list is, too."""
    if hosts[:1] + hosts[-1:] == "[]" and job.dialect != INETUTILS:  # around the whole list
        hosts = hosts[1:-1]
    found: list[str] = []
    for host in hosts.split(","):
        if "[" in host and job.dialect:
            job.say(BRACKETS, given, inetd=job.dialect, name=host)
            continue
        plain = host.strip("[]")
        if plain in ("", "*"):
            found.append("*")
        elif plain == "localhost":
            found += ["127.0.0.1", "::1"]
        else:
            found += job.addresses(plain, given)
    return found


def _family(job: InetdJob, protocol: str) -> str:
    """Which addresses the protocol takes; what `tcp` does depends on the inetd."""
    if protocol == "tcp":
        return IPV4 if job.dialect == INETUTILS else BOTH
    if protocol == "tcp6":
        return BOTH if job.dialect == INETUTILS else IPV6
    if protocol == "tcp46" and job.dialect == INETUTILS:
        return IPV4
    return PROTOCOLS[protocol]


def _wildcard(job: InetdJob, number: str, family: str, given: Given) -> None:
    if family == IPV4:
        job.listen(f"0.0.0.0:{number}", given)
        return
    job.listen(number if family == BOTH else f"[::]:{number}", given)
    job.draft.socket("BindIPv6Only", "both" if family == BOTH else "ipv6-only")
