"""The parsers of values: good ones, edges, the exact sentence for bad ones. Needs no machine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawnhelper.conf import quantities, values
from spawnhelper.conf.addresses import Prefix
from spawnhelper.conf.settings import KEYS

SEC = 1_000_000


@pytest.mark.parametrize(
    ("text", "usec"),
    [
        ("0", 0),
        ("90", 90 * SEC),
        ("1000s", 1000 * SEC),
        ("2 h", 7200 * SEC),
        ("1h 30min", 5400 * SEC),
        ("1h30min", 5400 * SEC),
        ("5M", 5 * 2_629_800 * SEC),
        ("55s500ms", 55 * SEC + 500_000),
        ("300ms20s 5day", (5 * 86_400 + 20) * SEC + 300_000),
        ("1.5s", 1_500_000),
        (".25min", 15 * SEC),
        ("7us", 7),
        ("7µs", 7),
        ("1y 12month", 2 * 31_557_600 * SEC),
        ("1w", 604_800 * SEC),
        ("infinity", None),
    ],
)
def test_time_span(text: str, usec: int | None) -> None:
    assert quantities.time_span(text) == usec


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(sorted(quantities.TIME_UNITS)))))
def test_time_span_adds_up(parts: list[tuple[int, str]]) -> None:
    text = " ".join(f"{number}{unit}" for number, unit in parts)
    wanted = sum(number * quantities.TIME_UNITS[unit] for number, unit in parts)
    if wanted > quantities.LARGEST:
        with pytest.raises(ValueError, match="is not a time span"):
            quantities.time_span(text)
    elif text:
        assert quantities.time_span(text) == wanted


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/bin/true", ["/bin/true"]),
        ("a  b\t c", ["a", "b", "c"]),
        ("'a b' \"c d\" e", ["a b", "c d", "e"]),
        ("'' \"\"", ["", ""]),
        ("a'b c'd", ["ab cd"]),
        ("$HOME ${x} %i ; | * ~", ["$HOME", "${x}", "%i", ";", "|", "*", "~"]),
        (r"\x41\101\u00e9\U0001F600", ["AAé😀"]),
        (r"\a\b\f\n\r\t\v\\\"\'\s", ["\a\b\f\n\r\t\v\\\"' "]),
        (r"'it\'s' a\sb", ["it's", "a b"]),
        (r"\xc3\xa9", ["é"]),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert values.words(text) == found


@given(st.lists(st.text().filter(lambda text: "\0" not in text)))
def test_words_undo_quoting(wanted: list[str]) -> None:
    """Any list of arguments can be written so that it comes back."""
    quoted = ['"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in wanted]
    assert values.words(" ".join(quoted)) == wanted


@given(st.text("abc \t'\"", max_size=12))
def test_words_are_those_of_a_shell_where_nothing_is_escaped(text: str) -> None:
    try:
        wanted = shlex.split(text)
    except ValueError:
        with pytest.raises(ValueError, match="quote that is not closed"):
            values.words(text)
    else:
        assert values.words(text) == wanted


GOOD: dict[str, Sequence[tuple[str, object]]] = {
    "User": [("www", ("www", None)), ("www:mail", ("www", "mail")), ("7", ("7", None))],
    "Group": [("mail", "mail"), ("8", "8")],
    "SupplementaryGroups": [("a b", ["a", "b"])],
    "RefuseUsers": [("postfix vmail", ["postfix", "vmail"])],
    "Argv": [("cat -n", ["cat", "-n"]), ("/bin/cat", ["/bin/cat"])],
    "TimeLimit": [("1us", 1), ("infinity", None)],
    "KillDelay": [("0", 0), ("60s", 60 * SEC), ("1min", 60 * SEC)],
    "StandardError": [("socket", "socket"), ("journal", "journal"), ("null", "null")],
    "Environment": [("A=1 'B=x y' C=", {"A": "1", "B": "x y", "C": ""})],
    "PassEnvironment": [("HOME _x9", ["HOME", "_x9"])],
    "UMask": [("0", 0), ("0777", 0o777), ("27", 0o27)],
    "NoNewPrivileges": [(word, True) for word in ("yes", "1", "true", "on", "y", "t", "YES")]
    + [(word, False) for word in ("no", "0", "false", "off", "n", "f")],
    "Log": [("all", "all"), ("failures", "failures"), ("none", "none"), ("summary", "summary")],
    "Argv0": [("-sh", "-sh"), ("'my name'", "my name")],
    "IdleLimit": [("1us", 1), ("infinity", None)],
    "SizeLimit": [
        ("0", 0),
        ("1", 1),
        ("4096B", 4096),
        ("64K", 65536),
        ("64 K", 65536),
        ("1.5M", 1536 * 1024),
        ("7E", 7 << 60),
        (str((1 << 59) - 1), (1 << 59) - 1),
        ("infinity", None),
    ],
    "RootDirectory": [("/", "/"), ("/srv/jail", "/srv/jail")],
    "MaxCommands": [("1", 1), ("1000", 1000), ("infinity", None)],
    "QueueLimit": [("0", 0), ("100s", 100 * SEC), ("infinity", None)],
    "Nice": [("-20", -20), ("0", 0), ("+5", 5), ("19", 19)],
    "OOMScoreAdjust": [("-1000", -1000), ("1000", 1000)],
    "LimitCPU": [("30", (30, 30)), ("1.2s", (2, 2)), ("1min:1h", (60, 3600))],
    "LimitFSIZE": [("1G", (1 << 30, 1 << 30)), ("0", (0, 0)), ("1K:infinity", (1024, -1))],
    "LimitDATA": [("1M", (1 << 20, 1 << 20))],
    "LimitSTACK": [("8M", (8 << 20, 8 << 20))],
    "LimitCORE": [("0", (0, 0)), ("infinity", (-1, -1)), ("0:infinity", (0, -1))],
    "LimitRSS": [("1M", (1 << 20, 1 << 20))],
    "LimitNOFILE": [("0", (0, 0)), ("512:1024", (512, 1024)), ("infinity", (-1, -1))],
    "LimitAS": [("1T", (1 << 40, 1 << 40))],
    "LimitNPROC": [("5", (5, 5))],
    "LimitMEMLOCK": [("64K", (65536, 65536))],
    "LimitLOCKS": [("9", (9, 9))],
    "LimitSIGPENDING": [("9", (9, 9))],
    "LimitMSGQUEUE": [("800K", (819200, 819200))],
    "LimitNICE": [
        ("+19", (1, 1)),
        ("+0", (20, 20)),
        ("-20", (40, 40)),
        ("1:40", (1, 40)),
        ("+5:-5", (15, 25)),
        ("infinity", (-1, -1)),
    ],
    "LimitRTPRIO": [("99", (99, 99))],
    "LimitRTTIME": [("5", (5, 5)), ("5ms", (5000, 5000)), ("1s:infinity", (1_000_000, -1))],
    "AccessTimes": [
        ("08:00-18:30", [(480, 1110)]),
        ("22:00-06:00 12:00-12:01", [(1320, 360), (720, 721)]),
        ("00:00-24:00", [(0, 1440)]),
    ],
    "Banner": [("/etc/motd", "/etc/motd")],
    "BannerRefused": [("/etc/motd", "/etc/motd")],
    "ProxyProtocol": [(word, word) for word in ("no", "v1", "v2", "any")],
    "ProxyTimeLimit": [("1s", SEC), ("1h", 3600 * SEC)],
    "SummaryInterval": [("1s", SEC), ("24h", 86_400 * SEC)],
    "SuccessExitStatus": [
        ("1 255 TEMPFAIL", [1 << 8, 255 << 8, 75 << 8]),
        ("FAILURE SIGPIPE KILL", [1 << 8, 13, 9]),
        ("SIGRTMIN RTMIN+6 SIGRTMAX-1", [34, 40, 63]),
    ],
    "SyslogIdentifier": [("policy", "policy"), ("x" * 64, "x" * 64), ("a b", "a b")],
    "SyslogFacility": [("kern", 0), ("mail", 2), ("ftp", 11), ("local0", 16), ("local7", 23)],
}
# What a prefix is: its width, its leading bits, how many they are.
PREFIXES: dict[str, list[tuple[str, tuple[int, int, int]]]] = {
    "AllowFrom": [
        ("192.0.2.7", (32, 0xC0000207, 32)),
        ("10.0.0.0/8", (32, 10, 8)),
        ("0.0.0.0/0", (32, 0, 0)),
        ("::/0", (128, 0, 0)),
        ("2001:db8::/32", (128, 0x20010DB8, 32)),
        ("::1", (128, 1, 128)),
    ],
    "DenyFrom": [
        ("::ffff:192.0.2.7", (32, 0xC0000207, 32)),
        ("::ffff:10.0.0.0/104", (32, 10, 8)),
        ("::ffff:0:0/96", (32, 0, 0)),
        ("::/95", (128, 0, 95)),
    ],
    "ProxyFrom": [("192.0.2.0/24", (32, 0xC00002, 24)), ("unix", (0, 0, 0))],
}
NO_SPAN = "is not a time span; write for example 90s, 1h 30min or infinity"
NO_PATH = "is not an absolute path; write one, or ~ for the user's home"
NO_MODE = "is not a file mode; write it in octal, from 0 to 0777"
NO_USER = "is not an account; write user or user:group"
NO_SIZE = "is not a size; write for example 4096, 64K, 1.5M or infinity"
NO_COUNT = "is not a number; write for example 1024, 512:1024 or infinity"
NO_PAIR = "has a soft limit above the hard one; write SOFT:HARD"
NO_NICE = "is no limit of niceness; write -20 to +19 with the sign, or 1 to 40"
NO_PLAIN_PATH = "is not an absolute path; write one, without .."
NO_DAY_SPAN = "is no span of the day; write HH:MM-HH:MM, as in 22:00-06:00"
NO_LIST = "is not a list of names; separate them with spaces"
ADDRESSES = "write addresses and prefixes, as in 192.0.2.7 10.0.0.0/8 2001:db8::/32"
LENGTHS = "the length of a prefix is 0 to 32 for IPv4, 0 to 128 for IPv6"
ENDS = (
    "write statuses from 0 to 255, names of systemd.exec(5) as in TEMPFAIL, and signals as in "
    "SIGTERM"
)
BAD: dict[str, list[tuple[str, str]]] = {
    "User": [
        (":", NO_USER),
        ("a b", NO_USER),
        ("www:", NO_USER),
        ("-x", NO_USER),
        ("7" * 5000, NO_USER),
    ],
    "Group": [
        (text, "is not a group; write the name of one group") for text in ("a b", "a:b", "-1")
    ],
    "SupplementaryGroups": [("a,b", NO_LIST), ("a ''", NO_LIST), ("+a", NO_LIST)],
    "RefuseUsers": [("a,b", NO_LIST), ("a:b", NO_LIST), ("-1", NO_LIST)],
    "Argv": [
        ("''", "names no command; write the command and its arguments"),
        (
            "bin/x",
            "begins with a relative path; write an absolute one, or a plain name to be looked up",
        ),
        *(
            (f"{prefix}{name} x", f"begins with {prefix}, which has no meaning here; write {right}")
            for prefix, name, right in (
                ("-", "/bin/x", "/bin/x"),
                ("+", "x", "x"),
                ("!!", "/bin/x", "/bin/x"),
                (":", "/bin/x", "/bin/x"),
                ("@", "/bin/x", "/bin/x, and Argv0= for another name"),
                ("-@", "/bin/x", "/bin/x, and Argv0= for another name"),
            )
        ),
        ("/bin/", "names a folder; write the path of a program"),
        ("x 'y", "has a quote that is not closed; add the closing '"),
        (r"x \q", r"has an unknown escape; write \\ for a backslash"),
        ("x \\", "has an unknown escape; write \\\\ for a backslash"),
        (r"x \x4", r"has an unknown escape; write \\ for a backslash"),
        (r"x \x00", "has an escape for the NUL byte; no argument can hold one"),
        (r"x \ud800", r"has an unknown escape; write \\ for a backslash"),
        (r"x \777", r"has an unknown escape; write \\ for a backslash"),
        (r"x \xff", "is not UTF-8 once its escapes are resolved"),
    ],
    "TimeLimit": [
        ("fast", NO_SPAN),
        ("5 parsecs", NO_SPAN),
        ("1h-", NO_SPAN),
        (".", NO_SPAN),
        ("1.", NO_SPAN),
        ("1.5.5", NO_SPAN),
        ("1" * 19, NO_SPAN),
        ("9" * 18 + "y", NO_SPAN),
        ("-5", NO_SPAN),
        ("0", "leaves no time at all; write a span above 0, or infinity for no limit"),
    ],
    "KillDelay": [
        ("x", NO_SPAN),
        ("61s", "is too long; write a span from 0s to 60s"),
        ("infinity", "is too long; write a span from 0s to 60s"),
    ],
    "StandardError": [
        (text, "is none of socket, journal, null") for text in ("tty", "Socket", "journal null")
    ],
    "Environment": [
        ("A", "has no = in word 1; write NAME=VALUE, in quotes if it has white space"),
        ("1A=x", "has no name of a variable in word 1; use letters, digits and _"),
        ("=x", "has no name of a variable in word 1; use letters, digits and _"),
        ("PROTO=x", "has PROTO, which tells about the connection; remove it"),
    ],
    "PassEnvironment": [
        ("A-B", "has no name of a variable in word 1; use letters, digits and _"),
        ("A=1", "has no name of a variable in word 1; use letters, digits and _"),
        ("REMOTE_ADDR", "has REMOTE_ADDR, which tells about the connection; remove it"),
    ],
    "WorkingDirectory": [(text, NO_PATH) for text in ("tmp", "-tmp", "~root")],
    "UMask": [(text, NO_MODE) for text in ("8", "1000", "u=rwx", "-1")],
    "NoNewPrivileges": [(text, "is neither yes nor no") for text in ("2", "maybe", "yes no")],
    "Log": [
        (text, "is none of all, failures, none, summary") for text in ("some", "ALL", "all none")
    ],
    "Argv0": [
        ("a b", "is not one word; put it in quotes"),
        ("''", "is not one word; put it in quotes"),
        ("'a", "has a quote that is not closed; add the closing '"),
        (r"\q", r"has an unknown escape; write \\ for a backslash"),
    ],
    "IdleLimit": [
        ("0", "leaves no time at all; write a span above 0, or infinity for no limit"),
        ("x", NO_SPAN),
        ("-1", NO_SPAN),
    ],
    "SizeLimit": [
        (text, NO_SIZE)
        for text in ("x", "-1", "1KB", "1.K", ".5K", "1,5K", "8E", "1" * 19, "K", "0x10", "1 2")
    ],
    "MaxCommands": [
        ("0", "is out of range; write a number from 1 to 1000"),
        ("1001", "is out of range; write a number from 1 to 1000"),
        ("all", "is not a number; write one from 1 to 1000"),
    ],
    "QueueLimit": [("x", NO_SPAN), ("-1", NO_SPAN), ("1.", NO_SPAN)],
    "RootDirectory": [(text, NO_PLAIN_PATH) for text in ("srv", "~", "/srv/../etc")],
    "Nice": [
        ("20", "is out of range; write a number from -20 to 19"),
        ("-21", "is out of range; write a number from -20 to 19"),
        ("1.5", "is not a number; write one from -20 to 19"),
        ("--1", "is not a number; write one from -20 to 19"),
    ],
    "OOMScoreAdjust": [
        ("1001", "is out of range; write a number from -1000 to 1000"),
        ("-1001", "is out of range; write a number from -1000 to 1000"),
        ("never", "is not a number; write one from -1000 to 1000"),
    ],
    "LimitCPU": [("x", NO_SPAN), ("2:1", NO_PAIR), ("1:", NO_SPAN), ("1:2:3", NO_SPAN)],
    "LimitRTTIME": [("x", NO_SPAN), ("infinity:1", NO_PAIR), (":1", NO_SPAN)],
    **{
        f"Limit{name}": [("x", NO_SIZE), ("2K:1K", NO_PAIR), ("-1", NO_SIZE)]
        for name in ("FSIZE", "DATA", "STACK", "CORE", "RSS", "AS", "MEMLOCK", "MSGQUEUE")
    },
    **{
        f"Limit{name}": [("x", NO_COUNT), ("2:1", NO_PAIR), ("1K", NO_COUNT), ("-1", NO_COUNT)]
        for name in ("NOFILE", "NPROC", "LOCKS", "SIGPENDING", "RTPRIO")
    },
    "LimitNICE": [("x", NO_NICE), ("0", NO_NICE), ("41", NO_NICE), ("+20", NO_NICE)],
    **{
        key: [
            ("localhost", f"has 'localhost'; {ADDRESSES}"),
            (
                "10.0.0.1/8",
                "has '10.0.0.1/8', an address with bits beyond the prefix; make them zero",
            ),
            ("10.0.0.0/33", f"has '10.0.0.0/33'; {LENGTHS}"),
            (
                "10.0.0.0/8,192.168.0.0/16",
                "has '10.0.0.0/8,192.168.0.0/16'; separate prefixes by blanks, not by commas",
            ),
            ("::/129", f"has '::/129'; {LENGTHS}"),
            ("10.0.0.0/", f"has '10.0.0.0/'; {LENGTHS}"),
            ("10.0.0", f"has '10.0.0'; {ADDRESSES}"),
            ("fe80::1%eth0", f"has 'fe80::1%eth0'; {ADDRESSES}"),
            ("10.0.0.1,10.0.0.2", f"has '10.0.0.1,10.0.0.2'; {ADDRESSES}"),
        ]
        for key in ("AllowFrom", "DenyFrom", "ProxyFrom")
    },
    "AccessTimes": [
        *((text, NO_DAY_SPAN) for text in ("8-18", "08:00", "08:00-24:01", "08:60-09:00", "x")),
        ("08:00-08:00", "lasts no time; write 00:00-24:00 for the whole day"),
        ("24:00-06:00", "lasts no time; write 00:00-24:00 for the whole day"),
    ],
    "Banner": [(text, NO_PLAIN_PATH) for text in ("motd", "/etc/../motd", "~/motd")],
    "BannerRefused": [(text, NO_PLAIN_PATH) for text in ("motd", "/etc/../motd", "~/motd")],
    "ProxyProtocol": [(text, "is none of no, v1, v2, any") for text in ("yes", "1", "v3", "V1")],
    "SummaryInterval": [
        ("999ms", "is too short; write a span from 1s to 86400s"),
        ("25h", "is too long; write a span from 1s to 86400s"),
        ("infinity", "is too long; write a span from 1s to 86400s"),
        ("x", NO_SPAN),
    ],
    "ProxyTimeLimit": [
        ("999ms", "is too short; write a span from 1s to 3600s"),
        ("3601s", "is too long; write a span from 1s to 3600s"),
        ("infinity", "is too long; write a span from 1s to 3600s"),
        ("x", NO_SPAN),
    ],
    "SuccessExitStatus": [
        *((text, f"has '{text}'; {ENDS}") for text in ("256", "010", "1,2", "tempfail", "SIG_IGN")),
        *((text, f"has '{text}'; {ENDS}") for text in ("RTMIN+31", "RTMIN+", "TERM+1", "SIG")),
        ("1 -1", f"has '-1'; {ENDS}"),
    ],
    "SyslogIdentifier": [
        (text, "is no identifier; write up to 64 bytes of printable text")
        for text in ("x" * 65, "a\x1b[31m", "\N{DIGIT ONE}\N{ZERO WIDTH SPACE}")
    ],
    "SyslogFacility": [
        (text, f"is none of {', '.join(values.FACILITIES)}") for text in ("Mail", "local8", "2")
    ],
}


def prefixes(found: object) -> list[Prefix]:
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("key", KEYS)
def test_every_key(key: str) -> None:
    parse = KEYS[key].parse
    for text, wanted in GOOD.get(key, []):
        assert parse(text) == wanted
    for text, form in PREFIXES.get(key, []):
        (prefix,) = prefixes(parse(text))
        assert (prefix.width, prefix.bits, prefix.length, prefix.text) == (*form, text)
    assert len(BAD[key]) >= 3
    for text, sentence in BAD[key]:
        with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
            parse(text)
        assert str(error.value) == sentence


def test_working_directory() -> None:
    for text, wanted in (
        ("/tmp", ("/tmp", False, False)),
        ("-/tmp", ("/tmp", False, True)),
        ("~", ("", True, False)),
        ("-~", ("", True, True)),
    ):
        found = values.working_directory(text)
        assert (found.path, found.home, found.optional) == wanted


@pytest.mark.parametrize("name", ["\u00b2", "1" * 5000, "a\0b", "nobody-of-this-name"])
def test_names_of_no_account_and_no_group(name: str) -> None:
    assert values.account_of(name) is None
    assert values.group_of(name) is None
