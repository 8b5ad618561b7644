"""Which part of the package may import which: one way only. No machine is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import in_machine

import spawnhelper

PACKAGE = Path(spawnhelper.__file__).parent
GROUND = {"manager", "outcome", "signals"}
# By folder, or by file where it has none: what else of the package is imported there.
MAY_IMPORT = {
    "__init__": set(),
    "__main__": {"__init__", "doors"},
    "manager": set(),
    "outcome": {"manager"},
    "signals": set(),
    "record": {*GROUND, "conf"},
    "post": {"outcome", "record"},
    "summary": {"outcome", "record", "conf"},
    "board": {"manager"},
    "sockets": set(),
    "conf": {*GROUND, "conf"},
    "stages": {*GROUND, "conf", "stages"},
    "doors": {*GROUND, "__init__", "board", "record", "summary", "post", "conf", "stages", "doors"},
    "unit": {*GROUND, "__init__", "sockets", "record", "conf", "unit"},
    "moving": {"manager", "outcome", "conf", "moving"},
    "ctl": {
        *GROUND,
        "board",
        "sockets",
        "record",
        "summary",
        "conf",
        "stages",
        "moving",
        "ctl",
        "__init__",
    },
}
# The path of a connection names the stages, and they do not know each other. These are their tools.
TOOLS = {"banner", "command", "delivery", "executables", "identity", "wait"}


def imported(tree: ast.AST) -> Iterator[str]:
    """The names of modules of the package that this imports when it runs, early or late."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            for other in node.orelse:
                yield from imported(ast.Module([other], []))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spawnhelper"):
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name.startswith("spawnhelper"))
        else:
            yield from imported(node)


def part(names: list[str]) -> str:
    """The folder or file of the package that a module is in."""
    if names and ((PACKAGE / names[0]).exists() or (PACKAGE / f"{names[0]}.py").exists()):
        return names[0]
    return "__init__"


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=[str(each.relative_to(PACKAGE)) for each in FILES])
def test_imports_run_one_way(file: Path) -> None:
    place = file.relative_to(PACKAGE).with_suffix("").parts
    modules = [name.split(".")[1:] for name in imported(ast.parse(file.read_text()))]
    found = {part(names) for names in modules}
    if place[-1] != "__init__":
        assert found <= MAY_IMPORT[place[0]], found - MAY_IMPORT[place[0]]
    if place[0] == "stages" and place[-1] not in ("serve", *TOOLS):
        others = {names[1] for names in modules if names[:1] == ["stages"] and len(names) > 1}
        assert others <= TOOLS | {"admission"}, "a stage knows another"


def test_the_server_reads_no_byte_of_a_client() -> None:
    for room in ("server", "crew", "lobby", "handover", "registrar"):
        tree = ast.parse((PACKAGE / f"doors/{room}.py").read_text())
        names = {name.split(".")[-1] for name in imported(tree)}
        assert not names & {"proxy", "relay", "delivery", "traffic", "banner", "admission"}


WORKERS = ("conf", "stages")
# What only root needs, when it reads files or a command has not started.
ROOTS = {
    "difflib",
    "spawnhelper.conf.dropins",
    "spawnhelper.conf.listeners",
    "spawnhelper.conf.own",
    "spawnhelper.conf.standing",
    "spawnhelper.conf.statuses",
    "spawnhelper.stages.reasons",
}


@in_machine  # with the libraries that it needs
def test_a_worker_has_loaded_all_that_it_needs() -> None:
    """In its root there may be nothing to load it from, and after an upgrade another version."""
    code = "import sys, spawnhelper.doors.server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    for file in FILES:
        place = file.relative_to(PACKAGE).with_suffix("").parts
        if place[0] in WORKERS and ".".join(("spawnhelper", *place)) not in ROOTS:
            needed = set(modules(ast.parse(file.read_text())))
            assert needed - loaded - ROOTS == set(), file


def modules(tree: ast.AST) -> Iterator[str]:
    """The modules that this imports when it runs, early or late."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            yield from modules(ast.Module(node.orelse, []))
        elif isinstance(node, ast.ImportFrom):
            whole = (f"{node.module}.{each.name}" for each in node.names)
            ours = node.module in ("spawnhelper.conf", "spawnhelper.stages", "spawnhelper.doors")
            yield from whole if ours else [str(node.module)]
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        else:
            yield from modules(node)
