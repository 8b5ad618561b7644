"""What this machine knows: accounts, ports, files besides the source. The importer asks nobody
else; names of hosts only where it is told to."""

from __future__ import annotations

import grp
import os
import socket
from functools import cache

from spawnhelper.conf.values import account_of, group_of
from spawnhelper.moving.source import Text, Unreadable, read

LIBWRAP = ("/etc/hosts.allow", "/etc/hosts.deny")
OPENBSD, INETUTILS = "openbsd-inetd", "inetutils-inetd"
# A file of each package of Debian that has an inetd(8).
SIGNS = {
    OPENBSD: ("/usr/share/doc/openbsd-inetd", "/lib/systemd/system/inetd.service"),
    INETUTILS: ("/usr/share/doc/inetutils-inetd", "/etc/default/inetutils-inetd"),
}


class Machine:
    """The machine that the services are moved to. resolve: whether names of hosts may be asked
    for."""

    def __init__(self, *, resolve: bool = False) -> None:
        self.resolve = resolve

    def port(self, name: str) -> int | None:
        """The TCP port of this name (services(5))."""
        try:
            return socket.getservbyname(name, "tcp")
        except (OSError, ValueError, UnicodeError):
            return None

    def ids(self, name: str) -> tuple[int, int] | None:
        """uid and gid of an account, by its name or number; None where there is none."""
        found = account_of(name) if name.isascii() else None
        return None if found is None else (found.pw_uid, found.pw_gid)

    def gid(self, name: str) -> int | None:
        """The number of a group, by its name or number."""
        return group_of(name) if name.isascii() else None

    def further_groups(self, user: str) -> list[str]:
        """The groups besides its primary one that the group database has the user in, by name."""
        ids = self.ids(user)
        if ids is None:
            return []
        numbers = set(os.getgrouplist(user, ids[1])) - {ids[1]}
        return [_group_name(number) for number in sorted(numbers)]

    def primary_group(self, user: str) -> str:
        """The primary group of a user that there is, by name."""
        ids = self.ids(user)
        assert ids is not None
        return _group_name(ids[1])

    def addresses(self, host: str) -> list[str]:
        """The addresses that a name has now, none for half an address, as in 10.1. Asks DNS; may
        block as long as that does."""
        if host.rstrip(".").rpartition(".")[2][:1].isdigit():  # which inet_aton(3) would read
            return []
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, ValueError, UnicodeError):
            return []
        return list(dict.fromkeys(str(each[4][0]).partition("%")[0] for each in found))

    def libwrap(self) -> list[Text]:
        """hosts.allow and hosts.deny of hosts_access(5); an empty text for one that is not there.

        Raises Unreadable for one that cannot be read.
        """
        return [read(file) if os.path.lexists(file) else Text(file, b"") for file in LIBWRAP]

    def inetd(self) -> str:
        """Which inetd(8) is installed here, "" for none of Debian's or for both."""
        found = [name for name, signs in SIGNS.items() if any(map(os.path.exists, signs))]
        return found[0] if len(found) == 1 else ""

    def options(self, file: str) -> str:
        """The text of a file of options in /etc/default, "" where there is none."""
        try:
            return "\n".join(read(file).lines)
        except Unreadable:
            return ""

    def program(self, name: str) -> str:
        """The path of a program of this name, "" where none is found."""
        return _found(name)


@cache
def _found(name: str) -> str:
    for folder in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        if os.access(f"{folder}/{name}", os.X_OK):
            return f"{folder}/{name}"
    return ""


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
