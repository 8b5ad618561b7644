#!/usr/bin/python3 -B
"""Runs one target under atheris, which looks for what it does not know yet: TARGET=NAME drive.py,
with whatever libFuzzer takes. A finding is written to a file, and the exit status is not 0.

The target is no argument, for libFuzzer runs this again with arguments of its own.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

PLACE = Path("/run/spawn-fuzz")


def main() -> None:
    name = os.environ["TARGET"]
    with atheris.instrument_imports(include=["spawnhelper", "fuzz"]):
        target = importlib.import_module(f"fuzz.{name}")
    PLACE.mkdir(exist_ok=True)
    words = PLACE / f"{name}.dict"
    escaped = ("".join(f"\\x{octet:02x}" for octet in word) for word in target.WORDS if word)
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    atheris.Setup([*sys.argv, f"-dict={words}"], target.one)
    atheris.Fuzz()


main()
