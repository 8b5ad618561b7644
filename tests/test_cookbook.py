"""Each recipe of spawnhelper-cookbook(7), as it stands there, with the real program and a client of
its kind."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import (
    FOLDER,
    connect,
    in_machine,
    journal,
    read_all,
    run,
    until,
    until_over,
)

pytestmark = in_machine

PAGE = Path(__file__).parent.parent / "man/spawnhelper-cookbook.7"
BLOCK = re.compile(r"^\.EX\n(.*?)^\.EE$", re.M | re.S)
SRV = Path("/srv")


def plain(text: str) -> str:
    return text.replace("\\-", "-").replace("\\e", "\\")


BLOCKS = [plain(block) for block in BLOCK.findall(PAGE.read_text())]
RECIPES = {
    Path(block.splitlines()[0].removeprefix("# ")).stem: block
    for block in BLOCKS
    if block.startswith("# /etc/spawn/")
}


@pytest.fixture
def recipe(request: pytest.FixtureRequest) -> Iterator[str]:
    """The service that the test is named after, listening as the page has it."""
    name = request.node.name.removeprefix("test_").partition("[")[0]
    file = FOLDER / f"{name}.conf"
    file.write_text(RECIPES[name])
    try:
        checked = run("spawnctl", "check", name, check=False)
        assert checked.returncode == 0, checked.stderr
        done = run("spawnctl", "apply", "--enable", name, check=False)
        assert done.returncode == 0, done.stderr
        yield name
    finally:
        run("systemctl", "disable", "-q", "--now", f"spawn@{name}.socket", check=False)
        file.unlink()
        run("systemctl", "daemon-reload")


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [each for each in programs if not shutil.which(each, path="/usr/sbin:/usr/bin:/bin")]
    return pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}")


def results(name: str) -> set[str]:
    """What became of the connections, once the last has ended."""
    until_over()
    found = until(lambda: journal(f"SPAWN_SERVICE={name}"))
    return {each["SPAWN_RESULT"] for each in found}


def served(name: str) -> None:
    assert results(name) == {"success"}


def talk(port: int, data: bytes = b"") -> bytes:
    with connect(("127.0.0.1", port)) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return read_all(client)


@pytest.fixture(autouse=True)
def grounds() -> Iterator[None]:
    """Folders of a service, which are taken away."""
    places = [SRV / each for each in ("git", "pub", "svn", "cvs", "www", "jail")]
    yield
    for place in places:
        shutil.rmtree(place, ignore_errors=True)


@needs("git")
def test_git(recipe: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    run("git", "init", "-q", str(work))
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    run("git", "-C", str(work), *identity, "commit", "-q", "--allow-empty", "-m", "first")
    (SRV / "git").mkdir()
    run("git", "clone", "-q", "--bare", str(work), "/srv/git/x.git")
    run("git", "clone", "-q", "git://127.0.0.1/x.git", str(tmp_path / "copy"))
    assert "first" in run("git", "-C", str(tmp_path / "copy"), "log").stdout
    served(recipe)


@needs("rsync")
def test_rsync(recipe: str, tmp_path: Path) -> None:
    (config,) = [each for each in BLOCKS if each.startswith("use chroot")]
    Path("/etc/rsyncd-spawn.conf").write_text(config)
    (SRV / "pub").mkdir()
    (SRV / "pub/file").write_text("here")
    run("rsync", "-a", "rsync://127.0.0.1/pub/", str(tmp_path / "copy"))
    assert (tmp_path / "copy/file").read_text() == "here"
    served(recipe)
    Path("/etc/rsyncd-spawn.conf").unlink()


@needs("svn", "svnserve")
def test_svn(recipe: str, tmp_path: Path) -> None:
    (SRV / "svn").mkdir()
    run("svnadmin", "create", "/srv/svn/x")
    run("svn", "mkdir", "-q", "-m", "first", "file:///srv/svn/x/trunk")
    run("svn", "checkout", "-q", "svn://127.0.0.1/x/trunk", str(tmp_path / "copy"))
    assert (tmp_path / "copy/.svn").is_dir()
    served(recipe)


@needs("cvs")
def test_cvs(recipe: str, readable: Path) -> None:
    run("cvs", "-d", "/srv/cvs", "init")
    (SRV / "cvs/CVSROOT/passwd").write_text("anonymous::nobody\n")
    locks = readable / "locks"
    locks.mkdir()
    locks.chmod(0o777)
    with (SRV / "cvs/CVSROOT/config").open("a") as config:
        config.write(f"LockDir={locks}\n")
    (readable / "home").mkdir()
    (readable / "home/.cvspass").touch()
    environment = {"HOME": str(readable / "home"), "PATH": "/usr/bin:/bin"}
    root = ":pserver:anonymous:@127.0.0.1:/srv/cvs"
    listing = run("cvs", "-d", root, "rlog", "CVSROOT/modules", env=environment, check=False)
    assert "RCS file: /srv/cvs/CVSROOT/modules,v" in listing.stdout, listing.stderr
    served(recipe)


@needs("nrpe")
def test_nrpe(request: pytest.FixtureRequest) -> None:
    config = Path("/etc/nagios/nrpe-spawn.cfg")
    config.write_text("allowed_hosts=127.0.0.1\ncommand[check_here]=/bin/echo all is well\n")
    recipe = request.getfixturevalue("recipe")
    plugin = "/usr/lib/nagios/plugins/check_nrpe"
    done = run(plugin, "-H", "127.0.0.1", "-c", "check_here", check=False)
    assert done.stdout == "all is well\n", done
    served(recipe)
    config.unlink()


def test_agent(recipe: str) -> None:
    text = talk(6556).decode()
    assert text.startswith("<<<uptime>>>\n")
    assert "<<<df>>>\nFilesystem" in text
    served(recipe)


def test_www(recipe: str) -> None:
    (SRV / "www").mkdir()
    (SRV / "www/index.html").write_text("here")
    answer = talk(8080, b"GET / HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.")
    assert answer.endswith(b"\r\n\r\nhere")
    served(recipe)


@needs("haproxy")
def test_behind(recipe: str, tmp_path: Path) -> None:
    (listen,) = [each for each in BLOCKS if each.startswith("listen front")]
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        f"defaults\n    timeout connect 5s\n    timeout client 1m\n    timeout server 1m\n{listen}"
    )
    with subprocess.Popen(["haproxy", "-f", str(config)]) as proxy:
        try:

            def answer() -> bytes:
                try:
                    return talk(10443)
                except OSError:
                    return b""

            assert until(answer) == b"you are 127.0.0.1\n"
        finally:
            proxy.terminate()
    found = results(recipe)
    assert {"success", "health-check"} >= found >= {"success"}


@pytest.mark.usefixtures("recipe")
def test_weight() -> None:
    assert re.fullmatch(rb"up (100|25)%\n", talk(10045))
    until_over()


def test_jail(request: pytest.FixtureRequest) -> None:
    (SRV / "jail/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", SRV / "jail/bin/busybox")
    recipe = request.getfixturevalue("recipe")
    assert talk(10046) == b"bin\n"
    served(recipe)


@needs("policyd-spf")
def test_spf(recipe: str) -> None:
    """As Postfix's smtpd asks, and as the user that smtpd is."""
    question = (
        "request=smtpd_access_policy\\nprotocol_state=RCPT\\nclient_address=127.0.0.1\\n"
        "client_name=localhost\\nhelo_name=localhost\\nsender=\\nrecipient=a@example.org\\n\\n"
    )
    path = "/var/spool/postfix/private/spf"
    ask = f"printf '{question}' | socat -t 10 - UNIX-CONNECT:{path}"
    answer = run("runuser", "-u", "postfix", "--", "sh", "-c", ask).stdout
    assert answer.startswith("action="), answer
    served(recipe)


def test_policy(recipe: str) -> None:
    senders = Path("/etc/postfix/refused-senders")
    senders.write_text("spam.example\n")
    question = b"request=smtpd_access_policy\nsender=a@spam.example\n\n"
    assert talk(10031, question).startswith(b"action=REJECT")
    served(recipe)
    senders.unlink()


def test_every_recipe_is_tried() -> None:
    here = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert RECIPES.keys() - here == set()


def test_none_of_them_earns_a_note() -> None:
    """Those that need nothing else on the machine."""
    for name in ("agent", "behind", "weight"):
        file = FOLDER / f"{name}.conf"
        file.write_text(RECIPES[name])
        try:
            said = run("spawnctl", "check", name).stderr.splitlines()
            assert [line for line in said if "the same User=" not in line] == []
        finally:
            file.unlink()
