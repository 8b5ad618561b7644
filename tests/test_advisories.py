"""What went wrong in super-servers before, each by its name."""

from __future__ import annotations

import ctypes
import os
import pwd
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import doors
import pytest
from conftest import (
    SLACK,
    Installed,
    both_doors,
    connect,
    in_machine,
    read_all,
    run,
    until,
    until_over,
)

pytestmark = [in_machine, both_doors]

STATUS = "Argv=/bin/cat /proc/self/status\n"


def field(status: bytes, name: str) -> str:
    line = next(each for each in status.decode().splitlines() if each.startswith(f"{name}:"))
    return " ".join(line.split()[1:])


@pytest.fixture(scope="module", autouse=True)
def account() -> None:
    if run("id", "spawn-member", check=False).returncode != 0:
        run("useradd", "-M", "-g", "users", "-G", "mail,games", "spawn-member")


@pytest.mark.parametrize("group", ["", "Group=mail\n", "SupplementaryGroups=mail\n"])
def test_cve_2013_4342_the_group_is_set(service: Callable[..., Installed], group: str) -> None:
    """xinetd ran services with its own group where user and group were both to change."""
    status = service(f"User=spawn-member\n{group}{STATUS}").talk()
    mail, users = (
        int(run("getent", "group", name).stdout.split(":")[2]) for name in ("mail", "users")
    )
    wanted = mail if group.startswith("Group") else users
    assert field(status, "Gid") == " ".join([str(wanted)] * 4)


def test_cve_2023_6507_no_group_of_the_parent_is_left(service: Callable[..., Installed]) -> None:
    """subprocess left the supplementary groups alone where an empty list was asked for."""
    status = service(f"User=spawn-member\nSupplementaryGroups=\n{STATUS}").talk()
    users = run("getent", "group", "users").stdout.split(":")[2]
    assert field(status, "Groups") == users


@pytest.mark.parametrize(
    ("call", "how"),
    [
        *((call, "error=EPERM") for call in ("setgroups", "setresgid", "setresuid", "capset")),
        *((call, "retval=0") for call in ("setgroups", "setresgid", "setresuid")),
    ],
)
def test_cve_2023_40303_every_call_of_the_drop_is_checked(
    service: Callable[..., Installed], unit_change: Callable[[str], None], call: str, how: str
) -> None:
    """inetutils went on as root where set*id failed. Here the call fails, or only claims to
    succeed, and nothing runs."""
    inject = f"inject={call}:{how}"
    strace = f"/usr/bin/strace -D -f -qq -o /dev/null -e {inject} {doors.now.start}"
    unit_change(f"[Service]\nCapabilityBoundingSet=~\nExecStart=\nExecStart={strace}")
    there = service("User=spawn-member\nSupplementaryGroups=mail\nArgv=/bin/echo here")
    assert there.talk() == b""
    record = there.record()
    assert record["SPAWN_RESULT"] == "exec-failed", record["MESSAGE"]
    why = "Operation not permitted" if how == "error=EPERM" else "after the drop and should be"
    assert why in record["MESSAGE"]


def test_cve_2002_0871_no_descriptor_leaks(service: Callable[..., Installed]) -> None:
    """xinetd handed its signal pipe to services."""
    code = "import os; print(sorted(os.listdir('/proc/self/fd')))"
    for more in ("", "SizeLimit=9\n", "StandardError=journal\n", "IdleLimit=9s\nLimitNOFILE=99\n"):
        there = service(f'User=nobody\n{more}Argv=/usr/bin/python3 -ISc "{code}"')
        assert there.talk() == b"['0', '1', '2', '3']\n", "3 is that of the listing"


def test_cve_2001_1322_the_umask_is_not_0(service: Callable[..., Installed]) -> None:
    """xinetd ran services with a umask of 0."""
    assert field(service(f"User=nobody\n{STATUS}").talk(), "Umask") == "0022"


def test_cve_2003_0211_refused_connections_leak_nothing(service: Callable[..., Installed]) -> None:
    """xinetd lost memory with each connection that it refused. Here each has a process of its own;
    what could leak is units, and descriptors of systemd or a server, which has one for each of its
    workers."""
    there = service("User=nobody\nArgv=/bin/true\nDenyFrom=127.0.0.1")

    def descriptors() -> int:
        servers = doors.now.servers()
        count = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in (1, *servers))
        return count - sum(len(doors.children(pid)) for pid in servers)

    for _ in range(20):
        there.talk()
    until_over()
    before = descriptors()
    for _ in range(200):
        assert there.talk() == b""
    until_over()
    until(descriptors, holds=lambda now: now <= before)
    assert len(there.records(220)) == 220


