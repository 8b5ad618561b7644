"""The standing server (Accept=no): what it is to systemd, to its clients and to the files."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from conftest import (
    Installed,
    fill_journal,
    groups_of,
    in_machine,
    journal,
    journald_stuck,
    main_pid,
    python,
    read_all,
    reset,
    rests,
    run,
    until,
)

pytestmark = in_machine

CAT = "User=games\nArgv=/bin/cat\n"
STANDING = "Accept=no\n"


@pytest.fixture
def standing(service: Callable[..., Installed]) -> Callable[..., Installed]:
    """Makes services with a standing server."""

    def make(spawn: str = CAT, more: str = "", **options: object) -> Installed:
        return service(spawn, socket_section=STANDING + more, **options)

    return make


def unit_of(there: Installed) -> str:
    return f"spawn-server@{there.name}.service"


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_it_serves(standing: Callable[..., Installed]) -> None:
    there = standing()
    assert there.talk(b"hello") == b"hello"
    assert there.record()["SPAWN_RESULT"] == "success"


def load(there: Installed, over: threading.Event, clients: int = 16) -> Callable[[], int]:
    """Has so many clients talk one time after the other until that is over; what is returned waits
    for them, and says how often all of them were answered."""

    def talk() -> int:
        made = 0
        while not over.is_set():
            assert there.talk(b"word") == b"word"
            made += 1
        return made

    pool = ThreadPoolExecutor(clients)
    talks = [pool.submit(talk) for _ in range(clients)]

    def end() -> int:
        over.set()
        pool.shutdown()
        return sum(each.result() for each in talks)

    return end


def hold(there: Installed) -> socket.socket:
    """A client that has been answered, and stays."""
    client = there.connect()
    client.sendall(b"x")
    assert client.recv(1) == b"x"
    return client


def finish(client: socket.socket) -> bytes:
    """The rest that a client gets once it has ended."""
    with client:
        client.shutdown(socket.SHUT_WR)
        return read_all(client)


def at_rest(there: Installed, server: int) -> bool:
    """Whether the server has idle workers and no other children, and nobody else is of their
    user."""
    workers = children(server)
    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in workers}
    (user,) = (str(uid) for uid in owners)
    of_user = run("pgrep", "-U", user, check=False).stdout.split()
    return says(there, f"0 busy, {len(workers)} idle, ") and len(of_user) == len(workers)


def resumed(pid: int) -> bool:
    return b"--resume" in Path(f"/proc/{pid}/cmdline").read_bytes()


def is_active(there: Installed) -> bool:
    show = ("systemctl", "show", "--value", "--property=ActiveState", unit_of(there))
    return run(*show).stdout == "active\n"


def test_a_reload_loses_nothing(standing: Callable[..., Installed]) -> None:
    there = standing(more="MaxConnections=300")
    held = [hold(there) for _ in range(10)]
    server = main_pid(unit_of(there))
    end = load(there, threading.Event())
    for _ in range(3):
        run("systemctl", "reload", unit_of(there))
        until(lambda: resumed(server) and is_active(there))
    made = end()
    for client in held:
        client.sendall(b"y")
        assert client.recv(1) == b"y"
    assert [finish(client) for client in held] == [b""] * len(held)
    assert main_pid(unit_of(there)) == server
    records = there.records(made + len(held))
    assert [each["SPAWN_RESULT"] for each in records] == ["success"] * (made + len(held))
    assert {each["SPAWN_USER"] for each in records} == {"games"}
    until(lambda: at_rest(there, server))


def test_reloads_at_once_and_a_stop(standing: Callable[..., Installed]) -> None:
    there = standing()
    client = hold(there)
    server = main_pid(unit_of(there))
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: run("systemctl", "reload", unit_of(there)), range(6)))
    for _ in range(200):
        os.kill(server, signal.SIGHUP)
    until(lambda: resumed(server) and is_active(there))
    client.sendall(b"y")
    assert client.recv(1) == b"y"
    os.kill(server, signal.SIGHUP)
    run("systemctl", "stop", unit_of(there))
    assert read_all(client) == b""
    assert there.record()["SPAWN_RESULT"] == "stopped"
    show = ("systemctl", "show", "--value", "--property=Result", unit_of(there))
    assert run(*show).stdout == "success\n"
    assert there.talk(b"again") == b"again"


SERVER = Path("/usr/lib/spawnhelper/spawnhelper/doors/server.py")


def test_a_broken_program_is_not_executed(standing: Callable[..., Installed]) -> None:
    there = standing()
    client = hold(there)
    server = main_pid(unit_of(there))
    text = SERVER.read_text()
    SERVER.write_text("this is no Python\n")
    try:
        run("systemctl", "reload", unit_of(there))
        said = until(lambda: journal(f"_PID={server}", "PRIORITY=3"))
        until(lambda: is_active(there))
        assert there.talk(b"here") == b"here"
    finally:
        SERVER.write_text(text)
    what = "the program that is installed now is not executed, and this one goes on"
    assert said[0]["MESSAGE"] == f"{there.name}: {what}: exit status 1 when it was tried"
    run("systemctl", "reload", unit_of(there))
    until(lambda: resumed(server) and is_active(there))
    assert finish(client) == b""
    assert len(there.records(2)) == 2


WAITING = {
    "for a worker": ("MaxConnections=1", CAT),
    "for its turn": ("", f"{CAT}MaxCommands=1\n"),
}


@pytest.mark.parametrize("what", WAITING)
def test_who_waits_waits_on_in_order_over_a_reload(
    what: str, standing: Callable[..., Installed]
) -> None:
    more, keys = WAITING[what]
    there = standing(keys, more)
    first = hold(there)
    others = []
    for number in range(3):
        others.append(there.connect())
        others[-1].sendall(b"%d" % number)
        if not more:
            busy = f"{number + 2} busy"
            until(partial(says, there, busy))
    server = main_pid(unit_of(there))
    run("systemctl", "reload", unit_of(there))
    until(lambda: resumed(server) and is_active(there))
    assert finish(first) == b""
    for number, client in enumerate(others):
        assert client.recv(1) == b"%d" % number
        assert finish(client) == b""
    assert [each["SPAWN_RESULT"] for each in there.records(4)] == ["success"] * 4


def test_a_record_names_a_limit_that_was_given_before_a_reload(
    standing: Callable[..., Installed],
) -> None:
    there = standing("User=games\nTimeLimit=4s\nArgv=/bin/cat\n")
    client = hold(there)
    server = main_pid(unit_of(there))
    run("systemctl", "reload", unit_of(there))
    until(lambda: resumed(server))
    assert read_all(client) == b""
    record = there.record()
    assert record["SPAWN_RESULT"] == "time-limit"
    assert f": over TimeLimit=4s ({there.file}:" in record["MESSAGE"]


def says(there: Installed, what: str) -> bool:
    return what in status_of(there)


def status_of(there: Installed) -> str:
    show = ("systemctl", "show", "--value", "--property=StatusText", unit_of(there))
    return run(*show).stdout


DEADLY = {
    "SIGKILL": ("kill -9 -1", "killed by SIGKILL"),
    "SIGSTOP": ("kill -STOP -1", "it was stopped, and was ended"),
}


@pytest.mark.parametrize("number", DEADLY)
def test_a_command_signals_all_it_may(number: str, standing: Callable[..., Installed]) -> None:
    command, why = DEADLY[number]
    script = f'read -r word; if [ "$word" = now ]; then {command}; fi; cat'
    there = standing(f"User=games\nArgv=/bin/sh -c '{script}'\n")
    other = there.connect()
    other.sendall(b"stay\nx")
    assert other.recv(1) == b"x"
    server = main_pid(unit_of(there))
    assert there.talk(b"now\n") == b""
    assert read_all(other) == b""
    assert there.talk(b"then\nserved") == b"served"
    records = there.records(3)
    results = [each["SPAWN_RESULT"] for each in records]
    assert sorted(results) == ["resources", "resources", "success"]
    failed = [each["MESSAGE"] for each in records if each["SPAWN_RESULT"] == "resources"]
    end = f"its worker did not come to the end of it: {why}; what was left is ended"
    assert all(f": the helper failed: {end}, client 127.0.0.1:" in each for each in failed)
    assert main_pid(unit_of(there)) == server
    until(lambda: at_rest(there, server))


def test_a_command_kills_workers_that_are_just_made(standing: Callable[..., Installed]) -> None:
    """Which is no reason to refuse a client that comes later."""
    script = 'read -r word; if [ "$word" = now ]; then kill -9 -1; fi; cat'
    there = standing(f"User=games\nArgv=/bin/sh -c '{script}'\n")
    for _ in range(20):
        clients = [there.connect() for _ in range(4)]  # for whom there have to be workers
        clients[0].sendall(b"now\n")
        for client in clients:
            client.shutdown(socket.SHUT_WR)
            read_all(client)
            client.close()
        assert there.talk(b"then\nserved") == b"served"


LIMITING = """
import os, resource, sys
word = sys.stdin.readline()
if word == "now\\n":
    parent = os.getppid()
    for number in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
        resource.prlimit(parent, number, (4, 4))
    os.setpriority(os.PRIO_PROCESS, parent, 19)
