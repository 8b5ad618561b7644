"""What systemd refused above MaxConnections=, to be said once. Loaded after the fork.

systemd counts what it refuses. Only a service that is full has such connections, and it is full
until one ends; so whoever ends looks whether it was.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
else:
    import posix as os

FOLDER = "/run/spawn/refused"  # a file a service: how many of them have been said
MARK = "."  # before the name of one that is there as long as there can be more to say


def may_be(name: str, most: int) -> bool:
    """Whether so many connections are open, of this service or of others with it, as far as
    control groups tell (cgroups(7)); or were when another of the service ended, for some can have
    been refused since."""
    mark = f"{FOLDER}/{MARK}{name}"
    try:
        own = _read("/proc/self/cgroup").partition("0::")[2].strip()
        counted = _read(f"/sys/fs/cgroup{own.rpartition('/')[0]}/cgroup.stat").split()
        if int(counted[counted.index("nr_descendants") + 1]) < most:
            os.unlink(mark)
        else:
            os.close(_opened(mark))
    except OSError:
        return False
    return True


def unsaid(name: str) -> int:
    """How many connections systemd has refused that nobody has said anything about; from now on
    somebody has. 0 where that cannot be noted: then systemctl(1) and spawnctl(1) know."""
    import fcntl
    from subprocess import run

    show = ["systemctl", "show", "--property=NRefused", "--value", f"spawn@{name}.socket"]
    try:
        said = _opened(f"{FOLDER}/{name}")
        try:
            fcntl.flock(said, fcntl.LOCK_EX)
            before = int(os.read(said, 20) or b"0")
            counted = int(run(show, check=False, capture_output=True).stdout or b"0")
            os.pwrite(said, b"%020d" % counted, 0)
        finally:
            os.close(said)
    except OSError:
        return 0
    return counted - before if counted >= before else counted  # systemd began anew


def _opened(file: str) -> int:
    """A descriptor of this file in FOLDER, both of which are made if need be."""
    for folder in (FOLDER.rpartition("/")[0], FOLDER):
        try:
            os.mkdir(folder, 0o755)
        except FileExistsError:
            pass
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _read(file: str) -> str:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode(errors="surrogateescape")
    finally:
        os.close(descriptor)
