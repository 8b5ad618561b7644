"""Whose services these are: the system's, or a user's own (spawn-user(7)).

systemd has a manager for either. Which one a program is for, it is told at its start, once; all the
rest asks what is `now`.
"""

from __future__ import annotations

from posix import environ

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
else:
    import posix as os

OPTION = "--user"
ROOTS_OWN = "root's own manager has no services, for no command runs as root; use the system's"


class Manager:
    """One of systemd's, with what is where it is not the same for both.

    own: whether it is a user's. option: by which tools are told, nothing for the system's. folders:
    of service files, the first of which counts most; defaults: for all services. run: what %t is;
    runtime: our folder below it; generated: where spawn-generator(8) puts drop-ins. state: what
    outlives a boot. uid: as whom it starts processes. owner: who that is, in a sentence. unit: the
    end of the names of fields in which the journal has its units.
    """

    __slots__ = (
        "defaults",
        "folders",
        "generated",
        "option",
        "own",
        "owner",
        "run",
        "runtime",
        "state",
        "uid",
        "unit",
    )

    def __init__(
        self, *, own: bool, uid: int, run: str, folders: tuple[str, ...], defaults: str, state: str
    ) -> None:
        self.own = own
        self.uid = uid
        self.run = run
        self.folders = folders
        self.defaults = defaults
        self.state = state
        self.runtime = f"{run}/spawn"
        self.generated = f"{run}/systemd/generator"
        self.option: tuple[str, ...] = (OPTION,) if own else ()
        self.owner = "yourself" if own else "root"
        self.unit = "SYSTEMD_USER_UNIT" if own else "SYSTEMD_UNIT"

    def words(self, program: str) -> str:
        """How to call one of the tools about it, systemctl or spawnctl, in a sentence."""
        return " ".join((program, *self.option))

    def journalctl(self, unit: str) -> str:
        """How to see what is in the journal about a unit."""
        return f"journalctl --user-unit={unit}" if self.own else f"journalctl -u {unit}"


SYSTEM = Manager(
    own=False,
    uid=0,
    run="/run",
    folders=("/etc/spawn", "/usr/lib/spawn"),
    defaults="/etc/spawn.conf",
    state="/var/lib/spawnhelper",
)
now = SYSTEM


def chosen(arguments: list[str]) -> list[str]:
    """What is left of a program's arguments, once a --user before the others has been heard.
    Raises SystemExit where that is root."""
    global now
    if arguments[:1] != [OPTION]:
        return arguments
    if os.geteuid() == 0:
        raise SystemExit(ROOTS_OWN)
    now = _own()
    return arguments[1:]


def _own() -> Manager:
    """The one of who runs this: its places are as the XDG Base Directory Specification has them."""
    uid = os.geteuid()
    home = _place("HOME", "")
    if not home:
        import pwd

        try:
            home = pwd.getpwuid(uid).pw_dir
        except KeyError:
            home = "/"
    config = _place("XDG_CONFIG_HOME", f"{home}/.config")
    return Manager(
        own=True,
        uid=uid,
        run=_place("XDG_RUNTIME_DIR", f"/run/user/{uid}"),
        folders=(f"{config}/spawn", "/etc/spawn/user", "/usr/lib/spawn/user"),
        defaults=f"{config}/spawn.conf",
        state=f"{_place('XDG_STATE_HOME', f'{home}/.local/state')}/spawnhelper",
    )


def _place(variable: str, otherwise: str) -> str:
    """The folder that a variable names. A path that is not absolute is to be ignored."""
    value = environ.get(variable.encode(), b"").decode(errors="surrogateescape")
    return value.rstrip("/") if value.startswith("/") else otherwise
