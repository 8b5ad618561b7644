"""The PROXY protocol: against an independent statement of its rules, over connections byte by byte,
and with haproxy in front."""

from __future__ import annotations

import ipaddress
import re
import select
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import doors
import pytest
from conftest import (
    PATIENCE,
    Installed,
    Quiet,
    both_doors,
    connect,
    free_port,
    helper,
    in_machine,
    journal,
    read_all,
    reset,
    rests,
    run,
    stop_connection,
    systemd_version,
    until,
    until_over,
)
from hypothesis import example, given
from hypothesis import strategies as st

from spawnhelper.conf import addresses
from spawnhelper.conf.service import Service
from spawnhelper.doors import inherited
from spawnhelper.stages import proxy

pytestmark = both_doors

SIGNATURE = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
BELIEVE = "User=nobody\nProxyFrom=127.0.0.1 unix\n"
TELL = (
    "Argv=/bin/sh -c 'echo $PROTO $REMOTE_ADDR $REMOTE_PORT $TCPREMOTEIP $TCPREMOTEPORT "
    "$TCPLOCALIP $TCPLOCALPORT $UNIXLOCALPATH $UNIXREMOTEEUID; exec cat'\n"
)


def v2(
    command: int = 1,
    kind: int = 0x11,
    ends: bytes = bytes((192, 0, 2, 1, 192, 0, 2, 2)) + struct.pack("!HH", 1111, 2222),
    extensions: bytes = b"",
    version: int = 2,
) -> bytes:
    rest = ends + extensions
    return SIGNATURE + struct.pack("!BBH", version << 4 | command, kind, len(rest)) + rest


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def checksum(octets: bytes) -> int:
    """CRC-32C, bit by bit."""
    register = 0xFFFFFFFF
    for octet in octets:
        register ^= octet
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def checksummed(header: bytes) -> bytes:
    """The header with its zero checksum, which comes last, made right."""
    return header[:-4] + struct.pack("!I", checksum(header))


def test_the_checksum_is_castagnolis() -> None:
    """RFC 3720, B.4: 32 bytes of zeros, and of ones; and it is not that of zlib."""
    assert proxy.crc32c(bytes(32)) == 0x8A9136AA
    assert proxy.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert proxy.crc32c(b"123456789") == 0xE3069283 != zlib.crc32(b"123456789")


# An independent statement of the rules, as a judge of whole headers.

Ends = tuple[tuple[str, int], tuple[str, int]] | None
LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r]*|\r[^\n][^\r]*)*"
    rb"|(TCP4|TCP6) ([^ ]+) ([^ ]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4}))\r\n"
)


def judge_text(octets: bytes) -> tuple[bool, Ends, int]:
    """Whether version 1 accepts the start of the stream, whom it names, and how long it is."""
    end = octets.find(b"\r\n") + 2
    line = octets[:end]
    match = LINE.fullmatch(line)
    if not 1 < end <= 107 or match is None:
        return False, None, 0
    if match[1] is None:
        return True, None, end
    kind = ipaddress.IPv4Address if match[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        hosts = [kind(word.decode("ascii")) for word in match.groups()[1:3]]
    except ValueError:
        return False, None, 0
    ports = [int(word) for word in match.groups()[3:]]
    if max(ports) > 65535 or b"%" in line:
        return False, None, 0
    text = [socket.inet_ntop(socket.AF_INET6 if h.version == 6 else 2, h.packed) for h in hosts]
    return True, ((text[0], ports[0]), (text[1], ports[1])), end


def judge_binary(octets: bytes) -> tuple[bool, Ends, int]:
    """The same of version 2."""
    if len(octets) < 16:
        return False, None, 0
    version_command, kind, length = struct.unpack("!BBH", octets[12:16])
    end = 16 + length
    if len(octets) < end or version_command not in (0x20, 0x21):
        return False, None, 0
    if version_command == 0x20:
        return True, None, end
    sizes = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}
    if kind not in sizes or length < sizes[kind]:
        return False, None, 0
    rest = octets[16 + sizes[kind] : end]
    while rest:
        if len(rest) < 3:
            return False, None, 0
        what, size = struct.unpack("!BH", rest[:3])
        if len(rest) < 3 + size:
            return False, None, 0
        if what == 3:
            at = end - len(rest) + 3
            blank = octets[:at] + bytes(size) + octets[at + size : end]
            if size != 4 or octets[at : at + 4] != struct.pack("!I", checksum(blank)):
                return False, None, 0
        rest = rest[3 + size :]
    if kind == 0x11:
        a, b, c, d = struct.unpack("!4s4sHH", octets[16:28])
        return True, ((socket.inet_ntop(2, a), c), (socket.inet_ntop(2, b), d)), end
    if kind == 0x21:
        a, b, c, d = struct.unpack("!16s16sHH", octets[16:52])
        family = socket.AF_INET6
        return True, ((socket.inet_ntop(family, a), c), (socket.inet_ntop(family, b), d)), end
    return True, None, end


