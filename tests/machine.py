"""Throwaway Debian machines with a real systemd: base roots that are made once, overlays over them
that are gone with the machine.

For the host's side only; it needs nothing beyond Debian's python3. Everything that is mounted lives
in a mount namespace of its own and vanishes with the last process in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
CACHE = Path("/var/cache/spawnhelper-machines")
STATE = Path("/run/spawnhelper-machines")
SYSTEMD = {"bookworm": "252", "trixie": "257", "forky": "262"}
RELEASES = tuple(SYSTEMD)
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "pip3": "python3-pip",
    "systemd-nspawn": "systemd-container",
}
INSIDE = "/spawnhelper"  # where the tree is to be seen in a machine, read-only
BASE_INSIDE = "/srv/base"  # and the root that it was made from, without our package
PACKAGES_INSIDE = "/srv/packages"  # and what was built, the packages and their source
PREVIOUS_INSIDE = "/srv/previous"  # and the packages of the commit before

BUILD_PACKAGES = (
    "build-essential",
    "cython3",
    "debhelper",
    "dh-python",
    "libsystemd-dev",
    "python3-all-dev",
    "python3-hypothesis",
    "python3-pytest",
    "python3-setuptools",
    "python3-shtab",
    "rpm",
    "systemd-journal-remote",
)
RUN_PACKAGES = (
    "ansible-core",
    "autopkgtest",
    "bash-completion",
    "busybox-static",
    "cvs",
    "dbus",
    "dbus-user-session",
    "fail2ban",
    "git",
    "haproxy",
    "iproute2",
    "less",
    "libnss-systemd",
    "libpam-systemd",
    "lintian",
    "man-db",
    "nagios-nrpe-plugin",
    "nagios-nrpe-server",
    "openbsd-inetd",
    "postfix",
    "postfix-policyd-spf-python",
    "procps",
    "python3",
    "python3-hypothesis",
    "python3-jinja2",
    "python3-prctl",
    "python3-prometheus-client",
    "python3-psutil",
    "python3-pygal",
    "python3-pytest",
    "python3-rich",
    "python3-setuptools",
    "python3-systemd",
    "python3-venv",
    "python3-wheel",
    "rsync",
    "socat",
    "strace",
    "subversion",
    "systemd",
    "systemd-container",
    "systemd-journal-remote",
    "systemd-sysv",
    "zsh",
)
UNITS = "/etc/systemd/system"
# Daemons that these packages would start, of which the tests want the programs alone.
MASKED = ("fail2ban", "nagios-nrpe-server", "rsync")
# Of two super-servers Debian installs one, and has it started; the other is unpacked only. Lines
# for a shell in the root.
INETD, XINETD = "openbsd-inetd", "xinetd"
UNPACKED_INSIDE = "/srv/unpacked"
BESIDE = (
    f"mkdir -p {UNPACKED_INSIDE}/{XINETD}; cd {UNPACKED_INSIDE}/{XINETD}",
    f"apt-get -qq -o APT::Sandbox::User=root download {XINETD}",
    f"dpkg-deb -x {XINETD}_*.deb .; rm {XINETD}_*.deb",
    "systemctl -q disable inetd",
)
PACKAGES = {
    "build": BUILD_PACKAGES,
    "run": RUN_PACKAGES,
    "bench": (*(each for each in RUN_PACKAGES if each != INETD), "ipsvd", "ucspi-tcp", XINETD),
}
# Cython 0.29 does not compile cysystemd.
LEFT_OUT = {"bookworm": ("cython3",)}
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": "/usr/lib/spawnhelper",  # for the tests; what is installed does not need it
}
SLACK = "SPAWNHELPER_SLACK"  # how patient the tests are: see conftest.py
if SLACK in os.environ:
    ENVIRONMENT[SLACK] = os.environ[SLACK]
BOOT_TIME = 180  # seconds; it is one or two where nothing else is done
RUNNING = ("running", "degraded")


class Unavailable(Exception):
    """Something from elsewhere cannot be had: a sentence that says what, and what would help."""


def obstacle() -> str:
    """What keeps this host from booting a machine, as the end of a sentence; "" for nothing."""
    if os.geteuid() != 0:
        return "this needs root"
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    tried = subprocess.run(trial, capture_output=True, text=True, check=False)
    if "propagation: Invalid argument" in tried.stderr:
        return "/ is no mount point; have a chroot begin at one, as by mount --bind DIR DIR"
    if tried.returncode != 0:
        return "this container may not mount file systems (CAP_SYS_ADMIN is missing)"
    if _cgroup2() is None:
        return "no control groups of version 2 are mounted"
    return ""


def _cgroup2() -> Path | None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return next((Path(place) for _, place, kind, *_ in mounts if kind == "cgroup2"), None)


def missing(tools: Mapping[str, str] = TOOLS) -> list[str]:
    """The packages with these tools, as far as this host lacks them; without an argument, with what
    makes and boots machines."""
    return [package for tool, package in tools.items() if shutil.which(tool) is None]


def install(packages: Sequence[str]) -> list[str]:
    """Installs packages on this host; those that this added, dependencies included. Raises
    Unavailable."""
    if not packages:
        return []
    apt = ["apt-get", "-q", "-y", "--no-install-recommends"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    before = _installed_packages()
    for arguments in (["update"], ["install", *packages]):
        done = subprocess.run(
            [*apt, *arguments], check=False, env=environment, stdout=subprocess.DEVNULL
        )
        if done.returncode != 0:
            what = f"apt-get cannot install {' '.join(packages)}"
            raise Unavailable(f"{what}; see what it says above, and have them installed")
    return sorted(_installed_packages() - before)


@contextlib.contextmanager
def installed(packages: Sequence[str]) -> Iterator[None]:
    """Packages on this host for as long as they are needed."""
    added = install(packages)
    try:
        yield
    finally:
        if added:
            purge = ["apt-get", "-q", "-y", "purge", *added]
            subprocess.run(purge, check=False, stdout=subprocess.DEVNULL)


def tools() -> contextlib.AbstractContextManager[None]:
    """What makes and boots machines, for as long as it is needed."""
    return installed(missing())


def _installed_packages() -> set[str]:
    query = ["dpkg-query", "-f", "${db:Status-Abbrev} ${Package}\n", "-W"]
    listing = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    return {line.split()[1] for line in listing.splitlines() if line.startswith("ii")}


def isolate() -> None:
    """Moves this process to a mount namespace of its own, so that no mount outlives it."""
    clone_newns, ms_rec, ms_private = 0x20000, 0x4000, 0x40000
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(clone_newns) or libc.mount(b"none", b"/", None, ms_rec | ms_private, None):
        raise OSError(ctypes.get_errno(), "cannot make a mount namespace")


def base_root(release: str, kind: str, cache: Path = CACHE) -> Path:
    """The root of a minimal Debian with the packages of that kind, "run", "build" or "bench".

    Made at the first call, kept in the cache, and shared by all machines, read-only. Raises
    Unavailable.
    """
    packages = [name for name in PACKAGES[kind] if name not in LEFT_OUT.get(release, ())]
    masked = [name for name in MASKED if name in packages]
    beside = BESIDE if INETD in packages else ()
    digest = hashlib.sha256("\n".join([*packages, *masked, *beside]).encode()).hexdigest()[:12]
    root = cache / f"{release}-{kind}-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{release}-{kind}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.is_dir():
            return root
        for outdated in cache.glob(f"{release}-{kind}-*"):
            shutil.rmtree(outdated)
        say(f"making a {release} root ({kind}), once")
        partial = root.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        command = [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            # The archive of a release in development is a snapshot that may have expired.
            '--aptopt=Acquire::Check-Valid-Until "false"',
            f"--include={','.join(packages)}",
            *(f"--customize-hook=ln -s /dev/null $1{UNITS}/{name}.service" for name in masked),
            *(f"--customize-hook=chroot \"$1\" sh -ec '{'; '.join(beside)}'" for _ in beside[:1]),
            release,
            str(partial),
        ]
        made = subprocess.run(command, check=False, env=ENVIRONMENT | dict(os.environ))
        if made.returncode != 0:
            what = f"mmdebstrap cannot make a {release} root"
            raise Unavailable(f"{what}; see what it says above, and let it reach Debian's archive")
        partial.rename(root)
    return root


def overlay(base: Path) -> Path:
    """A writable copy of the base root, in memory; call isolate() first."""
    place = Path(tempfile.gettempdir(), f"spawnhelper-machine-{os.urandom(4).hex()}")
    place.mkdir(mode=0o700)
    _mount("-t", "tmpfs", "-o", "mode=755", "none", str(place))
    for part in ("upper", "work", "root"):
        (place / part).mkdir()
    options = f"lowerdir={base},upperdir={place / 'upper'},workdir={place / 'work'}"
    _mount("-t", "overlay", "-o", options, "none", str(place / "root"))
    return place / "root"


def discard(root: Path) -> None:
    """Takes an overlay away."""
    subprocess.run(["umount", "-R", str(root.parent)], check=False)
    root.parent.rmdir()


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def nspawn(root: Path, *arguments: str) -> list[str]:
    """The command that starts a container in that root, without a network but loopback."""
    return [
        "systemd-nspawn",
        "--quiet",
        f"--directory={root}",
        f"--machine={root.parent.name}",
        "--register=no",
        "--keep-unit",
        "--private-network",
        "--console=pipe",
        "--link-journal=no",  # which would need a machine ID of this host
        *arguments,
    ]


class Machine:
    """A booted machine. kind: of base_root(). pid: its systemd, as this host numbers it; started:
    when that was."""

    def __init__(self, release: str, kind: str, pid: int) -> None:
        self.release = release
        self.kind = kind
        self.pid = pid
        self.started = _start_time(pid)

    def alive(self) -> bool:
        """Whether it still runs, and is not another process with its number."""
        return _start_time(self.pid) == self.started != ""

    def command(self, *arguments: str) -> list[str]:
        """The command that runs the arguments inside."""
        variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        # Where this host is a chroot, the machine's root is not that of its namespace.
        enter = ["nsenter", "--target", str(self.pid), "--all", "--root", "--wd"]
        return [*enter, "env", "-i", *variables, *arguments]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs the arguments inside and waits for their end; their output is returned."""
        return subprocess.run(self.command(*arguments), check=check, capture_output=True, text=True)

    def copy(self, folder: Path, target: str) -> None:
        """Has a folder inside, in place of what is there."""
        made = subprocess.run(
            ["tar", "-c", f"--directory={folder}", "."], check=True, capture_output=True
        ).stdout
        unpack = 'rm -rf "$0" && mkdir -p "$0" && exec tar -x --directory="$0"'
        subprocess.run(self.command("sh", "-c", unpack, target), check=True, input=made)

    def install(self, packages: Path) -> None:
        """Installs a folder's .deb files, whose dependencies the base root has; a machine that was
        kept may have later ones."""
        self.copy(packages, PACKAGES_INSIDE)
        install = f"apt-get -qy install --reinstall --allow-downgrades {PACKAGES_INSIDE}/*.deb"
        self.run("sh", "-ec", install)

    def power_off(self) -> None:
        """Shuts the machine down and waits until it is gone."""
        if self.alive():
            os.kill(self.pid, signal.SIGRTMIN + 3)
            self.wait()

    def wait(self) -> None:
        """Waits until the machine is gone."""
        while self.alive():
            time.sleep(0.05)


