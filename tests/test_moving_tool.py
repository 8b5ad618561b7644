"""`spawnctl import` as it is typed: what it prints, what it writes, and its exit status."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from pathlib import Path

import pytest
from conftest import in_machine, run

pytestmark = in_machine

XINETD = """\
defaults
{
}
service answer
{
\ttype = UNLISTED
\tport = 7001
\tsocket_type = stream
\twait = no
\tuser = nobody
\tflags = IPv4
\tserver = /bin/cat
\tinstances = 5
}
"""
KEPT = XINETD + "service echo\n{\n\ttype = INTERNAL\n\tsocket_type = stream\n\twait = no\n}\n"
ANSWER = """\
# {file}:4 (spawnctl import xinetd)
#   service answer
#   {{
#    type = UNLISTED
#    port = 7001
#    socket_type = stream
#    wait = no
#    user = nobody
#    flags = IPv4
#    server = /bin/cat
#    instances = 5
#   }}

[Socket]
ListenStream=0.0.0.0:7001
MaxConnections=5

[Spawn]
User=nobody
Argv=/bin/cat
Argv0=cat
TimeLimit=infinity
"""
MASTER = """\
policy unix - n n - 5 spawn user=nobody argv=/bin/cat
127.0.0.1:7002 inet n n n - 5 spawn user=nobody argv=/bin/cat
"""


def spawnctl(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run("spawnctl", "import", *map(str, arguments), check=False)


def source(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_without_more_it_writes_nothing(tmp_path: Path) -> None:
    file = source(tmp_path, "xinetd.conf", XINETD)
    done = spawnctl("xinetd", file)
    assert done.returncode == 0
    assert done.stdout == "# answer.conf\n" + ANSWER.format(file=file)
    assert done.stderr == (
        f"{file}:4: answer: converted: answer.conf\n"
        "For every service:\n"
        "  set-user-ID programs and file capabilities are without effect; see NoNewPrivileges=no\n"
        "  what a command leaves behind when it ends is killed\n"
        "  the environment has the variables of spawn.conf(5), ENVIRONMENT OF THE COMMAND\n"
        "  each connection leaves a record in the journal; see Log=\n"
        "  the soft limit of open files is that of systemd, 1024, and not raised to the hard one; "
        "see LimitNOFILE=\n"
        "  REMOTE_HOST, which xinetd sets to the client's address, is REMOTE_ADDR\n"
        "  without passenv the command had xinetd's whole environment\n"
        "  the primary group is among the supplementary ones, too, as initgroups(3) has it\n"
        f"{file}: 14 lines: 11 of services, 3 of settings\n"
        "1 service: 1 converted\n"
    )
    assert list(tmp_path.iterdir()) == [file]


def test_a_relative_name_is_said_in_full(tmp_path: Path) -> None:
    file = source(tmp_path, "inetd.conf", "7003 stream tcp4 nowait nobody /bin/cat cat\n")
    done = subprocess.run(
        ["spawnctl", "import", "inetd", file.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"# 7003.conf\n# {file}:1 (spawnctl import inetd)\n")


def test_what_is_lost_is_an_exit_status(tmp_path: Path) -> None:
    file = source(tmp_path, "inetd.conf", "7003 stream tcp4 nowait.5 nobody /bin/cat cat\n")
    assert spawnctl("inetd", file).returncode == 65
    file.write_text("7003 dgram udp wait nobody /bin/cat cat\n")
    assert spawnctl("inetd", file).returncode == 65
    file.write_text("this is no file of inetd\n")
    done = spawnctl("inetd", file)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.endswith("not one service could be read\n")
    file.write_text("# nothing\n")
    done = spawnctl("inetd", file)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.endswith("nothing to import: there is no service\n")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = spawnctl("postfix", tmp_path / "master.cf")
    assert (done.returncode, done.stdout) == (78, "")
    sentence = "cannot be opened: No such file or directory"
    assert done.stderr == f"spawnctl: {tmp_path}/master.cf {sentence}\n"


def test_a_mistake_on_the_command_line(tmp_path: Path) -> None:
    done = spawnctl("inetd", tmp_path, "--force")
    assert done.returncode == 64
    assert done.stderr == "spawnctl: --force is about files that are there; add --to DIR\n"
    done = spawnctl("launchd")
    assert done.returncode == 64
    assert done.stderr == (
        "spawnctl: launchd is not known here; write one of postfix, inetd, xinetd; see "
        "spawnctl import --help\n"
    )


def test_what_the_machine_lacks(tmp_path: Path) -> None:
    text = "7004 stream tcp4 nowait nosuchuser:nogroup /nosuch/program program\n"
    done = spawnctl("inetd", source(tmp_path, "inetd.conf", text))
    assert done.returncode == 65
    waits = [line for line in done.stderr.splitlines() if line.startswith("  waits: ")]
    assert waits == [
        "  waits: 7004.conf:11: User=nosuchuser is no account of this machine; create it, or name "
        "another",
        "  waits: 7004.conf:12: Argv= /nosuch/program: No such file or directory; install it, or "
        "write another path",
    ]


def test_what_no_service_file_can_have(tmp_path: Path) -> None:
    text = f"7005 unix - n n - 1 spawn user=nobody argv=/bin/echo {'x' * (1 << 20)}\n"
    source(tmp_path, "main.cf", "")
    done = spawnctl("postfix", source(tmp_path, "master.cf", text))
    assert (done.returncode, done.stdout) == (65, "")
    assert "7005: not converted\n" in done.stderr
    sentence = "a service file cannot have all of it: the service file is longer than 1 MiB; "
    assert f":1: 7005: {sentence}shorten it; write it by hand\n" in done.stderr


def test_where_another_service_listens(tmp_path: Path) -> None:
    there = Path("/etc/spawn/there.conf")
    there.write_text("[Socket]\nListenStream=7001\n[Spawn]\nUser=nobody\nArgv=/bin/cat\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "spawn@there.socket")
    try:
        done = spawnctl("xinetd", source(tmp_path, "xinetd.conf", XINETD))
    finally:
        run("systemctl", "stop", "spawn@there.socket")
        there.unlink()
        run("systemctl", "daemon-reload")
    assert (
        "  waits: answer.conf:15: ListenStream=0.0.0.0:7001 is where there listens" in done.stderr
    )


def test_for_a_program(tmp_path: Path) -> None:
    text = KEPT.replace("instances", "cps = 5 5\n\tinstances") + "words\n"
    file = source(tmp_path, "xinetd.conf", text)
    done = spawnctl("xinetd", file, "--json")
    assert (done.returncode, done.stderr) == (65, "")
    told = json.loads(done.stdout)
    everywhere = told.pop("everywhere")
    assert {"means", "do"} == set(everywhere[0])
    answer, echo = told.pop("services")
    assert told == {
        "source": "xinetd",
        "status": 65,
        "counts": {
            "converted": 0,
            "converted with losses": 1,
            "not converted": 1,
            "switched off": 0,
            "not ours": 0,
        },
        "files": [
            {
                "file": str(file),
                "lines": 22,
                "empty": 0,
                "service": 18,
                "setting": 3,
                "unread": 1,
            }
        ],
        "unread": [
            {
                "file": str(file),
                "line": 22,
                "text": "words",
                "why": "it is outside of any section, and none of service, defaults, include, "
                "includedir",
            }
        ],
        "source_losses": [],
        "source_notes": [],
        "written": [],
    }
    assert answer.pop("text").startswith(f"# {file}:4 (spawnctl import xinetd)\n")
    assert answer == {
        "service": "answer",
        "file": str(file),
        "line": 4,
        "state": "converted with losses",
        "why": None,
        "name": "answer",
        "waits": [],
        "remarks": [
            {
                "file": str(file),
                "line": 13,
                "what": "cps = 5 5",
                "weight": "loss",
                "key": "MaxConnections",
                "means": "that so many connections a second close the port for a while has no "
                "equal here",
                "do": "limit those at a time with MaxConnections=, or the rate by a packet filter",
            }
        ],
    }
    assert (echo["state"], echo["name"], echo["text"]) == ("not converted", None, None)


def steps(*arguments: object) -> list[str]:
    """What --to ends with, behind the names of what was written."""
    lines = spawnctl(*arguments).stdout.splitlines()
    return lines[next(at for at, line in enumerate(lines) if not line.endswith(": written")) :]


def test_written_for_xinetd(tmp_path: Path) -> None:
    file = source(tmp_path, "xinetd.conf", XINETD)
    to = tmp_path / "to"
    done = spawnctl("xinetd", file, "--to", to)
    made = to / "answer.conf"
    assert done.stdout.startswith(f"{made}: written\n")
    assert made.read_text() == ANSWER.format(file=file)
    assert made.stat().st_mode & 0o777 == 0o644
    assert made.stat().st_uid == 0
    assert run("spawnctl", "check", str(made)).stdout == f"{made}: ok\n"
    first = [
        "# What is there now, and what it lacks:",
        f"spawnctl check {made}",
        "# The files count in /etc/spawn:",
        f"cp --preserve=mode --no-clobber {made} /etc/spawn/",
        "systemctl daemon-reload",
        "# xinetd forgets the services at its next start:",
        f"sed -i -e '5a disable = yes' {file}",
        "# A reload would end the commands that run, and so would a stop without these lines:",
        "mkdir -p /run/systemd/system/xinetd.service.d",
        "printf '[Service]\\nKillMode=process\\nKillSignal=SIGQUIT\\n' "
        ">/run/systemd/system/xinetd.service.d/keep-commands.conf",
        "systemctl daemon-reload",
    ]
    start = "until systemctl start spawn@answer.socket; do sleep 0.1; done"
    assert steps("xinetd", file, "--to", to, "--force") == [
        *first,
        "# Nothing else is left in xinetd:",
        "systemctl enable spawn@answer.socket",
        "# Between these two nobody listens, for as short as can be:",
        f"systemctl disable --now xinetd; {start}",
    ]
    file.write_text(KEPT)
    assert steps("xinetd", file, "--to", to, "--force") == [
        *first,
        "systemctl enable spawn@answer.socket",
        "# Between these two nobody listens, for as short as can be:",
        f"systemctl restart xinetd; {start}",
    ]


def test_written_for_inetd(tmp_path: Path) -> None:
    text = "7006 stream tcp4 nowait nobody /bin/cat cat\n -u\n7007 dgram udp wait nobody /x x\n"
    file = source(tmp_path, "inetd.conf", text)
    try:
        assert steps("inetd", file, "--to", "/etc/spawn") == [
            "# What is there now, and what it lacks:",
            "spawnctl check /etc/spawn/7006.conf",
            "systemctl daemon-reload",
            "# inetd.service forgets the services at its next reload:",
            f"sed -i '1s/^/#/;2s/^/#/' {file}",
            "systemctl enable spawn@7006.socket",
            "# Between these two nobody listens, for as short as can be:",
            "systemctl reload inetd; until systemctl start spawn@7006.socket; do sleep 0.1; done",
        ]
    finally:
        Path("/etc/spawn/7006.conf").unlink()


def test_written_for_postfix(tmp_path: Path) -> None:
    source(tmp_path, "main.cf", "")
    file = source(tmp_path, "master.cf", MASTER)
    to = tmp_path / "to"
    found = steps("postfix", file, "--to", to)
    assert found[4:] == [
        "systemctl daemon-reload",
        "# Postfix forgets the services at its next reload:",
        f"postconf -c {tmp_path} -M# policy/unix 127.0.0.1:7002/inet",
        "# systemd takes over the paths; Postfix goes on with what it has accepted:",
        "systemctl enable --now spawn@policy.socket",
        "systemctl enable spawn@127.0.0.1-7002.socket",
        "# Between these two nobody listens, for as short as can be:",
        f"postfix -c {tmp_path} reload; "
        "until systemctl start spawn@127.0.0.1-7002.socket; do sleep 0.1; done",
    ]
    file.write_text(MASTER.splitlines()[0] + "\n")
    found = steps("postfix", file, "--to", to, "--force")
    assert found[-1] == f"postfix -c {tmp_path} reload"


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    file = source(tmp_path, "xinetd.conf", XINETD)
    to = tmp_path / "to"
    to.mkdir()
    (to / "answer.conf").write_text("mine")
    done = spawnctl("xinetd", file, "--to", to)
    assert (done.returncode, done.stdout) == (73, "")
    sentence = "would be replaced; use --force if that is meant"
    assert done.stderr == f"spawnctl: {to}/answer.conf {sentence}\n"
    assert (to / "answer.conf").read_text() == "mine"


def test_a_vendors_file_would_be_replaced(tmp_path: Path) -> None:
    file = source(tmp_path, "xinetd.conf", XINETD)
    vendor = Path("/usr/lib/spawn/answer.conf")
    vendor.parent.mkdir(exist_ok=True)
    vendor.touch()
    try:
        done = spawnctl("xinetd", file, "--to", "/etc/spawn")
    finally:
        vendor.unlink()
    assert (done.returncode, f"{vendor} would be replaced" in done.stderr) == (73, True)


@pytest.mark.parametrize("name", ["xinetd.conf", "evil\x1b[31m.conf"])
def test_nothing_of_a_source_reaches_the_terminal(tmp_path: Path, name: str) -> None:
    text = (
        "service \x1b[31m\n{\n}\nservice x\n{\n\tenv = SECRET=s3cret \x07\n\tb\x9b = c\n}\n\x1b\n"
    )
    done = spawnctl("xinetd", source(tmp_path, name, text))
    assert done.returncode == 65
    assert "\x1b" not in done.stdout + done.stderr
    assert "s3cret" not in done.stderr


def test_without_root(tmp_path: Path) -> None:
    file = source(tmp_path, "xinetd.conf", XINETD)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    nobody = pwd.getpwnam("nobody")
    done = subprocess.run(
        ["spawnctl", "import", "xinetd", file],
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "# answer.conf\n" + ANSWER.format(file=file))
