"""What a service file says of its server (Accept=no), and what systemd makes of that. What is read
from the file alone needs no machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    WANTS,
    Installed,
    connect,
    connection_units,
    free_port,
    in_machine,
    journal,
    read_all,
    run,
    systemd_version,
    until,
)

from spawnhelper.conf import service as services
from spawnhelper.conf.settings import KEYS
from spawnhelper.conf.standing import RULES
from spawnhelper.outcome import Refusal

CAT = "User=nobody\nArgv=/bin/cat\n"
OURS = "is set by spawnhelper, whose server the unit is; remove the line"
CAPABILITIES = (
    "is set by spawnhelper, for what the server needs of them; remove the line: commands have no "
    "capability"
)
SHOWN = (
    "is shown to everybody by systemd; write it in [Spawn], or a file's name in EnvironmentFile= "
    "here, and in PassEnvironment= there what commands get of it"
)
SPAWN = "is a key of [Spawn]; move the line there"
ONE_USER = "is for a unit with a user of its own; remove the line: User= in [Spawn] is for commands"
USERS = (
    "keeps the server from becoming the service's user; remove the line, or write "
    "PrivateUsers=full, where systemd knows it"
)
GROUPS = (
    "keeps the server from a control group for each worker; remove the line, or write "
    "ProtectControlGroups=private, for systemd 257 and later"
)
NO_UNIX = (
    "has no AF_UNIX, without which the server reaches neither its workers nor the journal; add it"
)
HIDDEN = (
    "hides folders in /run by which the server reaches the journal, systemd and spawnctl; name "
    "others"
)
ROOT = (
    "hides the service files and the accounts of this machine from the server; write "
    "RootDirectory= in [Spawn]"
)
LOST = "can keep records out of the journal; remove the line, and see Log= in [Spawn]"
BOARD = (
    "is empty, which takes away the folder in which spawnctl finds the server; name a further one"
)
AT_ONCE = "ends the connections of all clients at once; write TimeLimit= in [Spawn]"
PATIENT = "is set by spawnhelper, and longer than any KillDelay=; write that in [Spawn]"
NAMESPACE = "is no name of a journal; write one of letters, digits, - and _"
WATCHDOG = "is too short for a server that is well; write 10s or more"
REFUSED = [
    ("Environment=A=1", SHOWN),
    ("User=nobody", SPAWN),
    ("LimitNOFILE=8", SPAWN),
    ("UMask=077", SPAWN),
    ("Nice=5", SPAWN),
    ("RootDirectory=/srv", SPAWN),
    ("Argv=/bin/cat", SPAWN),
    ("DynamicUser=yes", ONE_USER),
    ("SetLoginEnvironment=yes", ONE_USER),
    ("PAMName=login", ONE_USER),
    ("CapabilityBoundingSet=~CAP_KILL", CAPABILITIES),
    ("AmbientCapabilities=CAP_CHOWN", CAPABILITIES),
    ("SecureBits=noroot", CAPABILITIES),
    ("PrivateUsers=yes", USERS),
    ("PrivateUsers=identity", USERS),
    ("ProtectControlGroups=yes", GROUPS),
    ("ProtectControlGroups=strict", GROUPS),
    ("RestrictAddressFamilies=AF_INET AF_INET6", NO_UNIX),
    ("RestrictAddressFamilies=none", NO_UNIX),
    ("RestrictAddressFamilies=~AF_UNIX", NO_UNIX),
    ("InaccessiblePaths=/run/systemd/journal", HIDDEN),
    ("InaccessiblePaths=/home -%t/systemd", HIDDEN),
    ("InaccessiblePaths=/run/systemd/journal/stdout", HIDDEN),
    ("InaccessiblePaths=-/", HIDDEN),
    ("InaccessibleDirectories=/run", HIDDEN),
    ("TemporaryFileSystem=/var/tmp /run:ro", HIDDEN),
    ("TemporaryFileSystem=/run/systemd/notify", HIDDEN),
    ("RootImage=/srv/image", ROOT),
    ("LogNamespace=../mine", NAMESPACE),
    ("LogNamespace=my journal", NAMESPACE),
    (f"LogNamespace={'x' * 65}", NAMESPACE),
    ("LogLevelMax=err", LOST),
    ("LogFilterPatterns=~exit", LOST),
    ("LogRateLimitBurst=5", LOST),
    ("RuntimeMaxSec=1h", AT_ONCE),
    ("TimeoutStopSec=1s", PATIENT),
    ("WatchdogSec=1s", WATCHDOG),
    ("RuntimeDirectory=", BOARD),
    ("RuntimeDirectoryMode=0700", OURS),
    ("RuntimeDirectoryPreserve=no", OURS),
    ("TemporaryFileSystem=/run/spawn", HIDDEN),
    ("CapabilityBoundingSet=", CAPABILITIES),
    ("ExecStart=", OURS),
    ("Delegate=", OURS),
    ("User=", SPAWN),
    ("Type=simple", OURS),
    ("ExecStartPre=/bin/true", OURS),
    ("ExecReload=/bin/true", OURS),
    ("Restart=no", OURS),
    ("RestartSec=9", OURS),
    ("StartLimitBurst=1", OURS),
    ("KillMode=process", OURS),
    ("Delegate=no", OURS),
    ("DelegateSubgroup=x", OURS),
    ("StandardInput=socket", OURS),
    ("StandardOutput=null", OURS),
    ("SyslogLevel=debug", OURS),
    ("Sockets=other.socket", OURS),
    ("OpenFile=/etc/passwd", OURS),
    ("FileDescriptorStoreMax=5", OURS),
    ("RemainAfterExit=yes", OURS),
    ("NotifyAccess=all", OURS),
    ("OOMPolicy=kill", OURS),
]
# What goes to systemd as it stands.
TAKEN = [
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "PrivateNetwork=yes",
    "PrivateIPC=yes",
    "PrivatePIDs=yes",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "SystemCallFilter=@system-service",
    "SystemCallArchitectures=native",
    "RestrictNamespaces=yes",
    "RestrictSUIDSGID=yes",
    "RestrictRealtime=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "ProtectKernelLogs=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "NoExecPaths=/home",
    "ExecPaths=/usr",
    "ExecSearchPath=/usr/bin",
    "Slice=x.slice",
    "TemporaryFileSystem=/var",
    "MemoryMax=1G",
    "CPUQuota=50%",
    "TasksMax=9",
    "IPAddressDeny=any",
    "KeyringMode=private",
    "InaccessiblePaths=/home",
    "InaccessiblePaths=/run/systemd/journal.old",
    "PrivateUsers=full",
    "PrivateUsers=no",
    "ProtectControlGroups=private",
    "ProtectControlGroups=off",
    "RestrictAddressFamilies=AF_UNIX",
    "RestrictAddressFamilies=~AF_PACKET",
    "EnvironmentFile=/etc/x",
    "WatchdogSec=10s",
    "WatchdogSec=0",
    "WatchdogSec=infinity",
    "WatchdogSec=?",
    "InaccessiblePaths='",
    "ReadOnlyPaths=/",
    "PrivateUsers=",
    "ProtectControlGroups=",
    "RestrictAddressFamilies=",
    "InaccessiblePaths=",
    "WatchdogSec=",
    "RuntimeDirectory=further",
]


def said(folder: Path, socket: str, unit: str = "", spawn: str = CAT) -> list[str]:
    """What is wrong with a file of these sections, without its name."""
    file = folder / "x.conf"
    file.write_text(f"[Socket]\nListenStream=5\n{socket}\n[Service]\n{unit}\n[Spawn]\n{spawn}")
    file.chmod(0o644)
    try:
        services.load(str(file))
    except Refusal as refusal:
        return [str(problem).removeprefix(f"{file}:") for problem in refusal.problems]
    return []


@pytest.mark.parametrize(("line", "why"), REFUSED)
def test_what_the_server_cannot_be_told(tmp_path: Path, line: str, why: str) -> None:
    key = line.partition("=")[0]
    assert said(tmp_path, "Accept=no", line) == [f"5: {key}= in [Service] {why}"]


def test_every_rule_has_been_met() -> None:
    """Each sentence, and each name of which there is one."""
    assert {rule.why for rule in RULES} == {why for _, why in REFUSED}
    for key in KEYS:
        assert next(rule for rule in RULES if rule.has(key)).why in (SHOWN, SPAWN)


@pytest.mark.parametrize("line", TAKEN)
def test_what_it_can_be_told(tmp_path: Path, line: str) -> None:
    assert said(tmp_path, "Accept=no", line) == []


@pytest.mark.parametrize(
    ("lines", "right"),
    [
        ("AF_INET AF_UNIX", True),
        ("AF_INET\nAF_UNIX", True),
        ("AF_LOCAL", True),
        ("AF_INET\n\n", True),
        ("AF_UNIX\n\nAF_INET", False),
        ("AF_UNIX AF_INET\n~AF_UNIX", False),
        ("~AF_UNIX\nAF_UNIX", True),
        ("~AF_INET\n~AF_UNIX", False),
        ("AF_UNIX\nnone", False),
        ("none\nAF_UNIX", True),
    ],
)
def test_address_families_add_up(tmp_path: Path, lines: str, *, right: bool) -> None:
    """As systemd.exec(5) has them."""
    key = "RestrictAddressFamilies="
    values = lines.split("\n")
    unit = "\n".join(f"{key}{value}" for value in values)
    last = 4 + len(values)
    wanted = [] if right else [f"{last}: {key} in [Service] {NO_UNIX}"]
    assert said(tmp_path, "Accept=no", unit) == wanted


def test_a_link_leads_there_as_well(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/run/systemd")
    line = f"InaccessiblePaths={tmp_path}/link"
    assert said(tmp_path, "Accept=no", line) == [f"5: InaccessiblePaths= in [Service] {HIDDEN}"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("Accept=maybe", "is neither yes, a unit for each connection, nor no, a server for all"),
        ("Accept=no\nMaxConnections=0", "is no number from 1 to 10000"),
        ("Accept=no\nMaxConnections=many", "is no number from 1 to 10000"),
        ("Accept=no\nMaxConnections=10001", "is no number from 1 to 10000"),
        ("Accept=no\nMaxConnections=10000\nMaxConnections=", ""),
        ("Accept=no\nMaxConnectionsPerSource=-1", "is no number up to 10000, or 0 for no limit"),
        ("Accept=no\nMaxConnectionsPerSource=0", ""),
        (
            "Accept=no\nTriggerLimitIntervalSec=0ms",
            "has a server that cannot start started again without an end; remove the line",
        ),
        (
            "Accept=no\nTriggerLimitBurst=0",
            "has a server that cannot start started again without an end; remove the line",
        ),
        ("Accept=no\nTriggerLimitBurst=50\nTriggerLimitIntervalSec=?", ""),
        ("MaxConnections=many", ""),  # systemd's to read, and to complain about
        ("TriggerLimitIntervalSec=0", ""),
        *((f"Accept={word}", "") for word in ("", "0", "off", "N", "False", "1", "on", "Yes")),
    ],
)
def test_the_socket_of_a_server(tmp_path: Path, line: str, sentence: str) -> None:
    *before, last = line.split("\n")
    assert said(tmp_path, line) == ([f"{3 + len(before)}: {last} {sentence}"] if sentence else [])


@pytest.mark.parametrize("socket", ["", "Accept=yes", "Accept=no\nAccept=", "Accept=no\nAccept=on"])
def test_a_section_for_no_server(tmp_path: Path, socket: str) -> None:
    line = 5 + socket.count("\n")
    assert said(tmp_path, socket, "User=root\nType=simple") == [
        f"{line}: [Service] is for the server of Accept=no; with Accept=yes each connection has a "
        "unit of its own, by the one template of all services, spawn@.service. Write Accept=no in "
        "[Socket], or remove the section"
    ]
    assert said(tmp_path, socket, "") == []


def test_a_line_end_that_systemd_would_read_on_from(tmp_path: Path) -> None:
    sentence = "the line ends with a backslash; remove it, and the white space behind it"
    assert said(tmp_path, "Accept=no", "ReadOnlyPaths=/srv\\ ") == [f"5: {sentence}"]


def test_a_key_of_spawn_that_stands_in_service(tmp_path: Path) -> None:
    file = tmp_path / "x.conf"
    assert said(tmp_path, "Accept=no", "User=nobody", "Argv=/bin/cat\n") == [
        f"5: User= in [Service] {SPAWN}",
        f" [Spawn] has no User=; it is required, and {file}:5 has it in [Service]",
    ]


# What a machine is needed for.


@pytest.fixture
def change() -> Iterator[Callable[[str, str], None]]:
    """Changes a unit's [Service] by a drop-in, until the test is over."""
    made: list[Path] = []

    def write(unit: str, text: str) -> None:
        file = Path(f"/run/systemd/system/{unit}.d/90-test.conf")
        file.parent.mkdir(parents=True)
        file.write_text(f"[Service]\n{text}\n")
        made.append(file)
        run("systemctl", "daemon-reload")

    yield write
    for file in made:
        file.unlink()
        file.parent.rmdir()
    run("systemctl", "daemon-reload")


