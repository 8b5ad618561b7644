"""Where a service of master.cf listens: columns service, type and private."""

from __future__ import annotations

from spawnhelper.moving.postfix.job import PostfixJob
from spawnhelper.moving.source import Given
from spawnhelper.moving.traps import refusal

FOLDER_MODES = {"private": "0700", "public": "0710"}  # of Postfix's own folders
NOT_A_STREAM = refusal(
    "a listener of type {kind} takes no streams of bytes that spawnhelper could serve",
    "keep the line",
)
PRIVATE_INET = refusal(
    "Postfix does not start with an inet service that is private", "write n in the third column"
)


def listen(job: PostfixJob, given: Given) -> None:
    """Adds where the service listens."""
    kind, name = job.of("type"), given.value
    if kind == "unix":
        folder = "public" if job.of("private") == "n" else "private"
        job.listen(f"{job.parameter('queue_directory').rstrip('/')}/{folder}/{name}", given)
        job.draft.socket("SocketMode", "0666")
        job.draft.socket("DirectoryMode", FOLDER_MODES[folder])
    elif kind == "inet":
        host, colon, port = name.rpartition(":")
        number = job.port(port, given)
        if not number:
            return
        if colon:
            hosts = _hosts(job, host.removeprefix("[").removesuffix("]"), given)
        else:
            hosts = _interfaces(job, given)
        for each in hosts:
            job.listen(
                f"[{each}]:{number}" if ":" in each else f"{each}:{number}".lstrip(":"), given
            )
    else:
        job.say(NOT_A_STREAM, given, kind=kind)


def _hosts(job: PostfixJob, host: str, given: Given) -> list[str]:
    """The addresses of the host before a port, of the families that Postfix uses."""
    if host == "localhost":
        found = ["127.0.0.1", "::1"]
    else:
        found = job.addresses(host, given)
        if found == [host]:
            return found
    return [each for each in found if _family(each) in _families(job)]


def _family(address: str) -> str:
    return "ipv6" if ":" in address else "ipv4"


def _families(job: PostfixJob) -> list[str]:
    words = job.parameter("inet_protocols", "all").replace(",", " ").split()
    return ["ipv4", "ipv6"] if "all" in words else words


def _interfaces(job: PostfixJob, given: Given) -> list[str]:
    """Where a port without a host is open: inet_interfaces and inet_protocols of main.cf. "" is
    every address of the machine."""
    families = _families(job)
    found: list[str] = []
    for word in job.parameter("inet_interfaces").replace(",", " ").split():
        if word == "all":
            if "ipv6" not in families:
                return ["0.0.0.0"]
            if "ipv4" not in families:
                job.draft.socket("BindIPv6Only", "ipv6-only")
                return ["::"]
            job.draft.socket("BindIPv6Only", "both")
            return [""]
        if word in ("loopback-only", "localhost"):
            found += ["127.0.0.1", "::1"]
        else:
            found += job.addresses(word.removeprefix("[").removesuffix("]"), given)
    return [each for each in dict.fromkeys(found) if _family(each) in families]


def private(job: PostfixJob, given: Given) -> None:
    """Refuses what Postfix itself does."""
    if job.is_flag(given) and job.of("type") == "inet" and given.value != "n":
        job.say(PRIVATE_INET, given)
