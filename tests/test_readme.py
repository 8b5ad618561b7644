"""The README says what is so. Needs no machine."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import spawnhelper
from spawnhelper.conf.settings import EVERY, LIMITS, SETTINGS, WITHIN
from spawnhelper.conf.standing import RULES
from spawnhelper.conf.values import CONNECTION_VARIABLES

README = Path(__file__).parent.parent / "README.md"
PAGE = README.parent / "man/spawn.conf.5.in"
LONGEST = 180  # lines: who chooses reads no more


def test_it_is_short() -> None:
    assert len(README.read_text().splitlines()) < LONGEST


def test_the_libraries_are_those_of_the_metadata() -> None:
    metadata = configparser.ConfigParser()
    metadata.read(README.parent / "setup.cfg")
    needed = metadata["options"]["install_requires"].strip().splitlines()
    (named,) = re.findall(r"pip install (.*)", README.read_text())
    assert named.split() == [each.split()[0] for each in needed]


def test_every_packaging_is_of_this_version() -> None:
    packaging = README.parent / "packaging"
    version = spawnhelper.__version__
    debian = next(
        each for each in (packaging / "debian", README.parent / "debian") if each.exists()
    )
    assert (debian / "changelog").read_text().startswith(f"spawnhelper ({version}-")
    assert f"\nVersion:        {version}\n" in (packaging / "rpm/spawnhelper.spec").read_text()
    assert f"\npkgver={version}\n" in (packaging / "arch/PKGBUILD").read_text()


def test_every_variable_is_named() -> None:
    text = PAGE.read_text()
    assert [name for name in CONNECTION_VARIABLES if name not in text] == []


def test_the_manual_page_has_every_key() -> None:
    man = README.parent / "man"
    page = subprocess.run(
        [sys.executable, "-B", str(man / "render"), str(PAGE)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "@SETTINGS@" not in page
    assert [each.key for each in SETTINGS if f"\n.I {each.key}=\n" not in page] == []
    groups = page.partition("\n.SS Identity\n")[2]
    of_resources = groups.partition("\n.SS Priority and resources\n")[2].partition("\n.SH ")[0]
    named = {each.key for each in SETTINGS if f"\n.I {each.key}=\n" in f"\n{of_resources}"}
    assert named == {*LIMITS, "Nice", "OOMScoreAdjust"}, "another key has no group in man/render"
    assert "@REFUSED@" not in page
    plain = page.replace("\\-", "-")
    assert [rule.why for rule in RULES if f"=\\fR\n{rule.why}.\n" not in plain] == [
        next(rule.why for rule in RULES if "User" in rule.names)  # any key of the table above
    ]


def test_the_page_of_users_has_what_is_different_there() -> None:
    man = README.parent / "man"
    page = subprocess.run(
        [sys.executable, "-B", str(man / "render"), str(man / "spawn-user.7.in")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.replace("\\-", "-")
    different = {each.key: each.own for each in SETTINGS if each.own != EVERY}
    assert "@OWN@" not in page
    assert [key for key in different if key not in LIMITS and f"I{key}=\\fR" not in page] == []
    assert [why for why in different.values() if why != WITHIN and f"{why}.\n" not in page] == []


def test_the_manual_page_has_every_option() -> None:
    page = (README.parent / "man/spawnctl.1").read_text().replace("\\-", "-")
    listing = subprocess.run(
        [sys.executable, "-c", OPTIONS],
        check=True,
        capture_output=True,
        text=True,
        cwd=README.parent,
    ).stdout.split()
    assert "--slower-than" in listing
    assert [each for each in listing if each not in page] == []


def test_the_page_of_faults_has_every_promise() -> None:
    """To renew it: tests/run faults --page, once the suite has run."""
    tests = README.parent / "tests"
    page = (tests / "FAULTS.md").read_text()
    missing = []
    for file in (*tests.glob("faults/*.py"), *tests.glob("fuzz/sessions.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                fault, _, promise = " ".join((ast.get_docstring(node) or "").split()).partition(
                    ": "
                )
                if f"| {fault} | {promise} |" not in page:
                    missing.append(f"{file.name}: {node.name}")
    assert missing == []


OPTIONS = """
import argparse
from spawnhelper.ctl import VERBS, parser
verbs = next(each for each in parser()._actions if isinstance(each.choices, dict)).choices
print(*VERBS, *(word for verb in verbs.values() for each in verb._actions
                for word in each.option_strings if word not in ("-h", "--help")))
"""


def test_the_processor_times_are_those_of_the_page() -> None:
    page = (README.parent / "tests/BENCH.md").read_text().partition("## systemd 257")[2]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    columns = next(row for row in rows if row[:1] == ["processors used at"])
    same = [row for row in rows if len(row) == len(columns)]
    measured = {row[0]: dict(zip(columns, row, strict=True)) for row in same}
    head, _, *lines = README.read_text().partition("| processors used at |")[2].splitlines()
    rates = [cell.strip() for cell in head.split("|")[:-1]]
    for name in ("spawnhelper", "Accept=no", "Accept=no, Log=summary", "tcpserver"):
        shown = [cell.strip() for cell in lines.pop(0).split("|")[2:-1]]
        assert shown == [measured[name][rate] for rate in rates], name
