"""Postfix, xinetd and inetd of Debian beside what `spawnctl import` makes of their services: a
command sees the same, and the same clients are let in."""

from __future__ import annotations

import pwd
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import beside
import pytest
from beside import COMMAND, INETD, PROBE, XINETD, ask, ask_all, imported, running, seen
from conftest import PATIENCE, in_machine, run, until

pytestmark = in_machine

LOOPBACK = "127.0.0.1"
# Clients of the tables, besides those of 127.0.0.0/8.
ADDED = ("10.1.2.3", "10.9.9.9", "192.0.2.7", "198.51.100.1", "203.0.113.200")
ADDED6 = ("2001:db8::5", "2001:db8:1::5", "fd00::1")
CLIENTS = (LOOPBACK, "127.0.0.5", "127.5.6.7", *ADDED)
CLIENTS6 = ("::1", *ADDED6)
FEW, ALL_AT_ONCE = 4, 100  # clients at a time
USER = "mover"  # in two groups more than its own
# What differs for a command, and is said in the report or in spawn.conf-migration(7).
DIFFERENT = {
    "environment",  # an allow-list, see below
    "no new privileges",
}


# xinetd and Postfix raise their own soft limit of open files to the hard one, as
# spawn.conf-migration(7) says; LimitNOFILE= does that here.
RAISED = {"RLIMIT_NOFILE", "RLIMIT_OFILE"}


@pytest.fixture(scope="module", autouse=True)
def surroundings() -> Iterator[None]:
    beside.put_probe()
    switch = Path("/etc/nsswitch.conf")
    before = switch.read_text()
    switch.write_text("hosts: files\n")  # there is nobody else to ask
    run("useradd", "--no-create-home", "--groups=games,disk", USER)
    for address in (*ADDED, *ADDED6):
        length = "128" if ":" in address else "32"
        run("ip", "address", "add", f"{address}/{length}", "dev", "lo", "nodad")
    yield
    for address in (*ADDED, *ADDED6):
        run("ip", "address", "del", address, "dev", "lo", check=False)
    run("userdel", USER)
    switch.write_text(before)


