"""The Debian packages: what a machine is like before, with and after them, and an upgrade under
load. In a machine that has never had them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nested
import pytest
from conftest import Installed, in_machine, run, systemd_version, until
from nested import BUILT, PREVIOUS, Pristine
from variants import later

from spawnhelper.conf.values import NAME_CHARACTERS
from spawnhelper.ctl import VERBS

pytestmark = in_machine

MODULES = "usr/lib/spawnhelper/spawnhelper"
PORT = 10023
SERVICE = f"""\
[Socket]
ListenStream=127.0.0.1:{PORT}
MaxConnections=600
[Spawn]
User=nobody
Argv=/bin/cat
"""
SERVER = SERVICE.replace(str(PORT), str(PORT + 1)).replace("[Spawn]", "Accept=no\n[Spawn]")
PACKAGES = "spawnhelper spawnctl python3-cysystemd"
# Files that another package's installation and a reboot change as well.
FLEETING = re.compile(
    r"/var/(log|cache|spool|lib/(apt|dpkg|postfix|systemd))/|/etc/(machine-id|ld\.so\.cache)$"
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pristine]:
    with nested.pristine(tmp_path_factory.mktemp("work")) as booted:
        yield booted


def packages(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.deb"))


def files(root: Path) -> dict[str, tuple[object, ...]]:
    """Every file of a root but the temporary ones, with its type, mode, owner, and what it has or
    points to."""
    found: dict[str, tuple[object, ...]] = {}
    device = root.stat().st_dev
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if os.lstat(f"{folder}/{name}").st_dev == device]
        if folder == f"{root}/var":
            folders.remove("tmp")
        for name in folders + names:
            path = f"{folder}/{name}"
            status = os.lstat(path)
            inside = path.removeprefix(str(root))
            content: object = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode) and not FLEETING.search(inside):
                content = hashlib.file_digest(open(path, "rb"), "sha1").digest()
            found[inside] = status.st_mode, status.st_uid, status.st_gid, content
    return found


def settle(machine: Pristine) -> None:
    """What apt and a boot leave in any machine is there before the comparison begins."""
    control = machine.work / "empty/DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text(
        "Package: empty\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\n"
        "Description: nothing\n"
    )
    page = machine.work / "empty/usr/share/man/man8/empty.8"  # man-db(8) makes an index of pages
    page.parent.mkdir(parents=True)
    page.write_text(".TH EMPTY 8\n.SH NAME\nempty \\- nothing\n")
    deb = machine.work / "empty.deb"
    run("dpkg-deb", "--build", str(machine.work / "empty"), str(deb))
    machine.run(f"apt-get -qy install {deb} && apt-get -qy purge empty")
    machine.reboot()


def test_from_the_installation_to_the_purge(machine: Pristine) -> None:
    settle(machine)
    before = files(machine.root)
    old = packages(PREVIOUS) or packages(BUILT)
    machine.install(old)
    (machine.root / "etc/spawn/echo.conf").write_text(SERVICE)
    machine.run("systemctl daemon-reload && systemctl enable --now spawn@echo.socket")
    served = under_load(machine, packages(BUILT), held=500)["held"]
    assert len(served) == 500
    nothing_is_left_over(machine, before)

    marked = under_load(machine, marked_packages(machine))
    fields = {each["SPAWN_REMOTE_PORT"]: "SPAWN_MARK" in each for each in records(machine, 1000)}
    assert {fields[port] for port in map(str, marked["held"])} == {False}, "the code begun with"
    assert {fields[port] for port in map(str, marked["after"])} == {True}, "the new code"

    machine.reboot()
    assert machine.run("systemctl is-active spawn@echo.socket").stdout == "active\n"
    assert answer(machine) == "x"
    machine.install(packages(BUILT))
    a_server_outlives_an_upgrade(machine)
    machine.run("systemctl enable -q --now spawn-metrics.timer && spawnctl metrics")
    machine.run("apt-get -qy remove spawnhelper")
    no_unit(machine)
    machine.run(f"apt-get -qy purge {PACKAGES}")
    no_unit(machine)
    assert machine.state() == "running"
    wants = {f"/etc/systemd/system/{target}.target.wants" for target in ("sockets", "timers")}
    left = files(machine.root).keys() - before.keys() - wants
    assert left == {"/etc/spawn", "/etc/spawn/echo.conf"}, "the administrator's own, and no more"
    empty = " ".join(wants - before.keys())  # they are systemd's, and it has them again at need
    machine.run(f"rm -r /etc/spawn; rmdir {empty}" if empty else "rm -r /etc/spawn")
    machine.reboot()
    after = files(machine.root)
    assert {path for path in before.keys() | after if before.get(path) != after.get(path)} == set()


def a_server_outlives_an_upgrade(machine: Pristine) -> None:
    """And what is connected to it; and it is left running."""
    file = machine.root / "etc/spawn/server.conf"
    file.write_text(SERVER)
    machine.run("systemctl daemon-reload && systemctl start spawn@server.socket")
    code = machine.work / "held.py"
    code.write_text(HELD)
    machine.run(f"python3 {code} {PORT + 1} {' '.join(map(str, packages(BUILT)))}")
    show = "systemctl is-active spawn-server@server.service"
    assert machine.run(show).stdout == "active\n"
    assert machine.run("find /run/systemd/system -name 50-upgrade.conf").stdout == ""
    file.unlink()


@pytest.mark.parametrize(
    ("name", "manager"),
    [
        pytest.param("alice", "--wait loginctl enable-linger alice", id="lingering"),
        pytest.param("bob", "--property=User=bob --property=PAMName=su-l sleep 1h", id="login"),
    ],
)
def test_services_of_a_user_outlive_an_upgrade(machine: Pristine, name: str, manager: str) -> None:
    """And what is connected to them, through both doors; a removal ends them."""
    machine.install(packages(BUILT))
    machine.run(f"useradd -m {name} && systemd-run -q {manager}")
    folder = machine.root / f"home/{name}/.config/spawn"
    folder.mkdir(parents=True)
    (folder / "own.conf").write_text(SERVICE.replace("User=nobody\n", ""))
    (folder / "server.conf").write_text(SERVER.replace("User=nobody\n", ""))
    systemctl = f"systemctl --user --machine={name}@"
    until(lambda: machine.run(f"{systemctl} daemon-reload", check=False).returncode == 0)
    machine.run(f"{systemctl} start spawn@own.socket spawn@server.socket")
    code = machine.work / "held.py"
    code.write_text(HELD)
    for port in (PORT, PORT + 1):
        machine.run(f"python3 {code} {port} {' '.join(map(str, packages(BUILT)))}")
    assert list((machine.root / "run/systemd").glob("*/spawn*.d/50-upgrade.conf")) == []
    state = f"{systemctl} is-active spawn-server@server.service spawn@own.socket"
    assert machine.run(state).stdout == "active\nactive\n"
    machine.run("apt-get -qy purge spawnhelper python3-cysystemd")
    no_unit(machine)
    assert (folder / "own.conf").exists()


def answer(machine: Pristine) -> str:
    """What a connection to the service says."""
    return machine.run(f"printf x | socat -t 5 - TCP:127.0.0.1:{PORT}").stdout


def no_unit(machine: Pristine) -> None:
    """No unit of the package is known to systemd any more, and nothing listens."""
    for listing in ("list-units --all", "list-unit-files"):
        shown = machine.run(f"systemctl {listing} --plain --no-legend 'spawn*'", check=False).stdout
        assert [line for line in shown.splitlines() if "not-found" not in line] == []
    listening = machine.run("ss -Hltn").stdout
    assert f":{PORT} " not in listening
    assert f":{PORT + 1} " not in listening


def nothing_is_left_over(machine: Pristine, before: dict[str, tuple[object, ...]]) -> None:
    """No file outside dpkg's list but what py3compile(1) made, and no link to nowhere."""
    new = files(machine.root).keys() - before.keys()
    known = set(machine.run(f"dpkg -L {PACKAGES}").stdout.splitlines())
    unknown = {
        path
        for path in new - known - {"/etc/spawn/echo.conf"}
        if "/__pycache__" not in path and not path.startswith("/var/lib/dpkg/info/")
    }
    wants = Path("/etc/systemd/system/sockets.target.wants")
    enabled = {str(wants), str(wants / "spawn@echo.socket")}
    assert unknown == enabled
    links = [path for path in new if (machine.root / path[1:]).is_symlink()]
    for link in links:
        machine.run(f"test -e {link}")


