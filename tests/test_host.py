"""What packaging/build-deb, packaging/try and tests/run say on a host where they cannot do their
work. The machine that the tests run in is such a host: nothing can be fetched there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import in_machine, run

TREE = Path(__file__).parent.parent
NOWHERE = "http://127.0.0.1:9/"
FETCH = """
import sys
from pathlib import Path
import machine
try:
    print(machine.{call})
except machine.Unavailable as missing:
    sys.exit(str(missing))
"""


def said(call: str, path: Path, **variables: str) -> str:
    """What is said to the call of a function of machine.py, with the programs of a folder first."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", FETCH.format(call=call)],
        check=False,
        capture_output=True,
        text=True,
        cwd=TREE / "tests",
        env=os.environ | {"PATH": f"{path}:{os.environ['PATH']}", **variables},
    )
    assert done.returncode == 1, done.stdout
    return done.stderr


@in_machine
@pytest.mark.parametrize(
    ("file", "program"),
    [
        ("packaging/build-deb", "build-deb"),
        ("packaging/try", "try"),
        ("tests/run", "tests/run"),
    ],
)
def test_what_is_missing_cannot_be_installed(file: str, program: str) -> None:
    done = run(str(TREE / file), check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"{program}: apt-get cannot install mmdebstrap ")
    assert last.endswith("; see what it says above, and have them installed")


@in_machine
def test_the_python_index_cannot_be_reached(tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))  # it has a pip3
    requirement = TREE / "packaging/cysystemd.txt"
    call = f"fetched('cysystemd', Path({str(requirement)!r}), cache=Path({str(tmp_path)!r}))"
    variables = {"PIP_INDEX_URL": NOWHERE, "PIP_RETRIES": "0", "PIP_FIND_LINKS": ""}
    sentence = said(call, tmp_path / "venv/bin", **variables)
    assert sentence == (
        "cysystemd cannot be fetched from the Python index: No matching distribution found for "
        "cysystemd==2.0.5; PIP_INDEX_URL= in the environment names another index\n"
    )


def test_the_archive_cannot_be_reached(tmp_path: Path) -> None:
    (tmp_path / "mmdebstrap").write_text("#!/bin/sh\nexit 25\n")
    (tmp_path / "mmdebstrap").chmod(0o755)
    sentence = said(f"base_root('trixie', 'build', Path({str(tmp_path)!r}))", tmp_path)
    assert sentence.endswith(
        "mmdebstrap cannot make a trixie root; see what it says above, and let it reach Debian's "
        "archive\n"
    )