print(os.getpriority(os.PRIO_PROCESS, 0), *resource.getrlimit(resource.RLIMIT_FSIZE), flush=True)
"""


def test_a_command_cannot_limit_the_next(
    standing: Callable[..., Installed], readable: Path
) -> None:
    there = standing(f"User=games\n{python(readable, LIMITING)}")
    usual = there.talk(b"-\n")
    for _ in range(3):
        there.talk(b"now\n")
        assert there.talk(b"-\n") == usual == b"0 -1 -1\n"


def test_a_worker_has_the_limits_that_do_not_touch_it(standing: Callable[..., Installed]) -> None:
    """What its commands inherit needs no fork; a small stack would be its own."""
    keys = "LimitNOFILE=128:256\nLimitSTACK=512K\nArgv=/bin/sh -c 'ulimit -n; ulimit -s'\n"
    there = standing(f"User=games\n{keys}")
    assert there.talk() == b"128\n512\n"

    def have(limit: str) -> list[bool]:
        workers = children(main_pid(unit_of(there)))
        found = [Path(f"/proc/{worker}/limits").read_text() for worker in workers]
        return [re.search(limit, each) is not None for each in found]

    until(lambda: all(have(r"Max open files +128 +256 ")))  # one may be new
    assert not any(have(rf"Max stack size +{512 << 10} "))


NO_GROUPS = "ReadOnlyPaths=/sys/fs/cgroup"
# Detaches itself twice, and kills its worker.
DETACHED = """
import os, signal, sys, time
worker = os.getppid()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        time.sleep(1000)
    os._exit(0)
