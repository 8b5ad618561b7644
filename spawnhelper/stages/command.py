"""The command: found before the fork, started in the child.

What keeps it from starting is told to the parent, never to the client.
"""

from __future__ import annotations

import _stat as stat
import time
from posix import environ

from spawnhelper.conf import files
from spawnhelper.outcome import EXEC_FAILED, NOTICE, RESOURCES, Refusal, misconfigured, shown
from spawnhelper.signals import STOPS
from spawnhelper.stages.identity import Acting, drop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import signal
    import socket
    from collections.abc import Container, Iterator, Mapping
    from types import ModuleType
    from typing import NoReturn

    from spawnhelper.conf.service import Service
    from spawnhelper.conf.values import Directory
    from spawnhelper.doors.inherited import Connection
    from spawnhelper.stages.identity import Identity

    Limits = Mapping[str, tuple[int, int, int]]  # by key: the kernel's number, soft, hard
else:
    import _signal as signal  # signal.py builds enumerations: half an interpreter start
    import _socket as socket  # and so does socket.py
    import posix as os

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
EXPORTED = ("TZ", "LANG")  # what Postfix exports by default, but for its own MAIL_CONFIG
NR_OPEN = "/proc/sys/fs/nr_open"  # proc_sys_fs(5)
# Bytes of a pipe that a lot goes through. The kernel counts them with root's other pipes (pipe(7),
# pipe-user-pages-soft), and once those are 64 MiB new ones are small: as many connections as
# MaxConnections= has by default just fit in.
WIDE = 1 << 18
GIVEN_WAY = 0.02  # seconds
JOURNAL_FOLDER = "/run/systemd/journal"
TERMINAL = "terminal"  # where StandardError=journal is shown of a helper that somebody looks at
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)  # by the interpreter
RLIMIT_LOCKS = 10  # the one that the resource module does not have


class Streams:
    """What the command has instead of the socket itself, where somebody has to count: a pipe to its
    standard input, and one from its standard output and error. Each as the end to read from and the
    end to write to; None: the socket it is."""

    __slots__ = ("input", "output")

    def __init__(self, service: Service, identity: Identity) -> None:
        self.input: tuple[int, int] | None = None
        self.output: tuple[int, int] | None = None
        if service.size_limit is None:
            return
        with Acting(identity):  # the pipes are the user's, who can then open /dev/stdin
            self.input = os.pipe2(os.O_CLOEXEC)
            try:
                self.output = os.pipe2(os.O_CLOEXEC)
            except OSError:
                os.close(self.input[0])
                os.close(self.input[1])
                raise

    def close_theirs(self) -> None:
        """Leaves the command's ends to the command."""
        if self.input is not None and self.output is not None:
            os.close(self.input[0])
            os.close(self.output[1])

    def close_ours(self) -> None:
        """Closes ours, where there is no command."""
        if self.input is not None and self.output is not None:
            os.close(self.input[1])
            os.close(self.output[0])


class Taken:
    """What a process has that has become what its commands are to be. limits: for each of them to
    set. errors: as error_place() has it."""

    __slots__ = ("errors", "limits")

    def __init__(self, limits: Limits, errors: int | None) -> None:
        self.limits = limits
        self.errors = errors


class Process:
    """The forked child. started: CLOCK_MONOTONIC in nanoseconds. failure: a pipe that ends without
    a byte once the command runs, and otherwise has `ERRNO KEY=WHAT: WHY`, of the KEY that is to be
    blamed, if any; None where the command runs already. input, output: our ends of its Streams,
    None where it has the socket."""

    __slots__ = ("_identity", "failure", "input", "output", "pid", "started")

    def __init__(
        self, pid: int, started: int, failure: int | None, streams: Streams, identity: Identity
    ) -> None:
        self.pid = pid
        self.started = started
        self.failure = failure
        self.input = streams.input and streams.input[1]
        self.output = streams.output and streams.output[0]
        self._identity = identity

    def give_way(self) -> None:
        """Leaves the processor to the child, for a moment only, or until it ends. As long as it has
        not become the command, whatever this process does costs a copy of each page that it
        touches; and while the command gets to its answer, both may share one core."""
        if self.input is None:  # or the command waits for what this process hands on
            signal.sigtimedwait((signal.SIGCHLD,), GIVEN_WAY)

    def close_input(self) -> None:
        """Ends what the command gets."""
        if self.input is not None:
            os.close(self.input)
        self.input = None

    def close_output(self) -> None:
        """Takes nothing more of what the command puts out."""
        if self.output is not None:
            os.close(self.output)
        self.output = None

    def widen(self, pipe: int) -> None:
        """Gives a pipe of the command more room, unless there are too many pipes for somebody
        without privileges to get that."""
        import fcntl

        with Acting(self._identity):
            try:
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, WIDE)
            except OSError:
                pass  # it goes on as it is


