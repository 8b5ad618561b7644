"""What systemd dropped above MaxConnections= or MaxConnectionsPerSource=, to be said once. Loaded
late.

systemd counts what it drops, and to ask it costs a process. It drops somebody only while the
service is full, or has as many connections of that client as it may; either is over when one of
these connections ends. So the helper that ends looks whether it is so, its own connection among
them, and asks only then. It looks at the connections of all services, so it can ask in vain, and
always does with MaxConnectionsPerSource=1. Some can still be dropped between its look and its end:
for them it leaves a mark, and the next one to end asks once more.
"""

from __future__ import annotations

from spawnhelper import manager, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    from spawnhelper.conf.service import Service
else:
    import posix as os

ANSWER_TIME = 5  # seconds
MARK = "."  # before the name of one that is there as long as there can be more to say


def say(service: Service) -> None:
    """Writes the record of what was dropped since there was one, if anything was.

    Nothing is said while another helper asks, or where that cannot be noted or systemd does not
    tell: the next one to end asks again.
    """
    folder = f"{manager.now.runtime}/dropped"  # a file a service: how many of them have been said
    mark = f"{folder}/{MARK}{service.name}"
    try:
        full = _full(service)
        if full:
            os.close(_opened(mark))
        elif not _exists(mark):
            return
        said = _opened(f"{folder}/{service.name}")
        try:
            count = _unsaid(said, service.name)
        finally:
            os.close(said)
        if not full:
            os.unlink(mark)
    except (OSError, ValueError, ImportError):
        return
    if count:
        record.write(record.of_dropped(service, count), foreground=False)


def _full(service: Service) -> bool:
    """Whether so many connections are open that systemd may drop one of this service, or one more
    from this client. Control groups tell (cgroups(7)): each connection has one, named as its unit,
    in one folder."""
    own = _read("/proc/self/cgroup").partition("0::")[2].strip()
    folder, _, unit = f"/sys/fs/cgroup{own}".rpartition("/")
    counted = _read(f"{folder}/cgroup.stat").split()
    if int(counted[counted.index("nr_descendants") + 1]) >= service.max_connections:
        return True
    if not service.per_source:
        return False
    source = _source(unit)
    return sum(_source(each) == source for each in os.listdir(folder)) >= service.per_source


def _source(unit: str) -> str:
    """Whose connections systemd counts together: the client's address, and for a path its user.
    Either is the end of the unit's name, but for the client's port."""
    end = unit.removesuffix(".service").rpartition("-")[2]
    return end.rpartition(":")[0] or end


def _unsaid(said: int, name: str) -> int:
    """How many connections systemd has dropped that nobody has said anything about; from now on
    somebody has. said: the open file with the number that was.

    Raises OSError where another process is at it, ValueError where systemd does not answer.
    """
    import fcntl
    import subprocess

    show = ["systemctl", *manager.now.option, "show", "--property=NRefused", "--value"]
    show.append(f"spawn@{name}.socket")
    fcntl.flock(said, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        shown = subprocess.run(show, check=False, capture_output=True, timeout=ANSWER_TIME).stdout
    except subprocess.SubprocessError as error:
        raise ValueError from error
    before, counted = int(os.read(said, 20) or b"0"), int(shown)
    os.pwrite(said, b"%020d" % counted, 0)
    return counted - before if counted >= before else counted  # systemd began anew


def _opened(file: str) -> int:
    """A descriptor of this file, which is made if need be, as the two folders around it are."""
    own = file.rpartition("/")[0]
    for folder, mode in ((own.rpartition("/")[0], 0o755), (own, 0o700)):
        try:
            os.mkdir(folder, mode)
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
