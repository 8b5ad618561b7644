"""What the kernel reads of a program before it runs it: the #! line, the ELF header, the patterns
of binfmt_misc, the file's capabilities. The bytes can be anything."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import Literal
else:
    import posix as os

HEAD = 256  # bytes of a file that tell what it is: BINPRM_BUF_SIZE of Linux 5.1 and later
ELF = b"\x7fELF"
LONGEST_PATH = 4096  # PATH_MAX
MOST_ENTRIES = 64  # of the table of program headers; the usual one has 13
PT_INTERP = 3  # elf(5)
PROGRAMS = (2, 3)  # ET_EXEC, ET_DYN
# Byte order marks, of UTF-8 and of UTF-16.
MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
# e_machine (include/uapi/linux/elf-em.h), and which of them a kernel runs, by uname(2).
MACHINES = {
    3: "i386",
    8: "mips",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    258: "loongarch64",
}
RUN_BY = {
    "x86_64": (62, 3),
    "i686": (3,),
    "aarch64": (183, 40),
    "armv7l": (40,),
    "ppc64le": (21, 20),
    "s390x": (22,),
    "riscv64": (243,),
    "loongarch64": (258,),
}


class Layout:
    """Where the two classes of ELF files have their numbers (elf(5)). header, entry: sizes of the
    file's header and of an entry of the table of program headers; word: of an offset. The others
    are places: table, entry_size and entries in the header, start and length in an entry."""

    __slots__ = (
        "entries",
        "entry",
        "entry_size",
        "header",
        "length",
        "start",
        "table",
        "word",
    )

    def __init__(self, *places: int) -> None:
        self.header, self.entry, self.word, self.table, *rest = places
        self.entry_size, self.entries, self.start, self.length = rest


LAYOUTS = {
    b"\1": Layout(52, 32, 4, 28, 42, 44, 4, 16),
    b"\2": Layout(64, 56, 8, 32, 54, 56, 8, 32),
}
BINFMT_MISC = "/proc/sys/fs/binfmt_misc"
# A security.capability (include/uapi/linux/capability.h): what its first word has, and where in
# it, by revision, the pairs of permitted and inheritable bits end.
EFFECTIVE = 1
REVISION = 0xFF000000
ENDS = {0x01000000: 12, 0x02000000: 20, 0x03000000: 20}
# capabilities(7), by their numbers. Those of python3-prctl are not all.
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
    "SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG "
    "WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)


def interpreter(head: bytes) -> bytes:
    """What the #! line names, as binfmt_script reads it; empty where that is nothing, or longer
    than what is read."""
    line, newline, _ = head[2:].partition(b"\n")
    line = line.lstrip(b" \t")
    name = line.replace(b"\t", b" ").replace(b"\0", b" ").partition(b" ")[0]
    whole = newline or len(name) < len(line) or len(head) < HEAD
    return name if whole else b""


def foreign(head: bytes) -> str:
    """The machine that this ELF file is for, where it is another one; otherwise ""."""
    machine = int.from_bytes(head[18:20], _order(head))
    run = RUN_BY.get(os.uname().machine)
    if run is None or machine in run or len(head) < 20:
        return ""
    return MACHINES.get(machine, f"machine {machine}")


def loader(descriptor: int, head: bytes) -> bytes:
    """The path of the program that the kernel loads with this ELF file; empty where it needs none.

    Raises ValueError where the headers of the file do not lead anywhere.
    """
    layout = LAYOUTS.get(head[4:5], LAYOUTS[b"\1"])
    order = _order(head)

    def number(octets: bytes, at: int, size: int) -> int:
        return int.from_bytes(octets[at : at + size], order)

    size = number(head, layout.entry_size, 2)
    if len(head) < layout.header or number(head, 16, 2) not in PROGRAMS or size != layout.entry:
        raise ValueError
    length = min(number(head, layout.entries, 2), MOST_ENTRIES) * size
    table = _read(descriptor, length, number(head, layout.table, layout.word))
    for at in range(0, length, size):
        if number(table, at, 4) == PT_INTERP:
            start = number(table, at + layout.start, layout.word)
            length = number(table, at + layout.length, layout.word)
            path = _read(descriptor, min(length, LONGEST_PATH), start)
            if path[-1:] != b"\0":
                raise ValueError
            return path.partition(b"\0")[0]
    return b""


def _read(descriptor: int, length: int, start: int) -> bytes:
    """So many bytes from there; ValueError where the file does not have them."""
    if start >> 63 or length == 0:
        raise ValueError
    octets = os.pread(descriptor, length, start)
    if len(octets) < length:
        raise ValueError
    return octets


def _order(head: bytes) -> Literal["big", "little"]:
    return "big" if head[5:6] == b"\2" else "little"


class Pattern:
    """Files that binfmt_misc has another program run: those that have the octets, where mask has
    bits, at the offset; or whose name ends with the extension."""

    __slots__ = ("extension", "magic", "mask", "offset")

    def __init__(self, entry: dict[str, str]) -> None:
        self.extension = entry.get("extension", "")
        self.offset = int(entry.get("offset", "0"))
        self.magic = bytes.fromhex(entry.get("magic", ""))
        self.mask = bytes.fromhex(entry.get("mask", "ff" * len(self.magic)))

    def matches(self, path: str, head: bytes) -> bool:
        """Whether the file at the path, which begins so, is one of them."""
        if self.extension:
            return path.endswith(self.extension)
        length = len(self.magic)
        octets = head[self.offset : self.offset + length].ljust(length, b"\0")
        found, wanted, mask = map(_number, (octets, self.magic, self.mask))
        return (found ^ wanted) & mask == 0


def patterns() -> list[Pattern]:
    """What is registered with binfmt_misc, and switched on."""
    found = []
    try:
        names = set(os.listdir(BINFMT_MISC)) - {"register", "status"}
        if "enabled" not in _text(f"{BINFMT_MISC}/status"):
            return []
        for name in names:
            lines = _text(f"{BINFMT_MISC}/{name}").splitlines()
            if lines[:1] == ["enabled"]:
                entry = dict(line.partition(" ")[::2] for line in lines[1:])
                found.append(Pattern(entry))
    except OSError:
        pass  # it is not mounted
    return found


def demanded(attribute: bytes) -> int:
    """The capabilities without which the kernel does not run a file that has this
    security.capability, as bits (capabilities(7), "capability-dumb binaries")."""
    first = int.from_bytes(attribute[:4], "little")
    end = ENDS.get(first & REVISION, 0)
    if not first & EFFECTIVE or any(attribute[20:24]):  # or a user namespace's own
        return 0
    words = [int.from_bytes(attribute[at : at + 4], "little") for at in range(4, end, 8)]
    return sum(word << 32 * place for place, word in enumerate(words))


def names(capabilities: int) -> str:
    """The names of these capabilities, as CapabilityBoundingSet= takes them."""
    known = enumerate(CAPABILITIES.split())
    return " ".join(f"CAP_{name}" for number, name in known if capabilities >> number & 1)


def bits(text: str) -> int:
    """The same of systemd's own spelling: names in small letters."""
    words = text.upper()
    known = enumerate(CAPABILITIES.split())
    return sum(1 << number for number, name in known if f"CAP_{name}" in words)


def bounding_set(pid: str = "self") -> int:
    """What a file can give to what this process runs, or the one that is named, as bits."""
    for line in _text(f"/proc/{pid}/status").splitlines():
        if line.startswith("CapBnd:"):
            return int(line.partition(":")[2], 16)
    return -1


def _number(octets: bytes) -> int:
    return int.from_bytes(octets, "big")


def _text(file: str) -> str:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode(errors="replace")
    finally:
        os.close(descriptor)