HELD = """
import socket, subprocess, sys

def echo(client, octet):
    client.sendall(octet)
    assert client.recv(2) == octet

held = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60)
echo(held, b"x")
apt = ["apt-get", "-qy", "install", "--reinstall", *sys.argv[2:]]
subprocess.run(apt, check=True, stdout=subprocess.DEVNULL)
echo(held, b"y")
with socket.create_connection(held.getpeername(), timeout=60) as new:
    echo(new, b"z")
"""

# Connections are held while apt works, and no fewer are made meanwhile and just afterwards.
LOAD = """
import json, socket, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor

def begin():
    client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60)
    client.sendall(b"x")
    assert client.recv(2) == b"x"
    return client

def end(client):
    port = client.getsockname()[1]
    client.sendall(b"y")
    assert client.recv(2) == b"y"
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    client.close()
    return port

def again(_):
    ports = []
    while len(ports) < 60 or upgrade.poll() is None:
        ports.append(end(begin()))
        time.sleep(0.02)
    return ports

held = [begin() for _ in range(int(sys.argv[2]))]
apt = ["apt-get", "-qy", "install", "--reinstall", "--allow-downgrades", *sys.argv[3:]]
upgrade = subprocess.Popen(apt, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
with ThreadPoolExecutor(4) as pool:
    rows = list(pool.map(again, range(4)))
said = upgrade.stdout.read()
assert upgrade.returncode == 0, said
after = [end(begin()) for _ in range(10)]
print(json.dumps({"held": [end(client) for client in held], "after": after,
                  "meanwhile": [port for row in rows for port in row]}))
"""


