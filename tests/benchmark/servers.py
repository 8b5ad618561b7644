"""What is measured: bare units, the super-servers of Debian, and spawnhelper, each with the same
commands as the same user where it can say so. In the machine."""

from __future__ import annotations

import ipaddress
import json
import pwd
import subprocess
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark import client
from spawnhelper.conf.settings import SETTINGS

STREAM = 2 << 30  # bytes
COMMANDS = {
    "echo": "/bin/cat",
    "sink": "/usr/bin/wc -c",  # what came through, to the byte
    "source": f"/usr/bin/head -c {STREAM} /dev/zero",
}
USER = "nobody"
ROOM = 6000  # connections at a time, wherever a server asks
UNITS = Path("/run/systemd/system")
SHIPPED = Path("/usr/lib/systemd/system")
SERVICES = Path("/etc/spawn")
XINETD = Path("/run/bench-xinetd.conf")
INTERPRETER = "/usr/bin/python3 -I -S -X utf8"  # as spawn@.service starts it
BECOME = "-c 'import posix, sys; posix.execv(sys.argv[1], sys.argv[1:])'"
LISTEN = "127.0.0.1 {port} {command}"
PREFIXES = 200
KEYS = 50
# A value for each key whose effect is not in the way of the commands, besides the three that every
# service of ours has here.
HARMLESS = {
    "RefuseUsers": "postfix daemon",
    "SupplementaryGroups": "games",
    "KillDelay": "2s",
    "IdleLimit": "30min",
    "QueueLimit": "30s",
    "StandardError": "socket",
    "Environment": "NAME=value 'OTHER=another value'",
    "PassEnvironment": "HOME",
    "WorkingDirectory": "/tmp",
    "UMask": "0027",
    "Nice": "0",
    "AccessTimes": "00:00-12:00 12:00-24:00",
    "NoNewPrivileges": "yes",
    "ProxyProtocol": "no",
    "ProxyTimeLimit": "5s",
    "Log": "all",
    "SyslogIdentifier": "bench",
    "SyslogFacility": "daemon",
    "Argv0": "cat",
}
# Where infinity would be more than a container may give.
LIMIT = {
    "LimitNOFILE": "1024:4096",
    "LimitNPROC": "4096",
    "LimitMEMLOCK": "64K",
    "LimitSIGPENDING": "128",
    "LimitMSGQUEUE": "64K",
    "LimitRTPRIO": "0",
}


@dataclass(frozen=True)
class Server:
    """name: for a person. ports: where each command is, on loopback. units: what systemd is to
    listen with, or to run. growing: whether it can be asked to hold 2,000 connections."""

    name: str
    ports: dict[str, int]
    units: tuple[str, ...]
    growing: bool = True

    def address(self, command: str = "echo") -> client.Address:
        return "127.0.0.1", self.ports[command]

    def start(self) -> None:
        """Starts it, unless it runs; returns once all of it answers."""
        if self._active():
            return
        subprocess.run(["systemctl", "reset-failed", *self.units], check=False, capture_output=True)
        subprocess.run(["systemctl", "start", *self.units], check=True)
        for command in self.ports:
            deadline = time.monotonic() + 20
            while not client.listens(self.address(command)):
                assert time.monotonic() < deadline, f"{self.name} does not listen"
                time.sleep(0.05)

    def restart(self) -> None:
        """Starts it anew."""
        subprocess.run(["systemctl", "stop", *self.units], check=False, capture_output=True)
        self.start()

    def _active(self) -> bool:
        ask = ["systemctl", "is-active", *self.units]
        states = subprocess.run(ask, check=False, capture_output=True, text=True).stdout.split()
        return all(state == "active" for state in states)


def prepared(names: Container[str]) -> list[Server]:
    """Those of SERVERS that are named, started."""
    numbered = zip(SERVERS.items(), _ports(), strict=False)
    made = [make(name, ports) for (name, make), ports in numbered if name in names]
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    for server in made:
        server.start()
    return made


def touch(server: Server) -> None:
    """Changes a service file of ours such that it says something else."""
    file = SERVICES / f"{unit_of(server.name, 'echo')}.conf"
    text = file.read_text()
    file.write_text(f"{text}Environment=CHANGED={text.count('CHANGED')}\n")