os.wait()
os.kill(worker, signal.SIGKILL)
time.sleep(1000)
"""


@pytest.mark.parametrize("groups", ["control groups", "none"])
def test_nothing_outlives_a_killed_worker(
    groups: str,
    standing: Callable[..., Installed],
    server_change: Callable[[Installed, str], None],
    readable: Path,
) -> None:
    there = standing(f"User=games\n{python(readable, DETACHED)}", start=False)
    if groups == "none":
        server_change(there, NO_GROUPS)
    there.start()
    assert there.talk() == b""
    assert there.record()["SPAWN_RESULT"] == "resources"
    server = main_pid(unit_of(there))
    until(lambda: at_rest(there, server))
    assert len(groups_of(there)) == (0 if groups == "none" else len(children(server)))
    said = [each["MESSAGE"] for each in journal(f"_PID={server}", "PRIORITY=4")]
    if groups == "none":
        (sentence,) = said
        assert re.fullmatch(r".*: no control groups for workers: /.*: Read-only file.*", sentence)
    else:
        assert said == []


@pytest.fixture
def server_change() -> Iterator[Callable[[Installed, str], None]]:
    """Changes a service's server by a drop-in, until the test is over."""
    changed = []

    def change(there: Installed, text: str) -> None:
        folder = Path(f"/run/systemd/system/{unit_of(there)}.d")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test.conf").write_text(f"[Service]\n{text}\n")
        changed.append(folder)
        run("systemctl", "daemon-reload")

    yield change
    for folder in changed:
        shutil.rmtree(folder, ignore_errors=True)
    run("systemctl", "daemon-reload")


