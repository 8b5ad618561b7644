"""What the suite of faults measured, kept and written up. For the host's side."""

from __future__ import annotations

import json
from pathlib import Path

import machine

SUITE = ("bursts.py", "collisions.py", "under_load.py", "soak.py")
FIGURES = "/run/spawnhelper-figures"  # in the machine
KEPT = machine.TREE / "build/faults"
PAGE = machine.TREE / "tests/FAULTS.md"
SYSTEMD = {"bookworm": "252", "trixie": "257", "forky": "262"}
HEAD = """\
# What spawnhelper promises when things go wrong

Each line is a test of `tests/faults`, which breaks something in a booted Debian machine and looks.
The figures are those of the latest run of

    for release in bookworm trixie forky; do
        tests/run faults --release $release --rounds 1000 --soak 50000
    done
    tests/run faults --page

"Load" is 50 connections that stay, each asked again and again, and others that come and go.
"""


def arguments() -> list[str]:
    """What to tell pytest for the suite."""
    folder = f"{machine.INSIDE}/tests/faults"
    options = [f"--figures={FIGURES}", f"--override-ini=pythonpath={folder}"]
    return [*(f"{folder}/{name}" for name in SUITE), *options]


def keep(booted: machine.Machine) -> None:
    """Keeps what was measured in the machine, if it was, in place of what was known of the same
    promises."""
    measured = booted.run("sh", "-c", f"cat {FIGURES} 2>/dev/null; rm -f {FIGURES}", check=False)
    if not measured.stdout:
        return
    file = KEPT / f"{booted.release}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = [json.loads(line) for line in measured.stdout.splitlines()]
    faults = {row["fault"] for row in fresh}
    old = [row for row in _kept(file) if row["fault"] not in faults]
    file.write_text("".join(json.dumps(row) + "\n" for row in old + fresh))


def write_page() -> int:
    """Writes the page from what is kept of each release; 1 where there is nothing of one."""
    rows: dict[tuple[str, str], dict[str, list[str]]] = {}
    for release in machine.RELEASES:
        kept = _kept(KEPT / f"{release}.jsonl")
        if not kept:
            print(f"there are no figures of {release} yet; tests/run faults --release {release}")
            return 1
        for row in kept:
            place = rows.setdefault((row["fault"], row["promise"]), {})
            place.setdefault(release, []).append(row["figure"])
    versions = [SYSTEMD[release] for release in machine.RELEASES]
    lines = [HEAD, f"| fault | promise | {' | '.join(versions)} |", f"|---|---|{'---|' * 3}"]
    for (fault, promise), figures in rows.items():
        cells = ["<br>".join(figures.get(release, ["-"])) for release in machine.RELEASES]
        lines.append(f"| {fault} | {promise} | {' | '.join(cells)} |")
    PAGE.write_text("\n".join(lines) + "\n")
    return 0


def _kept(file: Path) -> list[dict[str, str]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]
