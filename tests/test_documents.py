"""Every command line in the README and in the manual pages does what it says there, in a machine
that begins without the package."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nested
import pytest
from conftest import PATIENCE, in_machine
from nested import BUILT, Pristine

pytestmark = in_machine

TREE = Path(__file__).parent.parent
README = (TREE / "README.md").read_text()
TROUBLESHOOTING = "spawnhelper-troubleshooting.7"
PAGES = (
    "spawnhelper.8",
    "spawnctl.1",
    "spawn-generator.8",
    "spawn-server.8",
    "spawn.conf.5.in",
    "spawn.conf-migration.7.in",
    "spawnhelper-cookbook.7",
    TROUBLESHOOTING,  # which takes the service away
)
# For a host that boots machines, and what every change has to pass there runs each of them.
OF_THE_HOST = ("packaging/try", "packaging/build-deb", "tests/run", ".ci/run")
PROGRAMS = ("spawnctl", "systemctl", "journalctl", "time", "python3", "systemd-analyze")
BARE_VERBS = ("log", "stats", "status")  # in the README's prose, without spawnctl before them
PLACEHOLDERS = {"NAME": "policy", "FILE": "/tmp/policy.conf"}
GOES_ON = re.compile(r" (-f|run) ?")  # until it is interrupted
INTERRUPTED = {124, 128 + 2}
EDITOR = """#!/bin/sh
for file; do :; done
case $file in
*/spawnctl-*) echo '# looked at' >>"$file" ;;
*) sed -i '1i [Service]\\nProtectHostname=yes' "$file" ;;
esac
"""
VARYING = re.compile(r"\d+(\.\d+)?(m?s\b)?|\b(?<=\b)[A-Z][a-z]{2} (?=N N:N:N)")


# Until what was connected has ended, and its record is in the journal.
RECORDED = (
    f"timeout {PATIENCE:.0f} sh -c 'while systemctl list-units --plain --no-legend "
    '"spawn@*.service" | grep -q .; do sleep 0.05; done\'; journalctl --sync'
)


class Command(NamedTuple):
    """A command line of a page, and what it shows as its output."""

    line: str
    output: list[str]


def blocks(text: str) -> Iterator[list[Command]]:
    """The sessions in the README."""
    for block in re.findall(r"```console\n(.*?)```", text, re.S):
        commands: list[Command] = []
        for line in block.splitlines():
            if line.startswith(("# ", "$ ")):
                commands.append(Command(line[2:].removeprefix("sudo "), []))
            else:
                commands[-1].output.append(line)
        yield commands


def prose(text: str) -> Iterator[str]:
    """The command lines between the README's words, each alternative of its own."""
    text = re.sub(r"```.*?```|<!-- settings -->.*<!-- /settings -->", "", text, flags=re.S)
    for span in re.findall(r"`([^`]+)`", text):
        words = " ".join(span.split()).removeprefix("sudo ").split()
        if words[0] in BARE_VERBS and len(words) > 1:
            words.insert(0, "spawnctl")
        if len(words) > 1 and words[0] in PROGRAMS + OF_THE_HOST:
            for chosen in itertools.product(*(word.split("|") for word in words)):
                yield " ".join(chosen)


def examples(page: str) -> Iterator[str]:
    """The command lines in a manual page's examples."""
    text = (TREE / "man" / page).read_text().replace("\\-", "-")
    for block in re.findall(r"\.EX\n(.*?)\.EE", text, re.S):
        if block.startswith("# /etc/spawn/"):
            continue  # a file, and its name
        yield from (line[2:] for line in block.splitlines() if line.startswith("# "))


def is_for_the_host(line: str) -> bool:
    return line.split()[0] in OF_THE_HOST


def masked(line: str) -> str:
    """The line without what is different each time, and without its columns."""
    return " ".join(VARYING.sub("N", line).split())


def session(machine: Pristine, commands: list[Command]) -> list[tuple[int, str]]:
    """Runs commands in one shell, from the folder of the sources; the status and the output of
    each."""
    mark = "----- end of command"
    script = ["cd /root/spawnhelper"]
    for command in commands:
        script += [
            f"{{ {command.line}\n}} 2>&1",
            f'status=$?; echo "{mark} $status"',
            RECORDED,  # a person is no faster
            "(exit $status)",
        ]
    code = machine.work / "session.sh"
    code.write_text("\n".join(script))
    said = machine.run(f"sh {code} </dev/null || true").stdout
    parts = re.split(rf"{mark} (\d+)\n", said)
    return [(int(status), output) for output, status in zip(parts[::2], parts[1::2], strict=False)]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pristine]:
    with nested.pristine(tmp_path_factory.mktemp("work")) as booted:
        sources = booted.root / "root/spawnhelper"
        hidden = shutil.ignore_patterns("build", "dist", ".git", "__pycache__")
        shutil.copytree(TREE, sources, ignore=hidden)
        shutil.copytree(BUILT, sources / "dist")
        # What the person at the prompt would say to apt, and into an editor.
        (booted.root / "etc/apt/apt.conf.d/yes").write_text('APT::Get::Assume-Yes "true";\n')
        (booted.root / "usr/bin/editor").write_text(EDITOR)
        (booted.root / "usr/bin/editor").chmod(0o755)
        yield booted


