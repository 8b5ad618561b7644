"""The units of users' managers: those of the system, but for what the manager makes different."""

from __future__ import annotations

from pathlib import Path

import pytest

UNITS = Path(__file__).parent.parent / "units"
# What only root can have, or needs against itself.
OF_ROOT = (
    *("#", "CapabilityBoundingSet=", "NoNewPrivileges=", "Restrict", "LockPersonality="),
    *("MemoryDenyWriteExecute=", "SystemCallArchitectures="),
)
# What a user's manager would do otherwise by itself, and not the system's.
ORDER = {"DefaultDependencies=no", "Conflicts=shutdown.target", "Before=shutdown.target"}
MORE = {"spawn-rearm@.service": ORDER}
# What tells which manager it is.
MANAGERS = (
    ("__main__.py %n", "__main__.py --user %n"),
    (".py %i", ".py --user %i"),
    ("systemctl ", "systemctl --user "),
    ("/system-generators/", "/user-generators/"),
    ("=/run/", "=%t/"),
)


@pytest.mark.parametrize("name", sorted(each.name for each in UNITS.glob("spawn*@*")))
def test_they_differ_in_the_manager_alone(name: str) -> None:
    of_system = (UNITS / name).read_text()
    for system, user in MANAGERS:
        of_system = of_system.replace(system, user)
    theirs, ours = of_system.splitlines(), (UNITS / "user" / name).read_text().splitlines()
    assert {line for line in ours if line not in theirs and line[0] != "#"} == MORE.get(name, set())
    missing = [line for line in theirs if line and line not in ours]
    assert [line for line in missing if not line.startswith(OF_ROOT)] == []


def test_there_is_one_for_each() -> None:
    templates = {each.name for each in UNITS.glob("spawn*@*")}
    assert {each.name for each in (UNITS / "user").iterdir()} == {*templates, "spawn-generator"}
