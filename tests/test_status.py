"""spawnctl list and status: what systemd knows about the services and their live connections."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import subprocess
import time
from collections.abc import Callable
from typing import Any

from conftest import Installed, connect, connection_units, in_machine, run, until, until_over

pytestmark = in_machine

CAT = "User=nobody\nArgv=/bin/cat\n"
# 300 ms are promised, of a machine that starts and ends an interpreter in 8. The ratio of the two
# holds for any machine, and where both are as long, for a busy one.
STARTS = 300 // 8
START = ("/usr/bin/python3", "-I", "-S", "-c", "pass")


def status(name: str, code: int = 0) -> dict[str, Any]:
    done = run("spawnctl", "status", "--json", name, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def listed(name: str) -> dict[str, Any]:
    said = json.loads(run("spawnctl", "list", "--json").stdout)
    (found,) = [each for each in said if each["service"] == name]
    return dict(found)


def seconds(*command: str) -> float:
    begun = time.monotonic()
    run(*command)
    return time.monotonic() - begun


def test_a_service_from_its_file_to_its_end(service: Callable[..., Installed]) -> None:
    cat = service(CAT, start=False, socket_section="MaxConnections=2")
    run("systemctl", "daemon-reload")
    place = "{}:{}".format(*cat.address)
    said = status(cat.name, 3)
    assert (said["enabled"], said["state"], said["listening"]) == ("disabled", "inactive", [])
    assert said["connections"] == []
    assert said["last_failure"] is None
    run("systemctl", "enable", "-q", "--now", cat.socket_unit)
    said = listed(cat.name)
    assert (said["enabled"], said["state"], said["listening"]) == ("enabled", "active", [place])
    assert (said["live"], said["accepted"], said["dropped"], said["most"]) == (0, 0, 0, 2)
    assert said["last"] is None
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(cat.connect())
        one.sendall(b"x")
        assert one.recv(1) == b"x"  # so that it is the older one
        two = stack.enter_context(cat.connect())
        two.sendall(b"x")
        assert two.recv(1) == b"x"
        with cat.connect() as third:
            until(lambda: listed(cat.name)["dropped"] == 1)
            third.close()
        said = status(cat.name)
        assert (said["live"], said["accepted"], said["dropped"]) == (2, 2, 1)
        for client, shown in zip((one, two), said["connections"], strict=True):
            assert shown["client"] == "{}:{}".format(*client.getsockname())
            assert shown["command"] == "/bin/cat"
            assert os.readlink(f"/proc/{shown['pid']}/exe") == "/usr/bin/cat"
            assert shown["unit"] in connection_units()
            # Whole seconds is how the kernel tells when it was booted, which ages are from.
            assert 0 <= shown["age_usec"] < (time.monotonic() - begun + 1) * 1e6
        lines = run("spawnctl", "status", cat.name).stdout.splitlines()
        told = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in lines[:5])
        assert told["Service"] == f"{cat.name}, /etc/spawn/{cat.name}.conf"
        assert told["Socket"] == f"{cat.socket_unit}, enabled, active"
        assert told["Listening"] == place
        assert told["Connections"] == "2 live of at most 2, 2 accepted, 1 dropped"
        assert re.fullmatch(r" +AGE +PID +CLIENT +COMMAND", lines[-3])
        port = one.getsockname()[1]
        assert re.fullmatch(rf" +[\d.]+m?s +\d+  127\.0\.0\.1:{port} +/bin/cat", lines[-2])
    until_over()
    cat.records(2)
    row = next(
        line for line in run("spawnctl", "list").stdout.splitlines() if line.startswith(cat.name)
    )
    last = r"\w+ \d\d \d\d:\d\d:\d\d  (success|connection-limit)"
    assert re.fullmatch(rf"{cat.name} +enabled +{place} +0 +2 +1  {last}", row.rstrip())


def test_last_failure(service: Callable[..., Installed]) -> None:
    failing = service("User=nobody\nArgv=/bin/false\n")
    failing.talk()
    sentence = failing.record()["MESSAGE"]
    failing.write("User=nobody\nArgv=/bin/true\n")
    failing.talk()
    failing.record()
    said = status(failing.name)
    assert said["last_failure"]["message"] == sentence
    assert listed(failing.name)["last"]["result"] == "success"
    shown = run("spawnctl", "status", failing.socket_unit).stdout
    assert re.search(r"^Last failure +\w+ \d{4}-\d\d-\d\d \S+ UTC, exit-code *$", shown, re.M)
    assert sentence in shown


def test_clients_of_a_path_and_of_ipv6(service: Callable[..., Installed]) -> None:
    path = service(CAT, address="/run/spawn-status")
    with connect(path.address) as client:
        client.sendall(b"x")
        client.recv(1)
        (shown,) = status(path.name)["connections"]
        assert shown["client"] == f"pid {os.getpid()} of uid 0"
        assert f"  pid {os.getpid()} of root (0)  " in run("spawnctl", "status", path.name).stdout
    path.record()
    assert f"  pid {os.getpid()} of root (0)  " in run("spawnctl", "log", path.name).stdout
    assert re.search(r"^root \(0\) +1 +0$", run("spawnctl", "stats", path.name).stdout, re.M)
    six = service(CAT, address="[::1]:10999")
    command = ["socat", "-u", "TCP6:[::1]:10999", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client6:
        until(lambda: status(six.name)["connections"])
        (shown,) = status(six.name)["connections"]
        assert re.fullmatch(r"\[::1\]:\d+", shown["client"])
        client6.terminate()


def test_a_command_cannot_pass_for_its_helper(service: Callable[..., Installed]) -> None:
    """The name of its unit as its last argument, and a child with the same, make it none."""
    wait = "read x; echo $x; read x"
    hidden = service(
        'User=nobody\nArgv=/bin/sh -c "unit=$(sed s,.*/,, /proc/self/cgroup); '
        f"/bin/sh -c 'sleep 60; :' sh $unit & exec /bin/sh -c '{wait}' sh $unit\"\n"
    )
    with hidden.connect() as client:
        client.sendall(b"x\n")
        assert client.recv(1) == b"x"
        (shown,) = status(hidden.name)["connections"]
        assert shown["command"].startswith("/bin/sh -c ")
        assert shown["command"].endswith(f" sh {shown['unit']}")
        assert os.stat(f"/proc/{shown['pid']}").st_uid == pwd.getpwnam("nobody").pw_uid
    assert int(hidden.record()["SPAWN_PID"]) == shown["pid"]


def test_no_such_service() -> None:
    done = run("spawnctl", "status", "nosuch", check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "spawnctl: there is no service file /etc/spawn/nosuch.conf\n"


def test_a_failed_listener_stands_out(service: Callable[..., Installed]) -> None:
    first = service(CAT)
    second = service(CAT, address=first.address, start=False)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", second.socket_unit, check=False)
    said = status(second.name, 3)
    assert said["listening"] == []
    done = run("spawnctl", "list", check=False)
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    row = next(line for line in lines if line.startswith(f"{second.name} "))
    assert re.search(r"  no \((\d problem|failed)\)  ", row)


def test_what_a_user_may_see(service: Callable[..., Installed]) -> None:
    cat = service(CAT)
    nobody = ["runuser", "-u", "nobody", "--", "spawnctl"]
    done = run(*nobody, "list", check=False)
    assert done.returncode == os.EX_NOPERM
    assert cat.name in done.stdout
    assert "Permission denied" in done.stderr
    done = run(*nobody, "status", cat.name, check=False)
    assert done.returncode == 0
    assert "Permission denied" in done.stderr


def test_without_systemd() -> None:
    hide = "mount -t tmpfs none /run && exec spawnctl list"
    done = run("unshare", "--mount", "sh", "-c", hide, check=False)
    assert done.returncode == os.EX_UNAVAILABLE
    assert done.stderr.startswith("spawnctl: systemd does not tell: ")


def soon(*verb: str) -> None:
    """Has the verb take less than the STARTS. The best of each counts, for other work makes nobody
    faster."""
    took: list[float] = []
    starts: list[float] = []

    def ratio() -> float:
        took.append(seconds("spawnctl", *verb))
        starts.append(sum(seconds(*START) for _ in range(STARTS)))
        return min(took) / min(starts)

    until(ratio, holds=lambda found: found < 1)
    print(f"{verb[0]}: {min(took) * 1000:.0f} ms, {STARTS} starts {min(starts) * 1000:.0f} ms")


def test_five_hundred_connections(service: Callable[..., Installed]) -> None:
    many = service(CAT, socket_section="MaxConnections=600")
    clients = [many.connect() for _ in range(500)]
    try:
        for client in clients:
            client.sendall(b"x")
            client.recv(1)
        assert len(status(many.name)["connections"]) == 500
        for verb in (("list",), ("status", many.name)):
            soon(*verb)
    finally:
        for client in clients:
            client.close()
    until_over()