def parsed(octets: bytes, step: int = 107) -> tuple[bool, Ends, int]:
    """What our parser makes of the start of a stream. step: as many bytes of it come at once."""
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        if at + count > len(octets):
            raise proxy.Bad("ended within its header")
        at += count
        return octets[at - count : at]

    def piece(most: int) -> bytes:
        part = octets[at : at + min(most, step)]
        return take(part.find(b"\n") + 1 or len(part) or 1)

    try:
        start = take(12)
        ends = proxy.binary(start, take) if start == SIGNATURE else proxy.text(start, piece)
    except proxy.Bad:
        return False, None, 0
    return True, ends, at


hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.sampled_from(["1.2.3", "01.2.3.4", "::1%lo", "", "1.2.3.4.5", "::ffff:1.2.3.4", "g::1"]),
)
ports = st.one_of(
    st.integers(0, 65535).map(str),
    st.sampled_from(["65536", "99999", "-1", "01", "", "+1", "1 ", "٣", "100000"]),
)
lines = st.builds(
    lambda family, source, target, one, other, end, more: (
        f"PROXY {family} {source} {target} {one} {other}".encode() + end + more
    ),
    st.sampled_from(["TCP4", "TCP6", "UNKNOWN", "UDP4", "tcp4", "TCP4 ", ""]),
    hosts,
    hosts,
    ports,
    ports,
    st.sampled_from([b"\r\n", b"\n", b"\r", b" \r\n", b""]),
    st.binary(max_size=9),
)


