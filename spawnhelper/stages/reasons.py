"""Why a command did not start, or would not: found by looking where the command would be.

execve(2) has one error for many things. What is really wrong only the command's own user can see,
inside its root, so a process of its own goes there and looks. It reads a few KiB of regular files,
and does not have forever for it. Nothing of this is on the path of a command that starts.
"""

from __future__ import annotations

import _stat as stat
import errno
import grp
import pwd
import select

from spawnhelper import manager
from spawnhelper.conf import files
from spawnhelper.outcome import EXEC_FAILED, RESOURCES, Refusal, shown
from spawnhelper.stages import command, executables, identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    import signal
    from collections.abc import Callable

    from spawnhelper.conf.service import Service
    from spawnhelper.outcome import Problem
    from spawnhelper.stages.identity import Identity
else:
    import _signal as signal
    import posix as os

LOOK_TIME = 10_000  # milliseconds; a file system that does not answer in this time will not
LONGEST_SENTENCE = 4096
MOST_SCRIPTS = 5  # one interpreter behind the other, in fs/exec.c
# What execve(2) means by an error, where nothing more can be seen: the file is closed to reading.
NOT_RUN = {
    errno.EACCES: "the user {user} may not run it, or what it needs",
    errno.ENOENT: "its #! line, or the program itself, names a file that is missing",
    errno.ENOEXEC: "this is no program, and does not begin with #!",
    errno.E2BIG: "Argv= and the environment are longer than the kernel allows",
    errno.ETXTBSY: "somebody has it open for writing; put a new file in its place with mv",
}
# The errors that have a reason in the file, or in one that it names.
IN_FILES = (
    errno.EACCES,
    errno.EIO,
    errno.ELIBBAD,
    errno.ELOOP,
    errno.ENOENT,
    errno.ENOEXEC,
    errno.ENOTDIR,
    errno.EPERM,
)


def refusal(service: Service, told: str) -> Refusal:
    """The Refusal for what the child told before it gave up: `ERRNO KEY=WHAT: WHY`."""
    try:
        return _refusal(service, told)
    except Refusal as found:  # the account or the program is gone by now
        return found
    except OSError as error:
        sentence = f"{told.partition(' ')[2]}; why is not known: {error.strerror}"
        return Refusal(RESOURCES, os.EX_OSERR, sentence)


def _refusal(service: Service, told: str) -> Refusal:
    number, _, sentence = told.partition(" ")
    key, _, why = sentence.partition("=")
    if not key:
        return Refusal(EXEC_FAILED, os.EX_OSERR, why)
    problem = None
    if key == "WorkingDirectory":
        problem = of_folder(service, identity.resolve(service))
    elif key == "Argv":
        problem = _of_failure(service, int(number))
    problem = problem or service.problem(key, sentence)
    return Refusal(EXEC_FAILED, os.EX_UNAVAILABLE, problems=(problem,))


def _of_failure(service: Service, number: int) -> Problem | None:
    """Why execve(2) failed with this error; None where that is all that can be said."""
    who, program = identity.resolve(service), command.find(service)
    problem = None
    if number in IN_FILES:
        problem = of_program(service, who, program, executables.bounding_set())
    if problem is None and number in NOT_RUN:
        sentence = NOT_RUN[number].format(user=who.user)
        problem = service.problem("Argv", f"Argv={shown(program)}: {sentence}")
    return problem


def of_program(service: Service, who: Identity, program: str, capabilities: int) -> Problem | None:
    """What keeps the kernel from running the program, as far as files tell. capabilities: what a
    file may give, as bits."""
    look = Look(service, who, capabilities)
    why = _seen(service, who, lambda: look.program(program))
    return service.problem("Argv", f"Argv={shown(program)}: {why}") if why else None


def of_folder(service: Service, who: Identity) -> Problem | None:
    """What keeps the command's user from entering its working directory."""
    directory = service.working_directory
    if directory.optional:
        return None
    folder = _folder(service, who)
    look = Look(service, who, 0)
    why = _seen(service, who, lambda: look.folder(folder))
    sentence = f"WorkingDirectory={shown(folder)}: {why}"
    return service.problem("WorkingDirectory", sentence) if why else None