def under_load(machine: Pristine, debs: list[Path], held: int = 250) -> dict[str, list[int]]:
    """Installs packages while connections are open and others are made; the ports of those that
    were held, made meanwhile, and made afterwards. Every one is served, and recorded."""
    earlier = len(records(machine, 0))
    code = machine.work / "load.py"
    code.write_text(LOAD)
    done = machine.run(f"python3 {code} {PORT} {held} {' '.join(map(str, debs))}")
    ports: dict[str, list[int]] = json.loads(done.stdout.splitlines()[-1])
    count = sum(map(len, ports.values()))
    assert count >= held + 250
    found = records(machine, earlier + count)[earlier:]
    assert len(found) == count
    assert {each["SPAWN_RESULT"] for each in found} == {"success"}
    return ports


def records(machine: Pristine, count: int) -> list[dict[str, Any]]:
    """The service's records, once there are so many."""
    show = "journalctl --sync; journalctl -q -o json SPAWN_SERVICE=echo"
    lines = until(
        lambda: machine.run(show).stdout.splitlines(), holds=lambda found: len(found) >= count
    )
    return [json.loads(line) for line in lines]


def marked_packages(machine: Pristine) -> list[Path]:
    """A later version, whose records say so, and whose files do not work with those of now."""
    modules = {
        "record.py": [
            ('f"SPAWN_RESULT={result}",', 'f"SPAWN_RESULT={result}", "SPAWN_MARK=1",'),
            ("def of_end(", "def of_an_end("),
        ],
        "doors/one.py": [("record.of_end(", "record.of_an_end(")],
    }
    edits = {f"{MODULES}/{name}": changes for name, changes in modules.items()}
    return [later(machine.work, "spawnhelper", edits), later(machine.work, "spawnctl")]


# One source for all releases: the policy is newer than what lintian of Debian 12 knows, and that of
# forky wants gone what Debian 12 needs.
OF_OLD_LINTIAN = ("newer-standards-version",)
OF_NEW_LINTIAN = (
    "ancient-python-version-field",
    "package-uses-old-debhelper-compat-version",
    "redundant-priority-optional-field",
    "redundant-rules-requires-root-no-field",
)


