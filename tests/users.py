"""Users with a manager of their own, which lingers or is that of a login, and their services."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import doors
from conftest import Address, Installed, journal, run, until


class User:
    """An account whose manager runs, for it lingers (loginctl(1))."""

    def __init__(self, name: str) -> None:
        self.name = name
        if run("id", name, check=False).returncode != 0:
            run("useradd", "--create-home", "--shell=/bin/bash", name)
        account = pwd.getpwnam(name)
        self.uid, self.gid = account.pw_uid, account.pw_gid
        self.home = Path(account.pw_dir)
        self.folder = self.home / ".config/spawn"
        self.runtime = Path(f"/run/user/{self.uid}")
        self.begin()
        until(lambda: self.run("systemctl", "--user", "is-system-running", check=False).stdout)
        self.run("install", "--directory", "--mode=755", str(self.folder.parent), str(self.folder))

    def begin(self) -> None:
        """Has the manager start."""
        # logind takes the order only from a process that it knows.
        run("systemd-run", "--quiet", "--wait", "loginctl", "enable-linger", self.name)
        until(lambda: (self.runtime / "systemd/private").exists())

    def end(self) -> None:
        """Has it stop."""
        run("systemd-run", "--quiet", "--wait", "loginctl", "disable-linger", self.name)
        run("systemctl", "stop", f"user@{self.uid}.service")

    def command(self, *words: str) -> list[str]:
        """The command that runs the words as this user, outside any session."""
        identity = (f"--reuid={self.uid}", f"--regid={self.gid}", "--init-groups", "--reset-env")
        place = ("env", f"--chdir={self.home}", f"XDG_RUNTIME_DIR={self.runtime}")
        return ["setpriv", *identity, *place, *words]

    def run(self, *words: str, check: bool = True, **options: Any) -> Any:
        """Runs the words as this user; what they print is text."""
        return run(*self.command(*words), check=check, **options)

    def write(self, path: str, text: str) -> Path:
        """A file of this user's, below its home."""
        file = self.home / path
        self.run("install", "--directory", "--mode=755", str(file.parent))
        file.write_text(text)
        os.chown(file, self.uid, self.gid)
        return file


class LoggedIn(User):
    """One who is logged in by PAM (su(1)), for as long as that lasts."""

    def begin(self) -> None:
        login = ["su", "--login", self.name, "--command=echo; cat"]
        self.session = subprocess.Popen(login, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.session.stdout is not None
        assert self.session.stdout.readline() == b"\n"

    def end(self) -> None:
        self.session.communicate()
        until(lambda: not self.runtime.exists())

    def command(self, *words: str) -> list[str]:
        return ["su", "--login", self.name, f"--command={shlex.join(words)}"]


class Own(Installed):
    """A service of a user's own."""

    def __init__(self, user: User, name: str, address: Address, door: doors.Accept) -> None:
        super().__init__(name, address, door)
        self.user = user
        self.file = user.folder / f"{name}.conf"

    def write(self, spawn: str, socket_section: str = "") -> None:
        super().write(spawn, socket_section)
        os.chown(self.file, self.user.uid, self.user.gid)

    def systemctl(self, *words: str, check: bool = True) -> str:
        """What systemctl --user says."""
        said: str = self.user.run("systemctl", "--user", *words, check=check).stdout
        return said

    def ctl(self, verb: str, *words: str) -> Any:
        """spawnctl --user VERB, as it ends."""
        return self.user.run("spawnctl", "--user", verb, *words, check=False)

    def start(self) -> None:
        self.systemctl("daemon-reload")
        self.systemctl("start", self.socket_unit)

    def state(self) -> str:
        return self.systemctl("is-active", self.socket_unit, check=False).strip()

    def records(self, count: int) -> list[dict[str, Any]]:
        found = partial(journal, f"SPAWN_SERVICE={self.name}", f"_UID={self.user.uid}")
        return until(found, holds=lambda records: len(records) >= count)

    def main_pid(self, unit: str) -> int:
        """The main process of a unit of the user's, once there is one."""
        show = ("show", "--property=MainPID", "--value", unit)
        return until(lambda: int(self.systemctl(*show)))

    def remove(self) -> None:
        """Takes all of it away."""
        self.systemctl("disable", "--now", "--quiet", self.socket_unit, check=False)
        self.systemctl("stop", "spawn@*.service", "spawn-*@*.service", check=False)
        self.systemctl("reset-failed", check=False)
        self.file.unlink(missing_ok=True)