def without_library(error: ImportError) -> Refusal:
    """The Refusal where python3-prctl is not there, or broken."""
    sentence = f"the library {error.name or error} is missing; install python3-prctl"
    return Refusal(RESOURCES, os.EX_UNAVAILABLE, sentence)


def find(service: Service) -> str:
    """The path of the command's program, or a Refusal where there is none that could run."""
    name = service.argv[0]
    candidates = [name] if name.startswith("/") else [f"{d}/{name}" for d in PATH.split(":")]
    root = service.root_directory or ""
    if root:
        _check_root(service, root)
    inside = f" of RootDirectory={shown(root)}" if root else ""
    where = f"{PATH.replace(':', ', ')}{inside}"
    problem = f"there is no {shown(name)} in {where}; install it, or write its path"
    for path in candidates:
        try:
            mode = os.stat(root + files.walk(path, root)[-1] if root else path).st_mode
        except PermissionError:
            return path  # in a folder closed to this process; execve will tell, as the user
        except OSError as error:
            if path == name:
                why = f"{error.strerror} in RootDirectory={shown(root)}" if root else error.strerror
                problem = f"{shown(path)}: {why}; install it, or write another path"
            continue
        if stat.S_ISREG(mode) and mode & 0o111:
            return path
        what = "is not executable; chmod +x it" if stat.S_ISREG(mode) else "is not a regular file"
        problem = f"{shown(path)} {what}"
    raise misconfigured(service.problem("Argv", f"Argv= {problem}"), status=os.EX_UNAVAILABLE)


def _check_root(service: Service, root: str) -> None:
    try:
        os.stat(f"{root}/.")
        return
    except PermissionError:
        from spawnhelper.stages import reasons

        why = reasons.of_root(service, root)
    except NotADirectoryError:
        why = "this is not a folder; write the path of one"
    except OSError as error:
        why = f"{error.strerror}; create it, or write the path of a folder"
    sentence = f"RootDirectory={shown(root)}: {why}"
    raise misconfigured(service.problem("RootDirectory", sentence))


def environment(service: Service, connection: Connection) -> dict[str, str]:
    """The command's whole environment: an allow-list, of which the connection's part comes last."""
    found = {"PATH": PATH}
    for name in (*EXPORTED, *service.pass_environment):
        value = environ.get(name.encode())
        if value is not None:
            found[name] = value.decode(errors="surrogateescape")
    return found | service.environment | connection.variables() | {"SPAWN_SERVICE": service.name}


def start(
    service: Service,
    identity: Identity,
    connection: Connection,
    program: str,
    taken: Taken | None = None,
) -> Process:
    """Forks the command; a Refusal where that is not possible.

    taken: of a process that has taken on all that the command is to be; None where this is root's,
    and the child takes it on. From here on whatever the command leaves behind is handed to this
    process (prctl(2), PR_SET_CHILD_SUBREAPER), which can then end and account for all of it.
    """
    variables = environment(service, connection)
    limits = limits_of(service) if taken is None else taken.limits
    try:
        import _prctl
    except ImportError as error:
        raise without_library(error) from None
    ends: tuple[int, ...] = ()
    streams = None
    try:
        _prctl.prctl(_prctl.PR_SET_CHILD_SUBREAPER, 1)
        failure, told = ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        streams = Streams(service, identity)
        # A stop of the child, before it has its own way with signals, must not look like ours.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        started = time.monotonic_ns()
        pid = os.fork()
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        for end in ends:
            os.close(end)
        if streams is not None:
            streams.close_theirs()
            streams.close_ours()
        raise _no_process(error) from None
    if pid == 0:
        client = connection.socket.fileno()
        _become(service, identity, client, streams, program, variables, limits, told, taken)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    os.close(told)
    streams.close_theirs()
    return Process(pid, started, failure, streams, identity)


