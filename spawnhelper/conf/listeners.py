"""Where services listen: the addresses of ListenStream= (systemd.socket(5)), and whose they are."""

from __future__ import annotations

from spawnhelper import manager
from spawnhelper.conf import files, service, syntax
from spawnhelper.conf.values import DIGITS, account_of, boolean, consists_of, group_of, unmapped
from spawnhelper.outcome import Problem, Refusal, misconfigured, printable, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import Callable

    from spawnhelper.conf.syntax import Assignment
else:
    import _socket as socket
    import posix as os

WILDCARDS: dict[int, str] = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
BINDV6ONLY = "/proc/sys/net/ipv6/bindv6only"
OWNERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "SocketUser": ("account", account_of),
    "SocketGroup": ("group", group_of),
}
LONGEST_PATH = 107  # of the 108 octets of sun_path, less the NUL


class Listener:
    """One ListenStream= of one service.

    host is a path for AF_UNIX, with @ for an abstract one; port is 0 there. device:
    BindToDevice=, "" without. only_ipv6: BindIPv6Only=, None where the kernel's own default holds.
    text: as the file has it; place: the same without specifiers.
    """

    __slots__ = (
        "device",
        "family",
        "file",
        "host",
        "line",
        "only_ipv6",
        "place",
        "port",
        "service",
        "text",
    )

    def __init__(self, name: str, stream: Assignment) -> None:
        self.service = name
        self.file = stream.file
        self.line = stream.line
        self.text = stream.value
        self.place = _expand(stream.value, name)
        self.family, self.host, self.port = address(self.place)
        self.device = ""
        self.only_ipv6: bool | None = None

    @property
    def takes(self) -> set[int]:
        """The families whose clients can connect there."""
        if self.family != socket.AF_INET6:
            return {self.family}
        if ":" not in self.host:  # an IPv4-mapped one
            return {socket.AF_INET}
        if self.host != WILDCARDS[socket.AF_INET6]:
            return {socket.AF_INET6}
        only = _only_ipv6_by_default() if self.only_ipv6 is None else self.only_ipv6
        return {socket.AF_INET6} if only else {socket.AF_INET, socket.AF_INET6}

    def overlaps_address(self, family: int, host: str, port: int) -> bool:
        """Whether the kernel may refuse to listen here as well as there."""
        if socket.AF_UNIX in (self.family, family):
            return (self.family, self.host) == (family, host)
        wild = (host, self.host)
        return self.port == port and (
            host == self.host or not {*WILDCARDS.values()}.isdisjoint(wild)
        )

    def overlaps(self, other: Listener) -> bool:
        """Whether the kernel refuses to listen at both."""
        if socket.AF_UNIX in (self.family, other.family):
            return (self.family, self.host) == (other.family, other.host)
        apart = self.device and other.device and self.device != other.device
        if apart or self.port != other.port:
            return False
        wild = WILDCARDS.values()
        alike = self.host == other.host or self.host in wild or other.host in wild
        return alike and not self.takes.isdisjoint(other.takes)


def address(text: str) -> tuple[int, str, int]:
    """The address family, host or path, and port of a ListenStream= without specifiers.

    Raises ValueError with the end of a sentence that began with `ListenStream=TEXT`.
    """
    if text.startswith(("/", "@")):
        if len(text.encode()) > LONGEST_PATH:
            raise ValueError(f"is longer than the {LONGEST_PATH} bytes of a socket's path")
        if text[0] == "/" and not {"", ".", ".."}.isdisjoint(text[1:].split("/")):
            raise ValueError("is not a plain path; write it without //, /./ and /../")
        return socket.AF_UNIX, text, 0
    host, colon, port = text.rpartition(":")
    if not colon:
        family = socket.AF_INET6 if _has_ipv6() else socket.AF_INET
        host = WILDCARDS[family]
    elif host.startswith("[") and host.endswith("]"):
        family, host = socket.AF_INET6, host[1:-1]
        port = port.partition("%")[0]  # systemd has the interface behind the port
    else:
        family = socket.AF_INET
    try:
        host = socket.inet_ntop(family, socket.inet_pton(family, host))
    except OSError:
        raise ValueError("is no address; write 127.0.0.1:PORT, [::1]:PORT, PORT or /PATH") from None
    if port[:1].isalpha():
        raise ValueError(f"has a name for a port, and names are not known; write {_number(port)}")
    if not consists_of(port, DIGITS) or port[0] == "0" or len(port) > 5 or int(port) > 65535:
        raise ValueError("has no port from 1 to 65535")
    return family, unmapped(host), int(port)


def checked_sections(file: str) -> list[Assignment]:
    """[Socket] and [Service] of this file, or a Refusal where systemd cannot be given them."""
    assignments, problems = service.unit_sections(file)
    section = [each for each in assignments if each.section == "Socket"]
    found, further = _of_section(files.name_of(file), section)
    if manager.now.own:
        from spawnhelper.conf import own

        further += own.closed_ports(found)
    if problems or further:
        raise misconfigured(*problems, *further)
    return assignments


def claimed(file: str) -> list[Listener]:
    """Where the service of this file means to listen, whatever else is wrong with the file."""
    return _of_section(files.name_of(file), service.lenient_socket_section(file))[0]


def told(name: str) -> list[Assignment]:
    """The [Socket] section of the service as systemd has been told it, with what was added to it;
    empty where systemd has not seen a file that is good. What the file says now may be what a
    reload has still to bring."""
    file = files.drop_in(f"spawn@{name}.socket")
    try:
        made = files.text(file)
    except Refusal:
        return []
    return syntax.parse(syntax.lenient_lines(made), file, ("Socket",))[0]


