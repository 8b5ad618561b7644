"""Who may connect and when, and what one who may not gets."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import doors
import pytest
from conftest import (
    SLACK,
    Installed,
    both_doors,
    connect,
    in_machine,
    read_all,
    reset,
    run,
    stop_connection,
    until,
    until_over,
)
from hypothesis import given
from hypothesis import strategies as st

from spawnhelper.conf import addresses
from spawnhelper.stages import admission

pytestmark = both_doors

BANNERS = Path("/var/tmp/spawn-banners")
HERE = "User=nobody\nArgv=/bin/echo here\n"


@pytest.fixture(scope="module", autouse=True)
def banners() -> Iterator[None]:
    BANNERS.mkdir(exist_ok=True)
    (BANNERS / "small").write_text("sorry\n")
    (BANNERS / "largest").write_bytes(b"x" * 65536)
    (BANNERS / "larger").write_bytes(b"x" * 65537)
    (BANNERS / "empty").write_text("")
    yield
    run("rm", "-r", str(BANNERS))


# The matcher against the standard library's own idea of a network.

networks = st.one_of(
    st.builds(
        lambda number, length: ipaddress.IPv4Network(
            (number >> (32 - length) << (32 - length), length)
        ),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda number, length: ipaddress.IPv6Network(
            (number >> (128 - length) << (128 - length), length)
        ),
        st.integers(0, 2**128 - 1),
        st.integers(0, 128),
    ),
)
few = st.lists(networks, max_size=6)
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def unmapped(network: Network) -> Network:
    """An IPv4-mapped network as the IPv4 one that it is."""
    if network.version == 6 and network.prefixlen >= 96:
        mapped = ipaddress.IPv6Address(network.network_address).ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


@given(few, few, st.data())
def test_verdict_is_that_of_the_longest_match(
    allow: list[Network], deny: list[Network], data: st.DataObject
) -> None:
    known = [network.network_address for network in allow + deny]
    some = st.one_of(st.ip_addresses(), *([st.sampled_from(known)] if known else []))
    address = data.draw(some)
    mapped = getattr(address, "ipv4_mapped", None)
    client = mapped or address

    def longest(found: list[Network]) -> int:
        plain = map(unmapped, found)
        return max(
            (n.prefixlen for n in plain if n.version == client.version and client in n), default=-1
        )

    yes, no = longest(allow), longest(deny)
    wanted = yes > no if max(yes, no) >= 0 else not allow
    yeses, noes = (addresses.prefixes(" ".join(map(str, found))) for found in (allow, deny))
    assert admission.verdict(yeses, noes, addresses.numbered(str(address)))[0] == wanted


@given(st.tuples(st.integers(0, 1439), st.integers(0, 1440)), st.integers(0, 1439))
def test_a_span_of_the_day(span: tuple[int, int], minute: int) -> None:
    """A span is walked minute by minute, from its start to its end."""
    start, end = span
    if start == end:
        return
    length = (end - start) % 1440 or 1440
    assert admission.within(span, minute) == ((minute - start) % 1440 < length)


def test_a_thousand_prefixes_cost_less_than_a_millisecond() -> None:
    found = addresses.prefixes(" ".join(f"10.{n >> 8}.{n & 255}.0/24" for n in range(1000)))
    client = addresses.numbered("10.3.231.9")
    best = []
    for _ in range(20):
        begun = time.process_time()  # other work takes nothing of ours
        assert addresses.best(found, client) is found[999]
        best.append(time.process_time() - begun)
    assert min(best) < 0.001


@in_machine
def test_hundreds_of_prefixes_in_a_file(service: Callable[..., Installed]) -> None:
    """Read, parsed and matched: what 400 of them add is less than the issue of one more process."""
    many = "".join(f"DenyFrom=10.{n >> 8}.{n & 255}.0/24\n" for n in range(400))
    there = service(HERE + many)
    assert there.talk() == b"here\n"
    code = (
        "import sys, time; sys.path.append('/usr/lib/spawnhelper')\n"
        "from spawnhelper.conf import service\n"
        "def once():\n"
        "    begun = time.process_time(); service.load(sys.argv[1])\n"
        "    return time.process_time() - begun\n"
        "print(min(once() for _ in range(20)))"
    )

    def loading() -> float:
        return float(run("/usr/bin/python3", "-ISc", code, str(there.file)).stdout)

    long = loading()
    there.write(HERE)
    assert long - loading() < 0.005, "seconds for 400 lines"


@in_machine
@pytest.mark.parametrize("line", ["DenyFrom=10.{}.{}.1\n", "Environment=A{}_{}=1\n"])
def test_a_list_that_is_ten_times_as_long(service: Callable[..., Installed], line: str) -> None:
    """Takes ten times as long to read, not a hundred times."""
    there = service(HERE, start=False)

    def seconds(count: int) -> float:
        there.write(HERE + "".join(line.format(n >> 8, n & 255) for n in range(count)))
        code = (
            "import sys, time; sys.path.append('/usr/lib/spawnhelper')\n"
            "from spawnhelper.conf import service\n"
            "begun = time.process_time(); service.load(sys.argv[1])\n"
            "print(time.process_time() - begun)"
        )
        return float(run("/usr/bin/python3", "-ISc", code, str(there.file)).stdout)

    assert seconds(20_000) < 40 * seconds(2_000)


@in_machine
@pytest.mark.parametrize(
    ("rules", "client", "line", "sentence"),
    [
        ("DenyFrom=127.0.0.0/8", "127.0.0.1", 7, "127.0.0.1 is in DenyFrom=127.0.0.0/8"),
        (
            "DenyFrom=10.0.0.0/8\nDenyFrom=::1 127.0.0.0/16\nDenyFrom=192.0.2.1",
            "127.0.0.1",
            8,
            "127.0.0.1 is in DenyFrom=127.0.0.0/16",
        ),
        (
            "DenyFrom=127.0.0.2\nAllowFrom=127.0.0.0/30",
            "127.0.0.2",
            7,
            "127.0.0.2 is in DenyFrom=127.0.0.2",
        ),
        (
            "AllowFrom=127.0.0.2\nAllowFrom=::1",
            "127.0.0.1",
            8,
            "127.0.0.1 is not in AllowFrom=",
        ),
        (
            "AllowFrom=127.0.0.1\nDenyFrom=127.0.0.1",
            "127.0.0.1",
            8,
            "127.0.0.1 is in DenyFrom=127.0.0.1",
        ),
        (
            "DenyFrom=::ffff:127.0.0.1",
            "127.0.0.1",
            7,
            "127.0.0.1 is in DenyFrom=::ffff:127.0.0.1",
        ),
    ],
)
def test_refused_by_the_rule_of_a_line(
    service: Callable[..., Installed], rules: str, client: str, line: int, sentence: str
) -> None:
    there = service(HERE + rules)
    with socket.socket() as one:
        one.bind((client, 0))
        one.connect(there.address)
        port = one.getsockname()[1]
        assert read_all(one) == b""
    record = there.record()
    assert record["MESSAGE"] == (
        f"{there.name}: no command was run: {there.file}:{line}: {sentence}, client {client}:{port}"
    )
    assert (record["SPAWN_RESULT"], record["PRIORITY"]) == ("denied", "4")
    assert (record["CONFIG_FILE"], record["CONFIG_LINE"]) == (str(there.file), str(line))
    assert record["SPAWN_REMOTE_ADDR"] == client
    until_over()
    failed = run("systemctl", "list-units", "--failed", "--plain", "--no-legend").stdout
    assert "spawn" not in failed, "a client that is refused is no failure of ours"


@in_machine
@pytest.mark.parametrize(
    ("rules", "client", "allowed"),
    [
        ("AllowFrom=127.0.0.1", "127.0.0.1", True),
        ("AllowFrom=127.0.0.1", "127.0.0.2", False),
        ("AllowFrom=::1", "::1", True),
        ("AllowFrom=::/0", "127.0.0.1", False),
        ("AllowFrom=0.0.0.0/0", "::1", False),
        ("AllowFrom=::ffff:127.0.0.0/104", "127.0.0.1", True),
        ("DenyFrom=::1", "127.0.0.1", True),
        ("DenyFrom=127.0.0.0/8\nAllowFrom=127.0.0.4/30", "127.0.0.5", True),
        ("DenyFrom=127.0.0.0/8\nAllowFrom=127.0.0.4/30", "127.0.0.8", False),
        ("AllowFrom=127.0.0.0/8\nAllowFrom=", "127.0.0.1", True),
    ],
)
def test_a_listener_for_both_families(
    service: Callable[..., Installed], rules: str, client: str, allowed: bool
) -> None:
    """An IPv4 client of an IPv6 listener comes with a mapped address."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as probe:
        port = probe.getsockname()[1]
    there = service(HERE + rules, address=("[::]", port))
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    with socket.socket(family) as one:
        one.bind((client, 0))
        one.connect(("::1" if ":" in client else "127.0.0.1", port))
        assert read_all(one) == (b"here\n" if allowed else b"")
    assert there.record()["SPAWN_REMOTE_ADDR"] == client


