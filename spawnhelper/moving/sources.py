"""The three sources by their names: what reads each, and what turns it into drafts."""

from __future__ import annotations

from spawnhelper.moving.inetd import reader as inetd_reader
from spawnhelper.moving.inetd import table as inetd_table
from spawnhelper.moving.machine import Machine
from spawnhelper.moving.postfix import reader as postfix_reader
from spawnhelper.moving.postfix import table as postfix_table
from spawnhelper.moving.report import Report
from spawnhelper.moving.settle import settle
from spawnhelper.moving.source import Unreadable
from spawnhelper.moving.xinetd import merge as xinetd_merge
from spawnhelper.moving.xinetd import reader as xinetd_reader
from spawnhelper.moving.xinetd import table as xinetd_table
from spawnhelper.outcome import shown

DEFAULT_FILES = {
    "postfix": postfix_reader.FILE,
    "inetd": inetd_reader.FILE,
    "xinetd": xinetd_reader.FILE,
}
NAMES = tuple(DEFAULT_FILES)
COMPATIBLE = "/etc/default/xinetd"


def imported(source: str, file: str, machine: Machine) -> Report:
    """What became of each service of the source; Unreadable where the file cannot be read."""
    report = READERS[source](file, machine)
    settle(report.drafts)
    return report


def _of_postfix(file: str, machine: Machine) -> Report:
    read = postfix_reader.load(file)
    drafts = postfix_table.convert(read, machine)
    return Report("postfix", read.reading, drafts, postfix_table.GENERAL)


def _of_inetd(file: str, machine: Machine) -> Report:
    reading = inetd_reader.load(file, dialect=machine.inetd())
    drafts = inetd_table.convert(reading, machine)
    general = inetd_table.GENERAL
    return Report("inetd", reading, drafts, general, dialect=machine.inetd())


def _of_xinetd(file: str, machine: Machine) -> Report:
    read = xinetd_reader.load(file)
    drafts = xinetd_table.convert(read, machine)
    _, ignored = xinetd_merge.of_defaults(read.defaults)
    whole = [
        f"{each.given.place}: {shown(each.given.text)}: xinetd ignores this line of the defaults"
        f"{': ' if each.why else ''}{each.why}"
        for each in ignored
    ]
    if _serves_inetd_conf(file, machine):
        whole.append(
            f"{COMPATIBLE}: INETD_COMPAT has xinetd serve {inetd_reader.FILE}, too; import that as "
            "well"
        )
    if read.incomplete and drafts:
        whole.append(
            "there is no xinetd.conf above, whose defaults may keep clients out; name that, or put "
            "it there"
        )
    return Report("xinetd", read.reading, drafts, xinetd_table.GENERAL, whole)


def _serves_inetd_conf(file: str, machine: Machine) -> bool:
    """Whether Debian's xinetd has services of inetd.conf besides its own."""
    if file != xinetd_reader.FILE or "INETD_COMPAT=Yes" not in machine.options(COMPATIBLE):
        return False
    try:
        found = inetd_reader.load(inetd_reader.FILE, dialect=machine.inetd()).services
    except Unreadable:
        return False
    return any(not each.off for each in found)


READERS = {"postfix": _of_postfix, "inetd": _of_inetd, "xinetd": _of_xinetd}