def server_of(there: Installed) -> str:
    return f"spawn-server@{there.name}.service"


def shown(unit: str, name: str) -> str:
    return run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()


def active(unit: str) -> bool:
    return shown(unit, "ActiveState") == "active"


def lines_of(unit: str) -> list[str]:
    """What the unit's own processes printed."""
    return [entry["MESSAGE"] for entry in journal(f"_SYSTEMD_UNIT={unit}")]


def unit_of(record: dict[str, Any]) -> str:
    """The template that served a connection."""
    return re.sub("@.*", "@", record["SPAWN_UNIT"])


@in_machine
def test_a_standing_service(service: Callable[..., Installed]) -> None:
    """Enabled, served, stopped, started again, disabled: as any other."""
    there = service(CAT, socket_section="Accept=no\n", start=False)
    assert there.check().stdout == f"{there.file}: ok\n"
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--now", there.socket_unit)
    server = server_of(there)
    assert not active(server)
    assert there.talk(b"here") == b"here"
    assert there.record()["SPAWN_UNIT"] == server
    assert active(server)
    assert shown(server, "SourcePath") == str(there.file)
    drop_in = Path(f"/run/systemd/generator/{server}.d/50-spawn.conf").read_text()
    assert drop_in == (
        f"# Made by spawn-generator(8) from {there.file}\n"
        f"[Unit]\nSourcePath={there.file}\n\n"
        "[Service]\nExecStartPre=\nRestart=on-failure\n"
    )
    run("systemctl", "stop", there.socket_unit)
    assert not active(server)
    with pytest.raises(ConnectionRefusedError):
        there.connect()
    run("systemctl", "start", there.socket_unit)
    assert there.talk(b"again") == b"again"
    run("systemctl", "restart", there.socket_unit)
    assert there.talk(b"again") == b"again"
    run("systemctl", "disable", "--now", there.socket_unit)
    assert not active(server)
    run("systemctl", "start", server)
    assert there.state() == "active", "neither without the other"
    assert there.talk(b"more") == b"more"


