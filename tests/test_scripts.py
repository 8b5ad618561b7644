"""Every way in which dpkg(1) calls the maintainer scripts, deb-postinst(5) and the others: what
listened goes on, no connection waits for nothing, and nothing stands in the way of the next step.
In a machine that has never had the packages."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import nested
import pytest
from conftest import SLACK, in_machine, run, until
from nested import BUILT, Pristine
from variants import changed

pytestmark = in_machine

PORT = 10023
SERVICE = f"""\
[Socket]
ListenStream=127.0.0.1:{PORT}
[Spawn]
User=nobody
Argv=/bin/echo here
"""
INFO = "var/lib/dpkg/info"
GO = "/run/go-on"
WAIT = f"until test -e {GO}; do sleep 0.05; done"
ASK = f"socat -u -T 90 TCP:127.0.0.1:{PORT} -"
DPKG = "dpkg -D2 --auto-deconfigure"  # which says what it calls


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pristine]:
    with nested.pristine(tmp_path_factory.mktemp("work")) as machine:
        yield machine


@pytest.fixture
def machine(booted: Pristine) -> Iterator[Pristine]:
    """With the packages, and a service that listens now and at the next boot."""
    # Whatever the test before has left.
    booted.run(f"rm -f {GO}; dpkg --purge breaker other; dpkg --configure -a", check=False)
    booted.install(BUILT.glob("*.deb"))
    (booted.root / "etc/spawn/echo.conf").write_text(SERVICE)
    booted.run("systemctl daemon-reload && systemctl enable -q --now spawn@echo.socket")
    booted.run("systemctl enable -q --now spawn-metrics.timer")
    yield booted
    booted.run(f"touch {GO}")


def serves(machine: Pristine) -> bool:
    """Whether a connection is served, with nobody told to wait."""
    return machine.run(ASK).stdout == "here\n" and not holds(machine)


def holds(machine: Pristine) -> list[str]:
    """The drop-ins that have connections and servers wait."""
    find = "find /run/systemd/system -name 50-upgrade.conf"
    return machine.run(find).stdout.splitlines()


def status(machine: Pristine, package: str = "spawnhelper") -> str:
    """dpkg's word for the state of a package, "" for one that it does not know."""
    query = f"dpkg-query -W -f '${{db:Status-Status}}' {package}"
    return machine.run(query, check=False).stdout


def called(done: subprocess.CompletedProcess[str], script: str, arguments: str) -> bool:
    """Whether dpkg says that it has called the script with arguments that begin like these."""
    return f"{script} ( {arguments} " in " ".join((done.stdout + done.stderr).split())


def fails(machine: Pristine, script: str, argument: str) -> None:
    """Has an installed script fail when it has done its work for that argument."""
    file = machine.root / INFO / f"spawnhelper.{script}"
    file.write_text(file.read_text() + f'\n[ "$1" != {argument} ] || exit 1\n')


def waiting(machine: Pristine) -> list[str]:
    """The units of connections that are held before their start."""
    listing = "systemctl list-units --plain --no-legend --state=start-pre 'spawn@*.service'"
    return machine.run(listing).stdout.splitlines()