def spawn(
    service: Service, identity: Identity, connection: Connection, program: str, taken: Taken
) -> Process:
    """Starts the command from a process that has taken on all that it is to be, without a copy of
    that process (posix_spawn(3)); a Refusal where that is not possible. It can set no limits, and
    does not wait for a journal that takes no stream now: that is a BlockingIOError."""
    variables = environment(service, connection)
    client = connection.socket.fileno()
    try:
        streams = Streams(service, identity)
    except OSError as error:
        raise _no_process(error) from None
    source = client if streams.input is None else streams.input[0]
    output = client if streams.output is None else streams.output[1]
    errors = output if taken.errors is None else taken.errors
    stream: int | None = None
    key, what = "StandardError", service.standard_error
    started = time.monotonic_ns()
    try:
        if what == "journal":
            errors = stream = _journal_stream(service, errors, wait=False)
        key, what = "WorkingDirectory", service.working_directory.path or identity.home
        _enter(service.working_directory, identity.home)
        key, what = "Argv", program
        pid = os.posix_spawn(
            program,
            _argv(service),
            variables,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, *pair) for pair in ((source, 0), (output, 1), (errors, 2))
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=IGNORED,
        )
    except OSError as error:
        streams.close_ours()
        import errno

        if key == "StandardError" and error.errno == errno.EAGAIN:
            raise
        if key != "StandardError" and error.errno in (errno.EAGAIN, errno.ENOMEM):
            raise _no_process(error) from None
        raise not_started(f"{error.errno} {key}={shown(what)}: {error.strerror}") from None
    finally:
        streams.close_theirs()
        if stream is not None:
            os.close(stream)
        os.chdir("/")
    return Process(pid, started, None, streams, identity)


def _no_process(error: OSError) -> Refusal:
    return Refusal(RESOURCES, os.EX_OSERR, f"no process can be started: {error.strerror}")


def _argv(service: Service) -> list[str]:
    return [service.argv[0] if service.argv0 is None else service.argv0, *service.argv[1:]]


def not_started(told: str) -> Refusal:
    """The Refusal for a command that did not start. told: `ERRNO KEY=WHAT: WHY`; what that comes to
    only root can find out (reasons.py)."""
    return Refusal(EXEC_FAILED, os.EX_UNAVAILABLE, told)


def take_on(service: Service, identity: Identity, limits: Limits) -> Iterator[tuple[str, str]]:
    """Has this process become what the command is to be, step by step; before each step it gives
    the key and the value that it is about. Needs root, and ends without any of it.

    What needs a file of the machine comes before the root is changed, what needs root before the
    drop.
    """
    import _prctl

    if service.nice is not None:
        yield "Nice", str(service.nice)
        os.setpriority(os.PRIO_PROCESS, 0, service.nice)
    if service.oom_score_adjust is not None:
        yield "OOMScoreAdjust", str(service.oom_score_adjust)
        _write("/proc/self/oom_score_adj", str(service.oom_score_adjust))
    for key, (which, _, hard) in limits.items():
        import resource

        yield key, service.given[key][-1].value
        _allow(resource, which, hard)
    if service.root_directory is not None:
        yield "RootDirectory", service.root_directory
        os.chroot(service.root_directory)
        os.chdir("/")
    yield "User", identity.user
    drop(identity)
    if service.no_new_privileges:
        yield "NoNewPrivileges", "yes"
        _prctl.prctl(_prctl.PR_SET_NO_NEW_PRIVS, 1)


def reset_signals(but: Container[int] = ()) -> None:
    """Has every signal be what it is by default, but for these, and none blocked."""
    for number in signal.valid_signals():
        if number not in but and signal.getsignal(number) != signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _become(
    service: Service,
    identity: Identity,
    client: int,
    streams: Streams,
    program: str,
    variables: Mapping[str, str],
    limits: Limits,
    told: int,
    taken: Taken | None,
) -> NoReturn:
    """The child's steps, in order. The streams come late: before them nothing that this process
    might print can reach the client, and behind them it makes system calls only."""
    key, what, number = "", "starting a session", 0
    try:
        os.setsid()
        what = "resetting signals"
        reset_signals()
        os.umask(service.umask)
        key, what = "StandardError", service.standard_error
        output = client if streams.output is None else streams.output[1]
        place = error_place(service) if taken is None else taken.errors
        errors = _standard_error(service, identity, output, place)
        if taken is None:
            key, what = "LimitNOFILE", NR_OPEN
            limits = within_nr_open(limits)
            for step in take_on(service, identity, limits):
                key, what = step  # a failure is about the last of them
        key, what = "WorkingDirectory", service.working_directory.path or identity.home
        _enter(service.working_directory, identity.home)
        key, what = "", "taking the streams"
        source = client if streams.input is None else streams.input[0]
        for target, descriptor in ((0, source), (1, output), (2, errors)):
            os.dup2(descriptor, target)
        for key, (which, soft, hard) in limits.items():
            import resource

            what = service.given[key][-1].value
            resource.setrlimit(which, (soft, hard))
        key, what = "Argv", program
        os.execve(program, _argv(service), variables)
    except OSError as error:
        number, reason = error.errno or 0, error.strerror
    except ValueError as error:  # a limit beyond what this process may give
        reason = str(error)
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
    try:
        os.write(told, f"{number} {key}={shown(what)}: {reason}".encode(errors="replace"))
    finally:
        os._exit(os.EX_OSERR)


