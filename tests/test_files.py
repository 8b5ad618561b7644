"""The files that make a service: the vendor's, the administrator's, drop-ins, defaults, masks."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path

import doors
import pytest
from conftest import FOLDER, Installed, both_doors, free_port, in_machine, run

pytestmark = [in_machine, both_doors]

VENDOR = Path("/usr/lib/spawn")
DEFAULTS = Path("/etc/spawn.conf")
numbers = itertools.count()
HERE = "User=nobody\nArgv=/bin/echo here\n"


class Files:
    """The places of one service's files."""

    def __init__(self, door: doors.Accept) -> None:
        self.name = f"files-{os.getpid()}-{next(numbers)}"
        self.there = Installed(self.name, ("127.0.0.1", free_port()), door)
        self.file = self.there.file
        self.vendor = VENDOR / f"{self.name}.conf"
        self.drop_ins = FOLDER / f"{self.name}.conf.d"
        self.vendor_drop_ins = VENDOR / f"{self.name}.conf.d"

    def text(self, spawn: str) -> str:
        listen = f"ListenStream=127.0.0.1:{self.there.address[1]}"
        return f"[Socket]\n{listen}\n{self.there.door.line}\n[Spawn]\n{spawn}"

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
def files(door: doors.Accept) -> Iterator[Files]:
    here = Files(door)
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
    path.write_text("[Install]\n")
    known = "this file can have [Socket], [Spawn] and [Service]"
    assert files.sentence() == f"{path}:1: unknown section [Install]; {known}\n"
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
        f"{DEFAULTS}:1: the line stands before any section header; put it below [Spawn]\n"
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
    for place, what in (
        (path, "it"),
        (files.drop_ins, f"the folder {files.drop_ins}"),
        (DEFAULTS, "it"),
        (FOLDER.parent, "the folder /etc"),
    ):
        mode = place.stat().st_mode & 0o7777
        place.chmod(mode | 0o020)
        sentence = f": others than root can write {what}; chmod go-w it"
        try:
            assert files.sentence().splitlines()[0].endswith(sentence)
        finally:
            place.chmod(mode)
    nobody = pwd.getpwnam("nobody").pw_uid
    os.chown(path, nobody, -1)
    assert files.sentence() == f"{path}: it belongs to uid {nobody}; make root the owner\n"
    os.chown(path, 0, -1)
    assert files.says() == "here\n"


def test_nobody_else_can_add_a_drop_in_or_a_mask(files: Files) -> None:
    """A folder with the sticky bit is safe for the files that are there, and not for a list."""
    files.vendor.write_text(files.text(HERE))
    files.add(files.vendor_drop_ins, "90-deny.conf", "DenyFrom=127.0.0.0/8")
    files.there.start()
    assert files.says() == ""
    files.drop_ins.mkdir()
    for mode in (0o777, 0o1777):
        files.drop_ins.chmod(mode)
        folder = f"{files.drop_ins}: others than root can write the folder {files.drop_ins}"
        assert files.sentence() == f"{folder}; chmod go-w it\n", "empty as it is"
        mask = files.drop_ins / "90-deny.conf"
        mask.symlink_to("/dev/null")
        assert files.sentence() == f"{folder}; chmod go-w it\n"
        mask.unlink()


def test_a_link_of_another_user_in_a_sticky_folder(files: Files) -> None:
    """Whose the file is that it leads to says nothing about who made it lead there."""
    files.drop_ins.mkdir()
    files.drop_ins.chmod(0o1777)
    probe = files.drop_ins / "drop-in.conf"  # a link that leads away is no way around, either
    probe.symlink_to("/etc/hostname")
    files.file.write_text(files.text(HERE))
    sentence = f"others than root can write the folder {files.drop_ins}; chmod go-w it"
    assert files.there.check().stderr == f"{files.drop_ins}: {sentence}\n"
    shutil.rmtree(files.drop_ins)
    link = Path("/var/tmp/spawn-files-link")
    link.unlink(missing_ok=True)
    link.symlink_to("/etc/motd")
    os.chown(link, pwd.getpwnam("nobody").pw_uid, -1, follow_symlinks=False)
    files.file.write_text(files.text(f"{HERE}Banner={link}\n"))
    sentence = f"Banner={link}: the link {link} belongs to uid 65534; make root the owner"
    assert files.there.check().stderr == f"{files.file}:7: {sentence}\n"


def test_folders_of_drop_ins_that_are_none(files: Files) -> None:
    files.file.write_text(files.text(HERE))
    files.there.start()
    for target in ("/nowhere", "/dev/null", "/etc/motd"):
        files.drop_ins.symlink_to(target)
        assert files.there.check().stdout == f"{files.file}: ok\n"
        assert files.says() == "here\n"
        files.drop_ins.unlink()