def test_no_worker_can_be_made(
    standing: Callable[..., Installed], server_change: Callable[[Installed, str], None]
) -> None:
    there = standing(start=False)
    server_change(there, "SystemCallFilter=~@setuid\nSystemCallErrorNumber=EPERM")
    there.start()
    for _ in range(3):
        assert there.talk(b"x") == b""
    records = there.records(3)
    why = f"{there.file}:6: User=games: Operation not permitted"
    assert all(f"no command was run: {why}, client" in each["MESSAGE"] for each in records)
    assert [each["SPAWN_RESULT"] for each in records] == ["exec-failed"] * 3
    server = main_pid(unit_of(there))
    assert not is_active(there)
    assert rests(server)
    said = [each["MESSAGE"] for each in journal(f"_PID={server}") if "SPAWN_RESULT" not in each]
    (line,) = said
    assert line.endswith(f"no worker now: {why}; it is tried again")


def test_who_is_above_max_connections_waits_in_order(standing: Callable[..., Installed]) -> None:
    there = standing(more="MaxConnections=3")
    held = [hold(there) for _ in range(3)]
    server = main_pid(unit_of(there))
    waiting = []
    for number in range(5):
        waiting.append(there.connect())
        waiting[-1].sendall(b"%d" % number)
    assert rests(server)
    assert len(children(server)) == 3
    for number, client in enumerate(waiting):
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        client.settimeout(60)
        assert finish(held[number]) == b""
        assert client.recv(1) == b"%d" % number
        held.append(client)
    assert [finish(client) for client in held[5:]] == [b""] * 3
    assert len(there.records(8)) == 8


def test_one_source_has_so_many(standing: Callable[..., Installed]) -> None:
    there = standing(more="MaxConnectionsPerSource=2")
    held = [hold(there) for _ in range(2)]
    for _ in range(5):
        with there.connect() as client:
            assert read_all(client) == b""
    with socket.socket() as other:
        other.bind(("127.0.0.2", 0))
        other.connect(there.address)
        other.sendall(b"z")
        assert other.recv(1) == b"z"
        assert [finish(client) for client in held] == [b""] * 2
        until(lambda: says(there, "1 busy"))
        assert there.talk(b"again") == b"again"
    found = until(lambda: journal(f"SPAWN_SERVICE={there.name}", "SPAWN_RESULT=connection-limit"))
    assert len(found) == 1  # of those who came at once; of the others not for a while
    run("systemctl", "stop", unit_of(there))
    found = journal(f"SPAWN_SERVICE={there.name}", "SPAWN_RESULT=connection-limit")
    assert sum(int(each["SPAWN_DROPPED"]) for each in found) == 5
    assert len(found) <= 2
    sentence = found[0]["MESSAGE"].partition(" ")[2]
    assert sentence.endswith("dropped above MaxConnectionsPerSource=2")


def test_a_client_that_left_costs_no_worker(standing: Callable[..., Installed]) -> None:
    there = standing("User=nobody\nArgv=/bin/sleep 1000\n", "MaxConnections=1")
    first = there.connect()
    until(lambda: says(there, "1 busy"))
    for _ in range(3):
        reset(there.connect())
    there.write(CAT, "Accept=no\nMaxConnections=1")
    last = there.connect()
    server = main_pid(unit_of(there))
    (worker,) = children(server)
    (command,) = children(worker)
    os.kill(command, signal.SIGKILL)
    assert read_all(first) == b""
    last.sendall(b"x")
    assert last.recv(1) == b"x"
    assert finish(last) == b""
    assert len(there.records(5)) == 5


def privileges(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (each.partition(":") for each in lines)}


SPYING = """
import os
worker = os.getppid()
found = []
for name in ("mem", "maps", "environ", "fd", "cwd", "root", "exe"):
    path = f"/proc/{worker}/{name}"
    try:
        os.listdir(path) if name == "fd" else open(path, "rb").read(1)
        found.append(name)
    except OSError:
        pass
for path in (f"/proc/{worker}/oom_score_adj", f"/proc/{worker}/clear_refs"):
    try:
        open(path, "w").write("0")
        found.append(path)
    except OSError:
        pass
print(found, flush=True)
open(0).read()
"""


