"""Why a command does not start: the reason that is really one, in the record and in the check."""

from __future__ import annotations

import itertools
import os
import platform
import pwd
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import doors
import pytest
from conftest import Installed, both_doors, in_machine, run

pytestmark = [in_machine, both_doors]

TRUE = "Argv=/bin/true"
MEMBER, GROUP = "spawn-apprentice", "spawn-tools"
FOREIGN = ("aarch64", 183) if platform.machine() != "aarch64" else ("x86_64", 62)
NO_PROGRAM = "this is no program, and does not begin with #!"
Make = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def account() -> None:
    """A user that a group of the machine has, besides its own."""
    if run("id", MEMBER, check=False).returncode != 0:
        run("groupadd", "-f", GROUP)
        run("useradd", "-M", "-G", GROUP, MEMBER)


@pytest.fixture
def folder() -> Iterator[Path]:
    """For the programs; everybody can enter it."""
    place = Path(f"/var/tmp/spawn-reasons-{os.getpid()}")
    place.mkdir(mode=0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def make(folder: Path) -> Make:
    """Makes programs: make(NAME, CONTENT, mode=...)."""

    def write(name: str, content: str | bytes, mode: int = 0o755) -> Path:
        file = folder / name
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)
        return file

    return write


def elf(loader: bytes | None, machine: int | None = None) -> bytes:
    """As much of a program for this machine, or another one, as the kernel reads first."""
    ident = Path("/bin/true").read_bytes()[:20]
    if machine is not None:
        ident = ident[:18] + struct.pack("<H", machine)
    count = 0 if loader is None else 1
    header = ident + struct.pack("<IQQQIHHHHHH", 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    size = len(loader or b"")
    return header + struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, size, size, 1) + (loader or b"")


def failed(there: Installed) -> dict[str, Any]:
    """The record of a connection whose command could not start."""
    assert there.talk() == b""
    record = there.record()
    assert (record["SPAWN_RESULT"], record["PRIORITY"]) == ("exec-failed", "3")
    return record


def said(there: Installed, sentence: str, line: int = 6) -> None:
    """The sentence is in the record, and in the check before."""
    wanted = f"{there.file}:{line}: {sentence}"
    checked = there.check()
    assert (checked.returncode, checked.stderr) == (os.EX_CONFIG, f"{wanted}\n")
    assert f": no command was run: {wanted}, client" in failed(there)["MESSAGE"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "the file is empty"),
        ("echo hello\n", NO_PROGRAM),
        (b"\0" * 300, NO_PROGRAM),
        (
            b"\xef\xbb\xbf#!/bin/sh\n",
            "the file begins with a byte order mark; save it as UTF-8 without one",
        ),
        (
            b"\xff\xfe#\0!\0/\0",
            "the file begins with a byte order mark; save it as UTF-8 without one",
        ),
        (
            "#!/bin/sh\r\n",
            "its #! line ends with a carriage return, and so names /bin/sh\\r; "
            "save it with Unix line ends",
        ),
        (
            "#!/no/such/interpreter -x\n",
            "its #! line names /no/such/interpreter, which is missing; "
            "install that, or name another",
        ),
        (
            "#! \t\n",
            "its #! line names nothing that the kernel can read; write a path behind #!",
        ),
        (
            "#!/" + "x" * 300,
            "its #! line names nothing that the kernel can read; write a path behind #!",
        ),
        (
            "#!{folder}/closed\n",
            "its #! line names {folder}/closed: the user nobody may not run it; "
            "let others do so with chmod o+rx",
        ),
        (
            "#!{folder}/private/interpreter\n",
            "its #! line names {folder}/private/interpreter: the user nobody may not enter the "
            "folder {folder}/private; let others do so with chmod o+x",
        ),
        (
            "#!{folder}/data\n",
            "its #! line names {folder}/data: it is not executable; chmod +x it",
        ),
        ("#!/etc\n", "its #! line names /etc: this is not a regular file"),
        (
            "#!{folder}/loaded\n",
            "its #! line names {folder}/loaded: it needs the loader /no/such/loader, "
            "which is missing; install that there",
        ),
        (
            "#!{folder}/program\n",
            ": ".join(["its #! line names {folder}/program"] * 5)
            + ": more than 5 scripts run one another by their #! lines",
        ),
        (
            elf(None, FOREIGN[1]),
            f"this is a program for {FOREIGN[0]}, and the machine is {platform.machine()}; "
            "get one for it",
        ),
        (
            elf(None, 999),
            f"this is a program for machine 999, and the machine is {platform.machine()}; "
            "get one for it",
        ),
        (
            b"\x7fELF garbage",
            "this is no whole program: its ELF headers lead nowhere; install it anew",
        ),
        (
            elf(b"/lib/x" * 5),
            "this is no whole program: its ELF headers lead nowhere; install it anew",
        ),
        (
            elf(b"/no/such/loader\0"),
            "it needs the loader /no/such/loader, which is missing; install that there",
        ),
    ],
    ids=itertools.count(),
)
def test_what_is_in_the_file(
    service: Callable[..., Installed],
    make: Make,
    folder: Path,
    content: str | bytes,
    sentence: str,
) -> None:
    make("closed", "#!/bin/sh\n", 0o700)
    make("data", "", 0o644)
    make("loaded", elf(b"/no/such/loader\0"))
    (folder / "private").mkdir(mode=0o700)
    make("private/interpreter", "#!/bin/sh\n")
    if isinstance(content, str):
        content = content.replace("{folder}", str(folder))
    program = make("program", content)
    said(
        service(f"User=nobody\nArgv={program}"),
        f"Argv={program}: {sentence.replace('{folder}', str(folder))}",
    )


