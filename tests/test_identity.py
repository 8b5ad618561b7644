"""Who the command is, read by the command itself from /proc and compared whole."""

from __future__ import annotations

import os
import pwd
import re
import signal
from collections.abc import Callable
from pathlib import Path

import doors
import pytest
from conftest import Installed, both_doors, in_machine, read_all, run

pytestmark = [in_machine, both_doors]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
SELF = "Argv=/bin/cat /proc/self/status /proc/self/stat /proc/self/environ"
# What /proc/PID/status says of an identity, for each key of it.
KEYS = (
    *("Umask", "Uid", "Gid", "Groups", "NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapAmb"),
    *("SigBlk", "SigIgn", "SigCgt"),
)
GLIBCS = sum(1 << number - 1 for number in {*range(1, 65)} - signal.valid_signals())


class Seen:
    """What a command printed of itself."""

    def __init__(self, text: bytes) -> None:
        status, _, rest = text.decode().partition("nonvoluntary_ctxt_switches")
        _, _, rest = rest.partition("\n")
        stat, _, environ = rest.partition("\n")
        pairs = (line.split(":", 1) for line in status.splitlines())
        self.status = {key: " ".join(value.split()) for key, value in pairs}
        self.stat = stat.split()
        self.environment = dict(pair.split("=", 1) for pair in environ.split("\0") if pair)

    def identity(self) -> dict[str, str]:
        found = {key: self.status[key] for key in KEYS}
        if doors.now is doors.NO:
            # posix_spawn(3) of glibc 2.36 has the command ignore the two signals that are glibc's
            # own, and which nobody can name by way of it (nptl(7)).
            found["SigIgn"] = f"{int(found['SigIgn'], 16) & ~GLIBCS:016x}"
        return found


@pytest.fixture(scope="module", autouse=True)
def accounts() -> None:
    """A user with groups that it must not bring along, and groups to ask for."""
    for group in ("spawn-a", "spawn-b", "spawn-own"):
        run("groupadd", "-f", group)
    if run("id", "spawner", check=False).returncode != 0:
        run("useradd", "-m", "-g", "spawn-own", "-G", "spawn-a,spawn-b", "spawner")


def gid(name: str) -> int:
    return int(run("getent", "group", name).stdout.split(":")[2])


def expected(**changes: str) -> dict[str, str]:
    account = pwd.getpwnam("spawner")
    nothing = "0000000000000000"
    return {
        "Umask": "0022",
        "Uid": " ".join([str(account.pw_uid)] * 4),
        "Gid": " ".join([str(account.pw_gid)] * 4),
        "Groups": str(account.pw_gid),
        "NoNewPrivs": "1",
        **{f"Cap{name}": nothing for name in ("Inh", "Prm", "Eff", "Amb")},
        **{f"Sig{name}": nothing for name in ("Blk", "Ign", "Cgt")},
    } | changes


def test_identity_is_exact(service: Callable[..., Installed]) -> None:
    there = service(f"User=spawner\n{SELF}")
    seen = Seen(there.talk())
    assert seen.identity() == expected()
    pid, pgrp, session, terminal = (seen.stat[at] for at in (0, 4, 5, 6))
    assert (pgrp, session, terminal) == (pid, pid, "0")
    assert there.record()["SPAWN_PID"] == pid


def test_groups_and_umask_as_asked_for(service: Callable[..., Installed]) -> None:
    there = service(
        "User=spawner\nGroup=spawn-a\nSupplementaryGroups=spawn-b\n"
        f"SupplementaryGroups=spawn-own\nUMask=077\nNoNewPrivileges=no\n{SELF}"
    )
    numbers = sorted(gid(name) for name in ("spawn-a", "spawn-b", "spawn-own"))
    assert Seen(there.talk()).identity() == expected(
        Umask="0077",
        Gid=" ".join([str(gid("spawn-a"))] * 4),
        Groups=" ".join(map(str, numbers)),
        NoNewPrivs="0",
    )


def test_group_in_user(service: Callable[..., Installed]) -> None:
    there = service(f"User=spawner:spawn-b\n{SELF}")
    group = gid("spawn-b")
    assert Seen(there.talk()).identity() == expected(
        Gid=" ".join([str(group)] * 4), Groups=str(group)
    )


def test_numbers_for_names(service: Callable[..., Installed]) -> None:
    account = pwd.getpwnam("spawner")
    there = service(f"User={account.pw_uid}:{gid('spawn-a')}\n{SELF}")
    group = gid("spawn-a")
    assert Seen(there.talk()).identity() == expected(
        Gid=" ".join([str(group)] * 4), Groups=str(group)
    )
    assert there.record()["SPAWN_USER"] == "spawner"


@pytest.mark.parametrize(
    ("standard_error", "errors"),
    [("socket", r"socket:\[\d+\]"), ("null", "/dev/null"), ("journal", r"socket:\[\d+\]")],
)
def test_descriptors_are_the_three_streams_and_no_other(
    service: Callable[..., Installed], standard_error: str, errors: str
) -> None:
    every = " ".join(f"/proc/self/fd/{number}" for number in range(64))
    there = service(f"User=spawner\nStandardError={standard_error}\nArgv=/usr/bin/readlink {every}")
    streams = there.talk().decode().splitlines()
    assert len(streams) == 3, streams
    assert streams[0] == streams[1]
    assert re.fullmatch(r"socket:\[\d+\]", streams[0])
    assert re.fullmatch(errors, streams[2])
    assert (streams[2] == streams[0]) == (standard_error == "socket")