def test_who_has_which_privileges(standing: Callable[..., Installed], readable: Path) -> None:
    there = standing(f"User=games\nNoNewPrivileges=yes\n{python(readable, SPYING)}")
    with there.connect() as client:
        assert client.makefile("rb").readline() == b"[]\n"
        server = main_pid(unit_of(there))
        (worker,) = (each for each in children(server) if children(each))
        (command,) = children(worker)
        account = pwd.getpwnam("games")
        for pid in (worker, command):
            found = privileges(pid)
            assert found["Uid"].split() == [str(account.pw_uid)] * 4
            assert found["Gid"].split() == [str(account.pw_gid)] * 4
            assert found["Groups"].split() == [str(account.pw_gid)]
            assert found["NoNewPrivs"] == "1"
            for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                assert int(found[name], 16) == 0
        assert Path(f"/proc/{worker}/mem").stat().st_uid == 0  # it is not dumpable (proc(5))
        found = privileges(server)
        wanted = "setuid setgid kill sys_chroot sys_nice sys_resource"
        bits = sum(1 << CAPABILITIES[each] for each in wanted.split())
        assert int(found["CapPrm"], 16) == int(found["CapBnd"], 16)
        assert not int(found["CapPrm"], 16) & ~bits  # a container may have fewer
        assert found["Uid"].split() == ["0"] * 4
        assert len(os.listdir(f"/proc/{worker}/fd")) <= 8


# linux/capability.h
CAPABILITIES = {
    "kill": 5,
    "setgid": 6,
    "setuid": 7,
    "sys_chroot": 18,
    "sys_nice": 23,
    "sys_resource": 24,
}


def test_a_server_that_is_killed_leaves_nothing(standing: Callable[..., Installed]) -> None:
    there = standing(more="MaxConnections=2")
    held = [hold(there) for _ in range(2)]
    waiting = there.connect()
    waiting.sendall(b"w")
    server = main_pid(unit_of(there))
    workers = children(server)
    os.kill(server, signal.SIGKILL)
    assert waiting.recv(1) == b"w"
    assert [read_all(client) for client in held] == [b""] * 2
    assert finish(waiting) == b""
    assert main_pid(unit_of(there)) != server
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)
    server = main_pid(unit_of(there))
    until(lambda: at_rest(there, server))
    assert len(groups_of(there)) == len(children(server))


def test_a_server_without_descriptors_waits_for_some(
    standing: Callable[..., Installed], server_change: Callable[[Installed, str], None]
) -> None:
    there = standing(start=False)
    server_change(there, "LimitNOFILE=30")
    there.start()
    held = [hold(there)]
    server = main_pid(unit_of(there))
    held += [there.connect() for _ in range(30)]
    said = until(lambda: journal(f"_PID={server}", "PRIORITY=3"))
    assert rests(server)
    for client in held:
        client.sendall(b"y")
        assert client.recv(1) == b"y"
        assert finish(client) == b""
    assert there.talk(b"again") == b"again"
    assert len(there.records(32)) == 32
    words = "connections cannot be accepted for now: Too many open files; they wait"
    other = "no worker now: no worker can be made: Too many open files; it is tried again"
    assert {each["MESSAGE"].partition(": ")[2] for each in said} <= {words, other}
    assert len(said) <= 4


def test_a_stopped_journal_gets_its_records_later(standing: Callable[..., Installed]) -> None:
    there = standing()
    assert there.talk(b"x") == b"x"
    server = main_pid(unit_of(there))
    with journald_stuck():
        fill_journal()
        for _ in range(50):
            assert there.talk(b"x") == b"x"
        assert rests(server)
    assert len(there.records(51)) == 51


