"""The syntax of service files, and the table of settings. Needs no machine."""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawnhelper import service, syntax
from spawnhelper.outcome import Refusal, shown
from spawnhelper.service import SECTIONS, Service
from spawnhelper.settings import KEYS, LIMITS, SETTINGS


def parsed(text: str) -> tuple[list[tuple[str, str, str, int]], list[str]]:
    lines = syntax.strict_lines(text.encode(), "f")
    assignments, problems = syntax.parse(lines, "f", SECTIONS)
    found = [(each.section, each.key, each.value, each.line) for each in assignments]
    return found, [str(problem) for problem in problems]


def test_what_systemd_syntax_says() -> None:
    text = (
        "\ufeff# comment\n; comment\n\n [Spawn] \n  User = www \nArgv=/bin/cat \\\n"
        "# a comment in between\n   -n \\\n  -v\nUMask=\n[X-Notes]\nnot looked at\n"
        "[Socket]\nListenStream=5\\\\\n"
    )
    assert parsed(text) == (
        [
            ("Spawn", "User", "www", 5),
            ("Spawn", "Argv", "/bin/cat  -n  -v", 6),
            ("Spawn", "UMask", "", 10),
            ("Socket", "ListenStream", "5\\\\", 14),
        ],
        [],
    )


def test_what_is_wrong_is_said_with_its_line() -> None:
    text = "User=x\n[Spawn\n[Unit]\nx=1\n[Spawn]\nUser\n=x\nUser=\x1b[31m\n"
    assert parsed(text) == (
        [("Spawn", "User", "\x1b[31m", 8)],
        [
            "f:1: User=x stands before any section header; put it below [Socket] or [Spawn]",
            "f:2: the section header [Spawn does not end with ]",
            "f:3: unknown section [Unit]; this file can have [Socket] and [Spawn]",
            "f:6: User is not an assignment; write KEY=VALUE",
            "f:7: =x is not an assignment; write KEY=VALUE",
        ],
    )


def test_a_continuation_at_the_end_of_the_file() -> None:
    assert parsed("[Spawn]\nArgv=a \\") == ([("Spawn", "Argv", "a", 2)], [])
    assert parsed("[Spawn]\nArgv=a\\\n# the end") == ([("Spawn", "Argv", "a", 2)], [])


def test_a_piece_of_a_file_fits_a_sentence() -> None:
    assert shown("a\x1b[31mb\n") == "a\\x1b[31mb\\n"
    assert shown("x" * 81) == "x" * 77 + "..."


names = st.text(st.sampled_from("ABCxyz09"), min_size=1)
texts = st.text().filter(lambda text: not set(text) & set("\0\r\n\\"))


@given(st.lists(st.tuples(st.sampled_from(SECTIONS), names, texts)))
def test_what_is_written_is_read(wanted: list[tuple[str, str, str]]) -> None:
    text = "".join(f"[{section}]\n{key}={value}\n" for section, key, value in wanted)
    found, problems = parsed(text)
    assert problems == []
    stripped = [(section, key, value.strip(" \t")) for section, key, value in wanted]
    assert [each[:3] for each in found] == stripped


@given(st.binary(max_size=200))
def test_no_octets_break_it(text: bytes) -> None:
    """Any file gives assignments and problems, or a Refusal with a line; nothing else."""
    try:
        lines = syntax.strict_lines(text, "f")
    except Refusal as refusal:
        lines = syntax.lenient_lines(text)
        assert str(refusal).startswith("f:")  # noqa: PT017 - any other error is a failure
    _, problems = syntax.parse(lines, "f", SECTIONS)
    for problem in problems:
        assert str(problem).isprintable()


pieces = [
    "[Spawn]",
    "[Socket]",
    "[X-No]",
    "A=1",
    " B = x y ",
    "C",
    "=",
    "#",
    " ;c",
    "",
    " \t",
    "\\",
]
some_lines = st.lists(st.lists(st.sampled_from(pieces), max_size=3).map("".join), max_size=8).map(
    "\n".join
)


