"""What the tests inside a machine share: services that are really enabled, clients that really
connect, and the journal as journalctl shows it."""

from __future__ import annotations

import contextlib
import itertools
import json
import operator
import os
import re
import resource
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import doors
import hypothesis
import pytest

from spawnhelper import board
from spawnhelper.signals import Signals

T = TypeVar("T")
Address = tuple[str, int] | str

FOLDER = Path("/etc/spawn")
WANTS = Path("/etc/systemd/system/sockets.target.wants")
# Seconds that a busy machine may add to what takes milliseconds on an idle one. A bound from above
# is as wide as that, and what would happen without the mechanism takes longer still; or else it is
# that what would happen. A bound from below is exact: no limit ends anything early.
SLACK = float(os.environ.get("SPAWNHELPER_SLACK", "20"))
PATIENCE = 3 * SLACK  # seconds until nothing is expected to happen any more
RESET = b"\1\0\0\0\0\0\0\0"  # struct linger: on, at once
BOOTED = "SPAWNHELPER_MACHINE" in os.environ
in_machine = pytest.mark.skipif(not BOOTED, reason="needs a booted machine: tests/run")
# However long a busy machine takes for one input, it says nothing about the input.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")
# For a module whose tests ask what a client, a command and the journal see.
both_doors = pytest.mark.both_doors
one_door = pytest.mark.one_door
PASSED = pytest.StashKey[bool]()
NO_STANDARD_ERROR = re.compile(r"^.*: note: what \S+ writes to standard error goes to .*\n", re.M)
_numbers = itertools.count()


def run(*command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command; its output is text."""
    return subprocess.run(command, check=check, capture_output=True, text=True, **options)


def until(
    get: Callable[[], T], patience: float = PATIENCE, *, holds: Callable[[T], object] = bool
) -> T:
    """The first result of which that holds; without it, that counts as true. Raises AssertionError
    with the last result where none comes within so many seconds."""
    deadline = time.monotonic() + patience
    while not holds(found := get()):
        assert time.monotonic() < deadline, f"after {patience:g} s it is still {found!r}"
        time.sleep(0.01)
    return found


def until_over(patience: float = PATIENCE) -> None:
    """Waits until every connection is over, and recorded."""
    until(connection_units, patience, holds=operator.not_)


def systemd_version() -> int:
    return int(run("systemctl", "--version").stdout.split()[1])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connect(address: Address) -> socket.socket:
    client = socket.socket(socket.AF_UNIX) if isinstance(address, str) else socket.socket()
    client.settimeout(PATIENCE)
    client.connect(address)
    return client


def read_all(client: socket.socket) -> bytes:
    """All that comes until the end of file; a reset is an end, too."""
    answer = b""
    try:
        while part := client.recv(65536):
            answer += part
    except ConnectionResetError:
        pass
    return answer


def journal(*matches: str) -> list[dict[str, Any]]:
    """The entries that match, oldest first, once all is written that was sent."""
    run("journalctl", "--sync")
    lines = run("journalctl", "-q", "-o", "json", *matches).stdout.splitlines()
    return [json.loads(line) for line in lines]


def fill_journal() -> None:
    """Sends journald, which is to be stopped, all that its queue takes."""
    sent = 1
    with contextlib.ExitStack() as senders:  # each of which has a limit of its own, too
        while sent:
            sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            senders.enter_context(sender)
            sender.connect("/run/systemd/journal/socket")
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while sender.send(b"MESSAGE=filling\n"):
                    sent += 1


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Has processes do nothing for a while."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def journald_stuck() -> contextlib.AbstractContextManager[None]:
    """Has journald do nothing for a while."""
    return stopped(main_pid("systemd-journald.service"))


@contextlib.contextmanager
def no_stream() -> Iterator[None]:
    """Has all the room that journald, which is to be stopped, has for new streams."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as streams:
        streams.callback(resource.setrlimit, resource.RLIMIT_NOFILE, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most[1], most[1]))
        with contextlib.suppress(BlockingIOError):
            while True:
                stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                streams.enter_context(stream).setblocking(False)
                stream.connect("/run/systemd/journal/stdout")
        yield


def connection_units() -> list[str]:
    """The units of connections that are not over yet, one for each of them."""
    return doors.now.units()