@in_machine
def test_the_service_section_reaches_the_server(service: Callable[..., Installed]) -> None:
    Path("/var/tmp/spawn-hidden").touch()
    section = "[Service]\nTemporaryFileSystem=/var/tmp\nSlice=spawn-%i.slice\nPrivateNetwork=yes"
    spawn = "User=nobody\nArgv=/bin/sh -c 'ls /var/tmp; readlink /proc/self/ns/net'\n"
    there = service(spawn, socket_section=f"Accept=no\n{section}")
    (network,) = there.talk().decode().split()
    assert network.startswith("net:")
    assert network != os.readlink("/proc/self/ns/net")
    assert there.record()["SPAWN_RESULT"] == "success"
    dashed = there.name.replace("-", "\\x2d")
    assert shown(server_of(there), "Slice") in (
        f"spawn-{there.name}.slice",
        f"spawn-{dashed}.slice",
    )


# Each takes from the server what it could need; all of them together leave it what it does.
HARDENED = """
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateNetwork=yes
PrivateIPC=yes
ProtectProc=invisible
ProcSubset=pid
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=private
SystemCallFilter=@system-service
SystemCallArchitectures=native
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_UNIX
LockPersonality=yes
MemoryDenyWriteExecute=yes
InaccessiblePaths=/boot /root
"""


