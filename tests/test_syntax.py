"""The syntax of service files, and the table of settings. Needs no machine."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spawnhelper.conf import service, syntax
from spawnhelper.conf.service import SECTIONS, Service
from spawnhelper.conf.settings import KEYS, LIMITS, SETTINGS
from spawnhelper.outcome import SECRET, Refusal, shown


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
            "f:1: the line stands before any section header; put it below [Socket], [Spawn] or "
            "[Service]",
            "f:2: the section header does not end with ]",
            "f:3: unknown section [Unit]; this file can have [Socket], [Spawn] and [Service]",
            "f:6: the line is not an assignment; write KEY=VALUE",
            "f:7: the line is not an assignment; write KEY=VALUE",
        ],
    )


def test_a_continuation_at_the_end_of_the_file() -> None:
    assert parsed("[Spawn]\nArgv=a \\") == ([("Spawn", "Argv", "a", 2)], [])
    assert parsed("[Spawn]\nArgv=a\\\n# the end") == ([("Spawn", "Argv", "a", 2)], [])


def test_a_section_in_other_letters_is_read_as_what_it_was_meant_for() -> None:
    """One mistake, one sentence."""
    assignments, problems = parsed("[socket]\nListenStream=1\n[SPAWN]\nUser=a")
    assert assignments == [("Socket", "ListenStream", "1", 2), ("Spawn", "User", "a", 4)]
    assert problems == [
        "f:1: unknown section [socket]; write [Socket]",
        "f:3: unknown section [SPAWN]; write [Spawn]",
    ]


def test_the_name_of_a_section_is_shown_only_if_it_is_one() -> None:
    """A line of a value that went on without a backslash can begin with a bracket, too."""
    known = "; this file can have [Socket], [Spawn] and [Service]"
    assert parsed('[Spawn ]\n["s3cret"]\n[Unit]')[1] == [
        "f:1: unknown section; write [Spawn]",
        f"f:2: unknown section{known}",
        f"f:3: unknown section [Unit]{known}",
    ]


def test_a_piece_of_a_file_fits_a_sentence() -> None:
    assert shown("a\x1b[31mb\n") == "a\\x1b[31mb\\n"
    assert shown("x" * 81) == "x" * 77 + "..."
    assert shown("nobody  Environment=A=s3cret") == "nobody  Environment..."
    assert shown("/opt/Environment") == "/opt/Environment"


# Slips of the pen in a service file with a secret: the line, and what is said of it.
SLIPS = [
    (
        "Environment=MYSQL_PWD s3cret",
        "2: Environment= has no = in word 1; write NAME=VALUE, in quotes if it has white space",
    ),
    (
        "Environment=MYSQL_PWD=a s3cret",
        "2: Environment= has no = in word 2; write NAME=VALUE, in quotes if it has white space",
    ),
    (
        "Environment=A=1 s3cret # of the database",
        "2: Environment= has no = in word 2; write NAME=VALUE, in quotes if it has white space; "
        "a comment needs a line of its own",
    ),
    (
        "Environment=MYSQL_PWD=a s3cret=b",
        "",
    ),
    (
        "Environment=MYSQL_PWD=/ /s3cret==",
        "2: Environment= has no name of a variable in word 2; use letters, digits and _",
    ),
    (
        "Environment=MYSQL_PWD='s3cret",
        "2: Environment= has a quote that is not closed; add the closing '",
    ),
    (
        r"Environment=MYSQL_PWD=\s3cret\k",
        r"2: Environment= has an unknown escape; write \\ for a backslash",
    ),
    (
        r"Environment=MYSQL_PWD=s3cret\x00",
        "2: Environment= has an escape for the NUL byte; no argument can hold one",
    ),
    (
        r"Environment=MYSQL_PWD=s3cret\xff",
        "2: Environment= is not UTF-8 once its escapes are resolved",
    ),
    (
        "Environment=REMOTE_ADDR=s3cret",
        "2: Environment= has REMOTE_ADDR, which tells about the connection; remove it",
    ),
    (
        "PassEnvironment=MYSQL_PWD=s3cret",
        "2: PassEnvironment= has no name of a variable in word 1; use letters, digits and _",
    ),
    (
        "Enviroment=MYSQL_PWD=s3cret",
        "2: unknown key Enviroment= in [Spawn]; did you mean Environment=?",
    ),
    (
        "Enviroment MYSQL_PWD s3cret=",
        "2: unknown key Enviroment= in [Spawn]; did you mean Environment=?",
    ),
    ("Environment MYSQL_PWD s3cret", "2: the line is not an assignment; write KEY=VALUE"),
    (
        "Environment MYSQL_PWD=s3cret",
        "2: the line has no = behind Environment; write Environment=VALUE",
    ),
    (
        "Environment\tMYSQL_PWD s3cret==",
        "2: the line has no = behind Environment; write Environment=VALUE",
    ),
    # What was to go on in the next line, and does not.
    ("Environment=A=1\ns3cret", "3: the line is not an assignment; write KEY=VALUE"),
    (
        "Environment=A=1\nq\ns3cret==",
        "4: this line below Environment= has no key of [Spawn]; spawn.conf(5) lists the keys",
    ),
    (
        "Environment=A=1\nqqqqqq=\nTimeLimt=s3cret",
        "4: this line below Environment= has no key of [Spawn]; did you mean TimeLimit=?",
    ),
    ("Environment=A=1\nNice=1\nqqqqqq=", "4: unknown key qqqqqq= in [Spawn]; spawn.conf(5) lists"),
    # What was not to go on in the next line, and does.
    (
        "User=nobody \\\nEnvironment=A=s3cret",
        "2: User=nobody  Environment... is not an account; write user or user:group",
    ),
    (
        "AllowFrom=::1 \\\nPassEnvironment=A=s3cret",
        "2: AllowFrom=::1  PassEnvironment... has 'PassEnvironment...'; write addresses and",
    ),
    ("[Spawn] \\\nEnvironment=A=s3cret", "2: the section header does not end with ]"),
    # Where it does not belong.
    (
        "[Socket]\nEnvironment=A=s3cret",
        "3: Environment= in [Socket] is shown to everybody by systemd; put it below [Spawn]",
    ),
    ("[Socket]\nSocketUser=s3cret\\ ", "3: the line ends with a backslash; remove it, and the"),
    ("[X]\n[Socket]\nSocketProtocol=s Environment=s3cret", "4: SocketProtocol=s Environment..."),
    (
        "[Socket]\nAccept=no\n[Service]\nEnvironment=A=s3cret",
        "5: Environment= in [Service] is shown to everybody by systemd; write it in [Spawn], or",
    ),
    (
        "[Socket]\nAccept=no\n[Service]\nEnvironment=A=1\nUser=s3cret",
        "6: User= in [Service] is a key of [Spawn]; move the line there",
    ),
    ("[Service]\nEnvironment=A=s3cret", "3: [Service] is for the server of Accept=no; with"),
]


@pytest.mark.parametrize(("text", "sentence"), SLIPS)
@pytest.mark.parametrize("place", ["file", "drop-in"])
def test_no_slip_of_the_pen_shows_a_value_of_environment(
    tmp_path: Path, text: str, sentence: str, place: str
) -> None:
    """The sentence is that of the record, of check, and of /var/log."""
    file = tmp_path / "x.conf"
    slip = f"[Spawn]\n{text}\n"
    good = "[Socket]\nListenStream=5\n[Spawn]\nUser=a\nArgv=x\n"
    if place == "file":
        file.write_text(slip + good)
        where = file
    else:
        file.write_text(good)
        where = tmp_path / "x.conf.d/a.conf"
        where.parent.mkdir(mode=0o755)
        where.write_text(slip)
    for each in (file, where):
        each.chmod(0o644)
    try:
        service.load(str(file))
    except Refusal as refusal:
        said = [str(problem) for problem in refusal.problems]
        assert sentence
        assert any(each.startswith(f"{where}:{sentence}") for each in said), said
        assert "s3c" not in str(said)
    else:
        assert sentence == ""


def test_before_any_section_and_before_any_header(tmp_path: Path) -> None:
    file = tmp_path / "x.conf"
    file.write_text("Environment=A=s3cret\n")
    file.chmod(0o644)
    with pytest.raises(Refusal) as refused:
        service.load(str(file))
    sentence = "the line stands before any section header; put it below [Socket], [Spawn] or"
    assert str(refused.value.problems[0]) == f"{file}:1: {sentence} [Service]"


secrets = st.text(st.sampled_from("s3 =\\\"'x\n#;[]"), max_size=12)


@given(st.lists(st.tuples(secrets, st.sampled_from(["", "\\\n", "\\ \n", "\n"])), max_size=4))
def test_no_sentence_shows_a_piece_of_a_secret(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[str, str]]
) -> None:
    """Whatever way a value is broken over lines: nothing of it comes back."""
    file = tmp_path_factory.mktemp("x") / "x.conf"
    text = "".join(piece.replace("s3", "s3cret") + end for piece, end in pieces)
    file.write_text(f"[Spawn]\nUser=a\nEnvironment=A={text}\nNice=x\n[Socket]\n")
    file.chmod(0o644)
    with pytest.raises(Refusal) as refused:
        service.load(str(file))
    assert "s3cret" not in str([each.sentence for each in refused.value.problems])


def test_what_a_sentence_cuts_is_what_the_table_calls_secret() -> None:
    secret = {setting.key for setting in SETTINGS if setting.secret}
    assert secret == {setting.key for setting in SETTINGS if setting.key.endswith(SECRET)}
    assert secret == {"Environment", "PassEnvironment"}


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
    of_socket = {"max_connections", "per_source", "standing"}
    assert hints - of_socket == attributes - limits
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


@pytest.mark.parametrize("name", ["hello", "policy"])
def test_the_examples_are_right(name: str) -> None:
    file = Path(__file__).parent.parent / f"examples/{name}.conf"
    found, problems = parsed(file.read_text())
    assert problems == []
    assert {key for section, key, *_ in found if section == "Spawn"} >= {"User", "Argv"}