def given(name: str) -> list[Listener]:
    """Where systemd has been told to listen for the service. It listens nowhere else: a reload
    closes what is not in there any more."""
    return _of_section(name, told(name))[0]


def has_server(name: str) -> bool:
    """Whether systemd knows that the service's connections all go to a server (Accept=no)."""
    return service.is_standing(told(name))


def _of_section(name: str, assignments: list[Assignment]) -> tuple[list[Listener], list[Problem]]:
    found: list[Listener] = []
    problems: list[Problem] = []
    device, only_ipv6 = "", None
    for assignment in assignments:
        if assignment.key == "BindToDevice":
            device = assignment.value.replace("*", "")
        elif assignment.key == "BindIPv6Only":
            only_ipv6 = _only_ipv6(assignment.value, only_ipv6)
        elif assignment.key == "ListenStream" and not assignment.value:
            found = []
        elif assignment.key == "ListenStream":
            try:
                found.append(Listener(name, assignment))
            except ValueError as error:
                sentence = f"ListenStream={shown(assignment.value)} {error}"
                problems.append(Problem(assignment.file, assignment.line, sentence))
    for listener in found:
        listener.device = device
        listener.only_ipv6 = only_ipv6
    return found, problems


def conflicts(
    file: str, claims: Callable[[str], list[Listener]] | None = None
) -> list[tuple[str, Problem]]:
    """Every ListenStream= of this file that another service's file, or another line, claims too:
    whose that is, and the sentence about it. Whether a service that could listen there ever does,
    its file does not tell. claims: what others claim, for who asks about many files."""
    claims = claims or claimed
    mine = claimed(file)
    # A draft of a service, wherever it is, is to replace the one that is installed.
    names = [name for name in files.installed() if name != files.name_of(file)]
    named = filter(files.is_name, names)  # others cannot listen
    others = [listener for name in named for listener in claims(files.file_of(name))]
    return [
        (other.service, _claimed_twice(listener, other))
        for place, listener in enumerate(mine)
        for other in others + mine[:place]
        if listener.overlaps(other)
    ]


def unknown_owners(file: str) -> list[Problem]:
    """SocketUser= and SocketGroup= of this file that systemd cannot look up now, so that it would
    not listen, be it at a path or not. The generator passes them on: an account can come late."""
    owners = {each.key: each for each in service.lenient_socket_section(file) if each.key in OWNERS}
    problems = []
    for key, owner in owners.items():
        what, known = OWNERS[key]
        try:
            name = _expand(owner.value, files.name_of(file))
        except ValueError:
            continue  # a specifier that systemd resolves, and nobody here
        if name and known(name) is None:
            sentence = f"{key}={shown(owner.value)} is no {what} of this machine"
            sentence += "; create it, or name another"
            problems.append(Problem(owner.file, owner.line, sentence))
    return problems


def _claimed_twice(listener: Listener, other: Listener) -> Problem:
    where = f"({printable(other.file)}:{other.line})"
    if listener.service != other.service:
        what = f"where {shown(other.service)} listens {where}"
        do = "give each service an address of its own"
    else:
        what = f"where this service listens already {where}"
        do = "remove one of the two lines"
    if listener.family != other.family and WILDCARDS[socket.AF_INET6] in (
        listener.host,
        other.host,
    ):
        do += ", or write BindIPv6Only=ipv6-only for [::]"
    sentence = f"ListenStream={shown(listener.text)} is {what}; {do}"
    return Problem(listener.file, listener.line, sentence)


def _expand(text: str, name: str) -> str:
    """Resolves the specifiers of systemd.unit(5) that make sense in an address.

    Raises ValueError with the end of a sentence for others.
    """
    if "%" not in text:
        return text
    known = {
        "i": name,
        "I": name.replace("-", "/"),
        "n": f"spawn@{name}.socket",
        "N": f"spawn@{name}",
        "p": "spawn",
        "t": manager.now.run,
        "%": "%",
    }
    expanded = ""
    while "%" in text:
        before, _, rest = text.partition("%")
        letter, text = rest[:1], rest[1:]
        if letter not in known:
            raise ValueError(
                f"has the specifier %{shown(letter)}; only %i %I %n %N %p %t are known here"
            )
        expanded += before + known[letter]
    return expanded + text


def _only_ipv6(text: str, before: bool | None) -> bool | None:
    """What BindIPv6Only= comes to. systemd also takes a boolean, and passes over what it does not
    know."""
    if text == "default":
        return None
    if text in ("both", "ipv6-only"):
        return text == "ipv6-only"
    try:
        return boolean(text)
    except ValueError:
        return before


def _number(name: str) -> str:
    """What to write instead of the name of a port."""
    try:
        return str(socket.getservbyname(name, "tcp"))
    except (OSError, ValueError):
        return "its number"


def _only_ipv6_by_default() -> bool:
    """Whether a listener at [::] leaves IPv4 alone, as long as nobody says what it is to do."""
    try:
        descriptor = os.open(BINDV6ONLY, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no IPv6 at all
        return False
    only = os.read(descriptor, 8).strip() == b"1"
    os.close(descriptor)
    return only


def _has_ipv6() -> bool:
    """As systemd decides whether a bare port means IPv6: from the kernel's table of addresses."""
    try:
        os.stat("/proc/net/if_inet6")
    except OSError:
        return False
    return True
