"""Packages like those that were built, with another version, other files, or other scripts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from conftest import run
from nested import BUILT

Edits = Mapping[str, Iterable[tuple[str, str]]]


def changed(
    work: Path,
    package: str,
    edits: Edits | None = None,
    *,
    control: Iterable[tuple[str, str]] = (),
    scripts: Mapping[str, str] | None = None,
) -> Path:
    """One of the packages with parts of its files replaced, and lines of its control file, given as
    patterns. scripts: maintainer scripts instead of its own, by their names; None: its own."""
    (deb,) = BUILT.glob(f"{package}_*.deb")
    tree = work / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    run("dpkg-deb", "--raw-extract", str(deb), str(tree))
    for name, changes in (edits or {}).items():
        text = (tree / name).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tree / name).write_text(text)
    fields = (tree / "DEBIAN/control").read_text()
    for pattern, new in control:
        fields, found = re.subn(pattern, new, fields, count=1, flags=re.M)
        assert found, pattern
    (tree / "DEBIAN/control").write_text(fields)
    for name, text in (scripts or {}).items():
        script = tree / "DEBIAN" / name
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
    made = work / f"{package}.deb"
    run("dpkg-deb", "--build", "--root-owner-group", str(tree), str(made))
    return made


def later(work: Path, package: str, edits: Edits | None = None) -> Path:
    """One of the packages in a later version, which wants the others in that version."""
    control = [("^Version: .*", "Version: 9")]
    if package == "spawnctl":
        control.append((r"spawnhelper \(= .*?\)", "spawnhelper (= 9)"))
    return changed(work, package, edits, control=control)