@in_machine
@pytest.mark.parametrize(
    "more", ["", "SizeLimit=1K\n", "StandardError=journal\n", "LimitNOFILE=1024:infinity\n"]
)
def test_a_server_in_a_cage(service: Callable[..., Installed], more: str) -> None:
    section = f"Accept=no\n[Service]\n{HARDENED}"
    there = service(CAT + more, socket_section=section)
    assert there.check().returncode == 0
    for _ in range(3):
        assert there.talk(b"here") == b"here"
        assert there.record()["SPAWN_RESULT"] == "success"


@in_machine
def test_variables_from_a_file(service: Callable[..., Installed], tmp_path: Path) -> None:
    """What systemd shows nobody, for commands that are to have it."""
    secrets = tmp_path / "secrets"
    secrets.write_text("MYSQL_PWD=s3cret\nOTHER=1\n")
    section = f"Accept=no\n[Service]\nEnvironmentFile={secrets}"
    spawn = "User=nobody\nArgv=/usr/bin/env\nPassEnvironment=MYSQL_PWD\n"
    there = service(spawn, socket_section=section)
    answer = there.talk().decode().split()
    assert "MYSQL_PWD=s3cret" in answer
    assert "OTHER=1" not in answer
    assert "s3cret" not in run("systemctl", "show", server_of(there)).stdout


