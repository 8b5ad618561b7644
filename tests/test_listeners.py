"""Which service a connection is for: by name from systemd 257 on, by local address before."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import (
    Installed,
    connect,
    free_port,
    in_machine,
    read_all,
    run,
    systemd_version,
    until,
    until_over,
)

from spawnhelper.conf import files

pytestmark = in_machine

WHO = "User=nobody\nArgv=/usr/bin/printenv SPAWN_SERVICE"


def said(address: tuple[str, int] | str) -> str:
    with connect(address) as client:
        answer = read_all(client).decode().strip()
    # Before systemd 258 the next AF_UNIX connection of this process could have the same unit.
    until_over()
    return answer


def listen(there: Installed, *lines: str) -> None:
    """Gives the service other addresses, and has it listen there."""
    section = "\n".join(lines)
    there.file.write_text(f"[Socket]\n{section}\n[Spawn]\n{WHO}\n")
    there.start()


def test_services_of_all_kinds_side_by_side(service: Callable[..., Installed]) -> None:
    port, both, six = free_port(), free_port(), free_port()
    tcp = service(WHO, address=("127.0.0.1", port))
    second_address = service(WHO, address=("127.0.0.2", port))
    path = service(WHO, address="/run/spawn-listen.sock")
    abstract = service(WHO, start=False)
    listen(abstract, "ListenStream=@spawn-listen")
    wildcard = service(WHO, start=False)
    listen(wildcard, f"ListenStream={both}")
    only_six = service(WHO, start=False)
    listen(only_six, f"ListenStream=[::1]:{six}")
    assert said(("127.0.0.1", port)) == tcp.name
    assert said(("127.0.0.2", port)) == second_address.name
    assert said("/run/spawn-listen.sock") == path.name
    assert said("\0spawn-listen") == abstract.name
    assert said(("127.0.0.1", both)) == said(("127.0.0.7", both)) == wildcard.name
    with socket.create_connection(("::1", both)) as client:
        assert read_all(client).decode().strip() == wildcard.name
    with socket.create_connection(("::1", six)) as client:
        assert read_all(client).decode().strip() == only_six.name


def test_wildcards_of_two_families_on_one_port(service: Callable[..., Installed]) -> None:
    port = free_port()
    four = service(WHO, start=False)
    six = service(WHO, start=False)
    listen(four, f"ListenStream=0.0.0.0:{port}")
    listen(six, f"ListenStream=[::]:{port}", "BindIPv6Only=ipv6-only")
    assert run("spawnctl", "check", four.name, six.name).returncode == 0
    assert said(("127.0.0.1", port)) == four.name
    with socket.create_connection(("::1", port)) as client:
        assert read_all(client).decode().strip() == six.name


def test_a_draft_takes_no_connection_of_a_wildcard(service: Callable[..., Installed]) -> None:
    """Before systemd 257 the address tells of both, and systemd which of them is on."""
    port = free_port()
    listening = service(WHO, address=("0.0.0.0", port))
    draft = service(WHO, address=("127.0.0.1", port), start=False)
    for _ in range(2):
        assert said(("127.0.0.1", port)) == listening.name
        run("systemctl", "daemon-reload")
    assert f"is where {draft.name} would listen" in listening.check().stderr
    assert f"is where {listening.name} listens" in draft.check().stderr


def test_a_link_local_client(service: Callable[..., Installed]) -> None:
    """The kernel says of its connection that it is bound to an interface."""
    port = free_port()
    run("ip", "-6", "address", "replace", "fe80::77/64", "dev", "lo", "nodad")
    there = service(WHO, start=False)
    listen(there, f"ListenStream=[::]:{port}")
    client = socket.socket(socket.AF_INET6)
    with client:
        client.connect(("fe80::77", port, 0, 1))
        assert read_all(client).decode().strip() == there.name


def test_a_mapped_address(service: Callable[..., Installed]) -> None:
    port = free_port()
    there = service(WHO, start=False)
    listen(there, f"ListenStream=[::ffff:127.0.0.1]:{port}", "BindToDevice=*")
    assert said(("127.0.0.1", port)) == there.name


def test_several_addresses_and_specifiers(service: Callable[..., Installed]) -> None:
    port = free_port()
    there = service(WHO, start=False)
    listen(
        there,
        "ListenStream=/run/never.sock",
        "ListenStream=",
        f"ListenStream=127.0.0.1:{port}",
        "ListenStream=%t/spawn-%i.sock",
        "ListenStream=@100%%-%N",
    )
    assert said(("127.0.0.1", port)) == there.name
    assert said(f"/run/spawn-{there.name}.sock") == there.name
    assert said(f"\x00100%-spawn@{there.name}") == there.name


def test_a_service_by_the_name_that_systemd_gives_the_nameless(
    service: Callable[..., Installed],
) -> None:
    there = service(WHO, start=False)
    there.file.unlink()
    there.name = "connection"
    there.file = there.file.with_name("connection.conf")
    there.socket_unit = "spawn@connection.socket"
    there.write(WHO)
    there.start()
    assert there.talk() == b"connection\n"


@pytest.mark.parametrize(
    ("mine", "theirs", "clash"),
    [
        ("127.0.0.1:{port}", "0.0.0.0:{port}", True),
        ("127.0.0.1:{port}", "[::]:{port}", True),
        ("127.0.0.1:{port}", "{port}", True),
        ("[::1]:{port}", "[::]:{port}", True),
        ("[::1]:{port}", "[0::0:1]:{port}", True),
        ("[::1]:{port}", "127.0.0.1:{port}", False),
        ("127.0.0.1:{port}", "127.0.0.2:{port}", False),
        ("127.0.0.1:{port}", "[::ffff:127.0.0.1]:{port}", True),
        ("[::]:{port}", "[::ffff:127.0.0.1]:{port}", True),
        ("[::1]:{port}", "[::ffff:127.0.0.1]:{port}", False),
        ("0.0.0.0:{port}", "[::]:{port}", True),
        ("0.0.0.0:{port}", "[::]:{port}\nBindIPv6Only=both", True),
        ("0.0.0.0:{port}", "[::]:{port}\nBindIPv6Only=default", True),
        ("0.0.0.0:{port}", "[::]:{port}\nBindIPv6Only=ipv6-only", False),
        ("0.0.0.0:{port}", "[::]:{port}\nBindIPv6Only=yes", False),
        ("0.0.0.0:{port}", "[::]:{port}\nBindIPv6Only=yes\nBindIPv6Only=?", False),
        ("0.0.0.0:{port}", "[::]:{port}\nBindIPv6Only=no", True),
        ("0.0.0.0:{port}", "0.0.0.0:{port}\nBindToDevice=lo", True),
        ("127.0.0.1:{port}\nBindToDevice=lo", "127.0.0.1:{port}", True),
        ("0.0.0.0:{port}\nBindToDevice=lo", "0.0.0.0:{port}\nBindToDevice=lo", True),
        ("0.0.0.0:{port}\nBindToDevice=lo", "0.0.0.0:{port}\nBindToDevice=spawn0", False),
        ("127.0.0.1:{port}", "127.0.0.1:1{port}", False),
        ("/run/a.sock", "/run/a.sock", True),
        ("/run/a.sock", "/run/b.sock", False),
        ("/run/a.sock", "@/run/a.sock", False),
    ],
)
def test_check_knows_what_the_kernel_refuses(
    service: Callable[..., Installed], mine: str, theirs: str, *, clash: bool
) -> None:
    if "spawn0" in theirs and not os.path.exists("/sys/class/net/spawn0"):
        run("ip", "link", "add", "spawn0", "type", "bridge")
    port = free_port() % 5000 + 1000
    one, other = service(WHO, start=False), service(WHO, start=False)
    for there, place in ((one, mine), (other, theirs)):
        text = f"[Socket]\nListenStream={place.format(port=port)}\n[Spawn]\n{WHO}\n"
        there.file.write_text(text)
    assert ("is where" in one.check().stderr) == clash
    assert ("is where" in other.check().stderr) == clash
    run("systemctl", "daemon-reload")
    assert run("systemctl", "start", one.socket_unit).returncode == 0
    second = run("systemctl", "start", other.socket_unit, check=False)
    # systemd takes a path away from whoever listens there, without a word.
    assert (second.returncode != 0) == (clash and not theirs.startswith("/"))


@pytest.fixture
def ipv6_only() -> Iterator[None]:
    sysctl = Path("/proc/sys/net/ipv6/bindv6only")
    sysctl.write_text("1")
    yield
    sysctl.write_text("0")


@pytest.mark.usefixtures("ipv6_only")
@pytest.mark.parametrize(
    ("line", "clash"),
    [("", False), ("BindIPv6Only=default", False), ("BindIPv6Only=both", True)],
)
def test_check_knows_the_kernels_default(
    service: Callable[..., Installed], line: str, *, clash: bool
) -> None:
    port = free_port()
    there = service(WHO, start=False)
    listen_to = f"ListenStream=0.0.0.0:{port}\nListenStream=[::]:{port}\n{line}"
    there.file.write_text(f"[Socket]\n{listen_to}\n[Spawn]\n{WHO}\n")
    assert there.check().returncode == (os.EX_CONFIG if clash else 0)
    run("systemctl", "daemon-reload")
    started = run("systemctl", "start", there.socket_unit, check=False)
    assert (started.returncode != 0) == clash
    if not clash:
        assert said(("127.0.0.1", port)) == there.name


def test_two_lines_of_one_file(service: Callable[..., Installed]) -> None:
    there = service(WHO, start=False)
    for first, second, hint in (
        ("127.0.0.1:4711", "127.0.0.1:4711", ""),
        ("127.0.0.1:4711", "0.0.0.0:4711", ""),
        ("0.0.0.0:4711", "[::]:4711", ", or write BindIPv6Only=ipv6-only for [::]"),
        ("4711", "127.0.0.1:4711", ", or write BindIPv6Only=ipv6-only for [::]"),
    ):
        listen_to = f"ListenStream={first}\nListenStream={second}"
        there.file.write_text(f"[Socket]\n{listen_to}\n[Spawn]\n{WHO}\n")
        assert there.check().stderr == (
            f"{there.file}:3: ListenStream={second} is where this service listens already "
            f"({there.file}:2); remove one of the two lines{hint}\n"
        )
    other = service(WHO, address=("0.0.0.0", 4711), start=False)
    there.file.write_text(f"[Socket]\nListenStream=4711\n[Spawn]\n{WHO}\n")
    assert there.check().stderr == (
        f"{there.file}:2: note: ListenStream=4711 is where {other.name} would listen "
        f"({other.file}:2); give each service an address of its own, or write "
        "BindIPv6Only=ipv6-only for [::], before it is enabled\n"
    )


def test_an_address_that_no_file_has_any_more(service: Callable[..., Installed]) -> None:
    """systemd listens at it until it reads the files again, and the connections are served."""
    there = service(WHO)
    there.file.write_text(there.file.read_text().replace(str(there.address[1]), "9"))
    assert there.talk() == f"{there.name}\n".encode()
    there.record()
    if systemd_version() >= 257:
        return
    os.unlink(files.drop_in(there.socket_unit))
    assert there.talk() == b""
    matches = f"SPAWN_LOCAL_PORT={there.address[1]}"
    lines = until(lambda: run("journalctl", "-q", "-o", "cat", matches).stdout.splitlines()[1:])
    assert lines[0].startswith(
        "spawnhelper: no command was run: /etc/spawn: systemd has been told of no service with "
        f"ListenStream=127.0.0.1:{there.address[1]}; run systemctl daemon-reload, and restart the "
        "socket unit, or stop it if its service is gone, client 127.0.0.1:"
    )


def test_while_systemd_reads_the_files_again(service: Callable[..., Installed]) -> None:
    """For a moment it has been told of no service; no connection is refused for that."""
    there = service(WHO)
    reloads = "for number in 1 2 3 4 5 6 7 8 9 10; do systemctl daemon-reload; done"
    with subprocess.Popen(["sh", "-c", reloads]) as shell:
        while shell.poll() is None:
            assert there.talk() == f"{there.name}\n".encode()
    assert shell.returncode == 0


@pytest.fixture
def two_paths(service: Callable[..., Installed]) -> tuple[Installed, Installed]:
    one = service("User=nobody\nArgv=/bin/true\n", address="/run/spawn/one", start=False)
    return one, service("User=nobody\nArgv=/bin/true\n", address="/run/spawn/two", start=False)


def test_two_paths_are_worth_a_note(two_paths: tuple[Installed, Installed]) -> None:
    one, two = two_paths
    done = one.check()
    assert done.stdout == f"{one.file}: ok\n"
    note = (
        f"{one.file}:2: note: a client process that connects to {two.name}, too, can have a "
        "connection reset before systemd 258; listen on TCP at 127.0.0.1 instead, or upgrade\n"
    )
    assert done.stderr == (note if systemd_version() < 258 else "")
    two.file.unlink()
    assert one.check().stderr == ""


def test_a_queue_for_nobody_is_worth_a_note(service: Callable[..., Installed]) -> None:
    spawn = "User=nobody\nArgv=/bin/true\nMaxCommands=256\n"
    there = service(spawn, start=False)
    assert there.check().stderr == (
        f"{there.file}:7: note: MaxCommands=256 has nobody wait, for MaxConnections= is 256; "
        "raise that in [Socket]\n"
    )
    there.write(spawn, "MaxConnections=257")
    assert there.check().stderr == ""


def test_check_knows_whom_systemd_cannot_look_up(service: Callable[..., Installed]) -> None:
    owners = "SocketUser=nosuch\nSocketUser={}\nSocketGroup={}"
    there = service(WHO, socket_section=owners.format("nosuch-%i", "4294000000"), start=False)
    assert there.check().stderr == (
        f"{there.file}:4: SocketUser=nosuch-%i is no account of this machine; create it, or name "
        "another\n"
        f"{there.file}:5: SocketGroup=4294000000 is no group of this machine; create it, or name "
        "another\n"
    )
    run("systemctl", "daemon-reload")
    assert run("systemctl", "start", there.socket_unit, check=False).returncode != 0
    for user, group in (("nobody", "nogroup"), ("0", "0"), ("", ""), ("%p-%j", "")):
        there.write(WHO, owners.format(user, group))
        assert there.check().stdout == f"{there.file}: ok\n"