def reset(client: socket.socket) -> None:
    """Ends a connection by a reset instead of a FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


def silent(client: socket.socket) -> bool:
    """Whether nothing comes for a while."""
    client.settimeout(0.5)
    try:
        return client.recv(1) == b"never"
    except TimeoutError:
        return True
    finally:
        client.settimeout(PATIENCE)


def main_pid(unit: str) -> int:
    """The main process of a unit, once there is one."""
    show = ("systemctl", "show", "--property=MainPID", "--value", unit)
    return until(lambda: int(run(*show).stdout))


def helper() -> int:
    """The process that serves the one connection, once there is one."""
    (found,) = until(doors.now.helpers, holds=lambda pids: len(pids) == 1 and pids[0])
    return found


@contextlib.contextmanager
def frozen(worker: int) -> Iterator[None]:
    """Has a worker do nothing for a while, which its server cannot see."""
    unified = Path(f"/proc/{worker}/cgroup").read_text().partition("0::")[2].rstrip()
    group = Path(f"/sys/fs/cgroup{unified}")
    (group / "cgroup.freeze").write_text("1")
    try:
        until(lambda: "frozen 1" in (group / "cgroup.events").read_text())
        yield
    finally:
        with contextlib.suppress(OSError):  # it is gone
            (group / "cgroup.freeze").write_text("0")


def minds_a_stop(process: int) -> bool:
    """Whether SIGTERM waits for the helper, or wakes it, instead of ending it."""
    status = Path(f"/proc/{process}/status").read_text()
    masks = re.findall(r"^Sig(?:Blk|Cgt):\t(\w+)$", status, re.M)
    minds = any(int(mask, 16) >> signal.SIGTERM - 1 & 1 for mask in masks)
    return minds and status.startswith("Name:\tpython3")  # and not yet to be executed by systemd


def rests(process: int) -> bool:
    """Whether a process uses next to no processor time for a second."""

    def ticks() -> int:  # of 10 ms
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(1)
    return ticks() - before <= 1


def stop_connection() -> None:
    """Stops the one connection's unit, which has to be a matter of moments."""
    (unit,) = until(connection_units, holds=lambda units: len(units) == 1)
    serving = helper()
    until(lambda: minds_a_stop(serving))
    begun = time.monotonic()
    run("systemctl", "stop", unit)
    assert time.monotonic() - begun < SLACK  # TimeoutStopSec= is 90 s


def python(folder: Path, code: str) -> str:
    """An Argv= that runs the code, from a file in that folder."""
    file = folder / f"{next(_numbers)}.py"
    file.write_text(code)
    return f"Argv=/usr/bin/python3 {file}\n"


class Quiet(Signals):
    """Signals of which none comes, for a stage in the tests' own process."""

    def __init__(self) -> None:
        self.stopped = False
        self.descriptor, _ = os.pipe2(os.O_NONBLOCK)


class Installed:
    """A service that has a file in /etc/spawn and a listening socket unit, behind a door."""

    def __init__(self, name: str, address: Address, door: doors.Accept = doors.YES) -> None:
        self.name = name
        self.door = door
        self.address = address
        self.file = FOLDER / f"{name}.conf"
        self.socket_unit = f"spawn@{name}.socket"
        self.seen = 0
        self.shifted = 0

    def write(self, spawn: str, socket_section: str = "") -> None:
        """Replaces the service file, with no reload. [Spawn] is its fourth line, or shifted by so
        many more."""
        listen = self.address if isinstance(self.address, str) else "{}:{}".format(*self.address)
        more = "\n".join(filter(None, (socket_section, self.door.line)))
        self.shifted = more.count("\n")
        self.file.write_text(f"[Socket]\nListenStream={listen}\n{more}\n[Spawn]\n{spawn}\n")

    def start(self) -> None:
        run("systemctl", "daemon-reload")
        run("systemctl", "start", self.socket_unit)

    def state(self) -> str:
        return run("systemctl", "is-active", self.socket_unit, check=False).stdout.strip()

    def connect(self) -> socket.socket:
        return connect(self.address)

    def talk(self, data: bytes = b"") -> bytes:
        """What one connection answers to the data and its end."""
        with self.connect() as client:
            client.sendall(data)
            with contextlib.suppress(OSError):  # it is over already
                client.shutdown(socket.SHUT_WR)
            return read_all(client)

    def records(self, count: int) -> list[dict[str, Any]]:
        """All records of the service, once there are so many."""
        found = partial(journal, f"SPAWN_SERVICE={self.name}")
        return until(found, holds=lambda records: len(records) >= count)

    def record(self) -> dict[str, Any]:
        """The one record that came since the last call."""
        self.seen += 1
        found = self.records(self.seen)
        assert len(found) == self.seen, found
        return found[-1]

    def check(self, *options: str) -> subprocess.CompletedProcess[str]:
        """What the check says, but for the note that StandardError= is missing, which the tests'
        short files would all have."""
        done = run("spawnctl", "check", self.name, *options, check=False)
        done.stderr = NO_STANDARD_ERROR.sub("", done.stderr)
        return done


def workers(there: Installed, state: str = board.IDLE) -> list[int]:
    """Those that are in this state; one that has just been born is not idle yet. None before there
    is a server."""
    seen = None
    with contextlib.suppress(FileNotFoundError):
        seen = board.read(there.name)
    return [] if seen is None else [place.pid for place in seen.those(state)]


def groups_of(there: Installed) -> list[Path]:
    """The control groups that workers of the service have."""
    show = (
        "systemctl",
        "show",
        "--value",
        "--property=ControlGroup",
        f"spawn-server@{there.name}.service",
    )
    folder = run(*show).stdout.strip()
    return list(Path(f"/sys/fs/cgroup{folder}").glob("worker-*"))