def test_environment_is_the_allow_list_for_tcp(service: Callable[..., Installed]) -> None:
    run(
        "systemctl", "set-environment", "TZ=Europe/Berlin", "PASSED=on", "SECRET=no", "LANG=C.UTF-8"
    )
    try:
        there = service(
            "User=spawner\nEnvironment='GREETING=good day' EMPTY=\nEnvironment=GREETING=hello\n"
            f"PassEnvironment=PASSED NOT_SET\n{SELF}"
        )
        with there.connect() as client:
            host, port = client.getsockname()
            seen = Seen(read_all(client)).environment
    finally:
        run("systemctl", "unset-environment", "TZ", "PASSED", "SECRET")
    assert seen == {
        "PATH": PATH,
        "TZ": "Europe/Berlin",
        "LANG": "C.UTF-8",
        "PASSED": "on",
        "GREETING": "hello",
        "EMPTY": "",
        "PROTO": "TCP",
        "TCPLOCALIP": "127.0.0.1",
        "TCPLOCALPORT": str(there.address[1]),
        "TCPREMOTEIP": host,
        "TCPREMOTEPORT": str(port),
        "REMOTE_ADDR": host,
        "REMOTE_PORT": str(port),
        "SPAWN_SERVICE": there.name,
    }


def test_environment_is_the_allow_list_for_unix(service: Callable[..., Installed]) -> None:
    there = service(f"User=spawner\n{SELF}", address="/run/spawn-test.sock")
    seen = Seen(there.talk()).environment
    seen.pop("LANG", None)
    assert seen == {
        "PATH": PATH,
        "PROTO": "UNIX",
        "UNIXLOCALPATH": "/run/spawn-test.sock",
        "UNIXREMOTEPID": str(os.getpid()),
        "UNIXREMOTEEUID": "0",
        "UNIXREMOTEEGID": "0",
        "SPAWN_SERVICE": there.name,
    }


def test_mapped_address_is_written_as_ipv4(service: Callable[..., Installed]) -> None:
    there = service(f"User=spawner\n{SELF}")
    port = there.address[1]
    there.file.write_text(there.file.read_text().replace(f"127.0.0.1:{port}", str(port)))
    run("systemctl", "stop", there.socket_unit)
    there.start()
    seen = Seen(there.talk()).environment
    assert (seen["TCPLOCALIP"], seen["REMOTE_ADDR"]) == ("127.0.0.1", "127.0.0.1")
    record = there.record()
    assert record["SPAWN_REMOTE_ADDR"] == record["SPAWN_LOCAL_ADDR"] == "127.0.0.1"


def test_standard_error_in_the_journal(service: Callable[..., Installed]) -> None:
    there = service("User=spawner\nStandardError=journal\nArgv=/bin/sh -c 'echo words of $$ >&2'")
    assert there.talk() == b""
    pid = there.record()["SPAWN_PID"]
    entries = run(
        "journalctl",
        "-q",
        "-o",
        "cat",
        f"_PID={pid}",
        "_UID=" + str(pwd.getpwnam("spawner").pw_uid),
    ).stdout.splitlines()
    assert entries == [f"words of {pid}"]


@pytest.mark.parametrize(
    ("setting", "folder"),
    [("", "/"), ("/usr", "/usr"), ("~", "/home/spawner"), ("-/nowhere", "/")],
)
def test_working_directory(service: Callable[..., Installed], setting: str, folder: str) -> None:
    there = service(f"User=spawner\nWorkingDirectory={setting}\nArgv=/bin/pwd")
    assert there.talk().decode() == folder + "\n"


HALF_WAY = """
import os
from spawnhelper.stages.identity import Acting, Identity
try:
    with Acting(Identity("nobody", 65534, 65534, [65534], "/")):
        print("acts")
except PermissionError:
    print(os.getresuid(), os.getresgid())
"""


def test_who_cannot_act_as_the_user_does_not_keep_its_group() -> None:
    command = ("setpriv", "--bounding-set=-setuid", "python3", "-c", HALF_WAY)
    assert run(*command).stdout == "(0, 0, 0) (0, 0, 0)\n"


def test_a_plain_name_is_looked_up_in_the_fixed_path(service: Callable[..., Installed]) -> None:
    Path("/usr/local/bin/spawn-test-tool").write_text("#!/bin/sh\necho local\n")
    Path("/usr/local/bin/spawn-test-tool").chmod(0o755)
    there = service("User=spawner\nEnvironment=PATH=/nowhere\nArgv=spawn-test-tool")
    assert there.talk() == b"local\n"


def test_arguments_arrive_to_the_letter(service: Callable[..., Installed]) -> None:
    there = service(
        "User=spawner\nArgv=/usr/bin/printf '[%s]' $HOME '' \"a b\" %i 'it''s' "
        "\\x41\\t\\\\ \\\n  é*"
    )
    assert there.talk().decode() == "[$HOME][][a b][%i][its][A\t\\][é*]"