@in_machine
def test_nothing_stays_of_a_file_that_was_wrong(service: Callable[..., Installed]) -> None:
    there = service(f"{CAT}DenyFrom=rubbish\nDenyFrom=127.0.0.0/8", socket_section="Accept=no")
    assert there.talk(b"x") == b""
    assert there.record()["SPAWN_RESULT"] == "config"
    there.write(CAT, "Accept=no")
    assert there.talk(b"x") == b"x"


@in_machine
def test_from_one_door_to_the_other_and_back(service: Callable[..., Installed]) -> None:
    there = service(CAT)
    with there.connect() as held:
        held.sendall(b"one")
        assert held.recv(3) == b"one"
        there.write(CAT, "Accept=no")
        assert there.talk(b"as before") == b"as before"
        assert unit_of(there.record()) == "spawn@", "until systemd knows"
        run("systemctl", "daemon-reload")
        assert there.talk(b"two") == b"two"
        assert unit_of(there.record()) == "spawn-server@"
        held.sendall(b"three")
        assert held.recv(5) == b"three"
        assert len(connection_units()) == 1
    assert unit_of(there.record()) == "spawn@"
    with there.connect() as held:
        held.sendall(b"four")
        assert held.recv(4) == b"four"
        there.write(CAT)
        run("systemctl", "daemon-reload")
        run("systemctl", "restart", there.socket_unit)
        assert read_all(held) == b"", "ends with its server"
    assert there.record()["SPAWN_RESULT"] == "stopped"
    assert there.talk(b"five") == b"five"
    assert unit_of(there.record()) == "spawn@"
    assert not active(server_of(there))


@in_machine
def test_an_empty_value_resets_for_systemd_too(service: Callable[..., Installed]) -> None:
    there = service(CAT, socket_section="Accept=no\nAccept=")
    assert there.talk(b"here") == b"here"
    assert unit_of(there.record()) == "spawn@"


@in_machine
def test_a_server_without_a_file_does_not_start_and_says_so() -> None:
    run("systemctl", "daemon-reload")
    done = run("systemctl", "start", "spawn-server@missing.service", check=False)
    assert done.returncode != 0
    sentence = (
        "/etc/spawn/missing.conf: there is no such service file; create it, see spawn.conf(5)"
    )
    assert sentence in lines_of("spawn@missing.socket")
    run("systemctl", "reset-failed")


@in_machine
def test_a_server_for_nobody_does_not_start_and_says_so(service: Callable[..., Installed]) -> None:
    there = service(CAT)
    server = server_of(there)
    assert run("systemctl", "start", server, check=False).returncode != 0
    assert shown(server, "ActiveState") == "failed", "and is not tried again"
    assert lines_of(server) == [
        f"{there.file}: the service has no server; write Accept=no in [Socket] if it is to have one"
    ]
    assert there.talk(b"here") == b"here"


