"""A machine with a kernel of its own, which is a process of this host (user-mode-linux): for what
a container may not do, such as setting the clock, and for control groups with limits.

For the host's side, as machine.py is.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import machine

TOOLS = {"linux.uml": "user-mode-linux"}
MEMORY = "1536M"
LONGEST = 1800  # seconds
COMMAND, OUTPUT, STATUS = "srv/command", "srv/output", "srv/status"
# Debian starts these by itself; here they would only take time.
MASKED = ("postfix", "haproxy", "man-db.timer", "apt-daily.timer", "dpkg-db-backup.timer")
UNIT = f"""\
[Unit]
After=dbus.service
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
ExecStart=/bin/sh /{COMMAND}
StandardOutput=file:/{OUTPUT}
StandardError=inherit
ExecStopPost=/bin/sh -c 'echo "$EXIT_STATUS" >/{STATUS}'
"""


def run(release: str, packages: Path, command: Sequence[str]) -> tuple[int, Path]:
    """Runs a command in such a machine, with the packages installed; call machine.isolate() first.

    Its exit status, and the root that the machine had, for machine.discard().
    """
    root = machine.overlay(machine.base_root(release, "run"))
    into_root(root, packages, command)
    masks = [f"systemd.mask={unit}" for unit in MASKED]
    boot = [
        "linux.uml",
        f"mem={MEMORY}",
        "root=none",
        "rootfstype=hostfs",
        f"rootflags={root}",
        "rw",
        "init=/lib/systemd/systemd",
        "systemd.unit=basic.target",
        "systemd.wants=tests.service",
        *masks,
        "con=null",
        "con0=null,fd:1",
    ]
    with (root.parent / "console").open("wb") as log:
        # The kernel's processes are this host's; they all end with the first.
        contained = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *boot]
        subprocess.run(
            contained,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=LONGEST,
            env={"PATH": os.environ["PATH"], "HOME": "/root", "TMPDIR": str(root.parent)},
        )
    try:
        print((root / OUTPUT).read_text(errors="replace"), end="", flush=True)
        return int((root / STATUS).read_text()), root
    except (OSError, ValueError):
        print((root.parent / "console").read_text(errors="replace")[-4000:], flush=True)
        return 1, root


def into_root(root: Path, packages: Path, command: Sequence[str]) -> None:
    """Has the tree, the packages and the unit that runs the command in a root."""
    for place in (machine.INSIDE, machine.PACKAGES_INSIDE):
        (root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
    inside = root / machine.PACKAGES_INSIDE.lstrip("/")
    subprocess.run(["mount", "--bind", str(packages), str(inside)], check=True)
    install = f"apt-get -qy install {machine.PACKAGES_INSIDE}/*.deb"
    subprocess.run(
        machine.nspawn(root, "--as-pid2", "sh", "-ec", install),
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    tree = root / machine.INSIDE.lstrip("/")
    subprocess.run(["mount", "-o", "bind,ro", str(machine.TREE), str(tree)], check=True)
    (root / COMMAND).write_text(f"exec {shlex.join(command)}\n")
    (root / "etc/systemd/system/tests.service").write_text(UNIT)
