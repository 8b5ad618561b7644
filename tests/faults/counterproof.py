"""The main promises have a mechanism behind them each; here it is switched off in the installed
package, and the test of the promise has to fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import in_machine, run, systemd_version

pytestmark = in_machine

HERE = Path(__file__).parent
PACKAGE = Path("/usr/lib/spawnhelper/spawnhelper")
UNITS = Path("/usr/lib/systemd/system")
SMALL = ("--soak=300", "--rounds=30")


class Mechanism(NamedTuple):
    """file: where it is; a folder: in whatever file of it. old, new: the text that is it, and that
    is there instead. test: of the promise that it is for. kernel: whether that needs a kernel of
    its own."""

    file: Path
    old: str
    new: str
    test: str
    kernel: bool = False


MECHANISMS = {
    "no limit on triggers (spawn@.socket)": Mechanism(
        UNITS / "spawn@.socket",
        "TriggerLimitIntervalSec=0\n",
        "TriggerLimitIntervalSec=2s\nTriggerLimitBurst=20\n",
        "bursts.py::test_burst[1000]",
    ),
    "a helper ends with its connection": Mechanism(
        PACKAGE / "__main__.py",
        "_exit(main(sys.argv[1:]))",
        "main(sys.argv[1:]); import time; time.sleep(100)",
        "bursts.py::test_a_second_burst_costs_no_more_memory",
    ),
    "who ends says what was dropped (dropped.py)": Mechanism(
        PACKAGE / "doors/one.py",
        "dropped.say(settings)",
        "pass",
        "bursts.py::test_above_the_limit",
    ),
    "systemd does not say each refusal (spawn@.socket)": Mechanism(
        UNITS / "spawn@.socket", "LogLevelMax=err\n", "", "bursts.py::test_above_the_limit"
    ),
    "turns (turns.py)": Mechanism(
        PACKAGE / "stages/serve.py",
        "if service.max_commands is not None:",
        "if False:",
        "bursts.py::test_a_queue",
    ),
    "a socket unit that fails is started again (OnFailure=)": Mechanism(
        UNITS / "spawn@.socket",
        "OnFailure=spawn-rearm@%i.service\n",
        "",
        "collisions.py::test_one_client_process[2]",
    ),
    "a listener that collided steps aside (rearm.py)": Mechanism(
        PACKAGE / "unit/rearm.py",
        "step_aside(claimed)",
        "pass",
        "collisions.py::test_one_client_process[2]",
    ),
    "the helper waits until the answer has arrived (delivery.py)": Mechanism(
        PACKAGE / "stages/delivery.py",
        "            if self._ended() and (settled or late):",
        "            if self._ended():",
        "delivery.py::test_delivery[50 ms of round trip]",
    ),
    "what a dead helper leaves gets SIGKILL (KillMode=)": Mechanism(
        UNITS / "spawn@.service",
        "KillMode=mixed",
        "KillMode=none",
        "killed.py::test_the_helper_is_killed[while the command runs]",
    ),
    "a dead helper has no turn (turns.py)": Mechanism(
        PACKAGE / "doors/turns.py",
        "except ConnectionRefusedError:",
        "except InterruptedError:",
        "killed.py::test_a_helper_is_killed_in_the_queue[the one before, too]",
    ),
    "the wait status is told apart (supervise.py)": Mechanism(
        PACKAGE / "stages/supervise.py",
        "outcome.CORE_DUMP if os.WCOREDUMP(status) else outcome.SIGNAL",
        "outcome.EXIT_CODE",
        "killed.py::test_the_command_is_killed",
    ),
    "a record is a datagram of its own (record.py)": Mechanism(
        PACKAGE / "record.py",
        "        _journal.sendv(",
        "        return False\n        _journal.sendv(",
        "journald.py::test_journald_is_restarted",
    ),
    "the client's end does not wait for the record": Mechanism(
        PACKAGE / "stages/serve.py",
        "            connection.end()\n        supervision.sweep()\n",
        "            pass\n        supervision.sweep()\n",
        "journald.py::test_journald_is_stuck",
    ),
    "a broken file is left out (generator.py)": Mechanism(
        PACKAGE / "unit/generator.py",
        "except (Refusal, OSError) as error:",
        "except InterruptedError as error:",
        "under_load.py::test_a_broken_file_among_good_ones",
    ),
    "a file is opened once (files.py)": Mechanism(
        PACKAGE / "conf/files.py",
        "found = _content(descriptor)",
        'found = b"".join(text(file)[at : at + 9] for at in range(0, 999, 9))',
        "under_load.py::test_the_service_file_is_replaced",
    ),
    "an account that is gone is refused (identity.py)": Mechanism(
        PACKAGE / "stages/identity.py",
        "if account is None:",
        "if False:",
        "under_load.py::test_the_user_is_deleted",
    ),
    "a fork that fails is a Refusal (command.py)": Mechanism(
        PACKAGE / "stages/command.py",
        "        raise _no_process(error) from None\n    if pid == 0:",
        "        os._exit(os.EX_OSERR)\n    if pid == 0:",
        "under_load.py::test_something_runs_out[no process]",
    ),
    "limits go by the monotonic clock (everywhere)": Mechanism(
        PACKAGE,
        "time.monotonic_ns()",
        "time.time_ns()",
        "own_kernel.py::test_the_clock_is_set",
        kernel=True,
    ),
    "a stop is the helper's to pass on (KillMode=)": Mechanism(
        UNITS / "spawn@.service",
        "KillMode=mixed",
        "KillMode=control-group",
        "under_load.py::test_the_machine_is_rebooted",
    ),
    "a failed connection leaves no unit (CollectMode=)": Mechanism(
        UNITS / "spawn@.service",
        "CollectMode=inactive-or-failed\n",
        "",
        "soak.py::test_soak",
    ),
    "what is shown of a file is escaped (outcome.py)": Mechanism(
        PACKAGE / "outcome.py",
        "return text if text.isprintable() else repr(text)[1:-1]",
        "return text",
        "../test_fuzz.py::test_kept_input[service_file]",
    ),
}
SINCE_258 = ("a socket unit that fails", "a listener that collided")


@pytest.fixture
def switched_off(request: pytest.FixtureRequest) -> Iterator[Mechanism]:
    mechanism = MECHANISMS[request.param]
    place = mechanism.file
    files = list(place.rglob("*.py")) if place.is_dir() else [place]
    kept = {file: file.read_text() for file in files}
    assert any(mechanism.old in text for text in kept.values()), mechanism.old
    for file, text in kept.items():
        file.write_text(text.replace(mechanism.old, mechanism.new))
    run("systemctl", "daemon-reload")
    yield mechanism
    for file, text in kept.items():
        file.write_text(text)
    run("systemctl", "daemon-reload")
    run("systemctl", "stop", "spawn@*.socket", "spawn@*.service", check=False)
    run("systemctl", "reset-failed", check=False)


@pytest.mark.parametrize("switched_off", MECHANISMS, indirect=True)
def test_the_test_fails(
    switched_off: Mechanism, promise: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    """A mechanism is switched off: the test of the promise that it is for fails."""
    name = request.node.callspec.params["switched_off"]
    if switched_off.kernel != ("SPAWNHELPER_KERNEL" in os.environ):
        pytest.skip("for the other machine")
    if name.startswith(SINCE_258) and systemd_version() >= 258:
        pytest.skip("systemd 258 has no collisions")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--rootdir={HERE.parent}", *SMALL, f"{HERE}/{switched_off.test}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 1, (
        f"{name}: pytest ends with {done.returncode}\n{done.stdout[-2000:]}"
    )
    (first, *_) = re.findall(r"^E +(.*)", done.stdout, re.M)
    promise(f"{name}: “{first[:80]}”")
