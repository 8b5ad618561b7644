"""spawnctl log: the records of connections, line by line; what is ours, and what is not."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import journals
import pytest
from conftest import PATIENCE, Installed, both_doors, in_machine, journal, run, until

from spawnhelper.record import MESSAGE_IDS

pytestmark = in_machine

TRUE = "User=nobody\nArgv=/bin/true\n"
MINUTE = 60_000_000  # microseconds
RESULTS = ", ".join(MESSAGE_IDS)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a journal of another machine."""
    folder = tmp_path_factory.mktemp("foreign")
    unix = {"SPAWN_REMOTE_UID": 1000, "SPAWN_REMOTE_PID": 77, "SPAWN_LOCAL_ADDR": "/run/x"}
    of_path = journals.record(4 * MINUTE, service="echo") | unix
    del of_path["SPAWN_REMOTE_ADDR"], of_path["SPAWN_REMOTE_PORT"]
    of_path["MESSAGE"] = "echo: cat as nobody: exit status 0 after 7.5ms, client pid 77 of uid 1000"
    journals.write(
        folder / "a.journal",
        [
            journals.record(0),
            journals.record(MINUTE, result="denied", SPAWN_REMOTE_ADDR="2001:db8::1"),
            journals.record(2 * MINUTE, service="finger", SPAWN_USER="alice"),
            journals.record(3 * MINUTE, result="config", PRIORITY=3),
            of_path,
            journals.record(5 * MINUTE, SPAWN_DURATION_USEC=7_200_000_000),
            journals.record(6 * MINUTE, result="listening-again"),
        ],
    )
    return folder


