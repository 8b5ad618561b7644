"""Every key of [Spawn], one after the other: a good value seen to work, the edge, and what is said
of bad ones; by what the command, the client and the journal see."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    SLACK,
    Installed,
    both_doors,
    in_machine,
    journal,
    one_door,
    read_all,
    run,
    until,
    until_over,
)
from test_values import BAD

from spawnhelper.conf.settings import KEYS, LIMITS

pytestmark = [in_machine, both_doors]

SCRATCH = Path("/var/tmp/spawn-keys")
JAIL = SCRATCH / "jail"
SECTION = "User=nobody\nArgv=/bin/true\n"
LIMIT_NAMES = {
    "LimitCPU": "cpu time",
    "LimitFSIZE": "file size",
    "LimitDATA": "data size",
    "LimitSTACK": "stack size",
    "LimitCORE": "core file size",
    "LimitRSS": "resident set",
    "LimitNOFILE": "open files",
    "LimitAS": "address space",
    "LimitNPROC": "processes",
    "LimitMEMLOCK": "locked memory",
    "LimitLOCKS": "file locks",
    "LimitSIGPENDING": "pending signals",
    "LimitMSGQUEUE": "msgqueue size",
    "LimitNICE": "nice priority",
    "LimitRTPRIO": "realtime priority",
    "LimitRTTIME": "realtime timeout",
}
# Values that the kernel shows as they are, and the edge: what is below or above systemd's own.
MOST_FILES = Path("/proc/sys/fs/nr_open").read_text().strip()
NO_END = ("infinity", MOST_FILES, MOST_FILES)
LIMIT_VALUES = {
    "LimitCPU": [("30:60", "30", "60"), ("1500ms", "2", "2")],
    "LimitSTACK": [("1M:2M", "1048576", "2097152"), ("infinity", "unlimited", "unlimited")],
    "LimitNOFILE": [("3:1000000", "3", "1000000"), ("64", "64", "64"), NO_END],
    "LimitAS": [("256M", "268435456", "268435456"), ("1G:infinity", "1073741824", "unlimited")],
    "LimitDATA": [("256M", "268435456", "268435456"), ("infinity", "unlimited", "unlimited")],
    "LimitNICE": [("-20", "40", "40"), ("+19:+0", "1", "20")],
    "LimitRTPRIO": [("1:99", "1", "99"), ("0", "0", "0")],
    "LimitRTTIME": [("5ms:1s", "5000", "1000000"), ("infinity", "unlimited", "unlimited")],
}
OTHER_LIMITS = [("4096:8192", "4096", "8192"), ("infinity", "unlimited", "unlimited")]


@pytest.fixture(scope="module", autouse=True)
def places() -> Iterator[None]:
    SCRATCH.mkdir(exist_ok=True)
    SCRATCH.chmod(0o755)
    for folder in ("bin", "home", "usr/bin"):
        (JAIL / folder).mkdir(parents=True, exist_ok=True)
    run("cp", "/bin/busybox", str(JAIL / "bin/busybox"))
    for link in ("bin/sh", "bin/ls", "bin/pwd", "usr/bin/pwd"):
        run("ln", "-sf", "/bin/busybox", str(JAIL / link))
    (SCRATCH / "banner").write_text("welcome\n")
    (SCRATCH / "sorry").write_text("sorry\n")
    if run("id", "spawn-keys", check=False).returncode != 0:
        run("useradd", "-m", "-g", "users", "spawn-keys")
    yield
    run("rm", "-r", str(SCRATCH))


def answers(
    conf: str, wanted: str, data: bytes = b"", result: str = "success"
) -> Callable[[Installed], None]:
    """A check: with these lines the client gets what the pattern says, the record its result."""

    def check(there: Installed) -> None:
        there.write(SECTION + conf)
        answer = there.talk(data).decode()
        record = there.record()
        assert re.fullmatch(wanted, answer, re.DOTALL), (answer, record["MESSAGE"])
        assert record["SPAWN_RESULT"] == result, record["MESSAGE"]

    return check


def privileged(conf: str, wanted: str, sentence: str) -> Callable[[Installed], None]:
    """A check of what needs CAP_SYS_RESOURCE: where the machine itself does not have it, the record
    says that the kernel refuses."""
    if int(re.findall(r"CapBnd:\s+(\w+)", Path("/proc/1/status").read_text())[0], 16) >> 24 & 1:
        return answers(conf, wanted)

    def check(there: Installed) -> None:
        there.write(SECTION + conf)
        assert there.talk() == b""
        record = there.record()
        assert f": no command was run: {there.file}:7: {sentence}, client" in record["MESSAGE"]
        assert record["SPAWN_RESULT"] == "exec-failed"

    return check


def recorded(conf: str, data: bytes = b"", **fields: str) -> Callable[[Installed], None]:
    """A check: with these lines the record has these fields."""

    def check(there: Installed) -> None:
        there.write(SECTION + conf)
        there.talk(data)
        record = there.record()
        assert {key: record.get(key) for key in fields} == fields, record["MESSAGE"]

    return check


def unrecorded(conf: str) -> Callable[[Installed], None]:
    """A check: with these lines there is no record at all."""

    def check(there: Installed) -> None:
        there.write(SECTION + conf)
        there.talk()
        until_over()
        assert len(journal(f"SPAWN_SERVICE={there.name}")) == there.seen

    return check


def lasts(conf: str, least: float, **fields: str) -> Callable[[Installed], None]:
    """A check: the command's end comes after so many seconds, never before; and within 50 ms, at
    least once, for other work makes nobody faster."""

    def check(there: Installed) -> None:
        there.write(SECTION + conf)

        def took() -> float:
            there.talk()
            record = there.record()
            assert {key: record.get(key) for key in fields} == fields, record["MESSAGE"]
            seconds = int(record["SPAWN_DURATION_USEC"]) / 1e6
            assert seconds >= least
            return seconds

        until(took, holds=lambda seconds: seconds < least + 0.05)

    return check


def in_journal(conf: str, **fields: str) -> Callable[[Installed], None]:
    """A check: what the command writes to standard error is in the journal, with these fields."""

    def check(there: Installed) -> None:
        mark = f"mark-{time.monotonic_ns()}"
        there.write(SECTION + conf.replace("MARK", mark))
        assert there.talk() == b""
        there.record()
        (entry,) = until(lambda: journal(f"MESSAGE={mark}"))
        assert {key: entry.get(key) for key in fields} == fields

    return check


def proxied(conf: str, header: bytes, wanted: str) -> Callable[[Installed], None]:
    return answers(
        f"ProxyFrom=127.0.0.1\n{conf}\nArgv=/bin/sh -c 'echo $REMOTE_ADDR'", wanted, header
    )


def slow_header(there: Installed) -> None:
    there.write(f"{SECTION}ProxyProtocol=any\nProxyFrom=127.0.0.1\nProxyTimeLimit=1s")
    begun = time.monotonic()
    with there.connect() as client:
        client.sendall(b"PROXY ")
        assert read_all(client) == b""
    assert 1 <= time.monotonic() - begun < 1 + SLACK
    assert there.record()["SPAWN_RESULT"] == "denied"


def second_waits(there: Installed) -> None:
    """tests/test_turns.py has the rest."""
    there.write("User=nobody\nArgv=/bin/cat\nMaxCommands=1\nQueueLimit=300ms")
    with there.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        begun = time.monotonic()
        assert there.talk() == b""
        assert 0.3 <= time.monotonic() - begun < 0.3 + SLACK
        assert there.record()["SPAWN_RESULT"] == "queue-limit"
    there.record()


def limit(key: str, value: str, soft: str, hard: str) -> Callable[[Installed], None]:
    line = rf".*Max {LIMIT_NAMES[key]} +{soft} +{hard} .*"
    conf = f"{key}={value}\nArgv=/bin/cat /proc/self/limits"
    present = resource.getrlimit(getattr(resource, f"RLIMIT_{key[5:]}", 10))[1]
    wanted = KEYS[key].parse(value)
    assert isinstance(wanted, tuple)
    if present == -1 or 0 <= wanted[1] <= present:
        return answers(conf, line)
    return privileged(conf, line, f"{key}={value}: not allowed to raise maximum limit")


ID = "Argv=/usr/bin/id "
V1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes((192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0, 2))
NOW = time.localtime()
AN_HOUR = f"{NOW.tm_hour:02}:00-{NOW.tm_hour + 1:02}:00 {(NOW.tm_hour + 1) % 24:02}:00-24:00"
NOT_NOW = f"{(NOW.tm_hour + 12) % 24:02}:00-{(NOW.tm_hour + 12) % 24:02}:01"
FIVE = "Argv=/bin/sh -c 'echo ${HOME-no} ${USER-no} ${LOGNAME-no} ${SHELL-no} ${REMOTE_HOST-no}'"
# A socket cannot be opened by a name.
UNOPENED = "/bin/sh: .*: No such device or address\n"
WORKS: dict[str, list[Callable[[Installed], None]]] = {
    "User": [
        answers(f"User=nobody\n{ID}-un", "nobody\n"),
        answers(f"User=65534:users\n{ID}-gn", "users\n"),
    ],
    "Group": [
        answers(f"Group=users\n{ID}-gn", "users\n"),
        answers(f"Group=100\n{ID}-gn", "users\n"),
    ],
    "SupplementaryGroups": [
        answers(
            f"SupplementaryGroups=users\nSupplementaryGroups=mail\n{ID}-Gn", "nogroup mail users\n"
        ),
        answers(f"SupplementaryGroups=users\nSupplementaryGroups=\n{ID}-Gn", "nogroup\n"),
    ],
    "RefuseUsers": [
        recorded("RefuseUsers=nobody", SPAWN_RESULT="config"),
        answers(f"RefuseUsers=\nUser=postfix\n{ID}-un", "postfix\n"),
    ],
    "Argv": [
        answers("Argv=echo 'a  b' $HOME *", r"a  b \$HOME \*\n"),
        answers('Argv=/usr/bin/printf "%s|" "" \\x41', r"\|A\|"),
        answers("Argv=/bin/sh -c 'exec /bin/echo \"$REMOTE_ADDR\"'", "127.0.0.1\n"),
    ],
    "Argv0": [
        answers(
            "Argv=/bin/cat /proc/self/cmdline\nArgv0='-my cat'", "-my cat\0/proc/self/cmdline\0"
        ),
        answers("Argv=/bin/cat /proc/self/cmdline\nArgv0=x", "x\0/proc/self/cmdline\0"),
    ],
    "TimeLimit": [
        lasts(
            "TimeLimit=300ms\nArgv=/bin/sleep 9", 0.3, SPAWN_RESULT="time-limit", EXIT_STATUS="TERM"
        ),
        answers("TimeLimit=infinity\nArgv=/bin/echo here", "here\n"),
    ],
    "KillDelay": [
        lasts(
            "TimeLimit=1s\nKillDelay=250ms\nArgv=/bin/sh -c \"trap '' TERM; sleep 9; sleep 9\"",
            1.25,
            SPAWN_RESULT="time-limit",
            EXIT_STATUS="KILL",
        ),
        lasts("TimeLimit=100ms\nKillDelay=0\nArgv=/bin/sleep 9", 0.1, EXIT_STATUS="KILL"),
    ],
    "IdleLimit": [
        lasts(
            "IdleLimit=300ms\nArgv=/bin/sleep 9", 0.3, SPAWN_RESULT="idle-limit", EXIT_STATUS="TERM"
        ),
        answers("IdleLimit=infinity\nArgv=/bin/echo here", "here\n"),
    ],
    "SizeLimit": [
        answers("SizeLimit=5\nArgv=/bin/cat", "12345", b"12345"),
        answers("SizeLimit=5\nArgv=/bin/cat", "12345", b"123456", "size-limit"),
        answers("SizeLimit=5\nArgv=/bin/sh -c 'cat </dev/stdin'", "12345", b"12345"),
        answers("SizeLimit=0\nArgv=/bin/cat", "", b""),
        answers("SizeLimit=0\nArgv=/bin/cat", "", b"1", "size-limit"),
    ],
    "StandardError": [
        answers("Argv=/bin/sh -c 'echo oops >&2'", "oops\n"),
        answers("Argv=/bin/sh -c 'echo oops >/dev/stderr'", UNOPENED, result="exit-code"),
        answers("Argv=/bin/sh -c 'echo oops >/dev/stdout'", UNOPENED, result="exit-code"),
        answers("Argv=/bin/sh -c 'cat </dev/stdin'", UNOPENED, b"x", "exit-code"),
        answers("Argv=/bin/sh -c 'echo one >&1; cat <&0'", "one\nx", b"x"),
        recorded(
            "StandardError=journal\nArgv=/bin/sh -c 'echo oops >/dev/stderr'", EXIT_STATUS="2"
        ),
        answers("StandardError=null\nArgv=/bin/sh -c 'echo oops >/dev/stderr'", ""),
        answers("StandardError=null\nArgv=/bin/sh -c 'echo oops >&2'", ""),
        in_journal(
            "StandardError=journal\nArgv=/bin/sh -c 'echo MARK >&2'",
            _UID="65534",
            PRIORITY="5",
            SYSLOG_IDENTIFIER="sh",
        ),
    ],
    "Environment": [
        answers("Environment=A=1 'B=x y'\nArgv=/usr/bin/env", ".*\nA=1\nB=x y\n.*"),
        answers("Environment=A=\nArgv=/usr/bin/env", ".*\nA=\n.*"),
        answers(f"Environment=HOME=/srv SHELL=/bin/sh\n{FIVE}", "/srv no no /bin/sh no\n"),
    ],
    "PassEnvironment": [
        answers(
            "PassEnvironment=INVOCATION_ID\nArgv=/usr/bin/env", ".*\nINVOCATION_ID=[0-9a-f]+\n.*"
        ),
        answers("PassEnvironment=NOT_THERE\nArgv=/bin/sh -c 'echo ${NOT_THERE-unset}'", "unset\n"),
    ],
    "WorkingDirectory": [
        answers("WorkingDirectory=~\nUser=spawn-keys\nArgv=/bin/pwd", "/home/spawn-keys\n"),
        answers(f"WorkingDirectory=~\nUser=spawn-keys\n{FIVE}", "no no no no no\n"),
        answers("WorkingDirectory=-/nowhere\nArgv=/bin/pwd", "/\n"),
        recorded("WorkingDirectory=/nowhere", SPAWN_RESULT="exec-failed"),
    ],
    "RootDirectory": [
        answers(f"RootDirectory={JAIL}\nArgv=/bin/ls /", "bin\nhome\nusr\n"),
        answers(f"RootDirectory={JAIL}\nArgv=pwd", "/\n"),
        recorded(f"RootDirectory={JAIL}\nArgv=/bin/cat", SPAWN_RESULT="config"),
        recorded(f"RootDirectory={JAIL}/bin/ls", SPAWN_RESULT="config"),
        answers(f"RootDirectory={JAIL}\nWorkingDirectory=/home\nArgv=/bin/pwd", "/home\n"),
        answers(f"RootDirectory={JAIL}\nArgv=/bin/sh -c '/bin/ls /../../etc; echo $?'", ".*1\n"),
        answers(
            f"RootDirectory={JAIL}\nStandardError=null\nArgv=/bin/sh -c 'echo oops >&2; echo here'",
            "here\n",
        ),
        in_journal(
            f"RootDirectory={JAIL}\nStandardError=journal\nArgv=/bin/sh -c 'echo MARK >&2'",
            _UID="65534",
            SYSLOG_IDENTIFIER="sh",
        ),
    ],
    "UMask": [
        answers("UMask=027\nArgv=/bin/sh -c umask", "0027\n"),
        answers("UMask=0\nArgv=/bin/sh -c umask", "0000\n"),
    ],
    "Nice": [
        answers("Nice=5\nArgv=/usr/bin/nice", "5\n"),
        answers("Nice=-20\nArgv=/usr/bin/nice", "-20\n"),
        answers("Nice=0\nArgv=/usr/bin/nice", "0\n"),
    ],
    "OOMScoreAdjust": [
        answers("OOMScoreAdjust=1000\nArgv=/bin/cat /proc/self/oom_score_adj", "1000\n"),
        privileged(
            "OOMScoreAdjust=-500\nArgv=/bin/cat /proc/self/oom_score_adj",
            "-500\n",
            "OOMScoreAdjust=-500: Permission denied",
        ),
    ],
    "NoNewPrivileges": [
        answers("Argv=/bin/grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"),
        answers(
            "NoNewPrivileges=no\nArgv=/bin/grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0\n"
        ),
    ],
    "AllowFrom": [
        answers("AllowFrom=192.0.2.1 127.0.0.0/8\nArgv=/bin/echo here", "here\n"),
        recorded("AllowFrom=192.0.2.0/24", SPAWN_RESULT="denied", PRIORITY="4"),
        recorded("AllowFrom=::/0", SPAWN_RESULT="denied"),
    ],
    "DenyFrom": [
        recorded("DenyFrom=127.0.0.0/8", SPAWN_RESULT="denied", CONFIG_LINE="7"),
        answers("DenyFrom=127.0.0.0/8\nAllowFrom=127.0.0.1\nArgv=/bin/echo here", "here\n"),
        recorded("DenyFrom=127.0.0.1\nAllowFrom=127.0.0.1", SPAWN_RESULT="denied"),
    ],
    "AccessTimes": [
        answers(f"AccessTimes={AN_HOUR}\nArgv=/bin/echo here", "here\n"),
        recorded(f"AccessTimes={NOT_NOW}", SPAWN_RESULT="denied", PRIORITY="4"),
    ],
    "Banner": [
        answers(f"Banner={SCRATCH}/banner\nArgv=/bin/echo here", "welcome\nhere\n"),
        answers("Banner=/nowhere", "", result="config"),
        answers("Banner=/dev", "", result="config"),
    ],
    "BannerRefused": [
        answers(f"BannerRefused={SCRATCH}/sorry\nAllowFrom=::1", "sorry\n", b"data", "denied"),
        answers(f"BannerRefused={SCRATCH}/sorry\nArgv=/bin/echo here", "here\n"),
        answers("BannerRefused=/nowhere\nAllowFrom=::1", "", result="denied"),
    ],
    "ProxyProtocol": [
        proxied("ProxyProtocol=v1", V1, "192.0.2.1\n"),
        proxied("ProxyProtocol=v2", V2, "192.0.2.1\n"),
        proxied("ProxyProtocol=any", V1, "192.0.2.1\n"),
        proxied("ProxyProtocol=no", V2, "127.0.0.1\n"),
        answers("ProxyProtocol=v1\nProxyFrom=127.0.0.1", "", V2, "denied"),
        answers("ProxyProtocol=v2\nProxyFrom=127.0.0.1", "", V1, "denied"),
    ],
    "ProxyFrom": [
        answers("ProxyProtocol=v1\nProxyFrom=::1 127.0.0.0/8", "", V1),
        answers("ProxyProtocol=v1\nProxyFrom=192.0.2.1 unix", "", V1, "denied"),
    ],
    "ProxyTimeLimit": [slow_header],
    "MaxCommands": [second_waits],
    "QueueLimit": [second_waits],
    "SuccessExitStatus": [
        recorded(
            "SuccessExitStatus=3 DATAERR\nSuccessExitStatus=SIGPIPE\nArgv=/bin/sh -c 'exit 3'",
            SPAWN_RESULT="success",
            PRIORITY="5",
            EXIT_CODE="exited",
            EXIT_STATUS="3",
        ),
        recorded("SuccessExitStatus=3\nArgv=/bin/sh -c 'exit 4'", SPAWN_RESULT="exit-code"),
        recorded(
            "SuccessExitStatus=3\nSuccessExitStatus=\nArgv=/bin/sh -c 'exit 3'",
            SPAWN_RESULT="exit-code",
            PRIORITY="4",
        ),
        unrecorded("SuccessExitStatus=3\nLog=failures\nArgv=/bin/sh -c 'exit 3'"),
    ],
    "Log": [
        unrecorded("Log=none\nArgv=/bin/false"),
        unrecorded("Log=failures"),
        recorded("Log=failures\nArgv=/bin/false", SPAWN_RESULT="exit-code"),
        recorded("Log=none\nUser=root", SPAWN_RESULT="config"),
    ],
    "SummaryInterval": [  # tests/test_summary.py has the rest
        recorded("SummaryInterval=2s", SPAWN_RESULT="success"),
        recorded("SummaryInterval=500ms", SPAWN_RESULT="config"),
        recorded("SummaryInterval=infinity", SPAWN_RESULT="config"),
    ],
    "SyslogIdentifier": [
        recorded("SyslogIdentifier=my policy", SYSLOG_IDENTIFIER="my policy"),
        recorded("SyslogIdentifier=policy\nUser=root", SYSLOG_IDENTIFIER="policy"),
        in_journal(
            "SyslogIdentifier=policy\nStandardError=journal\nArgv=/bin/sh -c 'echo MARK >&2'",
            SYSLOG_IDENTIFIER="policy",
        ),
    ],
    "SyslogFacility": [
        recorded("SyslogFacility=local7", SYSLOG_FACILITY="23"),
        recorded("SyslogFacility=kern", SYSLOG_FACILITY="0"),
    ],
    **{key: [limit(key, *each) for each in LIMIT_VALUES.get(key, OTHER_LIMITS)] for key in LIMITS},
}


@pytest.mark.parametrize("key", KEYS)
def test_it_works(service: Callable[..., Installed], key: str) -> None:
    there = service(SECTION)
    for check in WORKS[key]:
        check(there)


@one_door
@pytest.mark.parametrize("key", KEYS)
def test_what_is_said_of_bad_values(service: Callable[..., Installed], key: str) -> None:
    assert len(BAD[key]) >= 3
    values = [text for text, _ in BAD[key] if len(text) < 80 and not text.endswith("\\")]
    there = service(SECTION + "".join(f"{key}={text}\n" for text in values), start=False)
    said = there.check()
    assert said.returncode == 78
    lines = said.stderr.splitlines()
    for line, text, sentence in (
        (line, *case) for line, case in enumerate((c for c in BAD[key] if c[0] in values), 7)
    ):
        shown = text if text.isprintable() else repr(text)[1:-1]
        shown = "" if KEYS[key].secret else shown
        assert f"{there.file}:{line}: {key}={shown} {sentence}" in lines


def test_a_connection_says_the_same(service: Callable[..., Installed]) -> None:
    there = service(SECTION + "Nice=20\n")
    with there.connect() as client:
        assert read_all(client) == b""
    message: Any = there.record()["MESSAGE"]
    sentence = "Nice=20 is out of range; write a number from -20 to 19"
    assert f": no command was run: {there.file}:7: {sentence}, client 127.0.0.1:" in message


def test_limits_are_those_that_systemd_gives(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nArgv=/bin/cat /proc/self/limits")
    usual = run("systemd-run", "--wait", "--pipe", "-q", "cat", "/proc/self/limits").stdout
    assert there.talk().decode() == usual
