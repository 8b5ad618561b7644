"""Bring what the service files say into effect, and nothing else.

All of them are checked first, and nothing is changed if one is wrong. systemd reads them anew only
where [Socket] or [Service] has changed, and a socket is restarted only where it has to listen
elsewhere or otherwise. A change of [Spawn] needs nothing. Without a name it is about all services
that are enabled or have been started: a draft is left alone.
"""

from __future__ import annotations

import argparse
import os
import sys

from spawnhelper import manager
from spawnhelper.conf import dropins, files, listeners
from spawnhelper.ctl import examination, health, units, words
from spawnhelper.ctl.complaint import Complaint
from spawnhelper.outcome import Refusal
from spawnhelper.record import counted

# What systemd goes by for the next connection, of a socket that listens already. The rest of
# [Socket] counts when it begins to listen.
AT_ONCE = ("MaxConnections", "TriggerLimit", "PollLimit", "Service=", "Accept=yes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("service", nargs="*", metavar="NAME", help="a service")
    parser.add_argument(
        "--enable", action="store_true", help="have the services listen, now and after a boot"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do not")


def run(options: argparse.Namespace) -> int:
    """Does it; 3 if a service does not listen then that should, otherwise of sysexits.h."""
    if os.geteuid() != manager.now.uid and not options.dry_run:
        raise Complaint(os.EX_NOPERM, "to apply needs root; --dry-run does not")
    names = [words.name_of(name) for name in options.service]
    if options.enable and not names:
        raise Complaint(os.EX_USAGE, "--enable is for the services that are named; name them")
    if not names:
        installed = set(filter(files.is_name, files.installed()))
        names = sorted(installed & units.claiming(installed)) if installed else []
    return apply(names, enable=options.enable, dry=options.dry_run)


def apply(names: list[str], *, enable: bool = False, dry: bool = False) -> int:
    """Applies the files of these services. Raises Complaint."""
    if status := _checked(names):
        print("nothing has been changed", file=sys.stderr)
        return status
    work = _Work(names, dry=dry)
    work.reload()
    work.restart()
    if enable:
        work.enable()
    if not work.done:
        print("nothing to do")
    return work.report()


def _checked(names: list[str]) -> int:
    """Says what is wrong with the files; the status of the first that is wrong."""
    status = 0
    which = [manager.now.defaults] if os.path.lexists(manager.now.defaults) else []
    said: set[str] = set()
    for file in which + [files.file_of(name) for name in names]:
        with examination.as_the_helper():
            refusal = examination.examine(file)
        if refusal is not None:
            status = status or refusal.status
            for line in map(str, refusal.problems):
                if line not in said:
                    print(line, file=sys.stderr)
                said.add(line)
    return status


class _Work:
    """What is to be done for these services, and has been."""

    def __init__(self, names: list[str], *, dry: bool) -> None:
        self.names = names
        self.dry = dry
        self.done = False
        self.made = {name: dropins.made(files.file_of(name)) for name in names}
        self.told = {name: dropins.told(name) for name in names}
        known = units.listeners(names)
        self.listeners = {each.name: each for each in known if each.name in self.made}
        self.others = [each for each in known if each.name not in self.made]
        self.kernel = health.Kernel()

    def reload(self) -> None:
        """Has systemd read the files anew, if it knows them otherwise, and nobody suffers by it."""
        changed = [name for name in self.names if self.made[name] != self.told[name]]
        if not changed:
            return
        for each in self.others:
            if each.state == "active":
                self._spare(each.name)
        self._say(f"{', '.join(changed)}: [Socket] or [Service] has changed")
        self._do("daemon-reload")

    def _spare(self, name: str) -> None:
        """Refuses to reload where that would close the socket of a service that nobody named."""
        file = files.file_of(name)
        if name not in files.installed():
            return  # its socket is of no use any more
        harm = f"a reload would close the socket of {name}"
        try:
            made = dropins.made(file)
        except Refusal as refusal:
            raise Complaint(os.EX_CONFIG, f"{harm}, whose file is wrong: {refusal}") from None
        if _binding(made) != _binding(dropins.told(name)):
            both = " ".join([*self.names, name])
            sentence = f"{harm}, which has changed, too; apply all of them: "
            sentence += f"{manager.now.words('spawnctl')} apply {both}"
            raise Complaint(os.EX_CONFIG, sentence)

    def restart(self) -> None:
        """Restarts the sockets that are to listen elsewhere or otherwise, and servers without a
        connection whose [Service] has changed."""
        for name, listener in self.listeners.items():
            made, told = self.made[name], self.told[name]
            server = f"spawn-server@{name}.service"
            listens = listener.state == "active"
            wanted = [each.place for each in listeners.claimed(files.file_of(name))]
            deaf = listens and not all(map(self.kernel.has, wanted))
            if (listens and (deaf or _binding(made) != _binding(told))) or (
                listener.state == "failed" and made != told
            ):
                if listener.server is not None and listener.server.busy:
                    count = len(listener.server.busy)
                    self._say(
                        f"{name}: a restart ends {counted(count, 'connection')} of its server"
                    )
                self._do("restart", f"spawn@{name}.socket")
            elif listener.server is not None and made.get(server) != told.get(server):
                if listener.server.busy:
                    count = len(listener.server.busy)
                    restart = f"{manager.now.words('systemctl')} restart {server}"
                    self._say(
                        f"{name}: [Service] holds when its server starts anew; {restart} ends "
                        f"{counted(count, 'connection')}"
                    )
                elif listener.server.pid:
                    self._do("try-restart", server)

    def enable(self) -> None:
        """Has them listen, now and after a boot."""
        for name, listener in self.listeners.items():
            if listener.enabled in units.OFF or listener.state in ("inactive", "failed"):
                self._do("enable", "--now", f"spawn@{name}.socket")

    def report(self) -> int:
        """How the services are; 3 where one does not listen that should."""
        status = 0
        kernel = health.Kernel()
        for each in units.listeners(self.names):
            if each.name not in self.made or self.dry:
                continue
            state = health.of(each, kernel)
            if not state.wanted and state.word == "":
                name = each.name
                again = f"{manager.now.words('spawnctl')} apply --enable {name}"
                print(f"{name}: does not listen; {again} has it do so")
            elif state.dead:
                status = units.SILENT
                print(f"{each.name}: {state.word}: {state.remedy}", file=sys.stderr)
            elif self.done:
                print(f"{each.name}: listens at {' '.join(state.places)}")
        return status

    def _do(self, *words: str) -> None:
        """What systemctl is to do. Why a socket does not listen, report() says."""
        self.done = True
        command = " ".join([manager.now.words("systemctl"), *words])
        print(f"{'would run' if self.dry else 'ran'}: {command}")
        if not self.dry:
            try:
                units.systemctl("--quiet" if words[0] == "enable" else "--no-ask-password", *words)
            except Complaint:
                if words[0] == "daemon-reload":
                    raise

    def _say(self, sentence: str) -> None:
        self.done = True
        print(sentence)


def _binding(texts: dict[str, str]) -> list[str]:
    """What counts when the socket begins to listen, of what systemd is told about it."""
    (text, *_) = [text for unit, text in texts.items() if unit.endswith(".socket")] or [""]
    section = text.partition("[Socket]\n")[2]
    return [line for line in section.splitlines() if not line.startswith(AT_ONCE)]
