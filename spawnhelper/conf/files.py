"""The files of a service: which there are, whether they can be trusted, and what is in them."""

from __future__ import annotations

import _stat as stat  # the C module behind stat

from spawnhelper import manager
from spawnhelper.conf.values import NAME_CHARACTERS, consists_of
from spawnhelper.outcome import Problem, misconfigured, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
else:
    import posix as os

SUFFIX = ".conf"
DROP_IN = "50-spawn.conf"
COUNTED = b"\0spawn-rearm-%d"  # the name of a client of that pid that is there to be counted
MASK = "/dev/null"  # a link to it stands for a file that is not there
MOST_LINKS = 40  # path_resolution(7)
LONGEST_FILE = 1 << 20
TOO_LONG = "the service file is longer than 1 MiB; shorten it"
# What is to be judged before it is in a file, by the path of that: spawnctl's, for people who are
# still at it.
drafts: dict[str, bytes] = {}
LONGEST_NAME = 200  # NAME stands in names of units, which have 255 bytes
NAMED = "a service is named with letters, digits, - _ and ., the first no - or ."


def file_of(name: str) -> str:
    """The path of the service's file: the one that counts most, or what is to be the first."""
    places = [f"{folder}/{name}{SUFFIX}" for folder in manager.now.folders]
    return next((place for place in places if _exists(place)), places[0])


def new_file_of(name: str) -> str:
    """The path of a file of the service that counts more than any other."""
    return f"{manager.now.folders[0]}/{name}{SUFFIX}"


def name_of(file: str) -> str:
    """The name of the service that this file is for."""
    return file.rpartition("/")[2].removesuffix(SUFFIX)


def drop_in(unit: str) -> str:
    """The file by which systemd was told about the unit at the last reload, if it was."""
    return f"{manager.now.generated}/{unit}.d/{DROP_IN}"


def installed() -> list[str]:
    """The names of all services that have a file, in alphabetical order."""
    names = {
        entry.removesuffix(SUFFIX) for folder in manager.now.folders for entry in _entries(folder)
    }
    return sorted(name for name in names if not masked(file_of(name)))


def is_name(name: str) -> bool:
    """Whether a service can be called so: NAME is a part of names of units."""
    return (
        consists_of(name, NAME_CHARACTERS + "-.")
        and name[0] not in "-."
        and len(name) <= LONGEST_NAME
    )


def masked(file: str) -> bool:
    """Whether the file is a link that says that there is none."""
    try:
        return os.readlink(file) == MASK
    except OSError:
        return False


def check_name(file: str) -> None:
    """Refuses a file that no service can have."""
    sentence = ""
    if not file.endswith(SUFFIX):
        sentence = "the name does not end with .conf; rename the file"
    elif not is_name(name_of(file)):
        sentence = (
            f"{NAMED}; rename the file, or check it as what it is to be: "
            f"{manager.now.words('spawnctl')} check --as NAME FILE"
        )
    elif masked(file):
        sentence = f"the service is masked by a link to {MASK}; remove the link"
    if sentence:
        raise misconfigured(Problem(file, None, sentence))


def sources(file: str) -> list[str]:
    """The files that make the service of this one, in the order in which they are read: the
    defaults, the file itself, its drop-ins. Of those of one name the one counts that is in the
    folder that counts most."""
    drop_ins = {
        entry: f"{folder}/{entry}" for folder in drop_in_folders(file) for entry in _entries(folder)
    }
    found = [manager.now.defaults] if _exists(manager.now.defaults) else []
    found += [file, *(drop_ins[entry] for entry in sorted(drop_ins))]
    return [each for each in found if each == file or not masked(each)]


def drop_in_folders(file: str) -> list[str]:
    """Where the drop-ins of this file's service can be; the last counts most."""
    folder, _, base = file.rpartition("/")
    folders = manager.now.folders if folder in manager.now.folders else (_folder_of(file),)
    return [f"{each}/{base}.d" for each in reversed(folders)]


def check_folders(file: str) -> None:
    """Refuses folders of drop-ins in which others could put one, or a mask."""
    for folder in drop_in_folders(file):
        if _is_folder(folder):
            sentence = distrust_way(folder, listed=True)
            if sentence:
                raise misconfigured(Problem(folder, None, sentence))


def trusted_text(file: str) -> bytes:
    """What is in the file; a Refusal where it is none that can be followed, for example because
    others than root, or who runs this, can write or replace it."""
    if file in drafts:
        return _draft(file)
    descriptor = _open(file)
    try:
        sentence = distrust(file, descriptor)
        if sentence:
            raise misconfigured(Problem(file, None, sentence))
        found = _content(descriptor)
    finally:
        os.close(descriptor)
    if len(found) > LONGEST_FILE:
        raise misconfigured(Problem(file, None, TOO_LONG))
    return found


