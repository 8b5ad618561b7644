"""Notes of `spawnctl check`: what works, and is probably not what was meant."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Installed, in_machine, run

pytestmark = in_machine

NOBODY = "User=nobody\nArgv=/bin/true\n"
OWNER = "spawn-owner"


def notes(there: Installed, *options: str) -> list[str]:
    """What the check has to say of a service that is well, without the place."""
    checked = there.check(*options)
    assert checked.stdout == f"{there.file}: ok\n"
    lines = checked.stderr.splitlines()
    assert all(line.startswith(f"{there.file}:") for line in lines)
    return [line.removeprefix(f"{there.file}:") for line in lines]


@pytest.fixture(scope="module", autouse=True)
def account() -> None:
    if run("id", OWNER, check=False).returncode != 0:
        run("useradd", "-M", OWNER)


@pytest.fixture
def folder() -> Iterator[Path]:
    place = Path(f"/var/tmp/spawn-advice-{os.getpid()}")
    place.mkdir(mode=0o755)
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("DenyFrom=127.0.0.0", "127.0.0.0/8"),
        ("AllowFrom=10.1.0.0", "10.1.0.0/16"),
        ("DenyFrom=192.0.2.0", "192.0.2.0/24"),
        ("DenyFrom=0.0.0.0", "0.0.0.0/0"),
        ("ProxyProtocol=any\nProxyFrom=192.0.2.0", "192.0.2.0/24"),
        ("DenyFrom=192.0.2.0/32 10.0.0.0/8 192.0.2.10 2001:db8::", ""),
    ],
)
def test_zeros_that_are_wildcards_elsewhere(
    service: Callable[..., Installed], line: str, expected: str
) -> None:
    there = service(NOBODY + line, start=False)
    last = line.splitlines()[-1]
    note = (
        f" note: {last} is one address, for zeros are no wildcards here; "
        f"write {expected} if the network is meant"
    )
    number = 7 + line.count("\n")
    assert notes(there) == ([f"{number}:{note}"] if expected else [])


@pytest.mark.parametrize(
    ("address", "section", "rules", "expected"),
    [
        ("[::]", "", "DenyFrom=::/0", "DenyFrom=::/0 has no IPv4 address"),
        ("[::]", "", "AllowFrom=::/0", "AllowFrom=::/0 has no IPv4 address"),
        ("[::]", "", "DenyFrom=0.0.0.0/0", "DenyFrom=0.0.0.0/0 has no IPv6 address"),
        ("127.0.0.1", "", "DenyFrom=::/0", "DenyFrom=::/0 has no IPv4 address"),
        (
            "127.0.0.1",
            "",
            "AllowFrom=::/0\nProxyProtocol=v1\nProxyFrom=127.0.0.1",
            "AllowFrom=::/0 has no IPv4 address",
        ),
        ("127.0.0.1", "", "DenyFrom=0.0.0.0/0", ""),
        ("[::]", "BindIPv6Only=ipv6-only", "DenyFrom=::/0", ""),
        ("[::]", "", "DenyFrom=::/0 0.0.0.0/0", ""),
        ("[::]", "", "AllowFrom=::/0 10.0.0.0/8", ""),
    ],
)
def test_everybody_of_one_family(
    service: Callable[..., Installed], address: str, section: str, rules: str, expected: str
) -> None:
    there = service(NOBODY + rules, address=(address, 4711), socket_section=section, start=False)
    add = "::/0" if "IPv6" in expected else "0.0.0.0/0"
    note = f"{expected}, and clients can come from one; add {add} if everybody is meant"
    assert notes(there) == ([f"7: note: {note}"] if expected else [])


def test_who_may_connect_to_an_abstract_name(service: Callable[..., Installed]) -> None:
    there = service(NOBODY, address="@spawn-advice", socket_section="SocketMode=0600", start=False)
    assert notes(there) == [
        "3: note: SocketMode= says nothing about @spawn-advice, which is no file: every user can "
        "connect there; listen at a path"
    ]
    there.write(NOBODY, "SocketUser=nobody\nSocketGroup=")
    assert [note.partition("=")[0] for note in notes(there)] == ["3: note: SocketUser"]
    there.address = "/run/spawn-advice.sock"
    there.write(NOBODY, "SocketMode=0600")
    assert notes(there) == []


def test_a_root_that_others_can_exchange(service: Callable[..., Installed], folder: Path) -> None:
    jail = folder / "jail"
    (jail / "bin").mkdir(parents=True)
    shutil.copy("/bin/true", jail / "bin")
    for library in run("sh", "-c", "ldd /bin/true | grep -o '/[^ ]*'").stdout.split():
        (jail / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, jail / library[1:])
    there = service(f"{NOBODY}RootDirectory={jail}", start=False)
    assert notes(there) == []
    shutil.chown(jail, OWNER)
    assert notes(there) == [], "what is in it is its owner's, where it is not"
    shutil.chown(folder, OWNER)
    assert notes(there) == [
        f"7: note: RootDirectory={jail} can be exchanged, for example by a link to /: the folder "
        f"{folder} belongs to uid {folder.stat().st_uid}; make root the owner"
    ]
    folder.chmod(0o777)
    shutil.chown(folder, "root")
    assert notes(there) == [
        f"7: note: RootDirectory={jail} can be exchanged, for example by a link to /: others than "
        f"root can write the folder {folder}; chmod go-w it"
    ]


def test_an_account_that_two_services_have(service: Callable[..., Installed]) -> None:
    there = service(f"{NOBODY}Environment=PGPASSWORD=s3cret", start=False)
    assert notes(there) == []
    other = service("User=65534\nArgv=/bin/true", start=False)
    note = (
        f"7: note: Environment= can be read by the commands of {other.name}, which have the same "
        "User=; give each service an account of its own"
    )
    assert notes(there) == [note]
    assert notes(other) == []
    there.write(f"{NOBODY}Environment=COLOUR=blue")
    assert notes(there) == []
    there.file.chmod(0o600)
    assert notes(there) == [note], "who closes the file has something in it"
    other.write(f"User={OWNER}\nArgv=/bin/true")
    assert notes(there) == []
    other.write("User=no-such-account\nArgv=/bin/true")
    assert notes(there) == []


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            "/bin/true true -w",
            "gives the command its own name true as an argument; remove the second word, which "
            "inetd.conf(5) has and this file has not",
        ),
        (
            "true true",
            "gives the command its own name true as an argument; remove the second "
            "word, which inetd.conf(5) has and this file has not",
        ),
        *(
            (
                f"/bin/true {words}",
                f"has the word {word}, and no shell reads it; write /bin/sh -c '...'",
            )
            for words, word in (
                ("| cat", "|"),
                ("x && echo", "&&"),
                ("2>&1", "2>&1"),
                (">/tmp/log", ">/tmp/log"),
                ("a < /dev/null > /tmp/x", "<"),
            )
        ),
        *(
            (
                f"/bin/true {word}",
                f"has the word {word}, in which nothing is expanded; write "
                f"/bin/sh -c 'exec /bin/true \"{word}\"'",
            )
            for word in ("$REMOTE_ADDR", "${REMOTE_ADDR}", "--from=$REMOTE_ADDR:$REMOTE_PORT")
        ),
        ("/bin/sh -c 'cat $FILE | sort >/tmp/x'", ""),
        ("/bin/true '$1' '{print $NF}' a>b 'a < b' x;", ""),
        ("/bin/true -w true", ""),
    ],
)
def test_words_for_a_shell_or_another_file(
    service: Callable[..., Installed], argv: str, expected: str
) -> None:
    there = service(f"User=nobody\nArgv={argv}", start=False)
    assert notes(there) == ([f"6: note: Argv= {expected}"] if expected else [])


def test_a_carriage_return_in_an_argument(service: Callable[..., Installed], folder: Path) -> None:
    program = folder / "program"
    there = service(f"User=nobody\nArgv={program}", start=False)
    for text, is_slip in (
        ("#!/usr/bin/env sh\r\n", True),
        ("#!/bin/sh -e\r\nexit\r\n", True),
        ("#!/bin/sh -e\nexit\r\n", False),
    ):
        program.write_text(text, newline="")
        program.chmod(0o755)
        note = (
            f"6: note: Argv={program}: its #! line ends with a carriage return, which the "
            "interpreter gets as a part of its last argument; save it with Unix line ends"
        )
        assert notes(there) == [note] * is_slip
    program.chmod(0o711)
    shutil.chown(program, OWNER)
    assert notes(there) == [], "open to execution only"


def test_privileges_without_effect(service: Callable[..., Installed], folder: Path) -> None:
    program = folder / "program"
    shutil.copy("/bin/true", program)
    there = service(f"User=nobody\nArgv={program}", start=False)
    assert notes(there) == []
    for mode, has in ((0o4755, "is set-user-ID"), (0o2755, "is set-group-ID")):
        program.chmod(mode)
        note = (
            f"6: note: Argv={program} {has}, to no effect with NoNewPrivileges=yes; write "
            "NoNewPrivileges=no if the command needs it"
        )
        assert notes(there) == [note]
    program.chmod(0o4755)
    os.setxattr(program, "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 5, 0, 0, 0))
    assert notes(there) == [note.replace("group-ID", "user-ID and has file capabilities")]
    there.write(f"User=nobody\nArgv={program}\nNoNewPrivileges=no")
    assert notes(there) == []


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("QueueLimit=5s", "MaxCommands="),
        ("ProxyTimeLimit=5s", "ProxyProtocol="),
        ("SummaryInterval=5min", "Log=summary"),
    ],
)
def test_a_key_that_does_nothing_alone(
    service: Callable[..., Installed], line: str, other: str
) -> None:
    key = line.partition("=")[0]
    note = f" note: {key}= does nothing without {other}; add that, or remove the line"
    there = service(f"{NOBODY}StandardError=journal\n{line}\n", start=False)
    assert [each.partition(":")[2] for each in notes(there)] == [note]
    whole = {"QueueLimit": "MaxCommands=1", "ProxyTimeLimit": "ProxyProtocol=any\nProxyFrom=::1"}
    if key in whole or there.door.name == "Accept=no":  # Log=summary is refused elsewhere
        more = whole.get(key, "Log=summary")
        there.write(f"{NOBODY}StandardError=journal\n{line}\n{more}")
        assert not any(key in each for each in notes(there))
