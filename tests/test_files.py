"""The files that make a service: the vendor's, the administrator's, drop-ins, defaults, masks."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FOLDER, Installed, free_port, in_machine, run

pytestmark = in_machine

VENDOR = Path("/usr/lib/spawn")
DEFAULTS = Path("/etc/spawn.conf")
numbers = itertools.count()
HERE = "User=nobody\nArgv=/bin/echo here\n"


class Files:
    """The places of one service's files."""

    def __init__(self) -> None:
        self.name = f"files-{os.getpid()}-{next(numbers)}"
        self.there = Installed(self.name, ("127.0.0.1", free_port()))
        self.file = self.there.file
        self.vendor = VENDOR / f"{self.name}.conf"
        self.drop_ins = FOLDER / f"{self.name}.conf.d"
        self.vendor_drop_ins = VENDOR / f"{self.name}.conf.d"

    def text(self, spawn: str) -> str:
        return f"[Socket]\nListenStream=127.0.0.1:{self.there.address[1]}\n[Spawn]\n{spawn}"

    def add(self, folder: Path, name: str, spawn: str) -> Path:
        folder.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(f"[Spawn]\n{spawn}\n")
        return folder / name

    def says(self) -> str:
        """What the client gets."""
        said = self.there.talk().decode()
        self.there.record()
        return said

    def sentence(self) -> str:
        """What keeps the command from running: of the check, and the same of the record."""
        said = self.there.check()
        assert said.returncode != 0
        assert self.there.talk() == b""
        first, *more = said.stderr.splitlines()
        counted = f" (and {len(more)} more: spawnctl check" if more else ", client"
        assert f": no command was run: {first}{counted}" in self.there.record()["MESSAGE"]
        return said.stderr


@pytest.fixture
def files() -> Iterator[Files]:
    here = Files()
    yield here
    run("systemctl", "stop", here.there.socket_unit, check=False)
    for path in (here.file, here.vendor, DEFAULTS):
        path.unlink(missing_ok=True)
    for folder in (here.drop_ins, here.vendor_drop_ins):
        if folder.is_dir():
            shutil.rmtree(folder)
        else:
            folder.unlink(missing_ok=True)
    run("systemctl", "daemon-reload")


def test_a_vendors_service_listens(files: Files) -> None:
    files.vendor.write_text(files.text(HERE))
    files.there.start()
    assert files.says() == "here\n"
    assert files.there.check().stdout == f"{files.vendor}: ok\n"
    run("systemctl", "enable", "-q", files.there.socket_unit)
    run("systemctl", "disable", "-q", files.there.socket_unit)
    assert f"{files.vendor}: ok\n" in run("spawnctl", "check", check=False).stdout


def test_the_administrators_file_replaces_the_vendors(files: Files) -> None:
    files.vendor.write_text(files.text("User=nobody\nArgv=/bin/echo vendor\nUMask=077\n"))
    files.there.start()
    assert files.says() == "vendor\n"
    files.file.write_text(files.text("User=nobody\nArgv=/bin/sh -c umask\n"))
    assert files.says() == "0022\n", "all of it: no key of the other one counts"


def test_drop_ins_add_in_the_order_of_their_names(files: Files) -> None:
    files.file.write_text(files.text("User=nobody\nArgv=/bin/sh -c 'echo $A $B $C'\n"))
    files.add(files.drop_ins, "20-b.conf", "Environment=A=2 B=2")
    files.add(files.vendor_drop_ins, "10-a.conf", "Environment=A=1 B=1 C=1")
    files.add(files.vendor_drop_ins, "30-c.conf", "Environment=C=3")
    files.add(files.drop_ins, "40-d.conf.old", "Environment=C=4")
    files.add(files.drop_ins, ".50-e.conf", "Environment=C=5")
    files.there.start()
    assert files.says() == "2 2 3\n"
    replaced = files.add(files.drop_ins, "30-c.conf", "Environment=C=administrator")
    assert files.says() == "2 2 administrator\n"
    replaced.unlink()
    replaced.symlink_to("/dev/null")
    assert files.says() == "2 2 1\n", "masked"
    files.add(files.drop_ins, "99.conf", "Environment=\nEnvironment=A=9")
    assert files.says() == "9\n", "an empty value resets"


def test_a_drop_in_can_bring_a_listener(files: Files) -> None:
    port = free_port()
    files.file.write_text(files.text(HERE))
    files.drop_ins.mkdir()
    (files.drop_ins / "more.conf").write_text(f"[Socket]\nListenStream=127.0.0.1:{port}\n")
    files.there.start()
    assert files.says() == "here\n"
    files.there.address = ("127.0.0.1", port)
    assert files.says() == "here\n"
    assert files.there.check().stdout == f"{files.file}: ok\n"
    by_drop_in = run("spawnctl", "check", str(files.drop_ins / "more.conf"))
    assert by_drop_in.stdout == f"{files.file}: ok\n"


def test_a_mistake_in_a_drop_in_is_said_with_its_own_line(files: Files) -> None:
    files.file.write_text(files.text(HERE))
    files.there.start()
    path = files.add(files.drop_ins, "x.conf", "Nice=99")
    sentence = f"{path}:2: Nice=99 is out of range; write a number from -20 to 19\n"
    assert files.sentence() == sentence
    path.write_text("[Service]\n")
    sentence = f"{path}:1: unknown section [Service]; this file can have [Socket] and [Spawn]\n"
    assert files.sentence() == sentence
    path.unlink()
    files.add(files.drop_ins, "y.conf", "Argv=")
    assert files.sentence() == f"{files.file}: [Spawn] has no Argv=; it is required\n"