def _draft(file: str) -> bytes:
    """The text that is meant for a file; a Refusal where that could not be followed there."""
    sentence = ""
    for place in dict.fromkeys((file, walk(file)[-1])):  # of a link, where it leads to, too
        folder = _folder_of(place)
        while not _exists(folder):  # it is to be made
            folder = _folder_of(folder)
        sentence = sentence or distrust_way(folder, listed=True)
    if not sentence and len(drafts[file]) > LONGEST_FILE:
        sentence = TOO_LONG
    if sentence:
        raise misconfigured(Problem(file, None, sentence))
    return drafts[file]


def distrust(file: str, descriptor: int) -> str:
    """Who else than root, or who runs this, can decide what is in the open file; "" for nobody."""
    return _fault("it", os.fstat(descriptor)) or distrust_way(file)


def text(file: str) -> bytes:
    """What is in the file, by whomever it was written."""
    if file in drafts:
        return drafts[file]
    descriptor = _open(file)
    try:
        return _content(descriptor)
    finally:
        os.close(descriptor)


def _open(file: str) -> int:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        sentence = "there is no such service file; create it, see spawn.conf(5)"
        raise misconfigured(Problem(file, None, sentence), status=os.EX_NOINPUT) from None
    except OSError as error:
        sentence = f"the service file cannot be opened: {error.strerror}"
        raise misconfigured(Problem(file, None, sentence), status=os.EX_NOINPUT) from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise misconfigured(Problem(file, None, "this is not a regular file; replace it by one"))


def distrust_way(path: str, *, listed: bool = False) -> str:
    """Who else can put something in the place of what is there; "" for nobody. It is about every
    folder on the way, for who can rename one of them can have another in its place, and every link.
    A folder with the sticky bit is no harm to what others have in it, unless it is itself the path,
    and listed: then any file in it counts."""
    lookups = walk(path if path.startswith("/") else f"{os.getcwd()}/{path}")
    folders = dict.fromkeys(map(_folder_of, lookups), True)
    if listed:
        folders[lookups[-1]] = False
    try:
        for folder, may_be_sticky in folders.items():
            of = os.stat(folder)
            excused = may_be_sticky and bool(of.st_mode & stat.S_ISVTX)
            if sentence := _fault(f"the folder {printable(folder)}", of, excused=excused):
                return sentence
        for lookup in lookups:
            of = os.lstat(lookup)
            if stat.S_ISLNK(of.st_mode) and (
                sentence := _fault(f"the link {printable(lookup)}", of, excused=True)
            ):
                return sentence
    except OSError as error:
        return f"the way there is broken: {error.strerror}"
    return ""


def _fault(what: str, of: os.stat_result, *, excused: bool = False) -> str:
    if of.st_uid not in (0, os.geteuid()):
        return f"{what} belongs to uid {of.st_uid}; make {manager.now.owner} the owner"
    if of.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not excused:
        return f"others than {manager.now.owner} can write {what}; chmod go-w it"
    return ""


def walk(path: str, root: str = "") -> list[str]:
    """Every name that is looked up on the way of an absolute path, in the order of that, symbolic
    links as they come; the last is where it leads. root: what / is for the path; names and links
    are those inside."""
    lookups = []
    done = ""
    todo = path.split("/")
    links = 0
    while todo:
        part = todo.pop(0)
        if part == "..":
            done = done.rpartition("/")[0]
        elif part not in ("", "."):
            done += f"/{part}"
            lookups.append(done)
            try:
                target = os.readlink(root + done)
            except OSError:
                continue  # no link; what else it may be, others will say
            links += 1
            if links > MOST_LINKS:
                break
            done = "" if target.startswith("/") else done.rpartition("/")[0]
            todo = target.split("/") + todo
    lookups.append(done or "/")
    return lookups


def _content(descriptor: int) -> bytes:
    """What the descriptor gives, up to just more than a service file may have."""
    found = b""
    while len(found) <= LONGEST_FILE and (part := os.read(descriptor, LONGEST_FILE)):
        found += part
    return found


def _entries(folder: str) -> list[str]:
    """The names of the files in a folder that count; none where there is no such folder."""
    try:
        entries = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        sentence = f"the folder cannot be read: {error.strerror}"
        raise misconfigured(Problem(folder, None, sentence), status=os.EX_NOINPUT) from None
    return [entry for entry in entries if entry.endswith(SUFFIX) and entry[0] != "."]


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return False


def _exists(file: str) -> bool:
    try:
        os.lstat(file)
    except OSError:
        return False
    return True


def _folder_of(file: str) -> str:
    return file.rpartition("/")[0] or ("/" if file[0] == "/" else ".")
