"""What may be imported before the fork, to the letter: the client waits for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from conftest import Installed, in_machine, run, until

pytestmark = in_machine

# The interpreter's own, there without any import of ours; some are there on some releases only.
PLAIN = "import sys; print(*sys.modules)"
BUDGET = {
    # of this package
    "spawnhelper",
    "spawnhelper.conf",
    "spawnhelper.doors",
    "spawnhelper.stages",
    "spawnhelper.stages.command",
    "spawnhelper.doors.one",
    "spawnhelper.conf.files",
    "spawnhelper.stages.identity",
    "spawnhelper.doors.inherited",
    "spawnhelper.manager",
    "spawnhelper.outcome",
    "spawnhelper.conf.quantities",
    "spawnhelper.stages.serve",
    "spawnhelper.conf.service",
    "spawnhelper.conf.settings",
    "spawnhelper.signals",
    "spawnhelper.conf.syntax",
    "spawnhelper.conf.values",
    # of the interpreter itself: no file is opened for them, but for the first
    "__future__",
    "_socket",
    "_stat",
    "gc",
    "pwd",
    # a C module: prctl(2) and capset(2) are nowhere else
    "_prctl",
}
# Before systemd 257 the address has to tell the service.
BY_ADDRESS = {"spawnhelper.conf.listeners", "spawnhelper.doors.whose"}
SPY = """
import posix, sys
fork = posix.fork
def spying_fork():
    with open({seen!r}, "w") as out:
        out.write(" ".join(sys.modules))
    return fork()
posix.fork = spying_fork
sys.argv[1:] = [{unit!r}]
__file__ = {main!r}
exec(compile(open(__file__).read(), __file__, "exec"))
"""
# Looks what the child is when the first module is loaded that only the waiting parent needs.
LATE = """
import sys
class Look:
    def find_spec(self, name, path=None, target=None):
        if name == "spawnhelper.record":
            with open("/proc/thread-self/children") as children:
                (child,) = children.read().split()
            with open({seen!r}, "w") as out:
                out.write(open(f"/proc/{{child}}/comm").read())
sys.meta_path.insert(0, Look())
sys.argv[1:] = [{unit!r}]
__file__ = {main!r}
exec(compile(open(__file__).read(), __file__, "exec"))
"""
INTERPRETER = ("/usr/bin/python3", "-I", "-S", "-X", "utf8")
MAIN = "/usr/lib/spawnhelper/spawnhelper/__main__.py"


def test_imports_before_the_fork(
    service: Callable[..., Installed], unit_change: Callable[[str], None]
) -> None:
    seen = Path("/run/spawn-modules")
    seen.unlink(missing_ok=True)
    spy = Path("/run/spawn-spy.py")
    spy.write_text(SPY.format(seen=str(seen), unit="%n", main=MAIN))
    start = " ".join(INTERPRETER)
    unit_change(f"[Service]\nExecStart=\nExecStart={start} {spy}")
    there = service("User=nobody\nArgv=/bin/echo here")
    assert there.talk() == b"here\n"
    there.record()
    modules = set(seen.read_text().split())
    own = set(run(*INTERPRETER, "-c", PLAIN).stdout.split())
    assert modules - own <= BUDGET | BY_ADDRESS
    assert modules >= BUDGET - {"__future__"}


def test_the_command_goes_first(
    service: Callable[..., Installed], unit_change: Callable[[str], None]
) -> None:
    seen = Path("/run/spawn-child")
    spy = Path("/run/spawn-spy.py")
    spy.write_text(LATE.format(seen=str(seen), unit="%n", main=MAIN))
    unit_change(f"[Service]\nExecStart=\nExecStart={' '.join(INTERPRETER)} {spy}")
    there = service("User=nobody\nArgv=/usr/bin/sleep 0.2")

    def went_first() -> bool:  # unless the machine is too slow for the moment that it gets
        there.talk()
        there.record()
        return seen.read_text() == "sleep\n"

    until(went_first)


def test_the_budget_is_the_interpreters_or_ours() -> None:
    """Nothing in the budget but _prctl is a file outside this package."""
    from_files = {
        name
        for name in BUDGET
        if name not in sys.builtin_module_names and not name.startswith("spawnhelper")
    }
    assert from_files == {"_prctl", "__future__"}


def test_nothing_of_the_parent_is_loaded_with_the_path() -> None:
    code = f"import sys; sys.path.append({str(Path(MAIN).parent.parent)!r}); "
    code += "import spawnhelper.doors.one; print(*sys.modules)"
    modules = set(run(*INTERPRETER, "-c", code).stdout.split())
    late = ["supervise", "record", "traffic", "relay", "delivery", "generator", "rearm", "ctl"]
    late += (
        "listeners",
        "admission",
        "banner",
        "wait",
        "proxy",
        "turns",
        "dropped",
        "whose",
        "statuses",
        "reasons",
    )
    ours = {module.rpartition(".")[2] for module in modules if module.startswith("spawnhelper.")}
    assert not ours & set(late)
    assert "os" not in modules