def test_defaults_for_all_services(files: Files) -> None:
    DEFAULTS.write_text("[Spawn]\nUser=nobody\nUMask=077\nEnvironment=A=all\n")
    files.file.write_text(files.text("Argv=/bin/sh -c 'id -un; umask; echo $A'\n"))
    files.there.start()
    assert files.says() == "nobody\n0077\nall\n"
    files.file.write_text(
        files.text("UMask=027\nEnvironment=A=own\nArgv=/bin/sh -c 'umask; echo $A'\n")
    )
    assert files.says() == "0027\nown\n"
    files.add(files.drop_ins, "x.conf", "UMask=007")
    assert files.says() == "0007\nown\n"


def test_a_mistake_in_the_defaults(files: Files) -> None:
    files.file.write_text(files.text(HERE))
    files.there.start()
    DEFAULTS.write_text("[Socket]\nListenStream=5\n[Spawn]\nNice=x\n")
    assert files.sentence() == (
        f"{DEFAULTS}:1: unknown section [Socket]; this file can have [Spawn]\n"
        f"{DEFAULTS}:4: Nice=x is not a number; write one from -20 to 19\n"
    )
    DEFAULTS.write_text("Nice=1\n")
    assert files.sentence() == (
        f"{DEFAULTS}:1: Nice=1 stands before any section header; put it below [Spawn]\n"
    )
    DEFAULTS.unlink()
    DEFAULTS.symlink_to("/dev/null")
    assert files.says() == "here\n"


def test_defaults_alone_can_be_checked(files: Files) -> None:
    assert not files.file.exists()
    DEFAULTS.write_text("[Spawn]\nTimeLimit=1h\n")
    assert run("spawnctl", "check", str(DEFAULTS)).stdout == f"{DEFAULTS}: ok\n"
    DEFAULTS.write_text("[Spawn]\nTimeLimit=x\n")
    said = run("spawnctl", "check", str(DEFAULTS), check=False)
    assert (said.returncode, said.stdout) == (78, "")
    assert said.stderr == (
        f"{DEFAULTS}:2: TimeLimit=x is not a time span; write for example 90s, 1h 30min or "
        "infinity\n"
    )


def test_a_masked_service(files: Files) -> None:
    files.vendor.write_text(files.text(HERE))
    files.file.symlink_to("/dev/null")
    sentence = f"{files.file}: the service is masked by a link to /dev/null; remove the link\n"
    said = files.there.check()
    assert (said.returncode, said.stderr) == (78, sentence)
    run("systemctl", "daemon-reload")
    assert run("systemctl", "start", files.there.socket_unit, check=False).returncode != 0
    explained = run("journalctl", "-q", "-o", "cat", "-u", files.there.socket_unit).stdout
    assert sentence in explained
    assert files.there.name not in run("spawnctl", "check", check=False).stderr, (
        "a mask is no mistake"
    )


def test_who_can_write(files: Files) -> None:
    """Every file, and every folder above one that could be replaced."""
    files.file.write_text(files.text(HERE))
    path = files.add(files.drop_ins, "x.conf", "Nice=1")
    DEFAULTS.write_text("[Spawn]\n")
    files.there.start()
    writable = "others than root can write the {}; chmod go-w it"
    for place, of, what in (
        (path, path, "service file"),
        (files.drop_ins, path, "folder of the service file"),
        (DEFAULTS, DEFAULTS, "service file"),
    ):
        mode = place.stat().st_mode & 0o7777
        place.chmod(mode | 0o020)
        assert files.sentence() == f"{of}: {writable.format(what)}\n"
        place.chmod(mode)
    nobody = pwd.getpwnam("nobody").pw_uid
    os.chown(path, nobody, -1)
    assert files.sentence() == (
        f"{path}: the service file belongs to uid {nobody}; make root its owner\n"
    )
    os.chown(path, 0, -1)
    assert files.says() == "here\n"


def test_things_that_are_no_drop_ins(files: Files) -> None:
    files.file.write_text(files.text(HERE))
    files.there.start()
    files.drop_ins.write_text("a file instead of a folder\n")
    assert files.says() == "here\n"
    files.drop_ins.unlink()
    files.drop_ins.mkdir()
    (files.drop_ins / "folder.conf").mkdir()
    assert files.sentence() == (
        f"{files.drop_ins}/folder.conf: this is not a regular file; replace it by one\n"
    )
    (files.drop_ins / "folder.conf").rmdir()
    (files.drop_ins / "gone.conf").symlink_to("/nowhere")
    assert files.sentence() == (
        f"{files.drop_ins}/gone.conf: there is no such service file; create it, see spawn.conf(5)\n"
    )
    (files.drop_ins / "gone.conf").unlink()
    (files.drop_ins / "loop.conf").symlink_to("loop.conf")
    assert files.sentence() == (
        f"{files.drop_ins}/loop.conf: the service file cannot be opened: "
        "Too many levels of symbolic links\n"
    )