def test_files_that_are_there_to_be_waited_for(
    service: Callable[..., Installed], make: Make, folder: Path
) -> None:
    """The look neither waits for a writer, nor reads to an end that is far away."""
    os.mkfifo(folder / "fifo")
    (folder / "fifo").chmod(0o755)
    program = make("program", f"#!{folder}/fifo\n")
    there = service(f"User=nobody\nArgv={program}")
    said(there, f"Argv={program}: its #! line names {folder}/fifo: this is not a regular file")
    os.truncate(make("program", ""), 100 << 30)
    said(there, f"Argv={program}: {NO_PROGRAM}")


def test_a_loader_that_is_none(service: Callable[..., Installed], make: Make) -> None:
    data = make("data", "", 0o644)
    text = make("text", "#!/bin/sh\n")
    long_text = make("long", "#!/bin/sh\n" * 100)
    foreign = make("foreign", elf(None, FOREIGN[1]))
    there = service("User=nobody\nArgv=/bin/true")
    for loader, sentence in (
        (data, "it is not executable; chmod +x it"),
        (text, "this is no loader for this machine; install one"),
        (long_text, "this is no loader for this machine; install one"),
        (foreign, "this is no loader for this machine; install one"),
    ):
        program = make("program", elf(str(loader).encode() + b"\0"))
        there.write(f"User=nobody\nArgv={program}")
        said(there, f"Argv={program}: it needs the loader {loader}: {sentence}")


def test_who_may_run_it(service: Callable[..., Installed], make: Make) -> None:
    program = make("program", "#!/bin/sh\necho here\n", 0o700)
    there = service(f"User={MEMBER}\nArgv={program}")
    may_not = f"Argv={program}: the user {MEMBER} may not run it"
    said(there, f"{may_not}; let others do so with chmod o+rx")
    account = pwd.getpwnam(MEMBER)
    os.chown(program, account.pw_uid, 0)
    program.chmod(0o055)
    said(there, f"{may_not}; let its owner do so with chmod u+rx")
    os.chown(program, 0, account.pw_gid)
    program.chmod(0o705)
    said(there, f"{may_not}; let its group do so with chmod g+rx")


def test_a_group_that_the_user_has_elsewhere(
    service: Callable[..., Installed], make: Make, folder: Path
) -> None:
    program = make("program", "#!/bin/sh\necho here\n")
    there = service(f"User={MEMBER}\nArgv={program}")
    hint = f", but its group {GROUP} may; write SupplementaryGroups={GROUP}"
    for place, do in ((program, "run it"), (folder, f"enter the folder {folder}")):
        shutil.chown(place, group=GROUP)
        place.chmod(0o750)
        said(there, f"Argv={program}: the user {MEMBER} may not {do}{hint}")
        place.chmod(0o755)
    folder.chmod(0o750)
    there.write(f"User={MEMBER}\nSupplementaryGroups={GROUP}\nArgv={program}")
    assert there.talk() == b"here\n"
    assert there.check().stderr == ""


def test_a_file_system_without_programs(service: Callable[..., Installed], folder: Path) -> None:
    run("mount", "-t", "tmpfs", "-o", "noexec,mode=755", "none", str(folder))
    try:
        program = folder / "program"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        said(
            service(f"User=nobody\nArgv={program}"),
            f"Argv={program}: its file system is mounted noexec; "
            "move the file, or mount that without",
        )
    finally:
        run("umount", str(folder))