@pytest.fixture
def service(door: doors.Accept) -> Iterator[Callable[..., Installed]]:
    """Makes services behind the door: service(SPAWN-SECTION, address=..., socket_section=...,
    start=True)."""
    made: list[Installed] = []

    def make(
        spawn: str,
        *,
        address: Address | None = None,
        socket_section: str = "",
        start: bool = True,
    ) -> Installed:
        name = f"t{os.getpid()}-{next(_numbers)}"
        installed = Installed(name, address or ("127.0.0.1", free_port()), door)
        made.append(installed)
        installed.write(spawn, socket_section)
        if start:
            installed.start()
        return installed

    yield make
    for installed in made:
        run("systemctl", "stop", installed.socket_unit, check=False)
        if (WANTS / installed.socket_unit).is_symlink():
            run("systemctl", "disable", "-q", installed.socket_unit)
        installed.file.unlink(missing_ok=True)
    run("systemctl", "stop", "spawn@*.service", "spawn-server@*.service", check=False)
    run("systemctl", "reset-failed", check=False)
    until_over()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_doors: for Accept=yes and for Accept=no")
    config.addinivalue_line("markers", "one_door: asks nothing that a door has to do with")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Has a test that is about services run for each door, where its module says so."""
    marked = {mark.name for mark in metafunc.definition.iter_markers()}
    if "both_doors" in marked and "one_door" not in marked and "door" in metafunc.fixturenames:
        metafunc.parametrize(
            "door", doors.BOTH, indirect=True, ids=lambda each: each.name.replace("=", "-")
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out what is not for a door."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            door = item.callspec.params.get("door")
            name = f"{item.module.__name__}::{item.originalname}"
            if isinstance(door, doors.Accept) and (door.name, name) in doors.NOT_FOR:
                reason = f"{door.name}: {doors.NOT_FOR[door.name, name]}"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def door(request: pytest.FixtureRequest) -> Iterator[doors.Accept]:
    """The door of the services of this test."""
    doors.now = getattr(request, "param", doors.YES)
    yield doors.now
    doors.now = doors.YES


@pytest.fixture
def cat(service: Callable[..., Installed]) -> Installed:
    """A service that says what it is told, with room for a load."""
    return service("User=nobody\nArgv=/bin/cat\n", socket_section="MaxConnections=300")


@pytest.fixture
def unit_change(door: doors.Accept) -> Iterator[Callable[[str], None]]:
    """Changes by a drop-in what serves connections, until the test is over."""
    folder = Path(f"/run/systemd/system/{door.template}.d")

    def change(text: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test.conf").write_text(text + "\n")
        run("systemctl", "daemon-reload")
        if door is doors.NO:
            run("systemctl", "stop", "spawn-server@*.service")  # the next connection starts one

    yield change
    (folder / "test.conf").unlink(missing_ok=True)
    run("systemctl", "daemon-reload")


@pytest.fixture
def readable(tmp_path: Path) -> Path:
    """A folder that everybody may read; the one for all temporary files stays everybody's."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    return tmp_path


@pytest.fixture
def held(
    unit_change: Callable[[str], None],
) -> Callable[[str], contextlib.AbstractContextManager[None]]:
    """Holds what serves connections where it is: with held("ExecStartPre"), none starts until that
    is over; with held("ExecStopPost"), no unit is gone."""
    mark = Path("/run/spawn-held")

    @contextlib.contextmanager
    def hold(step: str) -> Iterator[None]:
        mark.touch()
        unit_change(f"[Service]\n{step}=/bin/sh -c 'while [ -e {mark} ]; do sleep 0.02; done'")
        try:
            yield
        finally:
            mark.unlink()

    return hold


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """What a shell starts in the background ignores SIGINT, and so would all that a test starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def the_real_package() -> None:
    """Nothing is tested but what the package installed."""
    if BOOTED:
        import spawnhelper

        assert spawnhelper.__file__ == f"{doors.PACKAGE}/__init__.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Sizes, where the full one takes its time; and where the suite of faults leaves figures."""
    parser.addoption("--records", type=int, default=50_000, help="in the journal of test_stats")
    parser.addoption("--soak", type=int, default=2_000, help="connections of faults/soak.py")
    parser.addoption("--rounds", type=int, default=100, help="rounds of faults/collisions.py")
    parser.addoption("--seconds", type=int, default=20, help="for each fuzzer of fuzz/sessions.py")
    parser.addoption("--figures", type=Path, help="a file for what a suite measured, as JSON lines")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Lets the promise fixture know whether its test has passed."""
    report = (yield).get_result()
    if report.when == "call":
        item.stash[PASSED] = report.passed


@pytest.fixture
def promise(request: pytest.FixtureRequest) -> Iterator[Callable[[str], None]]:
    """Notes the figure for the promise that the test's docstring makes: the fault, a colon, and
    what is promised. Of a test that fails that is what is noted."""
    text = " ".join((request.function.__doc__ or "").split())
    fault, _, promised = text.partition(": ")
    figures: list[str] = []
    yield figures.append
    file = request.config.getoption("--figures")
    if not file or not figures:
        return
    figure = figures[-1] if request.node.stash.get(PASSED, False) else "**failed**"
    row = {"test": request.node.nodeid, "fault": fault, "promise": promised, "figure": figure}
    with open(file, "a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")