def long_file() -> str:
    """All but User=, Argv= and TimeLimit= of a service file with 50 keys and 200 prefixes."""
    lines = dict(HARMLESS)
    for setting in SETTINGS:
        if setting.key.startswith("Limit") and setting.key != "LimitNICE":
            lines[setting.key] = LIMIT.get(setting.key, "infinity")
    text = "".join(f"{key}={value}\n" for key, value in lines.items())
    prefixes = [
        str(network)
        for block in ("10.0.0.0/8", "2001:db8::/32")
        for network in list(ipaddress.ip_network(block).subnets(8))[: PREFIXES // 2 - 1]
    ]
    prefixes += ["127.0.0.0/8", "::1"]
    text += "".join(f"Environment=KEY_{number}=value\n" for number in range(KEYS - 3 - len(lines)))
    for at in range(0, PREFIXES, 20):
        text += f"AllowFrom={' '.join(prefixes[at : at + 20])}\n"
    return text


def _ports() -> Iterator[dict[str, int]]:
    """Three ports at a time, below those that the kernel gives to clients."""
    for first in range(20000, 30000, 10):
        yield {command: first + at for at, command in enumerate(COMMANDS)}


def _settings(unit: str, leave_out: tuple[str, ...]) -> str:
    """A unit that we ship, but for [Unit], [Install] and these settings."""
    text = (SHIPPED / unit).read_text()
    kind = "[Service]" if unit.endswith(".service") else "[Socket]"
    section = text.partition(kind)[2].partition("\n[")[0]
    kept = [line for line in section.splitlines() if line.partition("=")[0] not in leave_out]
    collect = "[Unit]\nCollectMode=inactive-or-failed\n" if kind == "[Service]" else ""
    return f"{collect}{kind}\n" + "\n".join(kept) + "\n"


def _naive(name: str, ports: dict[str, int]) -> Server:
    return _bare(name, ports, "[Service]\n", "[Socket]\n", growing=False)


def _same_settings(start: str) -> Callable[[str, dict[str, int]], Server]:
    """A maker of units with our settings. start: what is before the command."""

    def make(name: str, ports: dict[str, int]) -> Server:
        service = _settings("spawn@.service", ("ExecStart", "StandardInput", "StandardOutput"))
        listening = _settings("spawn@.socket", ("ListenStream", "ExecStartPre", "MaxConnections"))
        room = f"MaxConnections={ROOM}\n"
        return _bare(name, ports, service, listening + room, start=start)

    return make


def _hardened(name: str, ports: dict[str, int]) -> Server:
    service = f"User={USER}\nProtectSystem=strict\nPrivateTmp=yes\nNoNewPrivileges=yes\n"
    limits = "TriggerLimitIntervalSec=0\nPollLimitIntervalSec=0\n"
    listening = f"[Socket]\n{limits}MaxConnections={ROOM}\n"
    return _bare(name, ports, f"[Service]\n{service}", listening)


def _bare(
    name: str,
    ports: dict[str, int],
    service: str,
    listening: str,
    *,
    start: str = "",
    growing: bool = True,
) -> Server:
    """Units without a helper, whose command systemd itself puts on the connection."""
    units = []
    for command, line in COMMANDS.items():
        unit = unit_of(name, command)
        stream = f"StandardInput=socket\nStandardOutput=socket\nExecStart={start}{line}\n"
        (UNITS / f"{unit}@.service").write_text(service + stream)
        listen = f"ListenStream=127.0.0.1:{ports[command]}\nAccept=yes\n"
        (UNITS / f"{unit}.socket").write_text(listening + listen)
        units.append(f"{unit}.socket")
    return Server(name, ports, tuple(units), growing)


def unit_of(name: str, command: str) -> str:
    """What a server's unit is called, and its service, without what is around that."""
    words = "".join(each if each.isalnum() else " " for each in name).split()
    return "-".join(("bench", *words, command))


def _daemon(line: str) -> Callable[[str, dict[str, int]], Server]:
    """A maker of servers with a process for each port. line: what to run, with {port}, {command}
    and the user's {uid} and {gid}."""
    account = pwd.getpwnam(USER)

    def make(name: str, ports: dict[str, int]) -> Server:
        units = []
        for command, port in ports.items():
            unit = f"{unit_of(name, command)}.service"
            filled = line.format(
                port=port, command=COMMANDS[command], uid=account.pw_uid, gid=account.pw_gid
            )
            start = f"ExecStart=/usr/bin/env {filled}"
            (UNITS / unit).write_text(f"[Service]\n{start}\nLimitNOFILE=65536\n")
            units.append(unit)
        return Server(name, ports, tuple(units))

    return make


def _postfix(name: str, ports: dict[str, int]) -> Server:
    for setting in ("inet_interfaces=loopback-only", "maillog_file=", "alias_maps="):
        subprocess.run(["postconf", "-e", setting], check=True)
    for command, port in ports.items():
        where = f"127.0.0.1:{port}"
        what = f"inet n n n - 0 spawn user={USER} argv={COMMANDS[command]}"
        subprocess.run(["postconf", "-Me", f"{where}/inet={where} {what}"], check=True)
    drop_in = UNITS / "postfix@-.service.d"
    drop_in.mkdir(exist_ok=True)
    (drop_in / "bench.conf").write_text("[Service]\nLimitNOFILE=65536\n")
    subprocess.run(["systemctl", "stop", "postfix"], check=False)
    return Server(name, ports, ("postfix.service",))


def _xinetd(name: str, ports: dict[str, int]) -> Server:
    text = ""
    for command, port in ports.items():
        program, _, arguments = COMMANDS[command].partition(" ")
        text += (
            f"service bench-{command}\n{{\ntype = UNLISTED\nsocket_type = stream\nprotocol = tcp\n"
            f"wait = no\nuser = {USER}\nbind = 127.0.0.1\nport = {port}\nserver = {program}\n"
            "instances = UNLIMITED\nper_source = UNLIMITED\ncps = 100000 1\n"
            "log_type = FILE /dev/null\n"
        )
        text += f"server_args = {arguments}\n}}\n" if arguments else "}\n"
    XINETD.write_text(text)
    unit = "bench-xinetd.service"
    start = f"ExecStart=/usr/sbin/xinetd -dontfork -f {XINETD}"
    (UNITS / unit).write_text(f"[Service]\n{start}\nLimitNOFILE=65536\n")
    return Server(name, ports, (unit,))


def _ours(
    more: str, *, accept: str = "yes", growing: bool = True
) -> Callable[[str, dict[str, int]], Server]:
    """A maker of services of ours. more: further lines of [Spawn]."""

    def make(name: str, ports: dict[str, int]) -> Server:
        units = []
        for command, port in ports.items():
            service = unit_of(name, command)
            listen = f"[Socket]\nListenStream=127.0.0.1:{port}\nMaxConnections={ROOM}\n"
            listen += f"Accept={accept}\n"
            spawn = f"[Spawn]\nUser={USER}\nArgv={COMMANDS[command]}\nTimeLimit=infinity\n{more}"
            (SERVICES / f"{service}.conf").write_text(listen + spawn)
            units.append(f"spawn@{service}.socket")
        return Server(name, ports, tuple(units), growing)

    return make


SERVERS: dict[str, Callable[[str, dict[str, int]], Server]] = {
    "naive unit": _naive,
    "unit, same settings": _same_settings(""),
    "interpreter alone": _same_settings(f"{INTERPRETER} {BECOME} "),
    "hardened unit": _hardened,
    "Postfix spawn(8)": _postfix,
    "xinetd": _xinetd,
    "tcpserver": _daemon(f"tcpserver -HRl0 -c {ROOM} -b 4096 -u {{uid}} -g {{gid}} {LISTEN}"),
    "tcpsvd": _daemon(f"tcpsvd -El0 -c {ROOM} -b 4096 -u {USER} {LISTEN}"),
    "socat": _daemon(
        "socat TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog=4096 "
        f"EXEC:'{{command}}',su={USER}"
    ),
    "spawnhelper": _ours(""),
    "Accept=no": _ours("", accept="no"),
    "Accept=no, Log=failures": _ours("Log=failures\n", accept="no", growing=False),
    "Accept=no, Log=summary": _ours("Log=summary\n", accept="no", growing=False),
    "Accept=no, StandardError=journal": _ours(
        "StandardError=journal\n", accept="no", growing=False
    ),
    "Accept=no, long file": _ours(long_file(), accept="no", growing=False),
    "with SizeLimit=": _ours("SizeLimit=1T\n"),
    "with a long file": _ours(long_file(), growing=False),
}


def describe() -> dict[str, str]:
    """The machine that all of this runs on, and the versions of what is measured."""
    packages = ["systemd", "python3", "postfix", "xinetd", "ucspi-tcp", "ipsvd", "socat"]
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *packages, "spawnhelper"]
    listing = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    found = dict(line.split() for line in listing.splitlines())
    cpu = json.loads(
        subprocess.run(["lscpu", "-J"], check=True, capture_output=True, text=True).stdout
    )
    fields = {field["field"]: field.get("data") for field in cpu["lscpu"]}
    found["processor"] = f"{fields['CPU(s):']} of {fields.get('Model name:', 'unknown')}"
    found["kernel"] = Path("/proc/sys/kernel/osrelease").read_text().split("-")[0]
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    found["cgroup2"] = next(options for _, _, kind, options, *_ in mounts if kind == "cgroup2")
    return found