def differences(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """The keys of what two commands saw otherwise."""
    return {key for key in one if one[key] != other[key]}


def lower(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Takes back that the original server has raised a soft limit."""
    for name in RAISED:
        soft, hard = other["limits"][name]
        if one["limits"][name] == [hard, hard]:
            one["limits"][name] = [soft, hard]


def told(one: dict[str, Any], other: dict[str, Any]) -> str:
    """What two commands saw otherwise, for whom it surprises."""
    keys = differences(one, other) - {"environment"}
    lines = [f"{key}: {one[key]} and {other[key]}" for key in sorted(keys)]
    limits = (one["limits"], other["limits"])
    lines += [f"{key}: {limits[0][key]}, {limits[1][key]}" for key in differences(*limits)]
    return "\n".join(lines)


def test_what_a_command_sees_behind_xinetd(tmp_path: Path) -> None:
    file = tmp_path / "xinetd.conf"
    plain = xinetd_service("plain", 21001, user="games")
    much = xinetd_service(
        "much",
        21002,
        user=USER,
        group="games",
        groups="yes",
        flags="NAMEINARGS",
        server_args=f"zero -I {PROBE} one two",
        umask="077",
        nice="3",
        env="GREETING=hello EMPTY=",
        passenv="LANG",
        rlimit_as="512M",
        rlimit_cpu="20",
        rlimit_files="100",
        rlimit_stack="4M",
    )
    number = xinetd_service("number", 21003, user=str(pwd.getpwnam("games").pw_uid))
    file.write_text(plain + much + number)
    ports = (21001, 21002, 21003)
    with xinetd(file, *ports), imported("xinetd", file) as made:
        for port in ports:
            before = seen((LOOPBACK, port))
            after = seen(made.place(LOOPBACK, port))
            # The primary group is among the others here, as initgroups(3) has it.
            before["groups"] = sorted({*before["groups"], before["gid"][0]})
            lower(before, after)
            assert differences(before, after) == DIFFERENT, told(before, after)
            variables(before, after, None)
            if port == 21002:  # with passenv=
                assert before["environment"].keys() - after["environment"] == {"REMOTE_HOST"}
        assert after["uid"] == [pwd.getpwnam("games").pw_uid] * 3


def variables(before: dict[str, Any], after: dict[str, Any], lost: set[str] | None) -> None:
    """That of the environment nothing is lost but these, and what is there has its value; None: the
    server has an environment of systemd's, whose PATH differs between releases."""
    one, other = before["environment"], after["environment"]
    common = {name for name in one if name in other}
    if lost is None:
        common.discard("PATH")
    else:
        assert one.keys() - other.keys() == lost
    assert {name: one[name] for name in common} == {name: other[name] for name in common}


def test_what_a_command_sees_behind_inetd(tmp_path: Path) -> None:
    file = tmp_path / "inetd.conf"
    group = f"{USER}:games"
    program, arguments = COMMAND.split(" ", 1)
    file.write_text(
        f"{LOOPBACK}:21011 stream tcp nowait {USER} {program} zero {arguments}\n"
        f"{LOOPBACK}:21012 stream tcp nowait {group} {program} {program} {arguments}\n"
        f"{LOOPBACK}:21013 stream tcp nowait games /usr/sbin/tcpd {program} {arguments}\n"
        f"/run/beside stream unix nowait nobody {program} python {arguments}\n"
    )
    ports = (21011, 21012, 21013)
    with inetd(file, *ports), imported("inetd", file) as made:
        every: list[tuple[str, int] | str] = [(LOOPBACK, port) for port in ports]
        for before in (*every, "/run/beside"):
            first, second = seen(before), seen(made.now(before))
            second["server"] = str(second["server"]).removesuffix("-moved")
            assert differences(first, second) == DIFFERENT, told(first, second)
            variables(first, second, None)


def test_what_a_command_sees_behind_postfix() -> None:
    folder = Path("/etc/postfix")
    kept = {name: (folder / name).read_text() for name in ("main.cf", "master.cf")}
    ports = (21021, 21022)
    try:
        run("postconf", "-e", "inet_interfaces=loopback-only", "maillog_file=", "alias_maps=")
        run("postconf", "-e", "export_environment=TZ MAIL_CONFIG LANG GREETING=hello")
        for service, what in (
            (f"{LOOPBACK}:21021/inet", f"n n n - 0 spawn user={USER} argv={COMMAND}"),
            (f"{LOOPBACK}:21022/inet", f"n n n - 2 spawn user={USER}:games argv={COMMAND}"),
            ("beside/unix", f"- n n - 5 spawn user=games argv={COMMAND}"),
        ):
            name, kind = service.split("/")
            run("postconf", "-Me", f"{service}={name} {kind} {what}")
        run("systemctl", "restart", "postfix")
        path = "/var/spool/postfix/private/beside"
        until(lambda: beside.listens((LOOPBACK, 21022)) and Path(path).exists())
        with imported("postfix", folder / "master.cf") as made:
            every: list[tuple[str, int] | str] = [(LOOPBACK, port) for port in ports]
            for before in (*every, path):
                first, second = seen(before), seen(made.now(before))
                if before == path:  # which Postfix knows by another name
                    first["server"] = second["server"] = path
                lower(first, second)
                assert differences(first, second) == DIFFERENT, told(first, second)
                variables(first, second, set())
            assert made.report["counts"]["not converted"] == 0
    finally:
        run("systemctl", "stop", "postfix")
        for name, text in kept.items():
            (folder / name).write_text(text)


def xinetd_service(name: str, port: int, **attributes: str) -> str:
    """A service of xinetd that runs the probe, or what it is told."""
    program, arguments = COMMAND.split(" ", 1)
    wanted = {
        "type": "UNLISTED",
        "port": str(port),
        "bind": LOOPBACK,
        "socket_type": "stream",
        "wait": "no",
        "user": "nobody",
        "flags": "-",  # xinetd crashes where NAMEINARGS is behind server_args
        "server": program,
        "server_args": arguments,
        "instances": "50",
        "per_source": "UNLIMITED",
        "cps": "0 0",
    } | attributes
    # A value of - leaves an attribute out.
    lines = [f"\t{key} = {value}\n" for key, value in wanted.items() if value != "-"]
    return f"service {name}\n{{\n{''.join(lines)}}}\n"


def xinetd(file: Path, *ports: int) -> Any:
    """xinetd with this file, listening at these ports."""
    command = (XINETD, "-dontfork", "-f", str(file))
    return running("xinetd", *command, ready=[(LOOPBACK, port) for port in ports])


def inetd(file: Path, *ports: int) -> Any:
    """inetd with this file."""
    return running("inetd", INETD, "-i", str(file), ready=[(LOOPBACK, port) for port in ports])


ECHO = {"server": "/bin/echo", "server_args": "in"}
ANYWHERE = {"bind": "-"} | ECHO
# What xinetd is told about who may connect: the attributes of each service.
RULES = [
    {},
    {"only_from": "10.0.0.0"},
    {"only_from": "10.1.0.0 192.0.2.0 127.0.0.1"},
    {"only_from": "127.0.0.0 10.1.2.3"},
    {"only_from": "0.0.0.0"},
    {"only_from": "0.0.0.0/0"},
    {"only_from": "10.1.2.3/8"},
    {"only_from": "10.{1,9}"},
    {"only_from": "10.1.{0,2} 127.0.0.{1,5}"},
    {"only_from": "::/0"},
    {"only_from": "::1"},
    {"only_from": "::/64 2001:db8::/32"},
    {"only_from": "2001:db8::/48 10.0.0.0"},
    {"only_from": "::ffff:10.0.0.0/104"},
    {"only_from": "office.example 10.1.2.3"},
    {"only_from": ""},
    {"only_from": "127.0.0.1 # and others"},
    {"no_access": "0.0.0.0"},
    {"no_access": "::/0"},
    {"no_access": "10.0.0.0 127.0.0.5"},
    {"no_access": "10.5.6.7/8"},
    {"no_access": "2001:db8::/32"},
    {"no_access": ""},
    {"only_from": "10.0.0.0", "no_access": "10.1.0.0"},
    {"only_from": "10.1.2.3 127.0.0.0", "no_access": "10.0.0.0"},
    {"only_from": "127.0.0.1", "no_access": "127.0.0.1"},
    {"only_from": "0.0.0.0 ::/0", "no_access": "127.0.0.0/24 2001:db8:1::/48"},
    {"instances": "0"},
    {"per_source": "0"},
]


@pytest.mark.parametrize("flags", ["", "IPv4"])  # without a flag it is as with IPv6
def test_xinetd_lets_in_the_same(tmp_path: Path, flags: str) -> None:
    extra = {"flags": flags} if flags else {}
    every = [*RULES]
    if flags == "IPv4":  # on IPv6 Debian 12's xinetd does not find 127.0.0.1 by this name
        every.append({"only_from": "localhost"})
    services = [
        xinetd_service(f"s{at}", 22000 + at, **ANYWHERE, **extra, **rules)
        for at, rules in enumerate(every)
    ]
    lets_in_the_same(tmp_path, "", "".join(services), len(every))


def test_xinetd_with_defaults_lets_in_the_same(tmp_path: Path) -> None:
    defaults = "defaults\n{\n\tonly_from = 10.0.0.0\n\tonly_from = 127.0.0.1\n"
    defaults += "\tno_access = 10.9.0.0\n}\n"
    operators = [
        "",
        "only_from = 192.0.2.0",
        "only_from += 192.0.2.0",
        "only_from -= 10.0.0.0",
        "only_from -= 10.0.0.0/8",
        "only_from = 10.0.0.0/8 127.0.0.1\nonly_from -= 10.0.0.0",
        "only_from = 10.0.0.0/8 127.0.0.1\nonly_from -= 10.0.0.0/16",
        "only_from = 10.1.2.3 127.0.0.1\nonly_from -= 10.1.2.{3,4}",
        "no_access += 127.0.0.0",
        "no_access -= 10.9.0.0/16",
        "no_access -= 10.9.0.0",
        "no_access -= 10.9.9.9",
        "no_access += 10.1.{2,3}\nno_access -= 10.1.2.0",
        "no_access =",
        "no_access = 127.0.0.1\nno_access = 10.1.0.0",
        "only_from =\nonly_from += 127.0.0.1",
    ]
    services = ""
    for at, lines in enumerate(operators):
        text = xinetd_service(f"s{at}", 22000 + at, **ANYWHERE, flags="IPv4")
        services += text.replace("}\n", f"{lines}\n}}\n")
    lets_in_the_same(tmp_path, defaults, services, len(operators))


def lets_in_the_same(tmp_path: Path, defaults: str, services: str, count: int) -> None:
    """That each client gets an answer from xinetd and from what was made of its services, or from
    none of them."""
    file = tmp_path / "xinetd.conf"
    file.write_text((defaults or "defaults\n{\n}\n") + services)
    ports = range(22000, 22000 + count)
    with xinetd(file, *ports), imported("xinetd", file) as made:
        assert made.report["counts"]["not converted"] == 0
        asked = [(port, client, target) for port in ports for client, target in clients()]
        before = ask_all([((target, port), client) for port, client, target in asked], FEW)
        after = ask_all([(made.place(target, port), client) for port, client, target in asked], FEW)
        assert list(zip(asked, after, strict=True)) == list(zip(asked, before, strict=True))
        assert set(after) == {True, False}


def clients() -> Iterator[tuple[str, str]]:
    """Where clients come from, and where they connect to."""
    yield from ((client, LOOPBACK) for client in CLIENTS)
    yield from ((client, "::1") for client in CLIENTS6)


HOSTS = [
    ("in.none: ALL", ""),
    ("in.rule: 10. 127.0.0.1", "in.rule: ALL"),
    ("in.rule: 10.1.0.0/255.255.0.0 : deny\nin.rule: 10.", "ALL: ALL"),
    ("ALL EXCEPT in.rule: ALL", "in.rule: 127.0.0.0/255.0.0.0 192.0.2.7"),
    ("in.rule: [2001:db8::]/48 192.0.2.7", "ALL EXCEPT in.other: ALL"),
    ("IN.RULE: 203.0.113.\nin.rule, in.other: .example.com 127.0.0.5", "all: all"),
    ("", "in.rule: 10.1.2.3, 198.51.100.0/24"),
    ("in.rule: [::1] 10.1.2.3\n  # a comment\nin.rule: \\\n 127.5.", "in.rule: ALL"),
]


@pytest.fixture
def wrappers() -> Iterator[dict[str, Path]]:
    """hosts.allow and hosts.deny, which are as they were afterwards."""
    files = {name: Path(f"/etc/hosts.{name}") for name in ("allow", "deny")}
    before = {file: file.read_text() if file.exists() else None for file in files.values()}
    daemon = Path("/usr/sbin/in.rule")
    daemon.write_text("#!/bin/sh\necho in\n")
    daemon.chmod(0o755)
    yield files
    daemon.unlink()
    for file, text in before.items():
        file.unlink(missing_ok=True) if text is None else file.write_text(text)


@pytest.mark.parametrize(("allow", "deny"), HOSTS)
def test_libwrap_lets_in_the_same(
    tmp_path: Path, wrappers: dict[str, Path], allow: str, deny: str
) -> None:
    wrappers["allow"].write_text(allow + "\n")
    wrappers["deny"].write_text(deny + "\n")
    file = tmp_path / "inetd.conf"
    file.write_text("23001 stream tcp nowait nobody /usr/sbin/tcpd in.rule\n")
    other = tmp_path / "xinetd.conf"
    own = xinetd_service("a", 23002, bind="-", server="/usr/sbin/in.rule", server_args="-")
    named = xinetd_service("b", 23003, **ANYWHERE, libwrap="in.rule")
    tcpd = xinetd_service(
        "c", 23004, bind="-", server="/usr/sbin/tcpd", server_args="in.rule", flags="NAMEINARGS"
    )
    free = xinetd_service(
        "d", 23005, bind="-", server="/usr/sbin/in.rule", server_args="-", flags="NOLIBWRAP"
    )
    other.write_text("defaults\n{\n}\n" + own + named + tcpd + free)
    ports = range(23001, 23006)
    with (
        inetd(file, 23001),
        xinetd(other, *ports[1:]),
        imported("inetd", file) as first,
        imported("xinetd", other) as second,
    ):
        for made in (first, second):
            assert made.report["counts"]["not converted"] == 0
        asked = [(port, client, target) for port in ports for client, target in clients()]
        before = ask_all([((target, port), client) for port, client, target in asked], ALL_AT_ONCE)
        places = [
            ((first if port == 23001 else second).place(target, port), client)
            for port, client, target in asked
        ]
        after = ask_all(places, FEW)
        assert list(zip(asked, after, strict=True)) == list(zip(asked, before, strict=True))


def test_inetd_listens_at_the_same_addresses(tmp_path: Path) -> None:
    file = tmp_path / "inetd.conf"
    heads = (
        "{} stream tcp",
        "{} stream tcp4",
        "{} stream tcp6",
        "127.0.0.1:{} stream tcp",
        "[::1],10.1.2.3:{} stream tcp",
        "[::1,10.1.2.3]:{} stream tcp",
        "::1,10.1.2.3:{} stream tcp4",
        ":{} stream tcp46",
        "*:{} stream tcp4",
    )
    ports = range(24000, 24000 + len(heads))
    lines = [
        f"{head.format(port)} nowait nobody /bin/echo echo in"
        for head, port in zip(heads, ports, strict=True)
    ]
    lines += ["10.1.2.3:", "24010 stream tcp nowait nobody /bin/echo e in"]
    file.write_text("\n".join(lines) + "\n")
    every = (*ports, 24010)
    with inetd(file, *every), imported("inetd", file) as made:
        for port in every:
            for target in (LOOPBACK, "10.1.2.3", "::1", "2001:db8::5"):
                before = bool(ask((target, port)))
                assert bool(ask(made.place(target, port))) == before, (port, target)


def test_xinetd_has_so_many_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "xinetd.conf"
    cat = {"server": "/bin/cat", "server_args": "-"}
    file.write_text(
        xinetd_service("a", 22101, **cat, instances="2")
        + xinetd_service("b", 22102, **cat, per_source="2")
    )
    with xinetd(file, 22101, 22102), imported("xinetd", file) as made:
        for port in (22101, 22102):
            for place in ((LOOPBACK, port), made.place(LOOPBACK, port)):
                assert answered(place, 3) == 2


def answered(place: tuple[str, int], count: int) -> int:
    """How many of so many clients at a time get their line back from cat."""
    found = 0
    held = []
    for _ in range(count):
        client = socket.create_connection(place, timeout=PATIENCE)
        held.append(client)
        try:
            client.sendall(b"line\n")
            found += client.recv(5) == b"line\n"
        except OSError:
            pass
    for client in held:
        client.close()
    return found


@pytest.mark.parametrize("now", [True, False])
def test_xinetd_is_open_at_the_same_times(tmp_path: Path, now: bool) -> None:
    hour = time.localtime().tm_hour
    morning, evening = "0:00-11:59", "12:00-23:59"
    span = morning if (hour < 12) == now else evening
    file = tmp_path / "xinetd.conf"
    file.write_text(xinetd_service("a", 22103, **ECHO, access_times=span))
    with xinetd(file, 22103), imported("xinetd", file) as made:
        places = ((LOOPBACK, 22103), made.place(LOOPBACK, 22103))
        answers = [bool(ask(place)) for place in places]
        if (time.localtime().tm_hour < 12) == (hour < 12):  # it is not noon meanwhile
            assert answers == [now, now]
