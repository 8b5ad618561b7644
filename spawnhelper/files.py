"""The files of a service: which there are, whether they can be trusted, and what is in them."""

from __future__ import annotations

import _stat as stat  # the C module behind stat

from spawnhelper.outcome import Problem, misconfigured, shown
from spawnhelper.values import NAME_CHARACTERS, consists_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
else:
    import posix as os

DIRECTORY = "/etc/spawn"
VENDOR = "/usr/lib/spawn"  # what packages bring; a file of the same name in DIRECTORY replaces it
DEFAULTS = "/etc/spawn.conf"  # for all services
SUFFIX = ".conf"
MASK = "/dev/null"  # a link to it stands for a file that is not there
LONGEST_FILE = 1 << 20
LONGEST_NAME = 200  # NAME stands in names of units, which have 255 bytes


def file_of(name: str) -> str:
    """The path of the service's own file: the administrator's, or else the vendor's."""
    file, vendor = (f"{folder}/{name}{SUFFIX}" for folder in (DIRECTORY, VENDOR))
    return vendor if _exists(vendor) and not _exists(file) else file


def name_of(file: str) -> str:
    """The name of the service that this file is for."""
    return file.rpartition("/")[2].removesuffix(SUFFIX)


def installed() -> list[str]:
    """The names of all services that have a file, in alphabetical order."""
    names = {
        entry.removesuffix(SUFFIX) for folder in (VENDOR, DIRECTORY) for entry in _entries(folder)
    }
    return sorted(name for name in names if not masked(file_of(name)))


def is_name(name: str) -> bool:
    """Whether a service can be called so: NAME is a part of names of units."""
    return (
        consists_of(name, NAME_CHARACTERS + "-.") and name[0] != "." and len(name) <= LONGEST_NAME
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
        sentence = "a service is named with letters, digits, - _ and .; rename the file"
    elif masked(file):
        sentence = f"the service is masked by a link to {MASK}; remove the link"
    if sentence:
        raise misconfigured(Problem(shown(file), None, sentence))


def sources(file: str) -> list[str]:
    """The files that make the service of this one, in the order in which they are read: the
    defaults, the file itself, its drop-ins. One in /etc replaces a vendor's of the same name."""
    folder, _, base = file.rpartition("/")
    folders = [VENDOR, DIRECTORY] if folder in (VENDOR, DIRECTORY) else [_folder_of(file)]
    drop_ins = {
        entry: f"{place}/{base}.d/{entry}"
        for place in folders
        for entry in _entries(f"{place}/{base}.d")
    }
    found = [DEFAULTS] if _exists(DEFAULTS) else []
    found += [file, *(drop_ins[entry] for entry in sorted(drop_ins))]
    return [each for each in found if each == file or not masked(each)]


def trusted_text(file: str) -> bytes:
    """What is in the file; a Refusal where it is none that can be followed, for example because
    others than root, or who runs this, can write or replace it."""
    descriptor = _open(file)
    try:
        _check_writers(file, descriptor)
        text = _content(descriptor)
    finally:
        os.close(descriptor)
    if len(text) > LONGEST_FILE:
        sentence = "the service file is longer than 1 MiB; shorten it"
        raise misconfigured(Problem(file, None, sentence))
    return text


def text(file: str) -> bytes:
    """What is in the file, by whomever it was written."""
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


def _check_writers(file: str, descriptor: int) -> None:
    what = "folder of the service file"
    folder = _folder_of(file)
    places = [("service file", os.fstat(descriptor)), (what, os.stat(folder))]
    if folder.endswith(SUFFIX + ".d"):  # who can write above a drop-in's folder can replace that
        places.append((what, os.stat(_folder_of(folder))))
    real = os.readlink(f"/proc/self/fd/{descriptor}")
    if real != file:  # a symbolic link somewhere on the way
        places.append((what, os.stat(_folder_of(real))))
    for what, of in places:
        sentence = ""
        if of.st_uid not in (0, os.geteuid()):
            sentence = f"the {what} belongs to uid {of.st_uid}; make root its owner"
        # In a folder with the sticky bit others can add files, but not replace this one.
        sticky = stat.S_ISDIR(of.st_mode) and of.st_mode & stat.S_ISVTX
        if of.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
            sentence = f"others than root can write the {what}; chmod go-w it"
        if sentence:
            raise misconfigured(Problem(file, None, sentence))


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


def _exists(file: str) -> bool:
    try:
        os.lstat(file)
    except OSError:
        return False
    return True


def _folder_of(file: str) -> str:
    return file.rpartition("/")[0] or ("/" if file[0] == "/" else ".")
