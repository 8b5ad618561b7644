"""A second machine, inside the one that the tests run in: its own systemd, journal and network."""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from conftest import run, until

# What tests/run has put there: see machine.py.
BASE, BUILT, PREVIOUS = Path("/srv/base"), Path("/srv/packages"), Path("/srv/previous")
VARIABLES = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG=C.UTF-8",
    "HOME=/root",
    "DEBIAN_FRONTEND=noninteractive",
)


class Nested:
    """A booted machine. name: of the unit of this machine's systemd that it runs in."""

    def __init__(self, name: str) -> None:
        self.name = name

    def command(self, *arguments: str) -> list[str]:
        """The command that runs the arguments inside."""
        enter = ["nsenter", f"--target={self.init()}", "--all", "--wdns=/"]
        return [*enter, "env", "-i", *VARIABLES, *arguments]

    def run(self, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a line of shell inside; a failure's output is said."""
        done = run(*self.command("sh", "-ec", command), check=False)
        assert done.returncode == 0 or not check, f"{command}\n{done.stdout}{done.stderr}"
        return done

    def init(self) -> int:
        """The process that is its systemd, 0 while there is none."""
        shown = run("systemctl", "show", "--property=MainPID", "--value", self.name)
        leader = shown.stdout.strip()
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
            for pid in children:
                if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                    return int(pid)
        return 0

    def state(self) -> str:
        """systemctl's word for the state of the whole, "" while there is no systemd."""
        if self.init() == 0:
            return ""
        return self.run("systemctl is-system-running", check=False).stdout.strip()

    def await_boot(self) -> None:
        """Waits until it has finished booting."""
        until(self.state, holds=lambda state: state in ("running", "degraded"))

    def reboot(self) -> None:
        """Has it start again, in the root that it has."""
        before = self.init()
        self.run("systemctl reboot", check=False)
        until(self.init, holds=lambda now: now not in (0, before))
        self.await_boot()


@contextlib.contextmanager
def booted(root: Path, name: str, *options: str) -> Iterator[Nested]:
    """Boots a root, with further options of systemd-nspawn(1); powered off at the end."""
    nspawn = (
        f"systemd-nspawn --quiet --directory={root} --machine={name} --register=no --keep-unit "
        "--console=pipe --kill-signal=SIGRTMIN+3 --boot"
    ).split()
    # With 133 systemd-nspawn asks for the reboot that its machine wants.
    settings = ("Delegate=yes", "KillMode=mixed", "RestartForceExitStatus=133")
    start = [
        "systemd-run",
        "--quiet",
        f"--unit={name}",
        *(f"--property={each}" for each in settings),
    ]
    run(*start, "--setenv=SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1", *nspawn, *options)
    try:
        machine = Nested(name)
        machine.await_boot()
        yield machine
    finally:
        run("systemctl", "stop", name, check=False)
        run("systemctl", "reset-failed", name, check=False)


@contextlib.contextmanager
def same_root(place: Path) -> Iterator[Sequence[str]]:
    """This machine's own root, at a place that has to be made; the options to boot it with, which
    make it another machine."""
    place.mkdir(exist_ok=True)
    run("mount", "--bind", "/", str(place))
    identity = place.with_name(f"{place.name}-machine-id")
    identity.write_text(uuid.uuid4().hex + "\n")
    try:
        yield (
            f"--bind-ro={identity}:/etc/machine-id",
            "--tmpfs=/var/log/journal:mode=755",
            "--volatile=overlay",
        )
    finally:
        run("umount", str(place))


@contextlib.contextmanager
def copied(base: Path, place: Path) -> Iterator[Path]:
    """A root that begins as the base is, and can be written to, in memory."""
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755", "none", str(place))
    for part in ("upper", "work", "root"):
        (place / part).mkdir()
    options = f"lowerdir={base},upperdir={place / 'upper'},workdir={place / 'work'}"
    run("mount", "-t", "overlay", "-o", options, "none", str(place / "root"))
    try:
        yield place / "root"
    finally:
        run("umount", "-R", str(place), check=False)
        place.rmdir()


class Pristine(Nested):
    """A machine that never had the package. root: its files, as this machine sees them; work: a
    folder that both see at one path."""

    def __init__(self, machine: Nested, root: Path, work: Path) -> None:
        super().__init__(machine.name)
        self.root = root
        self.work = work

    def install(self, debs: Iterable[Path]) -> None:
        """Installs packages, whatever versions are there."""
        files = " ".join(map(str, debs))
        self.run(f"apt-get -qy install --reinstall --allow-downgrades {files}")


@contextlib.contextmanager
def pristine(work: Path) -> Iterator[Pristine]:
    """Boots such a machine, with the packages to be seen where this machine has them."""
    binds = [f"--bind-ro={place}" for place in (BUILT, PREVIOUS)]
    with (
        copied(BASE, Path("/run/pristine")) as root,
        booted(root, "pristine", "--private-network", *binds, f"--bind={work}") as machine,
    ):
        yield Pristine(machine, root, work)