def stated(text: str) -> list[tuple[str, str, str]]:
    """The rules of systemd.syntax(7) once more, over the text as a whole: comments go, a line end
    behind an odd number of backslashes becomes a space, and then each line is one thing."""
    text = re.sub(r"(?m)^[ \t]*[#;].*(\n|\Z)", "", text)
    text = re.sub(r"(?<!\\)((?:\\\\)*)\\(?:\n[ \t]*|\Z)", r"\1 ", text)
    found: list[tuple[str, str, str]] = []
    section = ""
    for line in text.split("\n"):
        line = line.strip(" \t")
        if line[:1] == "[":
            section = line[1:-1] if line[-1:] == "]" and line[1:-1] in SECTIONS else ""
        elif section and (match := re.fullmatch(r"([^=]*?)[ \t]*=[ \t]*(.*)", line)):
            found += [(section, match[1], match[2])] if match[1] else []
    return found


@given(some_lines)
def test_assignments_are_those_of_the_rules(text: str) -> None:
    assert [each[:3] for each in parsed(text)[0]] == stated(text)


def test_the_service_has_what_the_table_has() -> None:
    attributes = {setting.attribute for setting in SETTINGS}
    limits = {KEYS[key].attribute for key in LIMITS}
    hints = set(typing.get_type_hints(Service, vars(typing) | NAMES))
    assert hints - {"max_connections", "per_source"} == attributes - limits  # those of [Socket]
    said = {"the user's", "unchanged", "everybody", "nobody", "always", "Argv='s first word"}
    said.add("as many as MaxConnections=")
    said.add("spawn")  # in the record; elsewhere it is the command's name
    for setting in SETTINGS:
        assert setting.meaning.endswith(".")
        assert setting.origin
        if setting.default_text and setting.default_text not in said:
            value, default = setting.parse(setting.default_text), setting.default
            same = value == default or vars_of(value) == vars_of(default)
            assert same, setting.key


NAMES = {"Directory": object, "Prefix": object}


def vars_of(value: object) -> dict[str, object]:
    return {name: getattr(value, name) for name in getattr(value, "__slots__", ())}


def test_a_service_file(tmp_path: Path) -> None:
    file = tmp_path / "x.conf"
    file.write_text(
        "[Socket]\nListenStream=5\n[Spawn]\nUser=a\nUser=b\nArgv=x\n"
        "SupplementaryGroups=c d\nSupplementaryGroups=e\nEnvironment=A=1 B=2\nEnvironment=B=3\n"
        "RefuseUsers=\nTimeLimit=1s\nTimeLimit=\nPassEnvironment=A\nPassEnvironment=\n"
        "PassEnvironment=B\n"
    )
    file.chmod(0o644)
    found = service.load(str(file))
    assert found.user == ("b", None)
    assert found.supplementary_groups == ["c", "d", "e"]
    assert found.environment == {"A": "1", "B": "3"}
    assert found.refuse_users == []
    assert found.time_limit == 1000 * 1_000_000
    assert found.pass_environment == ["B"]
    assert (found.name, found.given["Environment"][-1].line) == ("x", 10)


def test_stages_do_not_know_each_other() -> None:
    """Each stage hands on plain values; only the path itself names them all."""
    stages = ("inherited", "service", "identity", "supervise", "traffic", "record")
    for stage in stages:
        module = __import__(f"spawnhelper.{stage}", fromlist=[stage])
        source = inspect.getsource(module).partition("TYPE_CHECKING")[0]
        others = [other for other in stages if f"import {other}" in source]
        assert others == [], (stage, others)


@pytest.mark.parametrize("name", ["hello", "policy"])
def test_the_examples_are_right(name: str) -> None:
    file = Path(__file__).parent.parent / f"examples/{name}.conf"
    found, problems = parsed(file.read_text())
    assert problems == []
    assert {key for section, key, *_ in found if section == "Spawn"} >= {"User", "Argv"}