def of_root(service: Service, root: str) -> str:
    """What keeps root, who has no way around permissions here, from entering a RootDirectory=."""
    for lookup in files.walk(root):
        try:
            os.stat(f"{lookup}/.")
        except PermissionError:
            return (
                f"root may not enter {shown(lookup)} without CAP_DAC_READ_SEARCH, which "
                f"{service.template} does not have; let others enter it with chmod o+x"
            )
    return ""


def _folder(service: Service, who: Identity) -> str:
    directory = service.working_directory
    return who.home if directory.home else directory.path


def _seen(service: Service, who: Identity, look: Callable[[], str]) -> str:
    """What is seen by the command's user where the command would be; nothing where the look takes
    too long."""
    told, tell = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            if service.root_directory is not None:
                os.chroot(service.root_directory)
                os.chdir("/")
            identity.drop(who)
            try:
                os.chdir(_folder(service, who))  # a #! line can have a path that begins here
            except OSError:
                pass
            os.write(tell, look().encode(errors="replace"))
        finally:
            os._exit(0)
    os.close(tell)
    poll = select.poll()
    poll.register(told, select.POLLIN)
    answered = bool(poll.poll(LOOK_TIME))
    seen = os.read(told, LONGEST_SENTENCE) if answered else b""
    os.close(told)
    os.kill(pid, signal.SIGKILL)
    if answered:  # what waits for a device or a server may not even die
        os.waitpid(pid, 0)
    return seen.decode()