@pytest.mark.parametrize("source", ["spawnhelper", "cysystemd"])
def test_lintian(source: str) -> None:
    """Nothing is found, down to what is pedantic, but for what is said to be so on purpose."""
    (changes,) = BUILT.glob(f"{source}_*.changes")
    check = ["lintian", "--pedantic", "--allow-root", "--info"]
    if systemd_version() < 257:
        check.append(f"--suppress-tags={','.join(OF_OLD_LINTIAN)}")
    elif systemd_version() > 257:
        check.append(f"--suppress-tags={','.join(OF_NEW_LINTIAN)}")
    done = run(*check, "--fail-on=error,warning,pedantic", str(changes), check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("source", ["spawnhelper", "cysystemd"])
def test_autopkgtest(source: str, tmp_path: Path) -> None:
    (description,) = BUILT.glob(f"{source}_*.dsc")
    unpacked = str(tmp_path / "source")
    run("dpkg-source", "--extract", str(description), unpacked)
    # A test may do anything to this machine, but "null" does not know that.
    options = ["--no-built-binaries", "--ignore-restrictions=isolation-container"]
    done = run("autopkgtest", *options, unpacked, "--", "null", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "page",
    [
        "5/spawn.conf.5",
        "7/spawn.conf-migration.7",
        "8/spawnhelper.8",
        "1/spawnctl.1",
        "8/spawn-generator.8",
        "8/spawn-server.8",
        "7/spawn-user.7",
        "7/spawnhelper-cookbook.7",
        "7/spawnhelper-troubleshooting.7",
    ],
)
def test_manual_pages_are_rendered_without_a_warning(page: str) -> None:
    file = f"/usr/share/man/man{page}.gz"
    done = run("man", "--warnings", "--encoding=UTF-8", "-Tutf8", "--local-file", file)
    assert done.stderr == ""
    assert len(done.stdout) > 1000


@pytest.mark.skipif(systemd_version() < 257, reason="before 255 a directive of ours is unknown")
@pytest.mark.parametrize("text", [SERVICE, f"{SERVER}[Service]\nProtectSystem=strict\n"])
def test_systemd_analyze_is_silent(tmp_path: Path, text: str) -> None:
    units = Path("/usr/lib/systemd/system").glob("spawn*")
    generated = tmp_path / "generated"
    generated.mkdir()
    Path("/etc/spawn/verify.conf").write_text(text)
    try:
        generator = "/usr/lib/systemd/system-generators/spawn-generator"
        run(generator, *[str(generated)] * 3)
        for unit in units:
            if "@" in unit.name:  # a template is verified as an instance
                copy = tmp_path / unit.name.replace("@", "@verify")
                shutil.copy(unit, copy)
        for drop_in in generated.iterdir():
            shutil.copytree(drop_in, tmp_path / drop_in.name)
        for unit in sorted(tmp_path.glob("spawn*@verify.*")):
            if unit.is_file():
                done = run("systemd-analyze", "verify", str(unit), check=False)
                assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    finally:
        Path("/etc/spawn/verify.conf").unlink()


BASH = """
. /usr/share/bash-completion/bash_completion
_completion_loader spawnctl 2>/dev/null || _comp_load spawnctl
COMP_WORDS=({words} '')
COMP_WORDS[-1]={last}
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
COMP_LINE="${{COMP_WORDS[*]}}" COMP_POINT=${{#COMP_LINE}}
$(complete -p spawnctl | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
# zsh(1) completes for an editor alone: one in a terminal of its own. What is typed comes back, too,
# so what tells the states is written otherwise than it is printed. Nothing is typed behind the Tab:
# a list is not shown where more is to be read, and ^U could come before the editor is there, when
# the terminal itself kills the line.
ZSH = """
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'PROMPT=; autoload -Uz compinit; compinit -u; zstyle ":completion:*" list-prompt ""'
zpty -w z 'show() {{ zle list-choices; zle -R; print; print do""ne }}; zle -N show'
zpty -w z 'LISTMAX=0; setopt no_beep; bindkey "^I" show; print re""ady'
zpty -r z line $'*\\nready*'
zpty -w -n z $'{words} {last}\\t'
zpty -r z line $'*\\ndone*'
print -r -- $line
"""
COMPLETIONS = [
    ("spawnctl", "", set(VERBS)),
    ("spawnctl", "st", {"stats", "status", "stop"}),
    ("spawnctl log --result", "exit", {"exit-code"}),
    ("spawnctl log --user", "nobo", {"nobody"}),
    ("spawnctl --user", "st", {"stats", "status", "stop"}),
    ("spawnctl import", "", {"inetd", "postfix", "xinetd"}),
]
BEHIND_EQUALS = [
    ("spawnctl log --result =", "exit", {"exit-code"}),  # as readline has it
    ("spawnctl stats --by", "=", {"service", "from", "result", "hour"}),
]


def completed(shell: str, words: str, last: str) -> set[str]:
    """What the shell offers for the last word."""
    script = {"bash": BASH, "zsh": ZSH}[shell].format(words=words, last=last)
    return set(run(shell, "-c", script, env=os.environ | {"TERM": "dumb"}).stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(("words", "last", "expected"), COMPLETIONS)
def test_completion(shell: str, words: str, last: str, expected: set[str]) -> None:
    found = completed(shell, words, last)
    assert found == expected if shell == "bash" else found >= expected, found


@pytest.mark.parametrize(("words", "last", "expected"), BEHIND_EQUALS)
def test_completion_of_a_value_behind_an_option(words: str, last: str, expected: set[str]) -> None:
    assert completed("bash", words, last) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_of_services(shell: str, service: Callable[..., Installed]) -> None:
    names = {service("User=nobody\nArgv=/bin/true\n", start=False).name for _ in range(2)}
    start = f"t{os.getpid()}-"
    masked = Path(f"/etc/spawn/{start}-masked.conf")
    masked.symlink_to("/dev/null")
    try:
        for verb in ("status", "log -f", "check"):
            found = completed(shell, f"spawnctl {verb}", start)
            assert names <= found
            assert masked.stem not in found
        assert not names & completed(shell, "spawnctl --user status", start)
        own = Path(f"/etc/spawn/user/{start}-own.conf")
        own.write_text("[Spawn]\n")
        assert own.stem in completed(shell, "spawnctl --user status", start)
        assert own.stem not in completed(shell, "spawnctl status", start)
        own.unlink()
        assert completed("bash", "spawnctl check", "/etc/spaw") == {"/etc/spawn"}
        assert completed("bash", "spawnctl stats -D", "/etc/spaw") == {"/etc/spawn"}
        assert completed("bash", "spawnctl import inetd --to", "/etc/spaw") == {"/etc/spawn"}
        assert completed("bash", "spawnctl import inetd", "/etc/spaw") == {"/etc/spawn"}
    finally:
        masked.unlink()


ODD_NAMES = (
    "$(touch run)",
    "`touch run`",
    "a;touch run",
    "two words",
    "new\nline",
    'a"quote',
    "it's",
    "st*r",
    "$HOME",
    "~root",
    "\N{SNOWMAN}",
)
# What zsh has of the folders, without the editor: the function alone, and what it hands on.
ZSH_NAMES = """
compadd() { print -rl -- "${(@P)2}" }
eval "$(sed -n '/^_spawnctl_services()/,/^}/p' /usr/share/zsh/vendor-completions/_spawnctl)"
_spawnctl_services
"""


@pytest.mark.parametrize("folder", ["/etc/spawn", "/usr/lib/spawn"])
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_runs_no_name_of_a_file(
    shell: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was restored or unpacked can have a file of any name, and the one in which one
    is, too."""
    monkeypatch.chdir(tmp_path)
    odd = [Path(folder) / f"{name}.conf" for name in ODD_NAMES]
    here = [Path(name) for name in ODD_NAMES]
    good = Path(folder) / "Fine-1.a_b.conf"
    Path(folder).mkdir(exist_ok=True)
    try:
        for file in (*odd, *here, good):
            file.write_text(SERVICE)
        if shell == "zsh":
            found = run("zsh", "-fc", ZSH_NAMES).stdout.splitlines()
        else:
            for verb in ("check", "log", "run"):
                completed(shell, f"spawnctl {verb}", "")
            found = sorted(completed(shell, "spawnctl status", ""))
        assert good.stem in found
        assert [name for name in found if name.strip(NAME_CHARACTERS + "-.")] == []
        assert {"two", "words", "new", "line", "HOME"}.isdisjoint(found)
        assert sorted(os.listdir()) == sorted(ODD_NAMES)
    finally:
        for file in (*odd, good):
            file.unlink(missing_ok=True)
