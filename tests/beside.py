"""The original servers beside what was made of their services: each at ports of its own, asked for
the same by the same clients. In the machine."""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import PATIENCE, read_all, run, until

PROBE = Path("/usr/local/lib/probe.py")
# What a command sees of itself.
PROBE_TEXT = """\
import json, os, resource, socket, sys
sock = socket.socket(fileno=os.dup(0))
status = dict(line.rstrip("\\n").split(":\\t", 1) for line in open("/proc/self/status"))
def name(of):
    return of if isinstance(of, str) else of[0]
told = {
    "uid": os.getresuid(), "gid": os.getresgid(), "groups": sorted(os.getgroups()),
    "argv": open("/proc/self/cmdline", "rb").read().decode().split("\\0")[:-1],
    "environment": dict(os.environ), "umask": "%04o" % os.umask(0), "folder": os.getcwd(),
    "limits": {one: resource.getrlimit(getattr(resource, one)) for one in dir(resource)
               if one.startswith("RLIMIT_")},
    "descriptors": sorted(int(one) for one in os.listdir("/proc/self/fd") if int(one) < 3),
    "streams": len({os.stat("/proc/self/fd/%d" % one).st_ino for one in (0, 1, 2)}),
    "others": [one for one in os.listdir("/proc/self/fd")
               if int(one) > 2 and int(one) != sock.fileno()
               and os.path.exists("/proc/self/fd/" + one)],
    "nice": os.getpriority(os.PRIO_PROCESS, 0),
    "client": name(sock.getpeername()), "server": name(sock.getsockname()),
    "leads its session": os.getsid(0) == os.getpid(),
    "ignored signals": status["SigIgn"], "blocked signals": status["SigBlk"],
    "capabilities": status["CapEff"], "no new privileges": status["NoNewPrivs"],
}
print(json.dumps(told), flush=True)
"""
COMMAND = f"/usr/bin/python3 -I {PROBE} one two"
XINETD = "/srv/unpacked/xinetd/usr/sbin/xinetd"
INETD = "/usr/sbin/inetd"
# As Debian 13 has it: a stop ends the whole control group.
NATIVE_UNIT = """\
[Service]
ExecStart=/usr/sbin/xinetd -stayalive -dontfork
ExecReload=/usr/bin/kill -HUP $MAINPID
[Install]
WantedBy=multi-user.target
"""
FOLDER = Path("/etc/spawn")
_numbers = itertools.count()
_ports = itertools.count(25000)  # below those that the kernel gives to clients


def put_probe() -> None:
    """Has the probe where every user can run it."""
    PROBE.parent.mkdir(exist_ok=True)
    PROBE.write_text(PROBE_TEXT)


def ask(address: tuple[str, int] | str, source: str = "") -> bytes:
    """All that one connection answers; nothing where it is refused or reset. source: the address
    of the client."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    if not isinstance(address, str) and ":" in address[0]:
        family = socket.AF_INET6
    with socket.socket(family) as client:
        client.settimeout(PATIENCE)
        if source:
            client.bind((source, 0))
        try:
            client.connect(address)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            return b""
        return read_all(client)


def ask_all(asked: list[tuple[tuple[str, int], str]], at_a_time: int) -> list[bool]:
    """Whether each of these places answers each of these clients. A tcpd(8) that refuses takes five
    seconds for it."""
    with ThreadPoolExecutor(at_a_time) as pool:
        return list(pool.map(lambda each: bool(ask(*each)), asked))


def seen(address: tuple[str, int] | str) -> dict[str, Any]:
    """What the probe behind the address sees."""
    told: dict[str, Any] = json.loads(ask(address))
    return told


@contextmanager
def running(name: str, *command: str, ready: Iterable[tuple[str, int]]) -> Iterator[None]:
    """A program as a service of systemd, once it listens at these addresses."""
    unit = f"beside-{name}-{os.getpid()}"
    run("systemd-run", "--quiet", "--collect", f"--unit={unit}", *command)
    try:
        for address in ready:
            until(lambda address=address: listens(address))  # type: ignore[misc]
        yield
    finally:
        run("systemctl", "stop", f"{unit}.service", check=False)


def listens(address: tuple[str, int] | str) -> bool:
    """Whether a program listens there, by the kernel's tables."""
    if isinstance(address, str):
        return f" {address}\n" in Path("/proc/net/unix").read_text()
    listening = run("ss", "-Htln", f"sport = :{address[1]}").stdout
    return bool(listening)


class Imported:
    """The services that `spawnctl import` makes of a file, installed and listening, each at another
    port. moved: by the original port, which one."""

    def __init__(self, source: str, file: Path, *options: str) -> None:
        done = run("spawnctl", "import", source, str(file), "--json", *options, check=False)
        self.report = json.loads(done.stdout)
        self.names: list[str] = []
        self.moved: dict[str, str] = {}
        for each in self.report["services"]:
            if each["text"] is not None:
                self._install(f"beside-{next(_numbers)}-{os.getpid()}", each["text"])
        run("systemctl", "daemon-reload")
        run("systemctl", "start", *(f"spawn@{name}.socket" for name in self.names))

    def _install(self, name: str, text: str) -> None:
        lines = text.splitlines()
        for at, line in enumerate(lines):
            key, _, value = line.partition("=")
            if key != "ListenStream":
                continue
            if value.startswith("/"):
                self.moved[value] = f"{value}-moved"
                lines[at] = f"ListenStream={self.moved[value]}"
            else:
                host, _, port = value.rpartition(":")
                other = self.moved.setdefault(port, str(next(_ports)))
                lines[at] = f"ListenStream={host}{':' if host else ''}{other}"
        (FOLDER / f"{name}.conf").write_text("\n".join(lines))
        self.names.append(name)

    def place(self, host: str, port: int) -> tuple[str, int]:
        """Where the service is that was at this address."""
        return host, int(self.moved[str(port)])

    def now(self, address: tuple[str, int] | str) -> tuple[str, int] | str:
        """Where the service is that was at this address or path."""
        if isinstance(address, str):
            return self.moved[address]
        return self.place(*address)

    def stop(self) -> None:
        run("systemctl", "stop", *(f"spawn@{name}.socket" for name in self.names), check=False)
        for name in self.names:
            (FOLDER / f"{name}.conf").unlink()
        run("systemctl", "daemon-reload")


@contextmanager
def imported(source: str, file: Path, *options: str) -> Iterator[Imported]:
    """The same, and nothing of it afterwards."""
    made = Imported(source, file, *options)
    try:
        yield made
    finally:
        made.stop()
