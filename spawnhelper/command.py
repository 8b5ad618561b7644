"""The command: found before the fork, started in the child.

What keeps it from starting is told to the parent, never to the client.
"""

from __future__ import annotations

import _stat as stat
import errno
import time
from posix import environ

from spawnhelper.identity import drop
from spawnhelper.outcome import NOTICE, RESOURCES, Refusal, misconfigured, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import signal
    from collections.abc import Mapping
    from typing import NoReturn

    from spawnhelper.identity import Identity
    from spawnhelper.inherited import Connection
    from spawnhelper.service import Service
    from spawnhelper.values import Directory
else:
    import _signal as signal  # signal.py builds enumerations: half an interpreter start
    import posix as os

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
EXPORTED = ("TZ", "LANG")  # what Postfix exports by default, but for its own MAIL_CONFIG
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AWAITED = (signal.SIGCHLD, *STOPS)  # what the wait for the command's end is for
# What execve(2) means by an error, once there is a file with that name.
NOT_RUN = {
    errno.EACCES: "{user} may not run it; let others read and execute it and its folders",
    errno.ENOENT: "its #! line names a program that is missing",
    errno.ENOEXEC: "this is no program, and does not begin with #!",
    errno.E2BIG: "Argv= and the environment are longer than the kernel allows",
}


class Process:
    """The forked child. started: CLOCK_MONOTONIC in nanoseconds. failure: a pipe that ends without
    a byte once the command runs, and otherwise has `KEY=WHAT: WHY`, KEY being that of the setting
    to blame, if any."""

    __slots__ = ("failure", "pid", "started")

    def __init__(self, pid: int, started: int, failure: int) -> None:
        self.pid = pid
        self.started = started
        self.failure = failure


def hold_signals() -> None:
    """Keeps what the wait is for pending until there is a wait."""
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)


def find(service: Service) -> str:
    """The path of the command's program, or a Refusal where there is none that could run."""
    name = service.argv[0]
    candidates = [name] if name.startswith("/") else [f"{d}/{name}" for d in PATH.split(":")]
    problem = (
        f"there is no {shown(name)} in {PATH.replace(':', ', ')}; install it, or write its path"
    )
    for path in candidates:
        try:
            mode = os.stat(path).st_mode
        except PermissionError:
            return path  # in a folder closed to this process; execve will tell, as the user
        except OSError as error:
            if path == name:
                problem = f"{shown(path)}: {error.strerror}; install it, or write another path"
            continue
        if stat.S_ISREG(mode) and mode & 0o111:
            return path
        what = "is not executable; chmod +x it" if stat.S_ISREG(mode) else "is not a regular file"
        problem = f"{shown(path)} {what}"
    raise misconfigured(service.problem("Argv", f"Argv= {problem}"), status=os.EX_UNAVAILABLE)


def environment(service: Service, connection: Connection) -> dict[str, str]:
    """The command's whole environment: an allow-list, of which the connection's part comes last."""
    found = {"PATH": PATH}
    for name in (*EXPORTED, *service.pass_environment):
        value = environ.get(name.encode())
        if value is not None:
            found[name] = value.decode(errors="surrogateescape")
    return found | service.environment | connection.variables() | {"SPAWN_SERVICE": service.name}


def start(service: Service, identity: Identity, connection: Connection) -> Process:
    """Forks the command; a Refusal where that is not possible.

    From here on whatever the command leaves behind is handed to this process (prctl(2),
    PR_SET_CHILD_SUBREAPER), which so can end and account for all of it.
    """
    program = find(service)
    variables = environment(service, connection)
    try:
        import _prctl
    except ImportError as error:
        sentence = f"the library {error.name or error} is missing; install python3-prctl"
        raise Refusal(RESOURCES, os.EX_UNAVAILABLE, sentence) from None
    try:
        _prctl.prctl(_prctl.PR_SET_CHILD_SUBREAPER, 1)
        failure, told = os.pipe2(os.O_CLOEXEC)
        started = time.monotonic_ns()
        pid = os.fork()
    except OSError as error:
        sentence = f"no process can be started: {error.strerror}"
        raise Refusal(RESOURCES, os.EX_OSERR, sentence) from None
    if pid == 0:
        _become(service, identity, connection.socket.fileno(), program, variables, told)
    os.close(told)
    return Process(pid, started, failure)


def _become(
    service: Service,
    identity: Identity,
    client: int,
    program: str,
    variables: Mapping[str, str],
    told: int,
) -> NoReturn:
    """The child's steps, in order. The streams come last: before them nothing that this process
    might print can reach the client, and behind them it does nothing but execve(2)."""
    key, what = "", "starting a session"
    try:
        import _prctl

        os.setsid()
        what = "resetting signals"
        for number in signal.valid_signals():
            if signal.getsignal(number) != signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.umask(service.umask)
        key, what = "User", identity.user
        drop(identity)
        if service.no_new_privileges:
            key, what = "NoNewPrivileges", "yes"
            _prctl.prctl(_prctl.PR_SET_NO_NEW_PRIVS, 1)
        key, what = "WorkingDirectory", service.working_directory.path or identity.home
        _enter(service.working_directory, identity.home)
        key, what = "StandardError", service.standard_error
        errors = _standard_error(service, client)
        key, what = "Argv", shown(program)
        for target, source in ((0, client), (1, client), (2, errors)):
            os.dup2(source, target)
        os.execve(program, service.argv, variables)
    except OSError as error:
        reason = error.strerror
        if key == "Argv":
            reason = NOT_RUN.get(error.errno or 0, "{error}").format(
                error=reason, user=identity.user
            )
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
    try:
        os.write(told, f"{key}={what}: {reason}".encode(errors="replace"))
    finally:
        os._exit(os.EX_OSERR)


def _enter(directory: Directory, home: str) -> None:
    try:
        os.chdir(home if directory.home else directory.path)
    except OSError:
        if not directory.optional:
            raise
        os.chdir("/")


def _standard_error(service: Service, client: int) -> int:
    if service.standard_error == "socket":
        return client
    if service.standard_error == "null":
        return os.open("/dev/null", os.O_RDWR)
    # Connected by the command's own process, under its own user, as journald will note; notice is
    # what LogLevelMax= of spawn@.service lets through.
    from systemd import _journal

    name = service.argv[0].rpartition("/")[2]  # as systemd does it, and never that of a record
    descriptor: int = _journal.stream_fd(name, NOTICE, True)
    return descriptor