class Look:
    """What there is to see, for the command's user, in its root. Each method returns the end of a
    sentence that says what is wrong with what is called `it` there; "" for nothing.

    The constructor reads what cannot be read from inside a root: names of groups, and which
    formats the kernel knows besides its own.
    """

    def __init__(self, service: Service, who: Identity, capabilities: int) -> None:
        self.who = who
        self.capabilities = capabilities
        self.of_machine = executables.bounding_set("1")
        self.unprivileged = service.no_new_privileges
        self.template = service.template
        systemctl = manager.now.words("systemctl")
        self.remedy = f"{systemctl} edit {service.template}"
        if service.standing:  # the change is for the next one
            self.remedy += f" and {systemctl} restart spawn-server@{service.name}"
        root = service.root_directory
        self.inside = "" if root is None else f" in RootDirectory={shown(root)}"
        self.groups = _further_groups(who)
        self.patterns = executables.patterns()

    def folder(self, path: str) -> str:
        """Whether the command can begin there."""
        if why := self._way(path):
            return why
        try:
            os.stat(f"{path}/.")
        except PermissionError:
            return self._may_not("enter it", os.stat(path))
        except NotADirectoryError:
            return "this is not a folder; write the path of one"
        except OSError as error:
            return f"{error.strerror}{self.inside}; create it, or write another path"
        return ""

    def program(self, path: str, scripts: int = 0) -> str:
        """Whether the kernel runs it. scripts: how many there are whose #! line led here."""
        if why := self._file(path):
            return why
        descriptor = _open(path)
        if descriptor is None:
            return ""
        try:
            head = os.pread(descriptor, executables.HEAD, 0)
            return self._content(path, descriptor, head, scripts)
        finally:
            os.close(descriptor)

    def _file(self, path: str) -> str:
        """Whether it is a file that the user may execute, whatever is in it."""
        if why := self._way(path):
            return why
        try:
            of = os.stat(path)
        except OSError as error:
            return error.strerror or ""
        if not stat.S_ISREG(of.st_mode):
            return "this is not a regular file"
        if os.statvfs(path).f_flag & os.ST_NOEXEC:
            return "its file system is mounted noexec; move the file, or mount that without"
        if not of.st_mode & 0o111:
            return "it is not executable; chmod +x it"
        if not os.access(path, os.X_OK):
            return self._may_not("run it", of)
        return ""

    def _content(self, path: str, descriptor: int, head: bytes, scripts: int) -> str:
        if any(pattern.matches(path, head) for pattern in self.patterns):
            return ""
        if not head:
            return "the file is empty"
        if head.startswith(b"#!"):
            return self._script(head, scripts)
        if head.startswith(executables.ELF):
            return self._elf(path, descriptor, head)
        if head.startswith(executables.MARKS):
            return "the file begins with a byte order mark; save it as UTF-8 without one"
        return NOT_RUN[errno.ENOEXEC]

    def _script(self, head: bytes, scripts: int) -> str:
        name = executables.interpreter(head).decode(errors="surrogateescape")
        if not name:
            return "its #! line names nothing that the kernel can read; write a path behind #!"
        if scripts == MOST_SCRIPTS:
            return f"more than {MOST_SCRIPTS} scripts run one another by their #! lines"
        if name.endswith("\r") and not exists(name):
            return (
                f"its #! line ends with a carriage return, and so names {shown(name)}; save it "
                "with Unix line ends"
            )
        if not exists(name):
            return f"its #! line names {self._missing(name)}; install that, or name another"
        why = self.program(name, scripts + 1)
        return f"its #! line names {shown(name)}: {why}" if why else ""

    def _elf(self, path: str, descriptor: int, head: bytes) -> str:
        machine = executables.foreign(head)
        if machine:
            mine = os.uname().machine
            return f"this is a program for {machine}, and the machine is {mine}; get one for it"
        try:
            octets = executables.loader(descriptor, head)
        except ValueError:
            return "this is no whole program: its ELF headers lead nowhere; install it anew"
        loader = octets.decode(errors="surrogateescape")
        if loader and not exists(loader):
            return f"it needs the loader {self._missing(loader)}; install that there"
        why = self._loader(loader) if loader else ""
        return f"it needs the loader {shown(loader)}: {why}" if why else self._privileges(path)

    def _loader(self, path: str) -> str:
        if why := self._file(path):
            return why
        descriptor = _open(path)
        if descriptor is None:
            return ""
        head = os.pread(descriptor, executables.HEAD, 0)
        os.close(descriptor)
        if head.startswith(executables.ELF) and not executables.foreign(head):
            return ""
        return "this is no loader for this machine; install one"

    def _privileges(self, path: str) -> str:
        try:
            attribute = os.getxattr(path, "security.capability")
        except OSError:
            return ""
        ignored = os.statvfs(path).f_flag & os.ST_NOSUID
        bits = executables.demanded(attribute) & ~self.capabilities
        if not bits or ignored:
            return ""
        names = executables.names(bits & ~self.of_machine)
        if names:
            return (
                f"it has the file capabilities {names}, which nobody can have on this machine; "
                "take them from it with setcap -r"
            )
        names = executables.names(bits)
        further = ", and here NoNewPrivileges=no" if self.unprivileged else ""
        return (
            f"it has the file capabilities {names}, which {self.template} does not have; write "
            f"CapabilityBoundingSet={names} with {self.remedy}{further}"
        )

    def _missing(self, path: str) -> str:
        return f"{shown(path)}, which is missing{self.inside}"

    def _way(self, path: str) -> str:
        """Whether a folder on the way is closed."""
        whole = path if path.startswith("/") else f"{os.getcwd()}/{path}"
        for lookup in files.walk(whole):
            try:
                os.lstat(lookup)
            except PermissionError:
                folder = lookup.rpartition("/")[0] or "/"
                return self._may_not(f"enter the folder {shown(folder)}", os.stat(folder))
            except OSError:
                return ""
        return ""

    def _may_not(self, do: str, of: os.stat_result) -> str:
        """do: with the file or folder that the status is of."""
        begin = f"the user {self.who.user} may not {do}"
        group = self.groups.get(of.st_gid)
        if of.st_uid == self.who.uid:
            whose, letter = "its owner", "u"
        elif of.st_gid in self.who.groups:
            whose, letter = "its group", "g"
        elif group is not None and of.st_mode & stat.S_IXGRP:
            return f"{begin}, but its group {group} may; write SupplementaryGroups={group}"
        else:
            whose, letter = "others", "o"
        bits = "x" if stat.S_ISDIR(of.st_mode) else "rx"  # an interpreter reads the script, too
        return f"{begin}; let {whose} do so with chmod {letter}+{bits}"


def _open(path: str) -> int | None:
    """A descriptor to read the program; None where it is open to execution only."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)  # it was replaced meanwhile
    return None


def exists(path: str) -> bool:
    """Whether there is such a file; also where that cannot be told."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _further_groups(who: Identity) -> dict[int, str]:
    """The groups that the account has by the database and the command does not, but for root's, by
    their numbers."""
    found = {}
    try:
        for gid in os.getgrouplist(who.user, pwd.getpwnam(who.user).pw_gid):
            if gid and gid not in who.groups:
                found[gid] = grp.getgrgid(gid).gr_name
    except (KeyError, OSError):
        pass
    return found