@in_machine
def test_clients_of_a_path_have_no_address(service: Callable[..., Installed]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    there = service(
        f"{HERE}AllowFrom=::1",
        address="/run/spawn-admission.sock",
        socket_section=f"ListenStream=127.0.0.1:{port}",
    )
    assert there.check().stdout == f"{there.file}: ok\n"
    assert there.talk() == b"here\n"
    there.record()
    there.address = ("127.0.0.1", port)
    assert there.talk() == b""


@in_machine
def test_a_broken_banner_does_not_hide_the_rule(service: Callable[..., Installed]) -> None:
    there = service(f"{HERE}DenyFrom=127.0.0.1\nBannerRefused=/nowhere")
    assert there.talk() == b""
    record = there.record()
    assert record["SPAWN_RESULT"] == "denied"
    said = f"{there.file}:7: 127.0.0.1 is in DenyFrom=127.0.0.1 (and 1 more: spawnctl check"
    assert said in record["MESSAGE"]


@in_machine
def test_a_client_without_an_address_any_more_is_not_let_in(
    service: Callable[..., Installed], held: Callable[[str], AbstractContextManager[None]]
) -> None:
    """Its address is that of the unit's name; a list goes by that."""
    there = service(f"{HERE}AllowFrom=192.0.2.1")
    with held("ExecStartPre"), there.connect() as client:
        until(doors.now.coming)
        reset(client)
    record = there.record()
    assert record["SPAWN_RESULT"] == "denied"
    assert "127.0.0.1 is not in AllowFrom=" in record["MESSAGE"]


@in_machine
def test_a_refused_client_never_causes_a_fork(
    service: Callable[..., Installed], unit_change: Callable[[str], None]
) -> None:
    trace = Path("/run/spawn-refused.trace")
    unit_change(
        "[Service]\nCapabilityBoundingSet=~\nExecStart=\n"
        f"ExecStart=/usr/bin/strace -D -f -qq -e trace=process -o {trace} {doors.now.start}"
    )
    there = service(f"{HERE}DenyFrom=0.0.0.0/0")
    assert there.talk() == b""
    assert there.record()["SPAWN_RESULT"] == "denied"
    until(lambda: "exit_group(0)" in trace.read_text())
    calls = trace.read_text()
    assert "execve" in calls
    assert not [call for call in ("clone", "fork") if call in calls], calls


@in_machine
def test_the_banner_for_the_refused_is_not_eaten_by_a_reset(
    service: Callable[..., Installed],
) -> None:
    there = service(f"{HERE}DenyFrom=127.0.0.1\nBannerRefused={BANNERS}/small")
    with there.connect() as client:
        client.sendall(b"x" * 100_000)
        client.recv(1, socket.MSG_PEEK)  # from now on it lingers
        client.sendall(b"more")
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while part := client.recv(100):  # a reset would raise
            answer += part
    assert answer == b"sorry\n"
    assert there.record()["SPAWN_RESULT"] == "denied"


@in_machine
def test_banners(service: Callable[..., Installed]) -> None:
    there = service(f"{HERE}Banner={BANNERS}/largest\nBannerRefused={BANNERS}/larger")
    assert there.check().stderr == (
        f"{there.file}:8: BannerRefused={BANNERS}/larger is longer than 64 KiB; shorten the file\n"
    )
    assert there.talk() == b"x" * 65536 + b"here\n"
    record = there.record()
    assert record["SPAWN_BYTES_OUT"] == "5", "the banner is not the command's"
    there.write(f"{HERE}Banner={BANNERS}/empty")
    assert there.talk() == b"here\n"
    there.record()
    for path, sentence in (
        (f"{BANNERS}/larger", "is longer than 64 KiB; shorten the file"),
        (str(BANNERS), "is not a regular file"),
    ):
        there.write(f"{HERE}Banner={path}")
        assert there.check().stderr == f"{there.file}:7: Banner={path} {sentence}\n"
        assert there.talk() == b""
        record = there.record()
        assert f"{there.file}:7: Banner={path} {sentence}, client" in record["MESSAGE"]
    there.write(f"{HERE}Banner=/nowhere")
    assert there.check().stderr == (
        f"{there.file}:7: Banner=/nowhere: No such file or directory; "
        "create the file, or remove the line\n"
    )


@in_machine
def test_no_banner_for_a_command_that_cannot_run(service: Callable[..., Installed]) -> None:
    there = service(f"User=nobody\nArgv=/bin/missing\nBanner={BANNERS}/small")
    assert there.talk() == b""
    assert there.record()["SPAWN_RESULT"] == "config"


@in_machine
def test_a_client_that_does_not_take_the_banner(service: Callable[..., Installed]) -> None:
    path = "/run/spawn-banner.sock"
    there = service(f"{HERE}Banner={BANNERS}/largest", address=path, socket_section="SendBuffer=4K")
    begun = time.monotonic()
    with connect(path):
        record = there.record()
    assert 5 <= time.monotonic() - begun < 5 + SLACK
    assert record["SPAWN_RESULT"] == "denied"
    place = f"{there.file}:{7 + there.shifted}"
    assert f"{place}: Banner= was not taken by the client within 5s" in record["MESSAGE"]


@in_machine
def test_a_stop_while_the_banner_waits(service: Callable[..., Installed]) -> None:
    path = "/run/spawn-banner.sock"
    there = service(f"{HERE}Banner={BANNERS}/largest", address=path, socket_section="SendBuffer=4K")
    with connect(path) as client:
        client.recv(1, socket.MSG_PEEK)  # and the rest has no room
        stop_connection()
    record = there.record()
    assert (record["SPAWN_RESULT"], record["PRIORITY"]) == ("stopped", "5")
    assert ": no command was run: stopped while waiting for the client, client" in record["MESSAGE"]


@in_machine
def test_a_stop_while_the_banner_for_the_refused_waits(service: Callable[..., Installed]) -> None:
    path = "/run/spawn-banner.sock"
    conf = f"{HERE}ProxyProtocol=v1\nProxyFrom=127.0.0.1\nBannerRefused={BANNERS}/largest"
    there = service(conf, address=path, socket_section="SendBuffer=4K")
    begun = time.monotonic()
    with connect(path) as client:
        client.recv(1, socket.MSG_PEEK)
        stop_connection()
        assert time.monotonic() - begun < 5, "it would have waited that long"
    record = there.record()
    assert record["SPAWN_RESULT"] == "denied"
    assert "ProxyFrom= does not have unix, for clients of a path" in record["MESSAGE"]


@in_machine
def test_one_who_is_refused_is_soon_forgotten(service: Callable[..., Installed]) -> None:
    """Or a few of them would take all of MaxConnections=."""
    there = service(f"{HERE}DenyFrom=127.0.0.1\nBannerRefused={BANNERS}/small")
    begun = time.monotonic()
    with there.connect() as client:
        assert read_all(client) == b"sorry\n"
        until_over()
        assert time.monotonic() - begun < 5, "one who was served is waited for that long"


@in_machine
def test_a_banner_is_not_what_a_user_links_to(service: Callable[..., Installed]) -> None:
    """A file that root alone may read would be given away."""
    home = Path("/var/tmp/spawn-banner-home")
    home.mkdir(exist_ok=True)
    home.chmod(0o755)
    shutil.chown(home, "nobody")
    (home / "motd").unlink(missing_ok=True)
    (home / "motd").symlink_to("/etc/shadow")
    there = service(f"{HERE}Banner={home}/motd")
    sentence = f"Banner={home}/motd: the folder {home} belongs to uid 65534; make root the owner"
    assert there.check().stderr == f"{there.file}:7: {sentence}\n"
    assert there.talk() == b""
    assert sentence in there.record()["MESSAGE"]
    (home / "secret").write_text("x")
    (home / "secret").chmod(0o600)
    home.chmod(0o700)
    there.write(f"{HERE}Banner={home}/secret")
    sentence = f"Banner={home}/secret: Permission denied; create the file, or remove the line"
    assert there.check().stderr == f"{there.file}:7: {sentence}\n", "as the helper sees it"
    assert there.talk() == b""
    assert sentence in there.record()["MESSAGE"]


@in_machine
def test_access_times_are_local_and_follow_the_clock(service: Callable[..., Installed]) -> None:
    """The zone is changed instead of the clock: another hour for the same moment."""
    now = time.gmtime()
    minute = now.tm_hour * 60 + now.tm_min

    def hhmm(minutes: int) -> str:
        return f"{minutes // 60 % 24:02}:{minutes % 60:02}"

    span = f"{hhmm(minute - 20)}-{hhmm(minute + 20)}"
    there = service(f"{HERE}AccessTimes={span}")
    zone = Path("/etc/localtime")
    old = zone.readlink() if zone.is_symlink() else None
    try:
        for name, allowed in (("Etc/UTC", True), ("Etc/GMT-1", False), ("Asia/Kolkata", False)):
            zone.unlink(missing_ok=True)
            zone.symlink_to(f"/usr/share/zoneinfo/{name}")
            assert there.talk() == (b"here\n" if allowed else b""), name
            record = there.record()
            assert record["SPAWN_RESULT"] == ("success" if allowed else "denied")
            if name == "Etc/GMT-1":
                wanted = [
                    f"AccessTimes= does not have {hhmm(minute + late + 60)}" for late in range(10)
                ]
                assert any(sentence in record["MESSAGE"] for sentence in wanted)
    finally:
        zone.unlink(missing_ok=True)
        if old is not None:
            zone.symlink_to(old)