@pytest.mark.parametrize("key", ["AllowFrom", "DenyFrom", "ProxyFrom"])
def test_cve_2000_0536_names_are_no_rules(service: Callable[..., Installed], key: str) -> None:
    """xinetd let in a client whose name could not be looked up. Here a name is a mistake."""
    there = service(f"User=nobody\nArgv=/bin/true\n{key}=trusted.example.org")
    assert there.talk() == b""
    record = there.record()
    assert record["SPAWN_RESULT"] == "config"
    assert (
        f"{there.file}:7: {key}=trusted.example.org has 'trusted.example.org'; write addresses and "
        "prefixes, as in 192.0.2.7 10.0.0.0/8 2001:db8::/32, client"
    ) in record["MESSAGE"]


def bind(client: socket.socket, name: bytes) -> None:
    """bind(2) itself: the socket module has no path of 108 bytes, which the kernel takes."""
    address = socket.AF_UNIX.to_bytes(2, sys.byteorder) + name
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.bind(client.fileno(), address, len(address)) != 0:
        raise OSError(ctypes.get_errno(), "bind")


@pytest.mark.parametrize(
    "name",
    [
        b"\0" + b"x" * 107,
        b"\0\xff\n\0FAKE=1",
        b"/run/spawn-peer\nSPAWN_RESULT=success\nMESSAGE=fake",
        b"/run/" + b"x" * 103,
        b"/run/spawn-%s%n$(id)`id`\x1b[31m",
    ],
)
def test_cve_2001_0763_hostile_names_of_peers(
    service: Callable[..., Installed], name: bytes
) -> None:
    """xinetd overflowed a buffer with what the peer said of itself. Here it is not even asked."""
    path = "/run/spawn-peers.sock"
    there = service("User=nobody\nArgv=/usr/bin/env", address=path)
    with socket.socket(socket.AF_UNIX) as client:
        bind(client, name)
        try:
            client.connect(path)
            answer = read_all(client)
        finally:
            if name[:1] == b"/":
                os.unlink(name)
    assert b"UNIXREMOTEEUID=0\n" in answer
    assert name.strip(b"\0")[:20] not in answer
    record = there.record()
    assert record["SPAWN_RESULT"] == "success"
    assert "FAKE" not in record
    assert record["MESSAGE"].endswith(f", client pid {os.getpid()} of uid 0")


def test_cve_2026_24061_client_data_is_no_argument(service: Callable[..., Installed]) -> None:
    """telnetd of inetutils took the client's USER for an option of login."""
    data = b"-f root\nUSER=-f root\0PATH=/tmp\r\n$(id) `id` %s\n"
    code = "import os, sys; sys.stdin.read(); print(sys.argv[1:], sorted(os.environ), flush=True)"
    there = service(f'User=nobody\nArgv=/usr/bin/python3 -ISc "{code}" own')
    said = there.talk(data).decode()
    assert said.startswith("['own'] ['LANG', 'PATH', 'PROTO', 'REMOTE_ADDR', ")
    assert "USER" not in said


def test_cve_2017_5226_there_is_no_terminal_to_type_into(service: Callable[..., Installed]) -> None:
    """bubblewrap's sandbox could push input into the terminal that it shared (TIOCSTI)."""
    code = (
        "import fcntl, os, termios\n"
        "try: print(os.open('/dev/tty', os.O_RDWR))\n"
        "except OSError as error: print(error.strerror)\n"
        "print(os.getsid(0) == os.getpid())\n"
        "for fd in range(3):\n"
        "    try: fcntl.ioctl(fd, termios.TIOCSTI, b'x')\n"
        "    except OSError as error: print(error.errno)\n"
    )
    script = Path("/var/tmp/spawn-tty.py")
    script.write_text(code)
    said = service(f"User=nobody\nArgv=/usr/bin/python3 {script}").talk().decode().split("\n")
    assert said[:2] == ["No such device or address", "True"]
    assert len(said) == 6, "each attempt has failed"


def test_unknown_names_are_not_uid_0(service: Callable[..., Installed]) -> None:
    """ucspi-tcp scanned `-u NAME` as 0, and did not drop anything."""
    there = service("User=no-such-user\nArgv=/usr/bin/id")
    assert there.talk() == b""
    assert there.record()["SPAWN_RESULT"] == "config"


def test_postfix_before_3_10_the_time_limit_kills(service: Callable[..., Installed]) -> None:
    """spawn(8) sent the signal as the wrong user, and the command went on."""
    there = service(
        "User=nobody\nTimeLimit=200ms\nKillDelay=0\nArgv=/bin/sh -c 'echo $$; exec sleep 60'"
    )
    with connect(there.address) as client:
        pid = int(client.recv(100))
        assert os.stat(f"/proc/{pid}").st_uid == pwd.getpwnam("nobody").pw_uid
        begun = time.monotonic()
        assert read_all(client) == b""
        assert time.monotonic() - begun < SLACK
    assert not Path(f"/proc/{pid}").exists()