def test_a_link_by_way_of_somebody_elses_folder(files: Files) -> None:
    """Its owner decides where it leads, although it is a file of root's that it leads to."""
    home = Path("/home/spawn-linker")
    if run("id", "spawn-linker", check=False).returncode != 0:
        run("useradd", "-m", "spawn-linker")
    home.chmod(0o755)
    real = Path("/etc/spawn-files-test.conf")
    real.write_text(files.text(HERE))
    try:
        (home / "link.conf").unlink(missing_ok=True)
        (home / "link.conf").symlink_to(real)
        files.file.symlink_to(home / "link.conf")
        owner = pwd.getpwnam("spawn-linker").pw_uid
        sentence = f"the folder {home} belongs to uid {owner}; make root the owner"
        said = files.there.check()
        assert (said.returncode, said.stderr) == (78, f"{files.file}: {sentence}\n")
        (home / "folder").unlink(missing_ok=True)
        (home / "folder").symlink_to("/etc")
        files.file.unlink()
        files.file.symlink_to(home / "folder" / real.name)
        assert files.there.check().stderr == f"{files.file}: {sentence}\n", (
            "by way of a folder, too"
        )
        files.file.unlink()
        files.file.symlink_to(real)
        files.there.start()
        assert files.says() == "here\n"
    finally:
        real.unlink()


def test_a_broken_folder_of_one_service_is_nothing_to_another(files: Files) -> None:
    """Before systemd 257 the address tells the service, and every file is looked at for it."""
    other = FOLDER / "files-other.conf"
    other.write_text(f"[Socket]\nListenStream=127.0.0.1:{free_port()}\n[Spawn]\n{HERE}")
    loop = FOLDER / "files-other.conf.d"
    loop.symlink_to(loop.name)
    try:
        files.file.write_text(files.text(HERE))
        files.there.start()
        assert files.says() == "here\n"
        assert files.there.check().stdout == f"{files.file}: ok\n"
        said = run("spawnctl", "check", str(other), check=False)
        assert said.stderr == (
            f"{loop}: the folder cannot be read: Too many levels of symbolic links\n"
        )
    finally:
        loop.unlink()
        other.unlink()


def test_a_folder_of_services_that_cannot_be_read(files: Files) -> None:
    aside = FOLDER.with_name("spawn.aside")
    files.vendor.write_text(files.text(HERE))
    FOLDER.rename(aside)
    FOLDER.symlink_to(FOLDER.name)
    sentence = "/etc/spawn: the folder cannot be read: Too many levels of symbolic links"
    try:
        said = run("spawnctl", "check", check=False)
        assert (said.returncode, said.stderr) == (66, f"{sentence}\n")
        generator = "/usr/lib/systemd/system-generators/spawn-generator"
        assert run(generator, "/tmp/a", "/tmp/b", "/tmp/c", check=False).returncode == 78
    finally:
        FOLDER.unlink()
        aside.rename(FOLDER)


def test_the_drop_in_of_a_vendors_service_can_be_checked(files: Files) -> None:
    files.vendor.write_text(files.text(HERE))
    path = files.add(files.drop_ins, "50.conf", "Nice=1")
    assert run("spawnctl", "check", str(path)).stdout == f"{files.vendor}: ok\n"


def test_systemd_gets_what_was_checked(files: Files) -> None:
    """A backslash at the end of one file does not go on in the next one."""
    address = f"127.0.0.1:{files.there.address[1]}"
    files.file.write_text(
        f"[Spawn]\n{HERE}[Socket]\n{files.there.door.line}\n"
        f"Backlog=\\\n# why\n  7\nListenStream={address} \\"
    )
    files.drop_ins.mkdir()
    (files.drop_ins / "x.conf").write_text("[Socket]\nMaxConnections=3\n")
    files.there.start()
    assert files.says() == "here\n"
    shown = run("systemctl", "show", "-p", "Backlog,MaxConnections", files.there.socket_unit)
    assert sorted(shown.stdout.split()) == ["Backlog=7", "MaxConnections=3"]


def test_hundreds_of_mistakes(files: Files) -> None:
    files.file.write_text(files.text("x=1\n" * 60 + HERE))
    assert "it is required" not in files.there.check().stderr, "it may be in the rest"
    files.file.write_text(files.text(HERE + "x=1\n" * 200_000))
    said = files.there.check()
    lines = [line for line in said.stderr.splitlines() if ": unknown key x= in" in line]
    assert len(lines) == 50
    assert (
        f"{files.file}:57: here is one more problem, and the rest is not looked at; "
        "mend these first\n"
    ) in said.stderr


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