@contextlib.contextmanager
def booted(release: str, kind: str = "run", cache: Path = CACHE) -> Iterator[Machine]:
    """A machine that is powered off at the end, from a base root of that kind; call isolate()
    first."""
    base = base_root(release, kind, cache)
    root = overlay(base)
    # systemd 258 and later need version 2 control groups, whatever the host has.
    environment = os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
    views = (f"--bind-ro={TREE}:{INSIDE}", f"--bind-ro={base}:{BASE_INSIDE}")
    command = nspawn(root, "--kill-signal=SIGRTMIN+3", *views, "--boot")
    log = (root.parent / "console").open("wb")
    group = control_group(root.parent.name)
    enter = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(group)]
    container = subprocess.Popen(
        [*enter, *command], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    try:
        machine = Machine(release, kind, _init_of(container))
        _wait_until_running(machine)
        yield machine
        machine.power_off()
    except BaseException:
        sys.stderr.write((root.parent / "console").read_text(errors="replace")[-2000:])
        raise
    finally:
        if container.poll() is None:
            container.terminate()
        container.wait()
        log.close()
        discard(root)
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)


def control_group(name: str) -> Path:
    """A new control group for a machine, so that two at a time do not share theirs."""
    tree = _cgroup2()
    assert tree is not None, obstacle()
    own = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    group = tree / own / name
    group.mkdir()
    return group


