"""Delivery: what a command has written when it ends reaches the client whole, whatever the client
has sent, and whenever it reads. Others that run a command for each connection are beside it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import clients
import far
import pytest
from clients import Case, Got
from conftest import Address, Installed, connect, free_port, in_machine, run, until

pytestmark = in_machine

MIB = 1 << 20
HOWS = ("fast", "slow", "late", "half-closed")
# Bytes of an answer. With SizeLimit= the last of 256 or 400 KiB can be in a pipe at the end.
SIZES = (45, 16 << 10, 256 << 10, 400 << 10, MIB, 8 * MIB)
SENT = (100, 300_000)  # bytes of a request
# By the command's argument: without one it reads a line, with a size nothing.
CASES = {
    "": [Case(size, sent, how) for size in SIZES for sent in SENT for how in HOWS],
    str(MIB): [Case(MIB, 100, how) for how in HOWS],
}
AT_ONCE = 8  # clients that are not late
KEYS = (
    "",
    "SizeLimit=1M\n",
    "IdleLimit=1min\n",
    "MaxCommands=8\n",
    "SizeLimit=1M\nIdleLimit=1min\n",
    "SizeLimit=1M\nIdleLimit=1min\nMaxCommands=8\n",
)
NEEDS_COUNTING = "IdleLimit=1min\n"  # which is refused at a path
UNITS = Path("/run/systemd/system")
XINETD = Path("/run/delivery-xinetd.conf")
_numbers = itertools.count()


class Network(NamedTuple):
    """host: where services listen, "" for paths. enter: see clients.ask()."""

    name: str
    host: str
    enter: tuple[str, ...] = ()


NETWORKS = (
    Network("loopback", "127.0.0.1"),
    Network("50 ms of round trip", far.HERE, far.ENTER),
    Network("a path", ""),
)


class Listener(NamedTuple):
    """What clients ask. server: whose it is. argument: of the command."""

    server: str
    address: Address
    argument: str


class Answer(NamedTuple):
    """What became of one."""

    listener: Listener
    case: Case
    got: Got


@pytest.fixture(scope="module", autouse=True)
def answers() -> Iterator[None]:
    clients.prepare()
    with far.network():
        yield
    clients.remove()


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_delivery(
    network: Network, service: Callable[..., Installed], promise: Callable[[str], None]
) -> None:
    """A command ends with bytes of the request unread, and its client is slow, late or half-closed:
    every byte of the answer arrives, and then the end, not a reset."""
    ours: dict[Listener, Installed] = {}
    for keys, argument in itertools.product(KEYS, CASES):
        if network.host or keys != NEEDS_COUNTING:
            there = service(spawn(keys, argument), address=address(network))
            ours[Listener("spawnhelper", there.address, argument)] = there
    with bare_units(network) as bare, xinetd(network) as other:
        found = ask(network, [*ours, *bare, *other])
    servers = dict.fromkeys(each.listener.server for each in found)
    told = "; ".join(summary(server, found) for server in servers)
    promise(f"{network.name}: {told}")
    wrong = [
        f"{each.case}, {each.got}, {ours[each.listener].file.read_text()!r}"
        for each in found
        if each.listener in ours and each.got != (each.case.size, True)
    ]
    assert wrong == [], told
    for listener, there in ours.items():
        count = len(CASES[listener.argument])
        assert [each["SPAWN_RESULT"] for each in there.records(count)] == ["success"] * count


def ask(network: Network, listeners: list[Listener]) -> list[Answer]:
    """What clients get: first those who read late, all at once, then the others, a few at a time,
    so that no end waits for systemd, which closes its own copy of a connection when it gets to it.
    """

    def asked(listener: Listener, *, late: bool) -> list[Answer]:
        cases = [case for case in CASES[listener.argument] if (case.how == "late") is late]
        at_once = len(cases) if late else AT_ONCE
        got = clients.ask(listener.address, cases, network.enter, at_once)
        return [Answer(listener, *each) for each in zip(cases, got, strict=True)]

    found: list[Answer] = []
    for late, programs in ((True, len(listeners)), (False, 1)):
        with ThreadPoolExecutor(programs) as pool:
            for each in pool.map(partial(asked, late=late), listeners):
                found += each
    return found


def summary(server: str, found: list[Answer]) -> str:
    """What became of a server's answers, for the page."""
    of_it = [each for each in found if each.listener.server == server]
    whole = [each for each in of_it if each.got.size == each.case.size]
    size = sum(each.case.size for each in of_it)
    lost = size - sum(each.got.size for each in of_it)
    return (
        f"{server}: {lost} bytes lost of {len(of_it)} answers ({size >> 20} MiB), "
        f"{len(of_it) - len(whole)} cut, {sum(not each.got.clean for each in whole)} more reset"
    )


def address(network: Network) -> Address:
    if network.host:
        return network.host, free_port()
    return f"/run/spawn/delivery-{next(_numbers)}"


def spawn(keys: str, argument: str) -> str:
    return f"User=nobody\nArgv=/bin/sh {clients.SCRIPT} {argument}\n{keys}"


@contextlib.contextmanager
def bare_units(network: Network) -> Iterator[list[Listener]]:
    """Units whose command systemd itself puts on the connection."""
    listeners = [Listener("a bare unit", address(network), argument) for argument in CASES]
    units = [f"bare-{number}" for number in range(len(listeners))]
    for unit, listener in zip(units, listeners, strict=True):
        listen = ":".join(map(str, listener.address)) if network.host else listener.address
        (UNITS / f"{unit}.socket").write_text(f"[Socket]\nListenStream={listen}\nAccept=yes\n")
        (UNITS / f"{unit}@.service").write_text(
            "[Unit]\nCollectMode=inactive-or-failed\n[Service]\nUser=nobody\nStandardInput=socket\n"
            f"StandardError=journal\nExecStart=/bin/sh {clients.SCRIPT} {listener.argument}\n"
        )
    run("systemctl", "daemon-reload")
    sockets = [f"{unit}.socket" for unit in units]
    run("systemctl", "start", *sockets)
    try:
        yield listeners
    finally:
        run("systemctl", "stop", *sockets, "bare-*@*.service")
        for unit in units:
            (UNITS / f"{unit}.socket").unlink()
            (UNITS / f"{unit}@.service").unlink()
        run("systemctl", "daemon-reload")


@contextlib.contextmanager
def xinetd(network: Network) -> Iterator[list[Listener]]:
    """The same commands with xinetd, which knows no paths."""
    if not network.host:
        yield []
        return
    listeners = [Listener("xinetd", address(network), argument) for argument in CASES]
    XINETD.write_text(
        "".join(
            f"service delivery-{number}\n{{\ntype = UNLISTED\nsocket_type = stream\n"
            "protocol = tcp\nwait = no\nuser = nobody\n"
            f"bind = {network.host}\nport = {listener.address[1]}\n"
            f"server = /bin/sh\nserver_args = {clients.SCRIPT} {listener.argument}\n"
            "instances = UNLIMITED\nper_source = UNLIMITED\ncps = 100000 1\n"
            "log_type = FILE /dev/null\n}\n"
            for number, listener in enumerate(listeners)
        )
    )
    command = ("/usr/sbin/xinetd", "-dontfork", "-f", str(XINETD))
    run("systemd-run", "--quiet", "--unit=delivery-xinetd", *command)
    try:
        for listener in listeners:
            until(partial(listens, listener.address))
        yield listeners
    finally:
        run("systemctl", "stop", "delivery-xinetd.service")
        XINETD.unlink()


def listens(where: Address) -> bool:
    with contextlib.suppress(OSError), connect(where):
        return True
    return False