@pytest.mark.parametrize("way", ["upgrade", "failed-upgrade"])
def test_while_two_versions_lie_side_by_side(machine: Pristine, way: str) -> None:
    """Connections wait; and of the way that is for an old script that fails, too."""
    if way == "failed-upgrade":
        fails(machine, "prerm", "upgrade")
    deb = changed(machine.work, "spawnhelper", scripts={"preinst": WAIT})
    dpkg = machine.command("sh", "-c", f"exec {DPKG} --install {deb}")
    with subprocess.Popen(dpkg, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as one:
        try:
            until(lambda: len(holds(machine)) == 2)
            ask = machine.command("sh", "-c", ASK)
            with subprocess.Popen(ask, stdout=subprocess.PIPE, text=True) as client:
                until(lambda: waiting(machine))
                machine.run(f"touch {GO}")
                answer = client.communicate()[0]
        finally:
            machine.run(f"touch {GO}")
        said = one.communicate()[0]
    assert one.returncode == 0, said
    assert answer == "here\n"
    done = subprocess.CompletedProcess("", 0, said, "")
    assert called(done, "prerm", way), said
    assert serves(machine)
    assert status(machine) == "installed"


def test_dpkg_is_killed_between_prerm_and_postrm(machine: Pristine) -> None:
    """Each connection would wait for 20 s, until the next boot."""
    deb = changed(machine.work, "spawnhelper", scripts={"preinst": "kill -KILL $PPID"})
    done = machine.run(f"{DPKG} --install {deb}", check=False)
    assert done.returncode != 0
    assert len(holds(machine)) == 2
    begun = time.monotonic()
    assert [machine.run(ASK).stdout for _ in range(5)] == ["here\n"] * 5
    assert time.monotonic() - begun < 3 * SLACK
    machine.run("dpkg --configure -a", check=False)  # as apt asks for
    machine.install(BUILT.glob("*.deb"))
    assert serves(machine)


def test_abort_upgrade(machine: Pristine) -> None:
    deb = changed(machine.work, "spawnhelper", scripts={"preinst": "exit 1"})
    done = machine.run(f"{DPKG} --install {deb}", check=False)
    assert done.returncode == 1
    assert called(done, "postrm", "abort-upgrade")
    assert called(done, "postinst", "abort-upgrade")
    assert serves(machine)
    assert status(machine) == "installed"


def test_the_old_postrm_fails(machine: Pristine) -> None:
    fails(machine, "postrm", "upgrade")
    (deb,) = BUILT.glob("spawnhelper_*.deb")
    done = machine.run(f"{DPKG} --install {deb}")
    assert called(done, "postrm", "failed-upgrade")
    assert serves(machine)
    assert status(machine) == "installed"


@pytest.mark.parametrize("gives_up", [False, True])
def test_deconfigure(machine: Pristine, gives_up: bool) -> None:
    """For a package that breaks this one, or would have."""
    tree = machine.work / "breaker"
    (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
    (tree / "DEBIAN/control").write_text(
        "Package: breaker\nVersion: 1\nArchitecture: all\nMaintainer: n <n@example.org>\n"
        "Breaks: spawnhelper\nDescription: breaks\n"
    )
    preinst = tree / "DEBIAN/preinst"
    preinst.write_text(f"#!/bin/sh\nexit {int(gives_up)}\n")
    preinst.chmod(0o755)
    deb = machine.work / "breaker.deb"
    run("dpkg-deb", "--build", "--root-owner-group", str(tree), str(deb))
    done = machine.run(f"{DPKG} --install {deb}", check=False)
    assert done.returncode == 1, "one of the two is not installed now"
    assert called(done, "prerm", "deconfigure")
    assert called(done, "postinst", "abort-deconfigure") == gives_up
    assert serves(machine)
    assert status(machine) == ("installed" if gives_up else "half-configured")


def test_abort_remove(machine: Pristine) -> None:
    """What the removal had stopped goes on."""
    for package in ("spawnhelper", "spawnctl"):
        file = machine.root / INFO / f"{package}.prerm"
        file.write_text(file.read_text() + '\n[ "$1" != remove ] || exit 1\n')
        done = machine.run(f"{DPKG} --remove --force-depends {package}", check=False)
        assert done.returncode == 1
        assert called(done, f"{package}.postinst", "abort-remove"), done.stdout
        assert status(machine, package) == "installed"
    assert serves(machine)
    assert machine.run("systemctl is-active spawn-metrics.timer").stdout == "active\n"


def test_disappear(machine: Pristine) -> None:
    """Another package has each of the files now."""
    machine.run("apt-get -qy remove spawnctl")
    control = [
        ("^Package: .*", "Package: other"),
        ("^Version: .*", "Version: 9\nReplaces: spawnhelper"),
        ("^Recommends: .*\n", ""),
    ]
    nothing = dict.fromkeys(("prerm", "postinst", "postrm"), "exit 0")
    deb = changed(machine.work, "spawnhelper", control=control, scripts=nothing)
    done = machine.run(f"{DPKG} --install {deb}")
    assert called(done, "postrm", "disappear"), done.stdout
    assert status(machine) in ("", "not-installed")
    assert serves(machine)


def test_abort_install(machine: Pristine) -> None:
    machine.run("apt-get -qy purge spawnhelper")
    deb = changed(machine.work, "spawnhelper", scripts={"preinst": "exit 1"})
    done = machine.run(f"{DPKG} --install {deb}", check=False)
    assert done.returncode == 1
    assert called(done, "postrm", "abort-install")
    assert status(machine) in ("", "not-installed")
    assert holds(machine) == []


def test_purge_where_nothing_was_ever_enabled(machine: Pristine) -> None:
    machine.run("dpkg --remove spawnctl spawnhelper; mv /etc/systemd/system /etc/systemd/aside")
    try:
        machine.run("dpkg --purge spawnctl spawnhelper")
    finally:
        machine.run("mv /etc/systemd/aside /etc/systemd/system; systemctl daemon-reload")
    assert status(machine) in ("", "not-installed")
