"""The parsers of values: good ones, edges, the exact sentence for bad ones. Needs no machine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawnhelper import values
from spawnhelper.settings import KEYS

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
    assert values.time_span(text) == usec


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(sorted(values.TIME_UNITS)))))
def test_time_span_adds_up(parts: list[tuple[int, str]]) -> None:
    text = " ".join(f"{number}{unit}" for number, unit in parts)
    wanted = sum(number * values.TIME_UNITS[unit] for number, unit in parts)
    if text:
        assert values.time_span(text) == wanted


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
    "Log": [("all", "all"), ("failures", "failures"), ("none", "none")],
}
NO_SPAN = "is not a time span; write for example 90s, 1h 30min or infinity"
NO_PATH = "is not an absolute path; write one, or ~ for the user's home"
NO_MODE = "is not a file mode; write it in octal, from 0 to 0777"
NO_USER = "is not an account; write user or user:group"
NO_LIST = "is not a list of names; separate them with spaces"
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
        ("/bin/", "names a folder; write the path of a program"),
        ("x 'y", "has a quote that is not closed; add the closing '"),
        (r"x \q", r"has the unknown escape \q; write \\ for a backslash"),
        ("x \\", "has the unknown escape \\; write \\\\ for a backslash"),
        (r"x \x4", r"has the unknown escape \x; write \\ for a backslash"),
        (r"x \x00", "has an escape for the NUL byte; no argument can hold one"),
        (r"x \ud800", r"has the unknown escape \u; write \\ for a backslash"),
        (r"x \777", r"has the unknown escape \7; write \\ for a backslash"),
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
        ("-5", NO_SPAN),
        ("0", "leaves no time at all; write a span above 0, or infinity for no limit"),
    ],
    "KillDelay": [
        ("x", NO_SPAN),
        ("61s", "is too long; write a span from 0 to 60s"),
        ("infinity", "is too long; write a span from 0 to 60s"),
    ],
    "StandardError": [
        (text, "is none of socket, journal, null") for text in ("tty", "Socket", "journal null")
    ],
    "Environment": [
        ("A", "has the word A without a value; write NAME=VALUE"),
        ("1A=x", "has the variable name '1A'; use letters, digits and _"),
        ("=x", "has the variable name ''; use letters, digits and _"),
        ("PROTO=x", "has PROTO, which tells about the connection; remove it"),
    ],
    "PassEnvironment": [
        ("A-B", "has the variable name 'A-B'; use letters, digits and _"),
        ("A=1", "has the variable name 'A=1'; use letters, digits and _"),
        ("REMOTE_ADDR", "has REMOTE_ADDR, which tells about the connection; remove it"),
    ],
    "WorkingDirectory": [(text, NO_PATH) for text in ("tmp", "-tmp", "~root")],
    "UMask": [(text, NO_MODE) for text in ("8", "1000", "u=rwx", "-1")],
    "NoNewPrivileges": [(text, "is neither yes nor no") for text in ("2", "maybe", "yes no")],
    "Log": [(text, "is none of all, failures, none") for text in ("some", "ALL", "all none")],
}


@pytest.mark.parametrize("key", KEYS)
def test_every_key(key: str) -> None:
    parse = KEYS[key].parse
    for text, wanted in GOOD.get(key, []):
        assert parse(text) == wanted
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