def limits_of(service: Service) -> Limits:
    """The resource limits that are set, as the kernel's number of each, soft and hard, by its key.
    The module is loaded here: the child would have to copy each page that this touches."""
    wanted = service.limits()
    if not wanted:
        return {}
    import resource

    names = {key: f"RLIMIT_{key.removeprefix('Limit')}" for key in wanted}
    return {
        key: (getattr(resource, names[key], RLIMIT_LOCKS), *pair) for key, pair in wanted.items()
    }


def within_nr_open(limits: Limits) -> Limits:
    """What infinity is for descriptors: what the kernel has at most for one process, as systemd
    understands it; or this process, where ProcSubset= hides that."""
    if "LimitNOFILE" not in limits:
        return limits
    number, *pair = limits["LimitNOFILE"]
    try:
        descriptor = os.open(NR_OPEN, os.O_RDONLY | os.O_CLOEXEC)
        most = int(os.read(descriptor, 64))
        os.close(descriptor)
    except FileNotFoundError:
        import resource

        most = max(resource.getrlimit(number)[1], *pair)
    soft, hard = (most if value < 0 else min(value, most) for value in pair)
    return {**limits, "LimitNOFILE": (number, soft, hard)}


def _allow(resource: ModuleType, number: int, hard: int) -> None:
    """Raises the hard limit as far as needed: after the drop limits can only be lowered. And only
    there they are, for this process has things to do yet."""
    soft, present = resource.getrlimit(number)
    if present != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or hard > present):
        resource.setrlimit(number, (soft, hard))


def _write(file: str, text: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def _enter(directory: Directory, home: str) -> None:
    try:
        os.chdir(home if directory.home else directory.path)
    except OSError:
        if not directory.optional:
            raise
        os.chdir("/")


def error_place(service: Service) -> int | None:
    """A descriptor of where standard error goes to, as far as that can be opened for more than one
    command, and before the root is changed; None for the connection."""
    if service.standard_error == "socket":
        return None
    if service.standard_error == "null":
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    if service.standard_error == TERMINAL:
        return os.dup(2)
    return os.open(JOURNAL_FOLDER, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _standard_error(service: Service, identity: Identity, output: int, place: int | None) -> int:
    if place is None:
        return output
    if service.standard_error in ("null", TERMINAL):
        return place
    with Acting(identity):  # journald notes who connects
        return _journal_stream(service, place, wait=True)


def _journal_stream(service: Service, folder: int, *, wait: bool) -> int:
    """A stream to the journal, as sd_journal_stream_fd(3) makes it. It has to be the command's own:
    by it the lines of one command are found. journald notes who has written each of them. wait:
    whether to wait for a journal that takes no stream now; otherwise that is a BlockingIOError."""
    name = service.syslog_identifier or service.argv[0].rpartition("/")[2]
    os.fchdir(folder)
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.setblocking(wait)
        stream.connect("stdout")
        stream.setblocking(True)
        stream.shutdown(socket.SHUT_RD)
        # The unit, for those who speak for another; the priority and whether lines can have their
        # own; and not to the system's log, the kernel's or the console by itself. notice is what
        # LogLevelMax= of spawn@.service lets through.
        header = f"{name}\n\n{NOTICE}\n1\n0\n0\n0\n"
        stream.sendall(header.encode(errors="surrogateescape"))
    except OSError:
        stream.close()
        raise
    return int(stream.detach())
