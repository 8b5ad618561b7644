"""The suites beside the tests, faults/ and fuzz/: what they are made of, what they need in a
machine, and what they leave there. For the host's side, as machine.py is.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import kernel
import machine

FILES = {
    "faults": (
        "faults/bursts.py",
        "faults/collisions.py",
        "faults/delivery.py",
        "faults/killed.py",
        "faults/journald.py",
        "faults/under_load.py",
        "faults/soak.py",
        "faults/standing.py",
    ),
    "counterproof": ("faults/counterproof.py",),
    "fuzz": ("fuzz/sessions.py",),
}
# Of base roots, for those that measure other servers, too.
KINDS = {"faults": "bench", "counterproof": "bench"}
# What there is to do in a machine with a kernel of its own, for suites that go on there.
OWN_KERNEL = {"faults": "faults/own_kernel.py", "counterproof": "faults/counterproof.py"}
FIGURES = "/srv/figures"  # in the machine
KEPT = machine.TREE / "build/faults"
PAGE = machine.TREE / "tests/FAULTS.md"
NOTHING = "-"  # where there is no figure yet
FUZZED = "bookworm"  # atheris is a wheel for its Python
ATHERIS = machine.TREE / "tests/fuzz/atheris.txt"  # its version, and the sum of its wheel
ATHERIS_INSIDE = "/srv/atheris"
GROWN, GROWN_INSIDE = machine.TREE / "build/corpus", "/srv/corpus"
CORPUS = machine.TREE / "tests/fuzz/corpus"
HEAD = """\
# What spawnhelper promises when things go wrong

Each line is a test of `tests/faults` or `tests/fuzz`, which breaks something in a booted Debian
machine and looks. The figures are those that each test saw last, on a machine with 2 processors,
and the names in them are of that day; a dash stands where there is none yet. All of them anew:

    for release in bookworm trixie forky; do
        tests/run faults --release $release --rounds 1000 --soak 50000
        tests/run counterproof --release $release
    done
    tests/run fuzz --seconds 600
    tests/run faults --page

"Load" is 50 connections that stay, each asked again and again, and others that come and go.
Answers are of 45 bytes to 8 MiB, to requests of 100 bytes or 300 KB, of which the command reads a
line or nothing. Some of their clients read 64 KiB each 20 ms, or nothing for 10 s, or shut down
their side once they have sent all. Services have no key more than they need, SizeLimit=,
IdleLimit=, MaxCommands=, or some of them. A "cut" answer lacks bytes, and one that is "reset" came
whole, but with a reset in place of the end.

The columns are the versions of systemd. The smaller the sizes, the sooner: without them the suite
takes some 20 minutes a release, and with them an hour.
"""


def arguments(suite: str, *, own_kernel: bool) -> list[str]:
    """What to tell pytest for the suite."""
    names = [OWN_KERNEL[suite]] if own_kernel else FILES[suite]
    return [f"--figures={FIGURES}", *(f"{machine.INSIDE}/tests/{name}" for name in names)]


def prepare(suite: str, booted: machine.Machine) -> None:
    """Has in the machine what the suite needs there."""
    if suite == "fuzz":
        booted.copy(_atheris(), ATHERIS_INSIDE)


def finish(suite: str, booted: machine.Machine) -> None:
    """Keeps what the suite leaves in the machine."""
    if not suite:
        return
    figures = booted.run("sh", "-c", f"cat {FIGURES}; rm -f {FIGURES}", check=False)
    keep(booted.release, figures.stdout)
    if suite == "fuzz":
        pack = f"mkdir -p {GROWN_INSIDE}; exec tar -c --directory={GROWN_INSIDE} ."
        grown = subprocess.run(booted.command("sh", "-c", pack), check=True, capture_output=True)
        shutil.rmtree(GROWN, ignore_errors=True)
        GROWN.mkdir(parents=True)
        unpack = ["tar", "-x", "--no-same-owner", f"--directory={GROWN}"]
        subprocess.run(unpack, check=True, input=grown.stdout)


def with_own_kernel(release: str, packages: Path, command: list[str]) -> int:
    """Runs pytest in a machine with a kernel of its own; its exit status."""
    machine.say(f"booting a {release} machine with a kernel of its own")
    machine.install(machine.missing(kernel.TOOLS))
    variables = machine.ENVIRONMENT | {"SPAWNHELPER_MACHINE": "1", "SPAWNHELPER_KERNEL": "1"}
    told = ["/usr/bin/env", *(f"{name}={value}" for name, value in variables.items())]
    status, root = kernel.run(release, packages, [*told, *command])
    try:
        figures = root / FIGURES.lstrip("/")
        keep(release, figures.read_text() if figures.is_file() else "")
    finally:
        machine.discard(root)
    return status


def keep(release: str, measured: str) -> None:
    """Keeps figures, each in place of what was known of the same test."""
    rows = {row["test"]: row for row in _kept(release)}
    for line in measured.splitlines():
        row = json.loads(line)
        rows[row["test"]] = row
    file = KEPT / f"{release}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))


def write_page() -> int:
    """Writes the page from what is kept, and what the page has where nothing is; 1 where there is
    nothing new."""
    rows: dict[tuple[str, str], dict[str, list[str]]] = {}
    for release in machine.RELEASES:
        for row in _kept(release):
            place = rows.setdefault((row["fault"], row["promise"]), {})
            place.setdefault(release, []).append(row["figure"].replace("|", "\\|"))
    if not rows:
        print("there are no figures yet; tests/run faults")
        return 1
    before = _page()
    versions = [machine.SYSTEMD[release] for release in machine.RELEASES]
    lines = [HEAD, f"| fault | promise | {' | '.join(versions)} |", f"|---|---|{'---|' * 3}"]
    for fault, promise in before | rows:
        figures = before.get((fault, promise), {}) | rows.get((fault, promise), {})
        cells = ["<br>".join(figures.get(release, [NOTHING])) for release in machine.RELEASES]
        lines.append(f"| {' | '.join((fault, promise, *cells))} |")
    PAGE.write_text("\n".join(lines) + "\n")
    return 0


def _page() -> dict[tuple[str, str], dict[str, list[str]]]:
    """The figures that the page has, by row and release."""
    rows = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| ") and not line.startswith("| fault |"):
            fault, promise, *cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
            rows[fault, promise] = {
                release: [cell]
                for release, cell in zip(machine.RELEASES, cells, strict=True)
                if cell != NOTHING
            }
    return rows


def _kept(release: str) -> list[dict[str, str]]:
    file = KEPT / f"{release}.jsonl"
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def renew_corpus() -> int:
    """Has what the last session of the fuzzers ended with replace the corpus; 1 without one."""
    if not GROWN.is_dir():
        print("there is nothing new yet; tests/run fuzz --seconds 600")
        return 1
    for grown in GROWN.iterdir():
        shutil.rmtree(CORPUS / grown.name)
        shutil.copytree(grown, CORPUS / grown.name)
    return 0


def _atheris() -> Path:
    """A folder with atheris, for the Python of FUZZED."""
    place = machine.fetched("atheris", ATHERIS, "--only-binary=:all:", "--python-version=3.11")
    folder = place / "unpacked"
    if not folder.is_dir():
        (wheel,) = place.glob("*.whl")
        partial = place / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, partial], check=True)
        partial.rename(folder)
    return folder
