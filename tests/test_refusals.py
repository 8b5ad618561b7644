"""What must not run does not: one sentence, the same in `spawnctl check` and in the record."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import doors
import pytest
from conftest import (
    FOLDER,
    PATIENCE,
    Installed,
    both_doors,
    connection_units,
    in_machine,
    journal,
    read_all,
    run,
    until,
)

pytestmark = in_machine

TRUE = "Argv=/bin/true"
NEED_ROOT = "or see SERVICES THAT NEED ROOT in spawnhelper(8)"
EX_NOINPUT, EX_NOUSER, EX_UNAVAILABLE, EX_CONFIG = 66, 67, 69, 78
PATH_IN_WORDS = "/usr/local/sbin, /usr/local/bin, /usr/sbin, /usr/bin"


@pytest.fixture(scope="module", autouse=True)
def traps() -> None:
    """Accounts and files that a service file should not name."""
    for name, *options in (
        ("spawn-toor", "-o", "-u", "0", "-g", "users"),
        ("spawn-root-group", "-g", "root"),
        ("spawn-alias", "-o", "-u", str(pwd.getpwnam("postfix").pw_uid), "-g", "users"),
        ("spawn-postgroup", "-g", "postfix"),
        ("spawn-fine", "-g", "users"),
    ):
        if run("id", name, check=False).returncode != 0:
            run("useradd", "-M", *options, name)
    Path("/run/spawn-not-executable").write_text("#!/bin/sh\n")
    Path("/run/spawn-not-executable").chmod(0o644)


def answer(there: Installed) -> bytes:
    """What a client gets that sends something and waits: it must not be a reset, either."""
    with there.connect() as client:
        answer = b""
        while part := client.recv(4096):
            answer += part
        return answer


def refused(there: Installed) -> dict[str, Any]:
    """The record of a connection that is refused, with all that has to hold for each of them."""
    before = set(connection_units())
    assert answer(there) == b"", "no byte to the client"
    record = there.record()
    assert record["PRIORITY"] == "3"
    assert "EXIT_CODE" not in record
    assert "SPAWN_PID" not in record
    until(connection_units, holds=lambda units: set(units) <= before)  # no process is left
    assert there.state() == "active", "the listener still listens"
    return record


def expect_exit(record: dict[str, Any], status: int) -> None:
    """The exit status of the helper, as systemd tells it; a server does not end."""
    if doors.now is doors.NO:
        return
    unit = record["SPAWN_UNIT"]
    (entry,) = until(lambda: journal(f"UNIT={unit}", "EXIT_CODE=exited"))
    assert int(entry["EXIT_STATUS"]) == status


def _port(name: str) -> str:
    """What to write instead of the name; a small machine has no list of them."""
    try:
        return str(socket.getservbyname(name, "tcp"))
    except OSError:
        return "its number"


CASES = {
    "root": (
        "User=root:users\n" + TRUE,
        4,
        "User= is uid 0; no command runs as root, name another account, " + NEED_ROOT,
        EX_CONFIG,
    ),
    "uid 0 by another name": (
        "User=spawn-toor\n" + TRUE,
        4,
        "User= is uid 0; no command runs as root, name another account, " + NEED_ROOT,
        EX_CONFIG,
    ),
    "uid 0 by number": (
        "User=0:users\n" + TRUE,
        4,
        "User= is uid 0; no command runs as root, name another account, " + NEED_ROOT,
        EX_CONFIG,
    ),
    "root's user and group": (
        "User=0:0\n" + TRUE,
        4,
        "User= is uid 0; no command runs as root, name another account, " + NEED_ROOT,
        EX_CONFIG,
    ),
    "gid 0": (
        "User=spawn-root-group\n" + TRUE,
        4,
        "User= gives gid 0; no command runs as root's group, name another, " + NEED_ROOT,
        EX_CONFIG,
    ),
    "gid 0 in Group=": (
        "User=spawn-fine\nGroup=0\n" + TRUE,
        5,
        "Group= gives gid 0; no command runs as root's group, name another, " + NEED_ROOT,
        EX_CONFIG,
    ),
    "gid 0 among the supplementary groups": (
        "User=spawn-fine\nSupplementaryGroups=users root\n" + TRUE,
        5,
        "SupplementaryGroups= gives gid 0; no command runs as root's group, name another, "
        + NEED_ROOT,
        EX_CONFIG,
    ),
    "uid -1": (
        "User=4294967295\n" + TRUE,
        4,
        "User= is uid 4294967295, which means -1; name another account",
        EX_CONFIG,
    ),
    "uid -1 as a word": (
        "User=-1\n" + TRUE,
        4,
        "User=-1 is not an account; write user or user:group",
        EX_CONFIG,
    ),
    "Postfix's own account": (
        "User=postfix\n" + TRUE,
        4,
        "User= is uid {postfix.pw_uid}, and RefuseUsers= refuses postfix; name another account",
        EX_CONFIG,
    ),
    "Postfix's uid by another name": (
        "User=spawn-alias\n" + TRUE,
        4,
        "User= is uid {postfix.pw_uid}, and RefuseUsers= refuses postfix; name another account",
        EX_CONFIG,
    ),
    "Postfix's group": (
        "User=spawn-postgroup\n" + TRUE,
        4,
        "User= gives gid {postfix.pw_gid}, and RefuseUsers= refuses postfix, whose group it is; "
        "name another group",
        EX_CONFIG,
    ),
    "an account that the administrator refuses": (
        "User=nobody:users\nRefuseUsers=no-such-account nobody\n" + TRUE,
        4,
        "User= is uid 65534, and RefuseUsers= refuses nobody; name another account",
        EX_CONFIG,
    ),
    "a key in another case": (
        f"user=nobody\n{TRUE}",
        4,
        "unknown key user= in [Spawn]; did you mean User=? (and 1 more: spawnctl check {file})",
        EX_CONFIG,
    ),
    "a comment behind a value": (
        f"User=nobody # unprivileged\n{TRUE}",
        4,
        "User=nobody # unprivileged is not an account; write user or user:group; "
        "a comment needs a line of its own",
        EX_CONFIG,
    ),
    "a missing user": (
        "User=no-such-account\n" + TRUE,
        4,
        "User=no-such-account is no account of this machine; create it, or name another",
        EX_NOUSER,
    ),
    "a missing group": (
        "User=spawn-fine\nGroup=no-such-group\n" + TRUE,
        5,
        "Group= names no-such-group, which is no group of this machine; create it, or name another",
        EX_CONFIG,
    ),
    "a group in two places": (
        "User=spawn-fine:users\nGroup=users\n" + TRUE,
        5,
        "User= names a group already; give it in one place only",
        EX_CONFIG,
    ),
    "no user": (TRUE, None, "[Spawn] has no User=; it is required", EX_CONFIG),
    "no command": ("User=nobody", None, "[Spawn] has no Argv=; it is required", EX_CONFIG),
    "an empty user": (
        "User=nobody\nUser=\n" + TRUE,
        None,
        "[Spawn] has no User=; it is required",
        EX_CONFIG,
    ),
    "a missing command": (
        "User=nobody\nArgv=/no/such/command",
        5,
        "Argv= /no/such/command: No such file or directory; install it, or write another path",
        EX_UNAVAILABLE,
    ),
    "a command that is not in the path": (
        "User=nobody\nArgv=no-such-command",
        5,
        f"Argv= there is no no-such-command in {PATH_IN_WORDS}; install it, or write its path",
        EX_UNAVAILABLE,
    ),
    "a command that is not executable": (
        "User=nobody\nArgv=/run/spawn-not-executable",
        5,
        "Argv= /run/spawn-not-executable is not executable; chmod +x it",
        EX_UNAVAILABLE,
    ),
    "a folder as the command": (
        "User=nobody\nArgv=/etc",
        5,
        "Argv= /etc is not a regular file",
        EX_UNAVAILABLE,
    ),
    "an unknown key": (
        f"User=nobody\n{TRUE}\nTimeLimt=5s",
        6,
        "unknown key TimeLimt= in [Spawn]; did you mean TimeLimit=?",
        EX_CONFIG,
    ),
    "a key of systemd": (
        f"User=nobody\n{TRUE}\nExecStart=/bin/true",
        6,
        "unknown key ExecStart= in [Spawn]; did you mean Argv=?",
        EX_CONFIG,
    ),
    "a key of a unit": (
        f"User=nobody\n{TRUE}\nMemoryMax=50M",
        6,
        "MemoryMax= is for a unit, not for a command; with Accept=no write it in [Service], for "
        "this service, or with systemctl edit spawn@.service for all",
        EX_CONFIG,
    ),
    "a key of xinetd": (
        f"User=nobody\n{TRUE}\nserver_args = -x",
        6,
        "unknown key server_args= in [Spawn]; did you mean Argv=?",
        EX_CONFIG,
    ),
    "a key like no other": (
        f"User=nobody\n{TRUE}\nQqqqqq=5s",
        6,
        "unknown key Qqqqqq= in [Spawn]; spawn.conf(5) lists the keys",
        EX_CONFIG,
    ),
    "a bad value": (
        f"User=nobody\n{TRUE}\nTimeLimit=fast",
        6,
        "TimeLimit=fast is not a time span; write for example 90s, 1h 30min or infinity",
        EX_CONFIG,
    ),
    "an unknown section": (
        f"User=nobody\n{TRUE}\n[Unit]\nUser=root",
        6,
        "unknown section [Unit]; this file can have [Socket], [Spawn] and [Service]",
        EX_CONFIG,
    ),
    "three mistakes": (
        f"User=nobody\n{TRUE}\nUMask=9\nLog=some\nqqqqqq",
        6,
        "UMask=9 is not a file mode; write it in octal, from 0 to 0777"
        " (and 2 more: spawnctl check {file})",
        EX_CONFIG,
    ),
}


@both_doors
@pytest.mark.parametrize("case", CASES)
def test_refused(service: Callable[..., Installed], case: str) -> None:
    spawn, line, sentence, status = CASES[case]
    there = service("User=nobody\nArgv=/bin/echo this ran")
    there.write(spawn)
    # write() leaves [Socket], its address and an empty line above [Spawn], whose first key is line
    # 5 of the file; the cases count from [Spawn] as line 3.
    where = str(there.file) if line is None else f"{there.file}:{line + 1}"
    wanted = f"{where}: {sentence.format(postfix=pwd.getpwnam('postfix'), file=there.file)}"
    with there.connect() as client:
        port = client.getsockname()[1]
        assert read_all(client) == b""
    record = there.record()
    there.seen -= 1
    assert record["MESSAGE"] == (
        f"{there.name}: no command was run: {wanted}, client 127.0.0.1:{port}"
    )
    there.seen += 1
    record = refused(there)
    assert record["SPAWN_RESULT"] == "config"
    assert record["CONFIG_FILE"] == str(there.file)
    assert record.get("CONFIG_LINE") == (None if line is None else str(line + 1))
    expect_exit(record, status)
    checked = there.check()
    assert (checked.returncode, checked.stdout) == (status, "")
    assert checked.stderr.splitlines()[0] == wanted.partition(" (and ")[0]


def test_check_says_all_that_is_wrong(service: Callable[..., Installed]) -> None:
    there = service("", start=False)
    there.write("User=no-such-account\nArgv=/no/such/command")
    assert there.check().stderr.splitlines() == [
        f"{there.file}:5: User=no-such-account is no account of this machine; create it, "
        "or name another",
        f"{there.file}:6: Argv= /no/such/command: No such file or directory; install it, "
        "or write another path",
    ]


def test_rules_without_effect(service: Callable[..., Installed]) -> None:
    there = service(f"User=nobody\n{TRUE}\nDenyFrom=::1", address="/run/spawn-rules", start=False)
    assert there.check().stderr == (
        f"{there.file}:7: DenyFrom= is about addresses, and clients of a path have none; "
        "see SocketMode=\n"
    )


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("SocketProtocol=sctp", "SocketProtocol=sctp is not TCP; remove the line"),
        (
            "TCPCongestion=x\\ ",
            "the line ends with a backslash; remove it, and the white space behind it",
        ),
    ],
)
def test_a_socket_that_systemd_could_not_be_given(
    service: Callable[..., Installed], line: str, sentence: str
) -> None:
    there = service(f"User=nobody\n{TRUE}", socket_section=line, start=False)
    assert there.check().stderr == f"{there.file}:3: {sentence}\n"


def test_no_value_of_environment_leaves_its_file(
    service: Callable[..., Installed], tmp_path: Path
) -> None:
    """Not for the record, nor for anything else of the journal, nor for what systemd is given."""
    generator = "/usr/lib/systemd/system-generators/spawn-generator"
    secret = f"s3cret{os.getpid()}"
    true = f"User=nobody\n{TRUE}\n"
    there = service(true)
    slips = [
        f"Environment=MYSQL_PWD {secret}\n{true}",
        f"{true}Environment='A=1\n{secret}\n{secret}=='\n",
        f"{true}WorkingDirectory=x \\\nEnvironment=A={secret}\n",
        f"Argv=/bin/true\nUser=nobody \\\nEnvironment=A={secret}\n",
        f"{true}[Socket]\nEnvironment=A={secret}\n",
    ]
    for slip in slips:
        there.write(slip)
        there.file.chmod(0o600)
        assert answer(there) == b""
        assert "s3c" not in there.record()["MESSAGE"]
        checked = there.check()
        assert (checked.returncode, checked.stdout) == (EX_CONFIG, "")
        assert "s3c" not in checked.stderr
        assert "s3c" not in run(generator, "--explain", there.name, check=False).stderr
        run(generator, *[str(tmp_path)] * 3)
        assert run("grep", "-rl", secret, str(tmp_path), check=False).stdout == ""
    run("journalctl", "--sync")
    found = run("journalctl", "-q", "-o", "export").stdout
    assert there.name in found
    assert secret not in found


def test_check_is_content(service: Callable[..., Installed]) -> None:
    there = service(f"User=nobody\n{TRUE}\n[X-Ours]\nwhatever we like", start=False)
    checked = there.check()
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, f"{there.file}: ok\n", "")
    assert f"{there.file}: ok\n" in run("spawnctl", "check", check=False).stdout
    assert run("spawnctl", "check", str(there.file)).stdout == f"{there.file}: ok\n"


def test_check_of_a_service_that_is_not_there() -> None:
    checked = run("spawnctl", "check", "nowhere", check=False)
    assert checked.returncode == EX_NOINPUT
    assert checked.stderr == (
        "/etc/spawn/nowhere.conf: there is no such service file; create it, see spawn.conf(5)\n"
    )


@both_doors
@pytest.mark.parametrize(
    ("mode", "owner", "sentence"),
    [
        (0o664, 0, "others than root can write it; chmod go-w it"),
        (0o646, 0, "others than root can write it; chmod go-w it"),
        (0o644, 65534, "it belongs to uid 65534; make root the owner"),
    ],
)
def test_a_file_that_others_can_write(
    service: Callable[..., Installed], mode: int, owner: int, sentence: str
) -> None:
    there = service("User=nobody\nArgv=/bin/echo this ran")
    there.file.chmod(mode)
    os.chown(there.file, owner, 0)
    record = refused(there)
    assert f"{there.file}: {sentence}" in record["MESSAGE"]
    expect_exit(record, EX_CONFIG)
    checked = there.check()
    assert (checked.returncode, checked.stderr) == (EX_CONFIG, f"{there.file}: {sentence}\n")


@both_doors
def test_a_folder_that_others_can_write(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nArgv=/bin/echo this ran")
    there.file.parent.chmod(0o777)
    try:
        record = refused(there)
    finally:
        there.file.parent.chmod(0o755)
    sentence = "others than root can write the folder /etc/spawn; chmod go-w it"
    assert f"{there.file}: {sentence}" in record["MESSAGE"]


@both_doors
def test_a_file_that_is_gone(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nArgv=/bin/echo this ran")
    there.file.unlink()
    assert answer(there) == b""
    record = there.record()
    assert f"{there.file}: there is no such service file" in record["MESSAGE"]
    expect_exit(record, EX_NOINPUT)
    assert there.state() == "active"


@both_doors
@pytest.mark.parametrize(
    ("octets", "line", "what"),
    [
        (b"\0", 8, "has a NUL byte; a service file is plain text"),
        (b"\r\n", 8, "has a carriage return; save the file with Unix line ends"),
        (b"\xff", 8, "is not UTF-8; save the file in that encoding"),
        (b"\xef\xbb\xbf", 8, "has a byte order mark; remove it"),
    ],
)
def test_a_file_that_is_no_text(
    service: Callable[..., Installed], octets: bytes, line: int, what: str
) -> None:
    there = service("User=nobody\nArgv=/bin/echo this ran")
    there.file.write_bytes(there.file.read_bytes() + b"\n# " + octets)
    wanted = f"{there.file}:{line}: the line {what}"
    assert f"no command was run: {wanted}, client" in refused(there)["MESSAGE"]
    assert there.check().stderr == wanted + "\n"


@both_doors
def test_a_file_that_is_too_long(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nArgv=/bin/echo this ran")
    there.file.write_text(there.file.read_text() + "#\n" * 600_000)
    wanted = f"{there.file}: the service file is longer than 1 MiB; shorten it"
    assert wanted in refused(there)["MESSAGE"]
    assert there.check().stderr == wanted + "\n"


def test_a_file_that_is_no_service_file_at_all(service: Callable[..., Installed]) -> None:
    """However long it is, there is an end to what is said of it."""
    there = service(f"User=nobody\n{TRUE}", start=False)
    there.file.write_text("[Spawn]\n" + "x\n" * 200_000)
    lines = there.check().stderr.splitlines()
    wrong = "the line is not an assignment; write KEY=VALUE"
    assert lines[:50] == [f"{there.file}:{number}: {wrong}" for number in range(2, 52)]
    more = "here is one more problem, and the rest is not looked at; mend these first"
    assert lines[50] == f"{there.file}:52: {more}"
    assert len(lines) < 60


def test_a_file_that_is_none(service: Callable[..., Installed]) -> None:
    there = service(f"User=nobody\n{TRUE}", start=False)
    there.file.unlink()
    os.mkfifo(there.file, 0o644)
    assert there.check().stderr == (
        f"{there.file}: this is not a regular file; replace it by one\n"
    )


RENAME = (
    "a service is named with letters, digits, - _ and ., the first no - or .; rename the file, or "
    "check it as what it is to be: spawnctl check --as NAME FILE"
)


def test_names_that_make_no_service() -> None:
    for name, sentence in (
        ("/etc/passwd", "the name does not end with .conf; rename the file"),
        ("/tmp/a b.conf", RENAME),
        ("/tmp/.conf", RENAME),
        ("/tmp/--user.conf", RENAME),
    ):
        assert run("spawnctl", "check", name, check=False).stderr == f"{name}: {sentence}\n"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "Accept=maybe",
            "Accept=maybe is neither yes, a unit for each connection, nor no, a server for all",
        ),
        (
            "Service=other.service",
            "Service= is set by spawnhelper: Accept= says who serves connections; remove the line",
        ),
        (
            "FileDescriptorName=mine",
            "FileDescriptorName= is set by spawnhelper: it carries the name of the service; "
            "remove the line",
        ),
        (
            "ListenDatagram=5",
            "ListenDatagram= has no connections, and a service of UDP needs a unit of its own; "
            "write ListenStream= for TCP or a path",
        ),
        (
            "ListenFIFO=/run/x",
            "ListenFIFO= is no stream of bytes; write ListenStream= for TCP or a path",
        ),
        (
            "ListenStream=localhost:http",
            "ListenStream=localhost:http is no address; write 127.0.0.1:PORT, [::1]:PORT, "
            "PORT or /PATH",
        ),
        (
            "ListenStream=vsock:2:1234",
            "ListenStream=vsock:2:1234 is no address; write 127.0.0.1:PORT, [::1]:PORT, "
            "PORT or /PATH",
        ),
        *(
            (f"ListenStream={place}", f"ListenStream={place} has no port from 1 to 65535")
            for place in ("127.0.0.1:70000", "127.0.0.1:0", "127.0.0.1:020037", "1234567", "²")
        ),
        *(
            (
                f"ListenStream={place}",
                f"ListenStream={place} has a name for a port, and names are not known; "
                f"write {number}",
            )
            for place, number in (
                ("ftp", _port("ftp")),
                ("[::1]:http-alt", _port("http-alt")),
                ("127.0.0.1:no-such-port", "its number"),
            )
        ),
        *(
            (
                f"ListenStream={place}",
                f"ListenStream={place} is not a plain path; write it without //, /./ and /../",
            )
            for place in ("/run//x", "/run/./x", "/run/../x", "/run/x/")
        ),
        (
            f"ListenStream=/{'x' * 107}",
            f"ListenStream=/{'x' * 76}... is longer than the 107 bytes of a socket's path",
        ),
        (
            "ListenStream=[[::1]]:80",
            "ListenStream=[[::1]]:80 is no address; write 127.0.0.1:PORT, [::1]:PORT, "
            "PORT or /PATH",
        ),
        (
            "ListenStream=/run/%q",
            "ListenStream=/run/%q has the specifier %q; only %i %I %n %N %p %t are known here",
        ),
    ],
)
def test_a_bad_socket_section_does_not_listen_and_says_why(
    service: Callable[..., Installed], line: str, sentence: str
) -> None:
    there = service(f"User=nobody\n{TRUE}", socket_section=line, start=False)
    wanted = f"{there.file}:3: {sentence}"
    assert there.check().stderr.splitlines() == [wanted]
    run("systemctl", "daemon-reload")
    assert run("systemctl", "start", there.socket_unit, check=False).returncode != 0
    said = [entry["MESSAGE"] for entry in journal(f"_SYSTEMD_UNIT={there.socket_unit}")]
    assert wanted in said
    assert there.state() == "failed"


def test_no_address_at_all(service: Callable[..., Installed]) -> None:
    there = service("", start=False)
    there.file.write_text(
        f"[Socket]\nListenStream=5\nListenStream=\n[Spawn]\nUser=nobody\n{TRUE}\n"
    )
    assert there.check().stderr == (
        f"{there.file}: [Socket] has no ListenStream=; write where to listen, as in "
        "127.0.0.1:10031\n"
    )


@both_doors
def test_a_link_into_a_folder_that_others_can_write(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nArgv=/bin/echo this ran")
    elsewhere = Path("/var/tmp/spawn-elsewhere")
    elsewhere.mkdir(exist_ok=True)
    elsewhere.chmod(0o777)
    there.file.rename(elsewhere / "file.conf")
    there.file.symlink_to(elsewhere / "file.conf")
    sentence = f"others than root can write the folder {elsewhere}; chmod go-w it"
    assert f"{there.file}: {sentence}" in refused(there)["MESSAGE"]
    elsewhere.chmod(0o755)
    assert there.talk() == b"this ran\n"


def test_a_draft_replaces_its_namesake(service: Callable[..., Installed], tmp_path: Path) -> None:
    there = service(f"User=nobody\n{TRUE}")
    draft = tmp_path / there.file.name
    draft.write_text(there.file.read_text())
    draft.chmod(0o644)
    assert run("spawnctl", "check", str(draft)).stdout == f"{draft}: ok\n"
    done = run("spawnctl", "check", there.file.name, cwd=FOLDER)
    assert done.stdout == f"{there.file}: ok\n"


def test_keys_below_the_wrong_header(service: Callable[..., Installed]) -> None:
    there = service("", start=False)
    there.file.write_text(f"[Socket]\nListenStream=5\nUser=nobody\n{TRUE}\n")
    required = "it is required, and"
    assert there.check().stderr.splitlines() == [
        f"{there.file}: [Spawn] has no User=; {required} {there.file}:3 has it in [Socket]",
        f"{there.file}: [Spawn] has no Argv=; {required} {there.file}:4 has it in [Socket]",
    ]


def test_odd_things_in_the_folder_harm_nobody_else(service: Callable[..., Installed]) -> None:
    folder = FOLDER / "folder.conf"
    folder.mkdir()
    odd = FOLDER / os.fsdecode(b"odd\xff\n.conf")
    odd.write_text("[Socket]\n")
    try:
        there = service("User=nobody\nArgv=/bin/echo here")
        assert there.talk() == b"here\n"
        checked = run("spawnctl", "check", check=False)
        assert checked.returncode == EX_CONFIG
        assert f"{there.file}: ok\n" in checked.stdout
        assert f"{folder}: this is not a regular file; replace it by one\n" in checked.stderr
        assert f"/etc/spawn/odd\\udcff\\n.conf: {RENAME}\n" in checked.stderr
    finally:
        folder.rmdir()
        odd.unlink()


def test_check_by_the_name_of_the_socket_unit(service: Callable[..., Installed]) -> None:
    there = service(f"User=nobody\n{TRUE}", start=False)
    assert run("spawnctl", "check", there.socket_unit).stdout == f"{there.file}: ok\n"


def test_nothing_to_check() -> None:
    assert list(FOLDER.glob("*.conf")) == []
    checked = run("spawnctl", "check")
    assert checked.stderr == "spawnctl: there is no service file in /etc/spawn or /usr/lib/spawn\n"


def test_two_services_on_one_address(service: Callable[..., Installed]) -> None:
    first = service("User=nobody\nArgv=/bin/echo first")
    second = service("User=nobody\nArgv=/bin/echo second", address=first.address, start=False)
    place = "{}:{}".format(*first.address)

    def claim(one: Installed, other: Installed) -> str:
        return (
            f"{one.file}:2: ListenStream={place} is where {other.name} listens ({other.file}:2); "
            "give each service an address of its own"
        )

    checked = second.check()
    assert (checked.returncode, checked.stderr) == (EX_CONFIG, claim(second, first) + "\n")
    note = claim(first, second).replace(":2: ", ":2: note: ").replace(" listens ", " would listen ")
    checked = first.check()  # the other is neither enabled nor started
    assert (checked.returncode, checked.stderr) == (0, f"{note}, before it is enabled\n")
    # The second cannot start, and its record says why; it is not tried again and again.
    run("systemctl", "daemon-reload")
    assert run("systemctl", "start", second.socket_unit, check=False).returncode != 0
    (record,) = until(lambda: journal(f"SPAWN_SERVICE={second.name}"))
    assert record["MESSAGE"] == f"{second.name}: no command was run: {claim(second, first)}"
    assert (record["SPAWN_RESULT"], record["PRIORITY"]) == ("config", "3")
    rearm = f"spawn-rearm@{second.name}.service"
    until(lambda: run("systemctl", "show", "-P", "ActiveState", rearm).stdout == "inactive\n")
    assert run("systemctl", "show", "-P", "ExecMainStatus", rearm).stdout == f"{EX_CONFIG}\n"
    # The first goes on to listen, and serves: the other is not started.
    assert first.state() == "active"
    assert first.talk() == b"first\n"


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("none", "0 connections were handed over"),
        ("listening", "descriptor 3 is a listening socket"),
        ("datagram", "descriptor 3 is no stream socket"),
        ("unconnected", "descriptor 3 is not connected"),
        ("unconnected path", "descriptor 3 is not connected"),
        ("misnamed", "a/b is no name of a service"),
        ("counted", "\\x1b[m connections were handed over"),
        ("file", "descriptor 3 is no socket: Socket operation on non-socket"),
    ],
)
def test_the_helper_wants_one_connected_stream(kind: str, what: str) -> None:
    """Started by hand, with something else than systemd would hand over."""
    helper = "/usr/lib/spawnhelper/spawnhelper/__main__.py"
    given: dict[str, Any] = {
        "listening": lambda: socket.create_server(("127.0.0.1", 0)),
        "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "file": lambda: Path("/etc/passwd").open(),
        "unconnected": socket.socket,
        "unconnected path": lambda: socket.socket(socket.AF_UNIX),
        "misnamed": lambda: socket.socketpair()[0],
        "counted": lambda: Path("/dev/null").open(),
        "none": lambda: Path("/dev/null").open(),
    }
    with given[kind]() as handed:
        script = 'export LISTEN_PID=$$; exec /usr/bin/python3 -I -S -X utf8 "$0" by-hand 3<&$FD'
        environment = {"FD": str(handed.fileno())}
        if kind != "none":
            environment["LISTEN_FDS"] = "\x1b[m" if kind == "counted" else "1"
        if kind == "misnamed":
            environment["LISTEN_FDNAMES"] = "a/b"
        process = subprocess.Popen(
            ["/bin/bash", "-c", script, helper], env=environment, pass_fds=[handed.fileno()]
        )
        assert process.wait(PATIENCE) == os.EX_USAGE
    (record,) = until(lambda: journal("SPAWN_UNIT=by-hand", f"_PID={process.pid}"))
    assert record["SPAWN_RESULT"] == "resources"
    assert record["MESSAGE"] == (
        f"spawnhelper: no command was run: {what}; start the socket instead: "
        "systemctl enable --now spawn@NAME.socket"
    )