@given(st.one_of(lines, st.binary(max_size=120).map(lambda rest: b"PROXY " + rest)))
@example(b"PROXY UNKNOWN\r\n")
@example(b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n")
@example(b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n")
@example(b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 2222\r\nbehind")
def test_version_1_is_that_of_the_rules(octets: bytes) -> None:
    for step in (1, 2, 107):
        assert parsed(octets, step) == judge_text(octets)


extensions = st.lists(
    st.builds(tlv, st.sampled_from([1, 2, 3, 4, 5, 0x20, 0xEA]), st.binary(max_size=6)), max_size=4
).map(b"".join)
headers = st.builds(
    v2,
    st.sampled_from([0, 1, 1, 1, 2, 15]),
    st.sampled_from([0x00, 0x11, 0x21, 0x31, 0x12, 0x22, 0x32, 0x41, 0x10]),
    st.one_of(
        st.binary(min_size=12, max_size=12), st.binary(min_size=36, max_size=36), st.binary()
    ),
    st.one_of(extensions, extensions.map(lambda found: found[:-1])),
    st.sampled_from([2, 2, 2, 1, 0]),
)


@given(headers, st.integers(0, 20), st.binary(max_size=9))
def test_version_2_is_that_of_the_rules(header: bytes, lost: int, more: bytes) -> None:
    octets = header[: len(header) - max(0, lost - 15)] + more
    assert parsed(octets) == judge_binary(octets)


@given(extensions, st.binary(max_size=9))
def test_a_right_checksum_is_accepted_and_a_wrong_one_is_not(found: bytes, more: bytes) -> None:
    if b"\x03" in found:
        return
    right = checksummed(v2(extensions=found + tlv(3, bytes(4))))
    assert parsed(right + more) == (True, (("192.0.2.1", 1111), ("192.0.2.2", 2222)), len(right))
    wrong = right[:-1] + bytes((right[-1] ^ 1,))
    assert parsed(wrong + more) == (False, None, 0)


# Over a connection.

TCP6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(
    socket.AF_INET6, "2001:db8::2"
)
GOOD = {
    "v1": (b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 2222\r\n", "192.0.2.1 1111", "192.0.2.2 2222"),
    "v1 over IPv6": (
        b"PROXY TCP6 2001:DB8:0::1 2001:db8::2 1 65535\r\n",
        "2001:db8::1 1",
        "2001:db8::2 65535",
    ),
    "v1 with mapped addresses": (
        b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1111 2222\r\n",
        "192.0.2.1 1111",
        "192.0.2.2 2222",
    ),
    "v2": (v2(), "192.0.2.1 1111", "192.0.2.2 2222"),
    "v2 over IPv6": (
        v2(kind=0x21, ends=TCP6 + struct.pack("!HH", 1, 65535)),
        "2001:db8::1 1",
        "2001:db8::2 65535",
    ),
    "v2 with extensions": (
        checksummed(v2(extensions=tlv(4, b"pad") + tlv(2, b"name") + tlv(3, bytes(4)))),
        "192.0.2.1 1111",
        "192.0.2.2 2222",
    ),
    "v2 with 60 kB of them": (
        v2(extensions=tlv(0x20, b"x" * 60_000)),
        "192.0.2.1 1111",
        "192.0.2.2 2222",
    ),
}


def told(there: Installed, header: bytes, data: bytes = b"") -> tuple[str, bytes]:
    """What the command says of the connection, and what it got behind the header."""
    first, _, rest = there.talk(header + data).partition(b"\n")
    return first.decode(), rest


@in_machine
@pytest.mark.parametrize("name", GOOD)
def test_the_client_is_the_one_of_the_header(service: Callable[..., Installed], name: str) -> None:
    header, remote, local = GOOD[name]
    there = service(f"{BELIEVE}ProxyProtocol=any\n{TELL}")
    data = b"\x00\r\nPROXY " + bytes(range(256))
    assert told(there, header, data) == (f"TCP {remote} {remote} {local}", data)
    record = there.record()
    fields = ("REMOTE_ADDR", "REMOTE_PORT", "LOCAL_ADDR", "LOCAL_PORT")
    assert " ".join(record[f"SPAWN_{field}"] for field in fields) == f"{remote} {local}"
    assert record["SPAWN_PROXY_ADDR"] == "127.0.0.1"
    assert record["SPAWN_PROXY_PORT"].isdigit()
    assert record["SPAWN_BYTES_IN"] == str(len(data)), "the header is not the command's"
    host, port = remote.split()
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    assert record["MESSAGE"].endswith(f", client {shown}")


@in_machine
@pytest.mark.parametrize("name", ["v1", "v2"])
def test_a_header_in_single_bytes_and_not_one_behind_it(
    service: Callable[..., Installed], name: str
) -> None:
    header, remote, local = GOOD[name]
    there = service(f"{BELIEVE}ProxyProtocol={name}\nProxyTimeLimit=1min\n{TELL}")
    with there.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in header:
            client.send(bytes((octet,)))
            time.sleep(0.003)
        client.send(b"x")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == f"TCP {remote} {remote} {local}\nx".encode()


class Counted:
    """A socket that counts how often it is read."""

    def __init__(self, inner: socket.socket) -> None:
        self.inner = inner
        self.reads = 0

    def fileno(self) -> int:
        return self.inner.fileno()

    def recv(self, size: int, flags: int) -> bytes:
        self.reads += 1
        return self.inner.recv(size, flags)


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_a_header_that_is_there_is_taken_in_few_steps(name: str) -> None:
    """Each is a wait with all that belongs to it; a line was once taken byte by byte."""
    settings = Service("fuzz", "/run/fuzz.conf")
    settings.proxy_protocol = name
    settings.proxy_from = addresses.proxies("unix")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(GOOD[name][0] + b"behind")
        connection = inherited.Connection(ours, "fuzz")
        counted = Counted(ours)
        connection.socket = counted  # type: ignore[assignment]
        proxy.receive(settings, connection, Quiet())
        assert connection.proxy is not None
        assert ours.recv(100) == b"behind"
    assert counted.reads == 3


@in_machine
@pytest.mark.parametrize(
    ("protocol", "header"),
    [
        ("v1", b"PROXY UNKNOWN\r\n"),
        ("any", b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"),
        ("v2", v2(command=0, kind=0, ends=b"")),
        ("any", v2(command=0)),
        ("any", v2(kind=0, ends=b"")),
        ("any", v2(kind=0x31, ends=b"/client".ljust(108, b"\0") + b"/server".ljust(108, b"\0"))),
    ],
)
def test_who_is_not_named_is_the_real_peer(
    service: Callable[..., Installed], protocol: str, header: bytes
) -> None:
    there = service(f"{BELIEVE}ProxyProtocol={protocol}\n{TELL}")
    assert not isinstance(there.address, str)
    host, port = there.address
    with there.connect() as client:
        own = f"127.0.0.1 {client.getsockname()[1]}"
        client.sendall(header + b"data")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == f"TCP {own} {own} {host} {port}\ndata".encode()
    assert "SPAWN_PROXY_ADDR" not in there.record()


FORM = "has a header that is not of the form PROXY TCP4|TCP6|UNKNOWN FROM TO PORT PORT"
PORT = "has a header with a port that is no number from 0 to 65535"
BAD = [
    ("any", b"EHLO example.org\r\n", "does not begin with a header of the PROXY protocol"),
    ("v1", v2(), "does not begin with a header of the PROXY protocol v1"),
    ("v2", GOOD["v1"][0], "does not begin with a header of the PROXY protocol v2"),
    (
        "v1",
        b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "does not begin with a header of the PROXY protocol v1",
    ),
    ("v1", b"PROXY TCP4 1.2.3.4", "ended within its header"),
    ("v1", b"PROXY", "ended within its header"),
    ("v1", b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", "has a header of more than 107 bytes"),
    ("v1", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", FORM),
    ("v1", b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", FORM),
    ("v1", b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", FORM),
    ("v1", b"PROXY TCP4 ::1 1.2.3.4 1 2\r\n", "has a header without two addresses of TCP4"),
    ("v1", b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n", "has a header without two addresses of TCP6"),
    ("v1", b"PROXY TCP4 1.2.3.4 1.2.3.\xff 1 2\r\n", "has a header without two addresses of TCP4"),
    ("v1", b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", PORT),
    ("v1", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", PORT),
    ("v1", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \xb2\r\n", PORT),
    ("v2", SIGNATURE, "ended within its header"),
    ("v2", v2()[:-1], "ended within its header"),
    ("v2", v2(version=1), "has a header of version 1, and 2 is the only binary one"),
    ("v2", v2(command=2), "has a header with the unknown command 2"),
    (
        "v2",
        v2(kind=0x12),
        "has a header with the address family and transport 0x12, which cannot be",
    ),
    ("v2", v2(kind=0x21), "has a header that is shorter than its addresses"),
    ("v2", v2(extensions=b"\x04\0"), "has a header that ends within an extension"),
    ("v2", v2(extensions=b"\x04\0\x05four"), "has a header that ends within an extension"),
    ("v2", v2(extensions=tlv(3, bytes(4))), "has a header whose checksum is wrong"),
    ("v2", v2(extensions=tlv(3, bytes(3))), "has a header whose checksum is wrong"),
]


@in_machine
def test_all_or_nothing(service: Callable[..., Installed]) -> None:
    """Nobody is served without a whole header, and nobody gets a byte."""
    there = service(f"{BELIEVE}ProxyProtocol=any\n{TELL}")
    for protocol, header, sentence in BAD:
        there.write(f"{BELIEVE}ProxyProtocol={protocol}\n{TELL}")
        assert there.talk(header) == b"", header
        record = there.record()
        assert record["SPAWN_RESULT"] == "denied", (header, record)
        said = f"{there.file}:7: ProxyProtocol={protocol}, and the connection {sentence}, client"
        assert said in record["MESSAGE"], (header, record["MESSAGE"])
        assert record["SPAWN_REMOTE_ADDR"] == "127.0.0.1"
    failed = run("systemctl", "list-units", "--failed", "--plain", "--no-legend").stdout
    assert "spawn" not in failed


def silent_for(client: socket.socket, seconds: float) -> bool:
    """Whether not even the end comes for so long."""
    return not select.select([client], [], [], seconds)[0]


@in_machine
def test_a_slow_header(service: Callable[..., Installed]) -> None:
    there = service(f"{BELIEVE}ProxyProtocol=v1\nProxyTimeLimit=1s\n{TELL}")
    begun = time.monotonic()
    with there.connect() as client:
        octets = iter(b"PROXY TCP4 ".ljust(107, b"1"))  # which take 5 s, so it ends in between
        while silent_for(client, 0.05):
            client.send(bytes((next(octets),)))
        assert time.monotonic() - begun >= 1, "the limit is that of the whole header"
    sentence = "the connection has no whole header within ProxyTimeLimit=, client"
    assert sentence in there.record()["MESSAGE"]


@in_machine
@pytest.mark.parametrize("address", [None, "/run/spawn-slow.sock"])
def test_a_header_that_is_awaited_takes_no_time(
    service: Callable[..., Installed], address: str | None
) -> None:
    there = service(f"{BELIEVE}ProxyProtocol=any\nProxyTimeLimit=1h\n{TELL}", address=address)
    with there.connect() as client:
        client.sendall(b"PROXY TCP4 192.0.2.1\r")
        serving = helper()
        until(lambda: rests(serving))
        client.sendall(b"\n")
        assert read_all(client) == b""
    assert FORM in there.record()["MESSAGE"]


@in_machine
def test_only_from_those_who_are_believed(service: Callable[..., Installed]) -> None:
    there = service(f"User=nobody\nProxyFrom=192.0.2.0/24 ::1\nProxyProtocol=any\n{TELL}")
    assert there.talk(GOOD["v1"][0]) == b""
    record = there.record()
    assert f"{there.file}:6: ProxyFrom= does not have 127.0.0.1, client" in record["MESSAGE"]
    assert record["SPAWN_RESULT"] == "denied"


@in_machine
def test_the_header_decides_who_may_connect(service: Callable[..., Installed]) -> None:
    there = service(f"{BELIEVE}ProxyProtocol=any\nDenyFrom=192.0.2.0/24\n{TELL}")
    assert there.talk(GOOD["v2"][0]) == b""
    record = there.record()
    assert f"{there.file}:8: 192.0.2.1 is in DenyFrom=192.0.2.0/24, client" in record["MESSAGE"]
    assert record["SPAWN_REMOTE_ADDR"] == "192.0.2.1"
    assert there.talk(GOOD["v2 over IPv6"][0]).startswith(b"TCP 2001:db8::1 ")


@in_machine
def test_a_header_on_a_path(service: Callable[..., Installed]) -> None:
    there = service(
        f"{BELIEVE}ProxyProtocol=v2\nAllowFrom=192.0.2.1\n{TELL}", address="/run/spawn-proxy.sock"
    )
    header, remote, local = GOOD["v2"]
    assert told(there, header, b"x") == (f"TCP {remote} {remote} {local}", b"x")
    record = there.record()
    assert record["SPAWN_REMOTE_ADDR"] == "192.0.2.1"
    assert record["SPAWN_LOCAL_ADDR"] == "192.0.2.2"
    assert record["SPAWN_PROXY_ADDR"] == "/run/spawn-proxy.sock"
    assert "SPAWN_PROXY_PORT" not in record
    assert record["SPAWN_REMOTE_UID"] == "0"
    assert told(there, b"PROXY UNKNOWN\r\n", b"x") == ("", b"")
    assert "does not begin with a header" in there.record()["MESSAGE"]
    if systemd_version() < 258:
        until_over()
    assert told(there, v2(command=0), b"x") == ("", b""), "AllowFrom= has nobody without a name"
    record = there.record()
    assert f"{there.file}:8: nobody knows the client's address, client pid" in record["MESSAGE"]
    assert record["SPAWN_RESULT"] == "denied"
    if systemd_version() < 258:
        until_over()
    there.write(f"User=nobody\nProxyFrom=127.0.0.1\nProxyProtocol=v2\n{TELL}")
    assert there.talk(header) == b""
    sentence = f"{there.file}:6: ProxyFrom= does not have unix, for clients of a path, client pid"
    assert sentence in there.record()["MESSAGE"]


@in_machine
def test_no_proxy_is_believed_by_default(service: Callable[..., Installed]) -> None:
    there = service(f"User=nobody\nProxyProtocol=v1\n{TELL}")
    sentence = f"{there.file}:6: ProxyProtocol= needs ProxyFrom=; write whose header is believed"
    assert there.check().stderr == f"{sentence}\n"
    assert there.talk(GOOD["v1"][0]) == b""
    assert sentence in there.record()["MESSAGE"]


@in_machine
def test_proxies_that_could_not_connect(service: Callable[..., Installed]) -> None:
    there = service("User=nobody\nProxyProtocol=v1\nProxyFrom=unix\nArgv=/bin/true", start=False)
    assert there.check().stderr == (
        f"{there.file}:7: ProxyFrom= has no address, and ListenStream= is one of TCP; "
        "nobody could be served there\n"
    )
    there.address = "/run/spawn-proxy.sock"
    there.write("User=nobody\nProxyProtocol=v1\nProxyFrom=::/0\nArgv=/bin/true")
    assert there.check().stderr == (
        f"{there.file}:7: ProxyFrom= has not unix, and ListenStream= is a path; "
        "nobody could be served there\n"
    )


@in_machine
def test_size_limit_does_not_count_the_header(service: Callable[..., Installed]) -> None:
    there = service(f"{BELIEVE}ProxyProtocol=any\nSizeLimit=4\nArgv=/bin/cat\n")
    assert there.talk(GOOD["v1"][0] + b"1234") == b"1234"
    assert there.record()["SPAWN_RESULT"] == "success"
    assert there.talk(GOOD["v2"][0] + b"12345") == b"1234"
    assert there.record()["SPAWN_RESULT"] == "size-limit"


def silent(client: socket.socket) -> None:
    client.close()


def reset_alone(client: socket.socket) -> None:
    until(doors.now.coming)  # systemd itself drops one that was reset before it accepted
    reset(client)


def header_and_end(client: socket.socket) -> None:
    client.sendall(b"PROXY UNKNOWN\r\n")
    client.close()


def header_and_reset(client: socket.socket) -> None:
    until(doors.now.coming)
    client.sendall(v2(command=0, kind=0, ends=b""))
    reset(client)


def its_own_ends(client: socket.socket) -> None:
    ends = *client.getsockname(), *client.getpeername()
    client.sendall("PROXY TCP4 {0} {2} {1} {3}\r\n".format(*ends).encode())
    client.close()


@in_machine
@pytest.mark.parametrize(
    "check", [silent, reset_alone, header_and_end, header_and_reset, its_own_ends]
)
def test_a_health_check_is_no_failure(
    service: Callable[..., Installed],
    held: Callable[[str], AbstractContextManager[None]],
    check: Callable[[socket.socket], None],
) -> None:
    there = service(f"{BELIEVE}ProxyProtocol=any\n{TELL}")
    with held("ExecStartPre"):  # the helper comes late, as it does
        check(there.connect())
    record = there.record()
    assert (record["SPAWN_RESULT"], record["PRIORITY"]) == ("health-check", "5")
    assert (
        ": no command was run: a health check of the proxy, client 127.0.0.1:" in record["MESSAGE"]
    )
    there.write(f"{BELIEVE}ProxyProtocol=any\nLog=failures\n{TELL}")
    check(there.connect())
    until_over()
    assert len(journal(f"SPAWN_SERVICE={there.name}")) == 1


@in_machine
def test_a_stop_while_the_header_is_awaited(service: Callable[..., Installed]) -> None:
    there = service(f"{BELIEVE}ProxyProtocol=any\nProxyTimeLimit=1h\n{TELL}")
    with there.connect() as client:
        client.sendall(b"PROXY")
        stop_connection()
        assert read_all(client) == b""
    assert there.record()["SPAWN_RESULT"] == "stopped"


# With haproxy in front.


@contextmanager
def haproxy(backend: str, folder: Path, check: str = "") -> Iterator[int]:
    """A running haproxy that hands connections on; the port where it listens."""
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(
        "defaults\n  mode tcp\n  timeout connect 5s\n"
        f"  timeout client {PATIENCE:.0f}s\n  timeout server {PATIENCE:.0f}s\n"
        f"frontend in\n  bind 127.0.0.1:{port}\n  bind [::1]:{port}\n  default_backend out\n"
        f"backend out\n{check}  server one {backend}\n"
    )
    process = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(config)])
    try:
        until(lambda: listens(port))
        yield port
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    return f":{port} " in run("ss", "-Hlnt").stdout


def ask(client: socket.socket) -> str:
    with client:
        client.sendall(b"data")
        client.shutdown(socket.SHUT_WR)
        return read_all(client).decode()


@in_machine
@pytest.mark.parametrize(
    ("protocol", "option"),
    [
        ("v1", "send-proxy"),
        ("v2", "send-proxy-v2"),
        ("any", "send-proxy-v2 proxy-v2-options crc32c,unique-id"),
    ],
)
def test_haproxy_tells_who_its_client_is(
    service: Callable[..., Installed], tmp_path: Path, protocol: str, option: str
) -> None:
    there = service(f"{BELIEVE}ProxyProtocol={protocol}\n{TELL}")
    with haproxy("{}:{} {}".format(*there.address, option), tmp_path) as port:
        for host in ("127.0.0.1", "::1"):
            client = socket.create_connection((host, port), timeout=PATIENCE)
            own = f"{host} {client.getsockname()[1]}"
            assert ask(client) == f"TCP {own} {own} {host} {port}\ndata"
            record = there.record()
            assert f"{record['SPAWN_REMOTE_ADDR']} {record['SPAWN_REMOTE_PORT']}" == own
            assert record["SPAWN_PROXY_ADDR"] == "127.0.0.1"


@in_machine
def test_haproxy_over_a_path(service: Callable[..., Installed], tmp_path: Path) -> None:
    path = "/run/spawn-haproxy.sock"
    service(f"{BELIEVE}ProxyProtocol=v2\n{TELL}", address=path)
    with haproxy(f"unix@{path} send-proxy-v2", tmp_path) as port:
        client = connect(("127.0.0.1", port))
        own = f"127.0.0.1 {client.getsockname()[1]}"
        assert ask(client) == f"TCP {own} {own} 127.0.0.1 {port}\ndata"


@in_machine
@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2", "send-proxy check-send-proxy"])
@pytest.mark.parametrize("kind", ["", "  option tcp-check\n  tcp-check connect send-proxy\n"])
def test_haproxys_health_checks_are_no_failures(
    service: Callable[..., Installed], tmp_path: Path, option: str, kind: str
) -> None:
    there = service(f"{BELIEVE}ProxyProtocol=any\n{TELL}")
    backend = "{}:{} {} check inter 100ms".format(*there.address, option)
    with haproxy(backend, tmp_path, kind) as port:
        records = there.records(3)
        client = connect(("127.0.0.1", port))
        assert ask(client).endswith("\ndata")
    results = {record["SPAWN_RESULT"] for record in records}
    assert results == {"health-check"}, [record["MESSAGE"] for record in records]
    until_over()
    everything: list[dict[str, Any]] = journal(f"SPAWN_SERVICE={there.name}")
    assert {record["SPAWN_RESULT"] for record in everything} == {"health-check", "success"}
