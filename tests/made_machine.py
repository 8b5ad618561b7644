"""A machine with accounts, ports and hosts of its own, for what the importer makes of a source."""

from __future__ import annotations

from pathlib import Path

from spawnhelper.moving.machine import INETUTILS, OPENBSD, Machine
from spawnhelper.moving.source import Text, Unreadable

ACCOUNTS = {
    "root": (0, 0),
    "toor": (0, 1000),
    "postfix": (101, 102),
    "mailuser": (103, 104),
    "alice": (1000, 1000),
    "ben": (1001, 1001),
    "nobody": (65534, 65534),
}
GROUPS = {"root": 0, "postfix": 102, "games": 60, "disk": 6, "mail": 8, "alice": 1000}
FURTHER = {"alice": ["disk", "games"], "ben": ["root", "postfix"]}
PORTS = {"finger": 79, "telnet": 23, "pop3": 110, "echo": 7}
HOSTS = {"mail.example": ["192.0.2.25", "2001:db8::25"], "host.example": ["192.0.2.99"]}
DIALECTS = {"openbsd": OPENBSD, "hidden": OPENBSD, "inetutils": INETUTILS}


class Made(Machine):
    """The machine of one folder of the corpus, which may have a hosts.allow and a hosts.deny."""

    def __init__(self, folder: Path, *, resolve: bool = False) -> None:
        super().__init__(resolve=resolve)
        self.folder = folder

    def port(self, name: str) -> int | None:
        return PORTS.get(name)

    def ids(self, name: str) -> tuple[int, int] | None:
        numbers = {str(uid): (uid, gid) for uid, gid in ACCOUNTS.values()}
        return ACCOUNTS.get(name) or numbers.get(name)

    def gid(self, name: str) -> int | None:
        return int(name) if name.isdigit() else GROUPS.get(name)

    def further_groups(self, user: str) -> list[str]:
        return FURTHER.get(user, [])

    def primary_group(self, user: str) -> str:
        return user

    def addresses(self, host: str) -> list[str]:
        return HOSTS.get(host, [])

    def libwrap(self) -> list[Text]:
        if self.folder.name == "closed":
            raise Unreadable("cannot be opened: Permission denied")
        files = [self.folder / name for name in ("hosts.allow", "hosts.deny")]
        return [Text(file.name, file.read_bytes() if file.exists() else b"") for file in files]

    def inetd(self) -> str:
        return DIALECTS.get(self.folder.name, "")

    def options(self, file: str) -> str:  # noqa: ARG002
        return 'OPTIONS="-l"' if self.folder.name == "hidden" else ""