def test_a_stopped_server_is_replaced(
    standing: Callable[..., Installed], server_change: Callable[[Installed, str], None]
) -> None:
    there = standing(start=False)
    server_change(there, "WatchdogSec=2s")
    there.start()
    assert there.talk(b"x") == b"x"
    server = main_pid(unit_of(there))
    show = ("systemctl", "show", "--value", "--property=WatchdogTimestampMonotonic", unit_of(there))
    begun = int(run(*show).stdout)
    until(lambda: int(run(*show).stdout) > begun + 3_000_000)  # it says that it lives
    assert main_pid(unit_of(there)) == server
    os.kill(server, signal.SIGSTOP)
    assert there.talk(b"y") == b"y"
    assert main_pid(unit_of(there)) != server


def test_a_stuck_worker_is_ended(standing: Callable[..., Installed]) -> None:
    there = standing("User=games\nArgv=/bin/sleep 1000\nTimeLimit=5s\nKillDelay=0\n")
    with there.connect() as client:
        server = main_pid(unit_of(there))
        (worker,) = until(lambda: [each for each in children(server) if children(each)])
        group = Path(f"/proc/{worker}/cgroup").read_text().strip().partition("::")[2]
        Path(f"/sys/fs/cgroup{group}/cgroup.freeze").write_text("1")
        assert read_all(client) == b""
    record = there.record()
    assert record["SPAWN_RESULT"] == "time-limit"
    assert "it did not report in time, and was ended" in record["MESSAGE"]
    until(lambda: at_rest(there, server))


CHANGES = [
    "service file",
    "drop-in",
    "defaults",
    "mask",
    "writable",
    "folder",
]


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_holds_for_the_next_connection(
    what: str, standing: Callable[..., Installed]
) -> None:
    there = standing("User=games\nArgv=/bin/sh -c 'echo $WORD'\nEnvironment=WORD=0\n")
    over, answers = threading.Event(), set()

    def talk() -> None:
        while not over.is_set():
            answers.add(there.talk())

    drop_ins = Path(f"{there.file}.d")
    drop_in, defaults = drop_ins / "word.conf", Path("/etc/spawn.conf")
    text = there.file.read_text()
    with ThreadPoolExecutor(16) as pool:
        talks = [pool.submit(talk) for _ in range(16)]
        try:
            for number in range(1, 20):
                word = f"Environment=WORD={number}\n"
                answer = b"%d\n" % number
                if what == "service file":
                    put(there.file, text.replace("WORD=0", f"WORD={number}"))
                elif what == "drop-in":
                    drop_ins.mkdir(exist_ok=True)
                    put(drop_in, f"[Spawn]\n{word}")
                elif what == "defaults":
                    put(there.file, text.replace("Environment=WORD=0\n", ""))
                    put(defaults, f"[Spawn]\n{word}")
                elif number % 2 == 0:
                    undo(there, text)
                    answer = b"0\n"
                else:
                    spoil(what, there)
                    answer = b""
                assert there.talk() == answer
        finally:
            over.set()
            undo(there, text)
            defaults.unlink(missing_ok=True)
            shutil.rmtree(drop_ins, ignore_errors=True)
        for each in talks:
            each.result()
    wanted = {b"0\n", *(b"%d\n" % number for number in range(20))}
    assert answers <= (wanted if what in CHANGES[:3] else {b"", b"0\n"})


def put(file: Path, text: str) -> None:
    """Has the file be another one at once: somebody may read it now."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


def spoil(what: str, there: Installed) -> None:
    if what == "mask":
        there.file.unlink()
        there.file.symlink_to("/dev/null")
    elif what == "writable":
        there.file.chmod(0o666)
    else:
        there.file.parent.chmod(0o777)


def undo(there: Installed, text: str) -> None:
    there.file.parent.chmod(0o755)
    put(there.file, text)


def test_a_file_that_is_replaced_without_an_end(standing: Callable[..., Installed]) -> None:
    there = standing("User=games\nArgv=/bin/echo 0\n")
    text = there.file.read_text()
    over = threading.Event()

    def replace() -> None:
        while not over.is_set():
            for number in range(2):
                put(there.file, text.replace("echo 0", f"echo {number}"))

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        answers = [there.talk() for _ in range(100)]
    finally:
        over.set()
        writer.join()
    assert set(answers) == {b"0\n", b"1\n"}