def test_with_pip(machine: Pristine) -> None:
    """Without the package; with what it takes from an index where Debian does not have it."""
    machine.install(BUILT.glob("python3-cysystemd_*.deb"))
    (commands,) = (each for each in blocks(README) if "pip" in str(each))
    # There is no index in a machine. What pip would build with is Debian's here.
    offline = Command("export PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=0", [])
    for status, output in session(machine, [offline, *commands]):
        assert status == 0, output
    machine.run("cp /root/spawnhelper/examples/hello.conf /etc/spawn/")
    machine.run("systemctl daemon-reload; systemctl start spawn@hello.socket")
    greeting = machine.run("socat -u TCP:127.0.0.1:10023 -").stdout
    assert greeting.startswith("Hello, 127.0.0.1. This is nobody")
    log = f"{RECORDED}; /usr/local/bin/spawnctl log --json"
    assert json.loads(machine.run(log).stdout)["SPAWN_RESULT"] == "success"
    machine.run("systemctl stop spawn@hello.socket")
    foreground = "/usr/local/bin/spawnctl run /etc/spawn/hello.conf >/dev/null 2>&1 &"
    patient = f"TCP:127.0.0.1:10023,retry={PATIENCE * 10:.0f},interval=0.1"
    asked = machine.run(f"{foreground} socat -u {patient} -; kill $!")
    assert asked.stdout == greeting
    machine.run(
        "rm -r /opt/spawnhelper /etc/spawn /usr/local/bin/spawnctl /usr/local/lib/spawnhelper "
        "/usr/local/lib/systemd /usr/local/lib/tmpfiles.d; systemctl daemon-reload"
    )


def test_the_readme(machine: Pristine) -> None:
    sessions = [each for each in blocks(README) if "pip" not in str(each)]
    sessions.sort(key=lambda each: "apt install" not in str(each))
    (file,) = re.findall(r"```ini\n# (\S+)\n(.*?)```", README, re.S)
    for commands in sessions:
        here = [each for each in commands if not is_for_the_host(each.line)]
        for command, (status, output) in zip(here, session(machine, here), strict=True):
            fails = command.output and "unknown key" in command.output[0]
            assert status == (78 if fails else 0), f"{command.line}\n{output}"
            if command.line.startswith("spawnctl new"):
                made = machine.run(f"grep -v '^#' {file[0]}").stdout
                assert made == file[1], "the file that the page begins with"
            shown = [line for line in command.output if "Created symlink" not in line]
            said = [masked(line) for line in output.splitlines()]
            assert [line for line in shown if masked(line) not in said] == [], output


def test_the_prose(machine: Pristine) -> None:
    lines = [line for line in prose(README) if not is_for_the_host(line)]
    assert len(lines) > 6
    run_all(machine, lines)


@pytest.mark.parametrize("page", PAGES)
def test_the_manual_pages(machine: Pristine, page: str) -> None:
    run_all(machine, list(examples(page)))


def run_all(machine: Pristine, lines: list[str]) -> None:
    """Runs command lines, after the README's session; what goes on is interrupted."""
    machine.run("cp /etc/spawn/policy.conf /tmp/; sed -i s/TimeLimt/TimeLimit/ /etc/spawn/*.conf")
    machine.run("sed -i s/TimeLimt/TimeLimit/\\;s/10031/10032/ /tmp/policy.conf")
    machine.run("mkdir -p /var/log/journal; journalctl --flush")
    for line in lines:
        for placeholder, stands_for in PLACEHOLDERS.items():
            line = re.sub(rf"\b{placeholder}\b", stands_for, line)
        if "edit" in line:
            line = f"script --quiet --return --command {shlex.quote(line)} /dev/null"
        limit = "timeout --signal=INT 2 " if GOES_ON.search(line) else ""
        done = machine.run(f"cd /root; {limit}bash -c {shlex.quote(line)} </dev/null", check=False)
        allowed = INTERRUPTED if limit else {0}
        assert done.returncode in allowed, f"{line}\n{done.stdout}{done.stderr}"


def test_what_is_for_the_host_is_run_there() -> None:
    lines = {line for each in blocks(README) for line, _ in each} | set(prose(README))
    passes = (TREE / ".ci/run").read_text()
    for program in {line.split()[0] for line in lines if is_for_the_host(line)} - {".ci/run"}:
        assert f"{program}" in passes


def test_every_exposure_has_its_reason(machine: Pristine) -> None:
    show = "systemd-analyze security --no-pager --json=short spawn@policy.service"
    exposed = {
        each["name"] for each in json.loads(machine.run(show).stdout) if each["set"] is False
    }
    text = (TREE / "man" / TROUBLESHOOTING).read_text().replace("\\-", "-")
    (table,) = re.findall(r'^\.\\" exposures\n(.*?)^\.\\" /exposures$', text, re.M | re.S)
    heads = re.findall(r"^\.TP\n(.*)$", table, re.M)
    explained = {name for head in heads for name in re.findall(r"\\fB(.*?)\\fR", head)}
    assert {
        name for name in exposed if {name, name.partition("~")[0]}.isdisjoint(explained)
    } == set()
    known = exposed | {name.partition("~")[0] for name in exposed}
    assert explained - known == set()