@in_machine
def test_a_wrong_service_section_does_not_listen_and_says_why(
    service: Callable[..., Installed],
) -> None:
    there = service(CAT, socket_section="Accept=no\n[Service]\nKillMode=none", start=False)
    wanted = f"{there.file}:5: KillMode= in [Service] {OURS}"
    assert there.check().stderr.splitlines() == [wanted]
    run("systemctl", "daemon-reload")
    assert run("systemctl", "start", there.socket_unit, check=False).returncode != 0
    assert wanted in lines_of(there.socket_unit)
    assert not Path(f"/run/systemd/generator/{server_of(there)}.d").exists()


@in_machine
def test_what_is_wrong_is_said_at_a_connection_too(service: Callable[..., Installed]) -> None:
    there = service(CAT, socket_section="Accept=no")
    assert there.talk(b"here") == b"here"
    there.record()
    there.write(CAT, "Accept=no\n[Service]\nUser=root")
    assert there.talk() == b""
    record = there.record()
    assert record["SPAWN_RESULT"] == "config"
    wanted = f"no command was run: {there.file}:5: User= in [Service] {SPAWN}"
    assert wanted in record["MESSAGE"]
    there.write(CAT, "Accept=no")
    assert there.talk(b"mended") == b"mended"


@in_machine
def test_a_server_that_cannot_start_does_not_go_round(
    service: Callable[..., Installed], change: Callable[[str, str], None], tmp_path: Path
) -> None:
    """As often as the trigger limit allows; then the socket has failed, and listens again."""
    there = service(CAT, socket_section="Accept=no")
    assert shown(there.socket_unit, "TriggerLimitIntervalUSec") == "2s"
    assert shown(there.socket_unit, "TriggerLimitBurst") == "20"
    # However slow the machine is.
    there.write(CAT, "Accept=no\nTriggerLimitIntervalSec=1h\nTriggerLimitBurst=3")
    tries = tmp_path / "tries"
    start = f"/bin/sh -c 'echo >>{tries}'"
    change(server_of(there), f"Restart=no\nType=oneshot\nExecStart=\nExecStart={start}")
    with there.connect():
        record = there.record()
    assert record["SPAWN_RESULT"] == "listening-again"
    assert tries.read_text() == 3 * "\n"
    assert there.state() == "active"


@in_machine
def test_a_server_that_fails_is_started_again_while_clients_wait(
    service: Callable[..., Installed], change: Callable[[str, str], None], tmp_path: Path
) -> None:
    there = service(CAT, socket_section="Accept=no")
    fault = tmp_path / "fault"
    fault.touch()
    change(server_of(there), f"ExecStartPre=/bin/sh -c '! test -e {fault}'")
    with there.connect() as client:
        client.sendall(b"waits")
        # Five times is systemd's own limit.
        until(lambda: int(shown(server_of(there), "NRestarts")) > 5)
        assert there.state() == "active"
        fault.unlink()
        assert client.recv(5) == b"waits"


@in_machine
def test_a_server_raises_no_doubt_about_the_connections_of_others(
    service: Callable[..., Installed],
) -> None:
    """Before systemd 257 the address tells whose a connection is, and a draft that could have it
    keeps it from being served; but not if the draft has a server, and nobody keeps a server's."""
    port = free_port()
    who = "User=nobody\nArgv=/usr/bin/printenv SPAWN_SERVICE\n"
    there = service(who, address=("127.0.0.1", port))
    other = service(who, address=("0.0.0.0", port), socket_section="Accept=no", start=False)
    run("systemctl", "daemon-reload")
    assert there.talk() == f"{there.name}\n".encode()
    run("systemctl", "stop", there.socket_unit)
    run("systemctl", "start", other.socket_unit)
    with connect(("127.0.0.1", port)) as client:
        assert read_all(client) == f"{other.name}\n".encode()
    assert f"is where {other.name} listens" in there.check().stderr


@in_machine
def test_a_server_at_a_path_collides_with_nobody(service: Callable[..., Installed]) -> None:
    one = service(CAT, address="/run/spawn/one", start=False)
    two = service(CAT, address="/run/spawn/two", start=False)
    collide = f"a client process that connects to {two.name}, too, can have a connection reset"
    assert (collide in one.check().stderr) == (systemd_version() < 258)
    two.write(CAT, "Accept=no")
    assert "can have a connection reset" not in one.check().stderr + two.check().stderr


