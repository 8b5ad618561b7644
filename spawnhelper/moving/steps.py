"""What to type next, once there are service files: what to stop there, what to enable here."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable

from spawnhelper import manager
from spawnhelper.conf import files
from spawnhelper.moving.draft import CONVERTED, LOSSY, OFF, Draft
from spawnhelper.moving.machine import INETUTILS, OPENBSD
from spawnhelper.moving.report import Report

UNITS_OF_INETD = {OPENBSD: "inetd", INETUTILS: "inetutils-inetd"}
XINETD_DROP_INS = "/run/systemd/system/xinetd.service.d"
KEEPING = "[Service]\\nKillMode=process\\nKillSignal=SIGQUIT\\n"  # xinetd(8), systemd.kill(5)
UNTIL = "until {start}; do sleep 0.1; done"


def steps(report: Report, folder: str) -> list[str]:
    """Lines for a shell, with comments. folder: where the service files are."""
    drafts = report.files
    if not drafts:
        return []
    names = [each.name for each in drafts]
    paths = [os.path.join(folder, f"{name}{files.SUFFIX}") for name in names]
    systemctl, check = manager.now.words("systemctl"), manager.now.words("spawnctl") + " check"
    made = ["# What is there now, and what it lacks:", f"{check} {shlex.join(paths)}"]
    if os.path.realpath(folder) != manager.now.folders[0]:
        made += [
            f"# The files count in {manager.now.folders[0]}:",
            f"cp --preserve=mode --no-clobber {shlex.join(paths)} {manager.now.folders[0]}/",
        ]
    made.append(f"{systemctl} daemon-reload")
    if manager.now.own:
        made.append("# Once nobody else listens there:")
        return [*made, f"{systemctl} enable --now {_units(drafts)}"]
    return made + STEPS[report.source](report)


def _units(drafts: list[Draft]) -> str:
    return shlex.join(f"spawn@{each.name}.socket" for each in drafts)


def _of_postfix(report: Report) -> list[str]:
    moved = [each for each in report.drafts if each.state in (CONVERTED, LOSSY)]
    folder = os.path.dirname(os.path.abspath(moved[0].found.place.file))
    services = shlex.join(
        f"{each.found.name}/{kind.value}" for each in moved if (kind := each.found.of("type"))
    )
    paths = [each for each in report.files if _is_path(each)]
    others = [each for each in report.files if not _is_path(each)]
    made = [
        "# Postfix forgets the services at its next reload:",
        f"postconf -c {shlex.quote(folder)} -M# {services}",
    ]
    if paths:
        made += [
            "# systemd takes over the paths; Postfix goes on with what it has accepted:",
            f"systemctl enable --now {_units(paths)}",
        ]
    reload = f"postfix -c {shlex.quote(folder)} reload"
    if others:
        made += _at_ports(reload, _units(others))
    else:
        made.append(reload)
    return made


def _of_inetd(report: Report) -> list[str]:
    unit = UNITS_OF_INETD.get(report.dialect, "inetd")
    made = [f"# {unit}.service forgets the services at its next reload:"]
    for file, drafts in _by_file(report).items():
        numbers = [f"{number}s/^/#/" for each in drafts for number, _ in each.found.lines]
        made.append(f"sed -i '{';'.join(numbers)}' {shlex.quote(file)}")
    return made + _at_ports(f"systemctl reload {unit}", _units(report.files))


def _of_xinetd(report: Report) -> list[str]:
    made = ["# xinetd forgets the services at its next start:"]
    for file, drafts in _by_file(report).items():
        places = [f"{each.found.lines[1][0]}a disable = yes" for each in drafts]
        expressions = " ".join(f"-e {shlex.quote(each)}" for each in places)
        made.append(f"sed -i {expressions} {shlex.quote(file)}")
    made += [
        "# A reload would end the commands that run, and so would a stop without these lines:",
        f"mkdir -p {XINETD_DROP_INS}",
        f"printf '{KEEPING}' >{XINETD_DROP_INS}/keep-commands.conf",
        "systemctl daemon-reload",
    ]
    live = [each for each in report.drafts if each.state != OFF]
    if not report.whole and all(each.state in (CONVERTED, LOSSY) for each in live):
        made.append("# Nothing else is left in xinetd:")
        return made + _at_ports("systemctl disable --now xinetd", _units(report.files))
    return made + _at_ports("systemctl restart xinetd", _units(report.files))


def _at_ports(stop: str, units: str) -> list[str]:
    """Two programs cannot listen at one port, so these follow each other as fast as they can."""
    return [
        f"systemctl enable {units}",
        "# Between these two nobody listens, for as short as can be:",
        f"{stop}; {UNTIL.format(start=f'systemctl start {units}')}",
    ]


def _is_path(draft: Draft) -> bool:
    return all(each[0] == "/" for each in draft.values("ListenStream"))


def _by_file(report: Report) -> dict[str, list[Draft]]:
    """What moves out of each file of the source."""
    found: dict[str, list[Draft]] = {}
    for draft in report.drafts:
        if draft.state in (CONVERTED, LOSSY):
            found.setdefault(draft.found.place.file, []).append(draft)
    return found


STEPS: dict[str, Callable[[Report], list[str]]] = {
    "postfix": _of_postfix,
    "inetd": _of_inetd,
    "xinetd": _of_xinetd,
}