def log(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("spawnctl", "log", *arguments, check=False, env=os.environ | {"TZ": "UTC"})


def times(*arguments: str) -> list[str]:
    """At which minute of the foreign journal the shown records are."""
    done = log(*arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    if done.stdout == "-- No entries --\n":
        return []
    return [line.split()[2][3:5] for line in done.stdout.splitlines()]


def test_lines(foreign: Path) -> None:
    done = log(f"--directory={foreign}")
    assert done.stdout.splitlines() == [
        "Oct 26 07:33:20  policy  success               1.5ms  192.0.2.7:40000        "
        "/usr/libexec/policy as nobody: exit status 0",
        "Oct 26 07:34:20  policy  denied                       [2001:db8::1]:40000    "
        "no command was run: something is wrong",
        "Oct 26 07:35:20  finger  success               4.5ms  192.0.2.7:40000        "
        "/usr/libexec/finger as nobody: exit status 0",
        "Oct 26 07:36:20  policy  config                       192.0.2.7:40000        "
        "no command was run: something is wrong",
        "Oct 26 07:37:20  echo    success               7.5ms  pid 77 of uid 1000     "
        "cat as nobody: exit status 0",
        "Oct 26 07:38:20  policy  success           2h 0min 0s  192.0.2.7:40000        "
        "/usr/libexec/policy as nobody: exit status 0 after 4.5ms",
        "Oct 26 07:39:20  policy  listening-again                                     "
        "spawn@policy.socket had failed",
    ]


@pytest.mark.parametrize(
    ("filters", "minutes"),
    [
        (["-n", "2"], "38 39"),
        (["-n", "0"], ""),
        (["-n", "1", "policy", "finger"], "39"),
        (["finger"], "35"),
        (["spawn@finger.socket", "/etc/spawn/echo.conf"], "35 37"),
        (["--result", "denied"], "34"),
        (["--result", "denied", "--result", "config"], "34 36"),
        (["--failed"], "36 39"),
        (["--from", "192.0.2.0/24"], "33 35 36 38"),
        (["--from", "2001:db8::/32"], "34"),
        (["--from", "unix", "--from", "2001:db8::1"], "34 37"),
        (["--user", "alice"], "35"),
        (["--user", "nobody", "finger"], ""),
        (["--slower-than", "1h"], "38"),
        (["--slower-than", "4500us"], "37 38"),
        (["--slower-than", "infinity"], ""),
        (["--since", "2026-10-26 07:35:20", "--until", "2026-10-26 07:37:20"], "35 36 37"),
        (["-S", "@1793000180", "-n", "2"], "38 39"),
        (["-U", "@1793000180", "-n", "2"], "35 36"),
        (["--since", "-1h", "--until", "+1h"], ""),
    ],
    ids=" ".join,
)
def test_filters(foreign: Path, filters: list[str], minutes: str) -> None:
    assert times(f"-D{foreign}", *filters) == minutes.split()


@pytest.mark.parametrize(
    ("form", "when"),
    [
        ("short-precise", "Oct 26 07:33:20.000000"),
        ("short-iso", "2026-10-26T07:33:20+00:00"),
        ("short-iso-precise", "2026-10-26T07:33:20.000000+00:00"),
        ("short-full", "Mon 2026-10-26 07:33:20 UTC"),
        ("short-unix", "1793000000.000000"),
    ],
)
def test_times(foreign: Path, form: str, when: str) -> None:
    first = log(f"-D{foreign}", "-o", form).stdout.splitlines()[0]
    assert first.startswith(f"{when}  policy  success ")


def test_times_are_local_unless_utc_is_asked_for(foreign: Path) -> None:
    there = os.environ | {"TZ": "Asia/Kolkata"}
    command = [
        "spawnctl",
        "log",
        f"-D{foreign}",
        "-n1",
        "policy",
        "--result=config",
        "-oshort-full",
    ]
    assert run(*command, env=there).stdout.startswith("Mon 2026-10-26 13:06:20 IST ")
    assert run(*command, "--utc", env=there).stdout.startswith("Mon 2026-10-26 07:36:20 UTC ")


def test_json_is_what_journalctl_says(foreign: Path) -> None:
    theirs = run("journalctl", "-q", "-D", str(foreign), "-o", "json").stdout.splitlines()
    volatile = {"__SEQNUM", "__SEQNUM_ID"}  # newer ones say these, too
    wanted = [
        {name: value for name, value in json.loads(line).items() if name not in volatile}
        for line in theirs
    ]
    for form in (["--json"], ["-o", "json"]):
        lines = log(f"-D{foreign}", *form).stdout.splitlines()
        assert [json.loads(line) for line in lines] == wanted
    assert json.loads(log(f"-D{foreign}", "-n1", "-o", "json-pretty").stdout) == wanted[-1]


def test_other_forms(foreign: Path) -> None:
    (sentence,) = log(f"-D{foreign}", "-o", "cat", "--result", "config").stdout.splitlines()
    assert sentence == ("policy: no command was run: something is wrong, client 192.0.2.7:40000")
    head, *fields = log(f"-D{foreign}", "-o", "verbose", "-n1", "finger").stdout.splitlines()
    assert re.fullmatch(r"Mon 2026-10-26 07:35:20 UTC \[s=[0-9a-f]+;i=3;.*\]", head)
    assert "    SPAWN_USER=alice" in fields
    assert "    _UID=0" in fields


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["nosuch"], 66, "there is no service nosuch, nor a record of one"),
        (
            ["--since", "gestern"],
            64,
            "--since=gestern is not a time; write for example yesterday, -1h, 10:30 or 2026-11-22 "
            "10:30 (systemd.time(7))",
        ),
        (
            ["--until="],
            64,
            "--until= is not a time; write for example yesterday, -1h, 10:30 or 2026-11-22 10:30 "
            "(systemd.time(7))",
        ),
        (
            ["--since", "today", "--until", "yesterday"],
            64,
            "--since is after --until; there is no time between them",
        ),
        (["-f", "--until", "now"], 64, "--follow goes on for ever; leave out --until"),
        (["-n", "-1"], 64, "--lines=-1 is below 0; write a number of lines"),
        (["-n", "x"], 64, "--lines=x is no number; write how many lines to show"),
        (
            ["--from", "mx.example.org"],
            64,
            "--from has 'mx.example.org'; write addresses and prefixes, as in 192.0.2.7 10.0.0.0/8 "
            "2001:db8::/32",
        ),
        (
            ["--slower-than", "long"],
            64,
            "--slower-than=long is not a time span; write for example 90s, 1h 30min or infinity",
        ),
        (["-D", "/nowhere"], 66, "/nowhere does not exist"),
        (["-D", "/etc/passwd"], 66, "/etc/passwd is not a folder"),
        (["-D", "/etc/spawn"], 66, "there is no journal in /etc/spawn"),
        (["--file", "/nowhere/*.journal"], 66, "there is no file /nowhere/*.journal"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(arguments: list[str], status: int, sentence: str) -> None:
    done = log(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", f"spawnctl: {sentence}\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--result", "nonsense"], f"--result=nonsense is not known here; write one of {RESULTS}"),
        (["--result=exit-cod"], "--result=exit-cod is not known here; did you mean exit-code?"),
        (["-o", "jsn"], "--output=jsn is not known here; did you mean json?"),
        (["--output=cta"], "--output=cta is not known here; did you mean cat?"),
    ],
)
def test_a_mistake_in_the_command_line(arguments: list[str], sentence: str) -> None:
    done = log(*arguments)
    assert done.returncode == os.EX_USAGE
    assert done.stderr == f"spawnctl: {sentence}; see spawnctl log --help\n"


def test_a_verb_that_is_none() -> None:
    done = run("spawnctl", "lst", check=False)
    assert done.returncode == os.EX_USAGE
    assert done.stderr == "spawnctl: lst is not a verb; did you mean list?; see spawnctl --help\n"


def test_the_habits_of_journalctl(foreign: Path) -> None:
    here = ("-D", str(foreign))
    assert times(*here, "-r") == times(*here)[::-1]
    assert times(*here, "-r", "-n", "2") == ["39", "38"]
    assert times(*here, "-u", "finger") == times(*here, "-u", "spawn@finger.socket") == ["35"]
    assert times(*here, "-u", "finger", "echo") == ["35", "37"]
    assert times(*here, "-g", "SOMETHING|finger") == ["35"]
    assert times(*here, "-g", "something|FINGER") == ["34", "36"]
    assert times(*here, "-g", "something|finger") == ["34", "35", "36"]
    assert times(*here, "-e") == times(*here)
    assert times(*here, "-b", journals.BOOT) == times(*here)
    assert times(*here, "-b", "0") == times(*here, "-b") == times(*here)
    assert times(*here, "-b", "0", "finger") == times(*here, "-b", "finger") == ["35"]
    assert times(*here, "-b", "0" * 32) == []
    done = log(*here, "-b", "-1")
    assert done.returncode == os.EX_NOINPUT
    assert done.stderr.startswith("spawnctl: --boot=-1 is not there: ")
    done = log(*here, "--boot=then")
    assert done.stderr == (
        "spawnctl: --boot=then is no boot; write an offset as 0 or -1, or an ID of journalctl "
        "--list-boots\n"
    )
    done = log(*here, "-g", "(")
    assert (done.returncode, done.stdout) == (os.EX_USAGE, "")
    assert done.stderr.startswith("spawnctl: --grep=( is no regular expression: ")


def test_all_but_some_clients(foreign: Path) -> None:
    here = ("-D", str(foreign))
    assert times(*here, "--from", "~192.0.2.0/24") == ["34", "37", "39"]
    assert times(*here, "--from=~unix 2001:db8::/32") == ["34"]
    assert times(*here, "--from", "0.0.0.0/0", "--from", "~192.0.2.7") == []


def test_the_exit_code_tells_whether_there_is_something(foreign: Path) -> None:
    here = ("-D", str(foreign), "--exit-code")
    assert log(*here, "--failed").returncode == 1
    assert log(*here, "--result", "signal").returncode == 0


def test_this_boot(service: Callable[..., Installed]) -> None:
    there = service(TRUE)
    there.talk()
    there.record()
    for word in ("-b", "-b0", "--boot=0"):
        assert len(log(word, there.name).stdout.splitlines()) == 1


FAILS = "User=nobody\nStandardError=journal\nArgv=/bin/sh -c 'echo {} >&2; exit 4'\n"


@both_doors
def test_why_did_it_exit(service: Callable[..., Installed]) -> None:
    """The command's own last lines, also where the worker has had other commands."""
    there = service(FAILS.format("the first line >&2; echo no such mailbox"))
    other = service(FAILS.format("quite another"))
    for each in (there, other, there):
        each.talk()
        each.record()
    run("journalctl", "--sync")
    shown = log("--output-of-command", there.name).stdout.splitlines()
    reason = ["    | the first line", "    | no such mailbox"]
    assert shown[1:3] == shown[4:] == reason
    status = run("spawnctl", "status", there.name).stdout
    assert f"{'':14}| the first line\n{'':14}| no such mailbox\n" in status
    (failure,) = (json.loads(run("spawnctl", "status", "--json", there.name).stdout),)
    assert failure["last_failure"]["standard_error"] == ["the first line", "no such mailbox"]
    assert "StandardError=" not in status


@both_doors
def test_only_the_last_lines(service: Callable[..., Installed]) -> None:
    there = service(
        "User=nobody\nStandardError=journal\n"
        "Argv=/bin/sh -c 'seq 1 500 >&2; printf \"\\\\033[2Jx\\\\n\" >&2; exit 1'\n"
    )
    there.talk()
    there.record()
    run("journalctl", "--sync")
    lines = log("--output-of-command", there.name).stdout.splitlines()[1:]
    assert lines == [*(f"    | {number}" for number in range(492, 501)), "    | \\x1b[2Jx"]


@both_doors
@pytest.mark.parametrize(
    ("value", "goes"), [("socket", "goes to the client"), ("null", "is thrown away")]
)
def test_where_the_reason_went(service: Callable[..., Installed], value: str, goes: str) -> None:
    there = service(FAILS.format("why").replace("journal", value))
    there.talk()
    there.record()
    sentence = f"standard error {goes}; StandardError=journal keeps it for here"
    assert sentence in run("spawnctl", "status", there.name).stdout
    assert log("--output-of-command", there.name).stdout.count("\n") == 1


def test_two_forms_of_output() -> None:
    done = log("--output-of-command", "--json")
    assert done.returncode == os.EX_USAGE
    sentence = "--output-of-command is not for -o json; leave out one of the two"
    assert done.stderr == f"spawnctl: {sentence}\n"
    done = log("-f", "-r")
    assert done.stderr == "spawnctl: --follow shows the newest last; leave out --reverse\n"


def test_a_service_without_a_record(service: Callable[..., Installed]) -> None:
    silent = service(TRUE, start=False)
    assert log(silent.name).stdout == "-- No entries --\n"
    assert log(silent.name, "--json").stdout == ""


def test_a_record_of_a_service_that_is_gone(foreign: Path) -> None:
    assert times("-D", str(foreign), "finger") == ["35"]


def test_nobody_but_root_writes_records(service: Callable[..., Installed]) -> None:
    """Any user can write any field but those of journald (systemd.journal-fields(7))."""
    victim = service(TRUE)
    victim.talk()
    true = victim.record()
    own = {name: value for name, value in true.items() if not name.startswith("_")}
    forged = own | {"MESSAGE": f"{victim.name}: forged", "SPAWN_RESULT": "signal"}
    fields = "".join(f"{name}={value}\n" for name, value in forged.items())
    forge = ["runuser", "-u", "nobody", "--", "logger", "--journald"]
    run(*forge, input=fields)
    until(lambda: len(journal(f"SPAWN_SERVICE={victim.name}")) == 2)
    (line,) = log(victim.name).stdout.splitlines()
    assert "forged" not in line
    assert "/bin/true as nobody: exit status 0" in line
    counted = json.loads(run("spawnctl", "stats", "--json", victim.name).stdout)
    assert counted["all"]["results"] == {"success": 1}


def test_a_thousand_commands_that_live_a_millisecond(service: Callable[..., Installed]) -> None:
    many = service("User=nobody\nArgv=/bin/true\n", socket_section="MaxConnections=1000")
    with ThreadPoolExecutor(16) as clients:
        for _ in range(1000):
            clients.submit(many.talk)
    assert len(many.records(1000)) == 1000
    assert len(log(many.name).stdout.splitlines()) == 1000


@contextlib.contextmanager
def following(
    *arguments: str, stderr: int | None = None
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """spawnctl log -f while it runs, and the lines that it has shown."""
    command = ["spawnctl", "log", "-f", *arguments]
    environment = os.environ | {"TZ": "UTC"}
    lines: list[str] = []
    follower = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
    )
    assert follower.stdout is not None
    reader = threading.Thread(target=lines.extend, args=(follower.stdout,))
    reader.start()
    try:
        yield follower, lines
    finally:
        follower.kill()
        follower.wait()
        reader.join()


def test_follow_loses_and_repeats_nothing(service: Callable[..., Installed]) -> None:
    followed = service("User=nobody\nArgv=/bin/true\n")
    followed.talk()
    followed.record()
    with following("--json", followed.name) as (follower, lines):

        def seen() -> list[int]:
            return [int(json.loads(line)["SPAWN_REMOTE_PORT"]) for line in lines]

        until(lambda: len(lines) == 1)
        ports = []
        for number in range(120):
            with followed.connect() as client:
                ports.append(client.getsockname()[1])
                client.recv(1)
            if number % 10 == 3:
                run("journalctl", "--rotate")
            if number % 10 == 6:  # but not before all is read that will be gone
                until(lambda: len(lines) > len(ports))
                run("journalctl", "--rotate", "--vacuum-files=1")
            if number % 40 == 9:
                run("systemctl", "restart", "systemd-journald")
        until(lambda: seen()[-1] == ports[-1])
        follower.send_signal(signal.SIGINT)
        assert follower.wait() == 128 + signal.SIGINT
    assert seen()[1:] == ports


@pytest.mark.parametrize(
    ("arguments", "minutes"),
    [
        (["-n", "2"], "38 39"),
        (["-n", "0"], ""),
        (["-n", "9", "finger"], "35"),
        (["--since", "@1793000180"], "36 37 38 39"),
        (["--since", "@1793000180", "-n", "2", "--failed"], "36 39"),
        (["--since", "@1793000180", "-n", "9", "finger"], ""),
    ],
    ids=" ".join,
)
def test_follow_goes_on_from_the_last_lines(
    foreign: Path, tmp_path: Path, arguments: list[str], minutes: str
) -> None:
    shutil.copytree(foreign, tmp_path, dirs_exist_ok=True)
    old = minutes.split()
    new: list[str] = []
    with following(f"-D{tmp_path}", *arguments) as (_, lines):
        until(lambda: len(lines) == len(old))
        # Where it has shown no line, nothing tells that it has begun but that it shows a new one.
        while len(lines) == len(old) and len(new) < 15:
            new.append(f"{42 + len(new)}")
            record = journals.record((8 + len(new)) * MINUTE, service="finger", result="signal")
            journals.write(tmp_path / f"{new[-1]}.journal", [record])
            with contextlib.suppress(AssertionError):
                until(lambda: len(lines) > len(old), 2)
    shown = [line.split()[2][3:5] for line in lines]
    assert shown[: len(old)] == old
    late = shown[len(old) :]
    assert late
    assert late == new[-len(late) :]


def test_follow_counts_what_copies_have_once(foreign: Path, tmp_path: Path) -> None:
    (file,) = foreign.iterdir()
    copies = [shutil.copy(file, tmp_path / name) for name in ("a.journal", "b.journal")]
    new = tmp_path / "new.journal"
    journals.write(new, [journals.record(9 * MINUTE)])
    arguments = [word for each in (*copies, new) for word in ("--file", str(each))]
    with following("-n", "4", "--utc", *arguments) as (_, lines):
        until(lambda: len(lines) == 4)
    assert [line.split()[2][3:5] for line in lines] == ["37", "38", "39", "42"]


def test_what_could_not_be_read_is_said(foreign: Path, tmp_path: Path) -> None:
    good = next(foreign.iterdir()).read_bytes()
    (tmp_path / "good.journal").write_bytes(good)
    (tmp_path / "short.journal").write_bytes(good[:100])
    # From 262 on, libsystemd minds only what is missing of the entries, not of the room behind.
    (tmp_path / "cut.journal").write_bytes(good[: len(good.rstrip(b"\0")) // 2])
    (tmp_path / "other.journal").write_bytes(b"this is no journal" * 1000)
    for arguments in ([f"-D{tmp_path}"], [f"--file={tmp_path}/*"]):
        for verb in (["log"], ["stats"], ["log", "-n3"]):
            done = run("spawnctl", *verb, *arguments, check=False)
            assert done.returncode == os.EX_IOERR
            assert sorted(done.stderr.splitlines()) == [
                f"spawnctl: {tmp_path}/cut.journal: is cut short (not read)",
                f"spawnctl: {tmp_path}/other.journal: is no journal file, or is damaged (not read)",
                f"spawnctl: {tmp_path}/short.journal: is cut short (not read)",
            ]
            assert "policy" in done.stdout


@pytest.mark.parametrize("verb", ["log", "stats"])
def test_no_permission(verb: str, foreign: Path, readable: Path) -> None:
    nobody = ["runuser", "-u", "nobody", "--", "spawnctl", verb]
    done = run(*nobody, check=False)
    assert done.returncode == os.EX_NOPERM
    assert re.search(
        r"^spawnctl: /(run|var)/log/journal/\S+: Permission denied \(not read\); root reads it, ",
        done.stderr,
        re.M,
    )
    folder = readable / "some"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "a.journal").write_bytes(next(foreign.iterdir()).read_bytes())
    (folder / "b.journal").write_bytes(next(foreign.iterdir()).read_bytes())
    (folder / "a.journal").chmod(0o644)
    (folder / "b.journal").chmod(0o600)
    done = run(*nobody, f"-D{folder}", check=False)
    assert done.returncode == os.EX_NOPERM
    assert done.stderr == (
        f"spawnctl: {folder}/b.journal: Permission denied (not read); root reads it, and members "
        "of the groups adm and systemd-journal do\n"
    )
    assert "finger" in done.stdout


def test_no_journal() -> None:
    hide = "mount -t tmpfs none /var/log && mount -t tmpfs none /run/log && exec spawnctl log"
    done = run("unshare", "--mount", "sh", "-c", hide, check=False)
    assert (done.returncode, done.stderr) == (
        os.EX_NOINPUT,
        "spawnctl: there is no journal in /var/log/journal or /run/log/journal\n",
    )


def test_without_its_library() -> None:
    places = "import cysystemd; print(cysystemd.__path__[0])"
    place = run("/usr/bin/python3", "-c", places).stdout.strip()
    hide = f"mount -t tmpfs none {place} && exec spawnctl log"
    done = run("unshare", "--mount", "sh", "-c", hide, check=False)
    assert done.returncode == os.EX_UNAVAILABLE
    assert re.fullmatch(
        r"spawnctl: the journal cannot be read: .*; install python3-cysystemd\n", done.stderr
    )


def damage(file: Path, times: int) -> None:
    """Zeroes the middle of the file's objects, here and there."""
    data = bytearray(file.read_bytes())
    for number in range(times):
        at = len(data) * (2 * number + 5) // (2 * times + 10)
        data[at : at + 4096] = bytes(4096)
    file.write_bytes(data)


def test_damage_in_the_middle(tmp_path: Path) -> None:
    journals.write(tmp_path / "a.journal", journals.mixed(3000, MINUTE))
    whole = len(log(f"-D{tmp_path}").stdout.splitlines())
    assert whole == 3000
    damage(tmp_path / "a.journal", 20)
    done = log(f"-D{tmp_path}")
    shown = len(done.stdout.splitlines())
    assert 0 < shown < whole
    assert done.returncode == os.EX_IOERR
    assert re.search(
        r"is damaged; what lies behind the damage was not read|\d+ damaged entries were left out",
        done.stderr,
    )
    counted = run("spawnctl", "stats", "--json", f"-D{tmp_path}", check=False)
    assert counted.returncode == os.EX_IOERR
    assert json.loads(counted.stdout)["unread"]


class Terminal:
    """A terminal with a command in it; seen: what it has shown so far."""

    def __init__(self, *command: str, **variables: str) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, os.environ | {"TERM": "xterm", "TZ": "UTC"} | variables)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 200, 0, 0))
        self.seen = ""

    def read(self, last: str) -> None:
        """Reads until that has come, or the end."""
        while not last or last not in self.seen:
            assert select.select([self.terminal], [], [], PATIENCE)[0], self.seen
            try:
                self.seen += os.read(self.terminal, 65536).decode()
            except OSError:
                break

    def end(self) -> None:
        """Ends the command, if it has not ended."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


@pytest.fixture
def screens() -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(*command: str, last: str = "", **variables: str) -> Terminal:
        made.append(Terminal(*command, **variables))
        made[-1].read(last)
        return made[-1]

    yield make
    for screen in made:
        screen.end()


def test_colours(foreign: Path, screens: Callable[..., Terminal]) -> None:
    command = ["spawnctl", "log", "--no-pager", f"-D{foreign}"]
    lines = screens(*command).seen.splitlines()
    assert not lines[0].startswith("\x1b")
    assert lines[1].startswith("\x1b[1;33m")  # a refusal is a warning
    assert lines[3].startswith("\x1b[1;31m")  # a wrong file is an error
    assert "\x1b" not in screens(*command, NO_COLOR="1").seen
    assert "\x1b" not in screens(*command, TERM="dumb").seen
    assert "\x1b" not in screens(*command, SYSTEMD_COLORS="0").seen
    assert "\x1b" not in run(*command).stdout
    assert "\x1b[1;33m" in run(*command, env=os.environ | {"SYSTEMD_COLORS": "1"}).stdout


def test_pager(foreign: Path, tmp_path: Path, screens: Callable[..., Terminal]) -> None:
    many = tmp_path / "many"
    journals.write(many / "a.journal", journals.mixed(300, MINUTE))
    screen = screens("spawnctl", "log", f"-D{many}", last="lines 1-11")  # it waits after a page
    assert screen.seen.count("Oct 26 ") < 20
    screen = screens("spawnctl", "log", f"-D{foreign}", SYSTEMD_PAGER="sed s/policy/paged/")
    assert "paged" in screen.seen
    screen = screens("spawnctl", "log", f"-D{foreign}", SYSTEMD_PAGER="", PAGER="sed s/policy/x/")
    assert "policy" in screen.seen
    screen = screens("spawnctl", "log", f"-D{foreign}", PAGER="sed s/policy/paged/")
    assert "paged" in screen.seen
    screen = screens("spawnctl", "log", f"-D{foreign}", PAGER="sh -c 'touch /tmp/x'", SUDO_UID="1")
    assert "policy" in screen.seen  # who is root by sudo(8) gets less, and nothing but reading
    assert not Path("/tmp/x").exists()
    script = tmp_path / "less"
    script.write_text("#!/bin/sh\necho secure=$LESSSECURE less=$LESS; cat >/dev/null\n")
    script.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    screen = screens("spawnctl", "log", f"-D{foreign}", PATH=path, SUDO_UID="1")
    assert "secure=1 less=FRSXMK" in screen.seen
    screen = screens(
        "spawnctl", "log", f"-D{foreign}", PATH=path, SUDO_UID="1", SYSTEMD_PAGERSECURE="0"
    )
    assert "secure= less=FRSXMK" in screen.seen


def test_a_reader_that_has_seen_enough() -> None:
    """| head is no fault."""
    done = run("bash", "-c", "spawnctl log | head -n 1; exit ${PIPESTATUS[0]}", check=False)
    assert done.returncode in (0, 128 + signal.SIGPIPE)
    assert done.stderr == ""


# Of a success there is nothing to explain, and ten lines each would hide the rest.
EXPLAINED = [result for result in MESSAGE_IDS if result != "success"]


@pytest.mark.parametrize("result", EXPLAINED)
def test_catalog(result: str) -> None:
    """What journalctl -x says: what happened, what it means, where to look."""
    dumped = run("journalctl", "--dump-catalog", MESSAGE_IDS[result]).stdout
    head, _, text = dumped.partition("\n\n")
    fields = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
    assert fields["Defined-By"] == "spawnhelper"
    assert fields["Subject"]
    assert "man:spawnhelper(8)" in fields["Documentation"]
    assert re.search(r"\b(spawn\.conf\(5\)|spawnhelper\(8\))", text)


def test_catalog_has_nothing_else() -> None:
    dumped = run("journalctl", "--dump-catalog").stdout
    ours = re.findall(r"-- ([0-9a-f]{32})\n(?:[A-Z].*\n)*?Defined-By: spawnhelper\n", dumped)
    assert sorted(ours) == sorted(MESSAGE_IDS[result] for result in EXPLAINED)


def test_journalctl_explains_a_record(service: Callable[..., Installed]) -> None:
    failing = service("User=nobody\nArgv=/bin/false\n")
    failing.talk()
    failing.record()
    said = run("journalctl", "-q", "-x", f"SPAWN_SERVICE={failing.name}").stdout
    assert "Subject: A command ended with a failure" in said
    assert f"The command of the service {failing.name}, /bin/false, ran as" in said
    assert "nobody and ended with exit status 1." in said


def test_journalctl_explains_nothing_of_a_success(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nSuccessExitStatus=3\nArgv=/bin/sh -c 'exit 3'\n")
    there.talk()
    there.record()
    said = run("journalctl", "-q", "-x", f"SPAWN_SERVICE={there.name}").stdout
    assert "exit status 3" in said
    assert "Subject:" not in said


# Has as many watches as the kernel gives to one user, and then becomes the program.
WATCHERS = """
import ctypes, os, pwd, sys
someone = pwd.getpwnam("games")
os.setgroups([int(sys.argv[1])])
os.setgid(someone.pw_gid)
os.setuid(someone.pw_uid)
watch = ctypes.CDLL(None).inotify_init1
while watch(0) >= 0: pass
os.execvp("spawnctl", ["spawnctl", "log", "-f"])
"""


def test_follow_without_a_watch_left(service: Callable[..., Installed]) -> None:
    there = service(TRUE)
    there.talk()
    there.record()
    group = run("getent", "group", "systemd-journal").stdout.split(":")[2]
    done = run("/usr/bin/python3", "-c", WATCHERS, group, check=False)
    assert done.returncode == os.EX_OSERR
    assert done.stderr == (
        "spawnctl: new entries cannot be watched for: Too many open files; close other watchers, "
        "or raise fs.inotify.max_user_instances (inotify(7))\n"
    )


def test_several_files_are_all_read_and_what_two_have_comes_once(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b", "c", "d")):
        made = [journals.record(at * MINUTE + number, service=name) for at in range(3)]
        journals.write(tmp_path / f"{name}.journal", made)
    shutil.copy(tmp_path / "a.journal", tmp_path / "e.journal")
    files = f"--file={tmp_path}/*.journal"
    shown = [json.loads(line) for line in log("--json", files).stdout.splitlines()]
    assert [each["SPAWN_SERVICE"] for each in shown] == ["a", "b", "c", "d"] * 3
    counted = json.loads(run("spawnctl", "stats", "--json", files).stdout)
    assert counted["all"]["connections"] == 12