def test_in_a_root_of_its_own(service: Callable[..., Installed], make: Make, folder: Path) -> None:
    """What is missing there may well be on the machine."""
    inside = f"in RootDirectory={folder}"
    shutil.copy("/bin/true", folder / "true")
    readable = Path("/bin/true").read_bytes().decode(errors="replace")
    loader = readable[readable.index("/lib") :].partition("\0")[0]
    there = service(f"User=nobody\nRootDirectory={folder}\nArgv=/true")
    said(
        there,
        f"Argv=/true: it needs the loader {loader}, which is missing {inside}; install that there",
        7,
    )
    make("script", "#!/bin/sh\n")
    there.write(f"User=nobody\nRootDirectory={folder}\nArgv=/script")
    said(
        there,
        f"Argv=/script: its #! line names /bin/sh, which is missing {inside}; "
        "install that, or name another",
        7,
    )
    there.write(f"User=nobody\nRootDirectory={folder}\nArgv=/bin/true")
    sentence = (
        f"Argv= /bin/true: No such file or directory {inside}; install it, or write another path"
    )
    assert there.check().stderr == f"{there.file}:7: {sentence}\n"
    assert there.talk() == b""
    assert sentence in there.record()["MESSAGE"]


def test_a_file_that_cannot_be_read(service: Callable[..., Installed], make: Make) -> None:
    """The kernel can, and nobody else: then its error is all there is."""
    make("closed", "", 0o600)
    for content, sentence in (
        (
            "#!/no/such/interpreter\n",
            "its #! line, or the program itself, names a file that is missing",
        ),
        ("#!/etc/shadow\n", "the user nobody may not run it, or what it needs"),
        ("no program", NO_PROGRAM),
        ("#!/bin/sh\necho here\n", ""),
    ):
        program = make("program", content, 0o711)
        there = service(f"User=nobody\nStandardError=null\nArgv={program}")
        assert "Argv=" not in there.check().stderr
        if sentence:
            assert f": Argv={program}: {sentence}, client" in failed(there)["MESSAGE"]
        else:
            there.talk()
            assert there.record()["SPAWN_RESULT"] == "exit-code", "of the interpreter"


def test_what_only_the_kernel_can_tell(service: Callable[..., Installed], make: Make) -> None:
    program = make("program", Path("/bin/true").read_bytes())
    there = service(f"User=nobody\nArgv={program}")
    with program.open("r+b"):
        assert (
            failed(there)["MESSAGE"]
            .partition(", client")[0]
            .endswith(
                f": Argv={program}: somebody has it open for writing; "
                "put a new file in its place with mv"
            )
        )
    there.write(f"User=nobody\nArgv={program} {'x' * 200_000}")
    assert (
        failed(there)["MESSAGE"]
        .partition(", client")[0]
        .endswith(f": Argv={program}: Argv= and the environment are longer than the kernel allows")
    )


def set_capabilities(program: Path, *numbers: int, effective: bool = True) -> None:
    """Gives the file these capabilities (include/uapi/linux/capability.h)."""
    bits = sum(1 << number for number in numbers)
    words = (0x02000000 | effective, bits & 0xFFFFFFFF, 0, bits >> 32, 0)
    os.setxattr(program, "security.capability", struct.pack("<IIIII", *words))


def test_capabilities_of_a_file(
    service: Callable[..., Installed], make: Make, unit_change: Callable[[str], None]
) -> None:
    """The kernel does not run it at all where the unit may not have them."""
    program = make("program", Path("/bin/true").read_bytes())
    set_capabilities(program, 7, 10, 13)  # CAP_SETUID it has
    names = "CAP_NET_BIND_SERVICE CAP_NET_RAW"
    sentence = (
        f"Argv={program}: it has the file capabilities {names}, which {doors.now.template} does "
        f"not have; write CapabilityBoundingSet={names} with systemctl edit {doors.now.template}"
    )
    there = service(f"User=nobody\nArgv={program}")
    if doors.now is doors.NO:
        sentence += f" and systemctl restart spawn-server@{there.name}"
    said(there, f"{sentence}, and here NoNewPrivileges=no")
    script = make("script", f"#!{program}\n")
    there.write(f"User=nobody\nArgv={script}\nNoNewPrivileges=no")
    said(there, f"Argv={script}: its #! line names {sentence.removeprefix('Argv=')}")
    there.write(f"User=nobody\nArgv={program}\nNoNewPrivileges=no")
    unit_change(f"[Service]\nCapabilityBoundingSet={names}")
    assert there.check().stderr == ""
    there.talk()
    assert there.record()["SPAWN_RESULT"] == "success"