@in_machine
def test_a_server_knows_its_service_by_name(service: Callable[..., Installed]) -> None:
    """Before systemd 257, too, whatever address a connection is for."""
    there = service(CAT, socket_section="Transparent=yes", start=False)
    assert ("Transparent= brings" in there.check().stderr) == (systemd_version() < 257)
    there.write(CAT, "Transparent=yes\nAccept=no")
    assert there.check().stderr == ""


@in_machine
def test_an_account_that_is_shared_with_a_server(service: Callable[..., Installed]) -> None:
    one, two = service(CAT, start=False), service(CAT, start=False)
    assert one.check().stderr == ""
    two.write(CAT, "Accept=no")
    for there, other in ((one, two), (two, one)):
        line = there.file.read_text().split("\n").index("User=nobody") + 1
        assert there.check().stderr == (
            f"{there.file}:{line}: note: {other.name} has the same User=, and commands can end the "
            "workers that a server (Accept=no) has as that user; give each service an account of "
            "its own\n"
        )
    three = service(CAT, start=False)
    names = " and ".join(sorted([one.name, three.name]))
    assert f": note: {names} have the same User=" in two.check().stderr
    for there in (one, three):
        there.write(CAT.replace("nobody", "daemon"))
    assert two.check().stderr == ""


@in_machine
def test_what_systemd_makes_for_root(service: Callable[..., Installed]) -> None:
    section = (
        "Accept=no\n[Service]\nStateDirectory=x\nLoadCredential=a:/etc/passwd\nCacheDirectory="
    )
    there = service(CAT, socket_section=section, start=False)
    done = there.check()
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"{there.file}:5: note: the folder of StateDirectory= is root's, for the server is, and "
        "not the command's; see tmpfiles.d(5) for one of another user",
        f"{there.file}:6: note: the files of LoadCredential= are for root, which the server is and "
        "the command is not; see spawn.conf(5), ACCOUNTS AND SECRETS",
    ]


@in_machine
def test_workers_are_processes_of_the_user(service: Callable[..., Installed]) -> None:
    there = service("", start=False)
    for limit, most, noted in (
        ("20", "", 256),
        ("256:infinity", "", 256),
        ("257", "", 0),
        ("infinity", "", 0),
        ("20", "MaxConnections=20", 20),
        ("21", "MaxConnections=20", 0),
    ):
        there.write(f"{CAT}LimitNPROC={limit}", f"Accept=no\n{most}")
        line = there.file.read_text().split("\n").index(f"LimitNPROC={limit}") + 1
        note = (
            f"{there.file}:{line}: note: LimitNPROC= counts the server's workers, too, one for "
            f"each connection, and MaxConnections= is {noted}; raise it above that\n"
        )
        assert there.check().stderr == (note if noted else "")
    there.write(f"{CAT}LimitNPROC=20", "Accept=yes")
    assert there.check().stderr == ""


@in_machine
def test_check_by_the_name_of_the_servers_unit(service: Callable[..., Installed]) -> None:
    there = service(CAT, socket_section="Accept=no", start=False)
    assert run("spawnctl", "check", server_of(there)).stdout == f"{there.file}: ok\n"


@in_machine
def test_no_connection_is_made_only_to_be_counted(
    service: Callable[..., Installed], change: Callable[[str, str], None], tmp_path: Path
) -> None:
    """Rearm has itself counted where names of units could collide; a server has none."""
    there = service(CAT, address="/run/spawn/counted", socket_section="Accept=no")
    run("systemctl", "stop", there.socket_unit)
    change(server_of(there), f"ExecStartPre=/usr/bin/touch {tmp_path}/counted")
    rearm = f"spawn-rearm@{there.name}.service"
    run("systemctl", "start", rearm)
    until(lambda: shown(rearm, "ActiveState") == "inactive")
    assert there.state() == "active"
    assert not (tmp_path / "counted").exists()
    assert there.talk(b"here") == b"here"
    assert (tmp_path / "counted").exists()


@in_machine
def test_the_link_of_a_standing_service_is_that_of_any(service: Callable[..., Installed]) -> None:
    there = service(CAT, socket_section="Accept=no", start=False)
    run("systemctl", "enable", "-q", there.socket_unit)
    assert os.readlink(WANTS / there.socket_unit).endswith("/spawn@.socket")
