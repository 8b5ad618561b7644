"""What systemd refused above MaxConnections=, to be said once. Loaded late.

systemd counts what it refuses. Only a service that is full has such connections, and it is full
until one ends; so whoever ends looks whether it was, and the first to end after that once more, for
some can have come in between.
"""

from __future__ import annotations

from spawnhelper import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from spawnhelper.service import Service
else:
    import posix as os

FOLDER = "/run/spawn/refused"  # a file a service: how many of them have been said
ANSWER_TIME = 5  # seconds
MARK = "."  # before the name of one that is there as long as there can be more to say


def say(service: Service) -> None:
    """Writes the record of what was refused since there was one, if anything was.

    Nothing is said while another helper looks, or where that cannot be noted or systemd does not
    tell: the next one to end looks again.
    """
    mark = f"{FOLDER}/{MARK}{service.name}"
    try:
        full = service.per_source or _open_connections() >= service.max_connections
        if full:
            os.close(_opened(mark))
        elif not _exists(mark):
            return
        said = _opened(f"{FOLDER}/{service.name}")
        try:
            count = _unsaid(said, service.name)
        finally:
            os.close(said)
        if not full:
            os.unlink(mark)
    except (OSError, ValueError, ImportError):
        return
    if count:
        record.write(record.of_refused(service, count), foreground=False)


def _open_connections() -> int:
    """How many connections are open, of all services and this one among them, as control groups
    tell (cgroups(7))."""
    own = _read("/proc/self/cgroup").partition("0::")[2].strip()
    counted = _read(f"/sys/fs/cgroup{own.rpartition('/')[0]}/cgroup.stat").split()
    return int(counted[counted.index("nr_descendants") + 1])


def _unsaid(said: int, name: str) -> int:
    """How many connections systemd has refused that nobody has said anything about; from now on
    somebody has. said: the open file with the number that was.

    Raises OSError where another process is at it, ValueError where systemd does not answer.
    """
    import fcntl
    import subprocess

    show = ["systemctl", "show", "--property=NRefused", "--value", f"spawn@{name}.socket"]
    fcntl.flock(said, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        shown = subprocess.run(show, check=False, capture_output=True, timeout=ANSWER_TIME).stdout
    except subprocess.SubprocessError as error:
        raise ValueError from error
    before, counted = int(os.read(said, 20) or b"0"), int(shown)
    os.pwrite(said, b"%020d" % counted, 0)
    return counted - before if counted >= before else counted  # systemd began anew


def _opened(file: str) -> int:
    """A descriptor of this file in FOLDER, both of which are made if need be."""
    for folder in (FOLDER.rpartition("/")[0], FOLDER):
        try:
            os.mkdir(folder, 0o700 if folder == FOLDER else 0o755)
        except FileExistsError:
            pass
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _read(file: str) -> str:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode(errors="surrogateescape")
    finally:
        os.close(descriptor)


def _exists(file: str) -> bool:
    try:
        os.stat(file)
    except FileNotFoundError:
        return False
    return True
