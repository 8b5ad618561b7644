"""What the fuzzers have kept is input like any other: followed or refused by the rules, without the
library that found it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import in_machine

pytestmark = in_machine

HERE = Path(__file__).parent
KEPT = {folder.name: sorted(folder.iterdir()) for folder in (HERE / "fuzz/corpus").iterdir()}
# A process for a target: signals are held there, and descriptors closed.
EACH = """
import importlib, sys
target = importlib.import_module("fuzz." + sys.argv[1])
for file in sys.argv[2:]:
    with open(file, "rb") as kept:
        octets = kept.read()
    target.one(octets)
"""


@pytest.mark.parametrize("target", KEPT)
def test_kept_input(target: str) -> None:
    assert KEPT[target]
    command = [sys.executable, "-c", EACH, target, *map(str, KEPT[target])]
    done = subprocess.run(command, cwd=HERE, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