def _init_of(container: subprocess.Popen[bytes]) -> int:
    """The machine's systemd, a child of nspawn."""
    children = Path(f"/proc/{container.pid}/task/{container.pid}/children")
    deadline = time.monotonic() + BOOT_TIME
    while time.monotonic() < deadline and container.poll() is None:
        for pid in children.read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                    return int(pid)
        time.sleep(0.02)
    raise RuntimeError("the machine did not start")


def _wait_until_running(machine: Machine) -> None:
    deadline = time.monotonic() + BOOT_TIME
    while time.monotonic() < deadline:
        state = machine.run("systemctl", "is-system-running", check=False).stdout.strip()
        if state in RUNNING:
            return
        time.sleep(0.05)
    raise RuntimeError("the machine did not boot")


def _start_time(pid: int) -> str:
    """What tells a process from a later one with its number (proc_pid_stat(5), field 22)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def fetched(name: str, requirement: Path, *options: str, cache: Path = CACHE) -> Path:
    """The folder with what is published under that name, fetched at the first call and checked
    against its sum. requirement: a file of pip's with both. Raises Unavailable."""
    place = cache / f"{name}-{hashlib.sha256(requirement.read_bytes()).hexdigest()[:12]}"
    if not place.is_dir():
        for outdated in cache.glob(f"{name}-*"):
            shutil.rmtree(outdated)
        partial = place.with_suffix(".partial")
        fetch = ["pip3", "-q", "download", "--no-deps", "--require-hashes", *options]
        fetch += (f"--dest={partial}", f"--requirement={requirement}")
        done = subprocess.run(fetch, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            why = said[-1].removeprefix("ERROR: ") if said else f"pip3 ended with {done.returncode}"
            what = f"{name} cannot be fetched from the Python index: {why}"
            raise Unavailable(f"{what}; PIP_INDEX_URL= in the environment names another index")
        partial.rename(place)
    return place


def keep(machine: Machine, digest: str) -> None:
    """Notes a machine that goes on running, for kept()."""
    STATE.mkdir(exist_ok=True)
    note = {"pid": machine.pid, "started": machine.started, "digest": digest}
    _note(machine.release, machine.kind).write_text(json.dumps(note))


def kept(release: str, kind: str) -> tuple[Machine, str] | None:
    """The machine of that release and kind that was kept running, and the sources it has
    installed."""
    try:
        note = json.loads(_note(release, kind).read_text())
    except (OSError, ValueError):
        return None
    machine = Machine(release, kind, note["pid"])
    return (machine, note["digest"]) if machine.started == note["started"] else None


def forget(release: str, kind: str) -> None:
    """Drops the note of a kept machine."""
    _note(release, kind).unlink(missing_ok=True)


def _note(release: str, kind: str) -> Path:
    return STATE / f"{release}-{kind}.json"


def say(sentence: str) -> None:
    """What is going on, for a person who waits."""
    print(f"-- {sentence}", file=sys.stderr, flush=True)