def test_capabilities_that_the_kernel_passes_over(
    service: Callable[..., Installed], make: Make
) -> None:
    program = make("program", Path("/bin/true").read_bytes())
    set_capabilities(program, 13, effective=False)
    there = service(f"User=nobody\nArgv={program}\nNoNewPrivileges=no")
    assert there.check().stderr == ""
    there.talk()
    assert there.record()["SPAWN_RESULT"] == "success"


def test_a_capability_that_the_machine_has_not(
    service: Callable[..., Installed], make: Make
) -> None:
    """As in a container."""
    status = Path("/proc/1/status").read_text()
    has = int(status.partition("CapBnd:")[2].split()[0], 16)
    assert not has >> 40 & 1
    program = make("program", Path("/bin/true").read_bytes())
    set_capabilities(program, 40)
    said(
        service(f"User=nobody\nArgv={program}"),
        f"Argv={program}: it has the file capabilities CAP_CHECKPOINT_RESTORE, which nobody can "
        "have on this machine; take them from it with setcap -r",
    )


def in_user_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """Runs the script as root of a namespace of users that has all of them."""
    command = ("unshare", "--user", "--mount", "bash", "-c", f"echo; read\n{script}")
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    for kind in ("uid_map", "gid_map"):
        Path(f"/proc/{process.pid}/{kind}").write_text("0 0 65536")
    output, errors = process.communicate("\n")
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def test_what_binfmt_misc_runs(service: Callable[..., Installed], make: Make) -> None:
    """A namespace of users has formats of its own, so this has no effect on anybody else."""
    program = make("program", elf(None, FOREIGN[1]))
    other = make("program.tried", "tried")
    there = service(f"User=nobody\nArgv={program}\nStandardError=null", start=False)
    assert "this is a program for" in there.check().stderr
    magic = "".join(f"\\x{octet:02x}" for octet in program.read_bytes()[:20])
    mask = "\\xff" * 7 + "\\x00" * 11 + "\\xff" * 2
    done = in_user_namespace(f"""
        cd /proc/sys/fs && mount -t binfmt_misc none binfmt_misc && cd binfmt_misc
        echo ':one:M::{magic}:{mask}:/bin/true:' >register
        echo ':two:E::tried::/bin/true:' >register
        spawnctl check {there.name}
        sed -i s,^Argv=.*,Argv={other}, {there.file}
        spawnctl check {there.name}
        echo 0 >two
        spawnctl check {there.name}
        echo 1 >two
        echo 0 >status
        spawnctl check {there.name}
    """)
    assert done.stdout == f"{there.file}: ok\n" * 2
    assert done.stderr == f"{there.file}:6: Argv={other}: {NO_PROGRAM}\n" * 2


def test_the_working_directory(service: Callable[..., Installed], folder: Path) -> None:
    (folder / "file").touch()
    (folder / "closed" / "inner").mkdir(parents=True)
    (folder / "closed").chmod(0o700)
    there = service(f"User=nobody\n{TRUE}")
    for place, sentence in (
        (
            "missing",
            "No such file or directory; create it, or write another path",
        ),
        ("file", "this is not a folder; write the path of one"),
        ("closed", "the user nobody may not enter it; let others do so with chmod o+x"),
        (
            "closed/inner",
            f"the user nobody may not enter the folder {folder}/closed; "
            "let others do so with chmod o+x",
        ),
    ):
        there.write(f"User=nobody\n{TRUE}\nWorkingDirectory={folder}/{place}")
        said(there, f"WorkingDirectory={folder}/{place}: {sentence}", 7)
        there.write(f"User=nobody\n{TRUE}\nWorkingDirectory=-{folder}/{place}")
        assert there.check().stderr == ""


def test_the_root_directory(service: Callable[..., Installed], folder: Path) -> None:
    (folder / "file").touch()
    (folder / "closed" / "jail").mkdir(parents=True)
    shutil.chown(folder / "closed", MEMBER)
    (folder / "closed").chmod(0o700)
    there = service(f"User=nobody\n{TRUE}")
    for place, sentence in (
        ("missing", "No such file or directory; create it, or write the path of a folder"),
        ("file", "this is not a folder; write the path of one"),
        (
            "closed/jail",
            f"root may not enter {folder}/closed without CAP_DAC_READ_SEARCH, which "
            f"{doors.now.template} does not have; let others enter it with chmod o+x",
        ),
    ):
        there.write(f"User=nobody\n{TRUE}\nRootDirectory={folder}/{place}")
        wanted = f"{there.file}:7: RootDirectory={folder}/{place}: {sentence}"
        assert there.check().stderr == f"{wanted}\n"
        assert there.talk() == b""
        assert f": no command was run: {wanted}, client" in there.record()["MESSAGE"]
