"""Records with anything in them: none keeps spawnctl from showing the others. Journals of other
machines can come from anywhere."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import journals
import pytest
from conftest import in_machine, run, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_log import following

from spawnhelper.ctl import main
from spawnhelper.record import MESSAGE_IDS

pytestmark = in_machine

MINUTE = 60_000_000  # microseconds
LATEST = (1 << 55) - 1  # microseconds since the epoch, of an entry; in the year 3111
FORMS = ("short", "short-precise", "short-iso", "short-iso-precise", "short-full", "short-unix")
WHOLE = ("json", "json-pretty", "verbose", "cat")
GROUPS = ("service", "from", "result", "hour")
FROM = ("--from", "192.0.2.0/24", "--from", "::/0", "--from", "unix")
# Fields of a record, and what no helper ever writes there.
ODD: list[tuple[str, object]] = [
    ("SPAWN_REMOTE_ADDR", ["192.0.2.7", "192.0.2.8"]),
    ("SPAWN_REMOTE_ADDR", ""),
    ("SPAWN_REMOTE_ADDR", "1" * 300),
    ("SPAWN_REMOTE_PORT", "smtp"),
    ("SPAWN_REMOTE_UID", "-1"),
    ("SPAWN_REMOTE_PID", ["7", "8"]),
    ("SPAWN_SERVICE", "policy" * 50),
    ("SPAWN_DURATION_USEC", "1" * 30),
    ("SPAWN_DURATION_USEC", "9" * 5000),
    ("SPAWN_DURATION_USEC", "-22"),
    ("SPAWN_DURATION_USEC", ["1", "2"]),
    ("SPAWN_DURATION_USEC", b"1\xff"),
    ("SPAWN_DURATION_USEC", b"1\0"),
    ("SPAWN_CPU_USEC", "1.5"),
    ("SPAWN_CPU_USEC", ""),
    ("SPAWN_BYTES_IN", "1_000"),
    ("SPAWN_BYTES_OUT", "\N{ARABIC-INDIC DIGIT FIVE}"),
    ("PRIORITY", "8"),
    ("PRIORITY", "warning"),
    ("PRIORITY", ["4", "5"]),
]


def said(*arguments: str) -> tuple[int, str, str]:
    """The exit status, and what is said, of one run in this process, where any error is one."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        status = main(list(arguments))
    return status, out.getvalue(), errors.getvalue()


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    yield
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as the tests that talk to services need it


@pytest.mark.parametrize(("field", "value"), ODD)
def test_an_odd_field_is_passed_over_and_said(tmp_path: Path, field: str, value: object) -> None:
    odd = journals.record(MINUTE, SPAWN_REMOTE_UID=5, SPAWN_REMOTE_PID=6) | {field: value}
    journals.write(tmp_path / "a.journal", [journals.record(0), odd, journals.record(2 * MINUTE)])
    sentence = (
        "spawnctl: 1 record has an odd field, passed over here: "
        f"first {field}= of Mon 2026-10-26 07:34:20 UTC\n"
    )
    place = f"-D{tmp_path}"
    status, out, errors = said("log", place)
    assert (status, errors) == (os.EX_IOERR, sentence)
    assert len(out.splitlines()) == 3
    assert said("log", place, *FROM)[::2] == (os.EX_IOERR, sentence)
    for form in (*FORMS, *WHOLE):
        assert said("log", place, "-o", form)[::2] == (os.EX_IOERR, sentence)
    for by in GROUPS:
        status, out, errors = said("stats", place, "--json", "--by", by)
        assert (status, errors) == (os.EX_IOERR, sentence)
        counted = json.loads(out)
        assert counted["all"]["connections"] == 3
        assert counted["unread"] == [sentence.removeprefix("spawnctl: ").strip()]
        assert said("stats", place, "--by", by)[::2] == (os.EX_IOERR, sentence)


def test_several_odd_records_are_counted(tmp_path: Path) -> None:
    odd = [journals.record(at, SPAWN_CPU_USEC="x", SPAWN_BYTES_IN="y") for at in range(3)]
    journals.write(tmp_path / "a.journal", odd)
    assert said("log", f"-D{tmp_path}")[2] == (
        "spawnctl: 3 records have odd fields, passed over here: "
        "first SPAWN_CPU_USEC= of Mon 2026-10-26 07:33:20 UTC\n"
    )


@pytest.mark.parametrize("field", ["MESSAGE", "MESSAGE_ID"])
def test_what_is_no_record_is_left_out_and_counted(tmp_path: Path, field: str) -> None:
    twice = journals.record(MINUTE)
    twice[field] = [twice[field], MESSAGE_IDS["signal"]]
    journals.write(tmp_path / "a.journal", [journals.record(0), twice, journals.record(2 * MINUTE)])
    sentence = "spawnctl: 1 damaged entries were left out\n"
    status, out, errors = said("log", f"-D{tmp_path}")
    assert (status, errors) == (os.EX_IOERR, sentence)
    assert [line.split()[2] for line in out.splitlines()] == ["07:33:20", "07:35:20"]
    assert said("stats", f"-D{tmp_path}")[::2] == (os.EX_IOERR, sentence)


def test_a_client_of_whom_not_all_is_known(tmp_path: Path) -> None:
    unix: dict[str, object] = {"SPAWN_REMOTE_UID": 5, "SPAWN_REMOTE_PID": 6}
    known: list[dict[str, object]] = [
        {"SPAWN_REMOTE_ADDR": "192.0.2.7"},
        {"SPAWN_REMOTE_ADDR": "no address"},
        {"SPAWN_REMOTE_ADDR": b"192.0.2.7\0"},
        unix,
        {"SPAWN_REMOTE_UID": 5},
        {"SPAWN_REMOTE_PID": 6},
    ]
    entries = []
    for at, fields in enumerate(known):
        entry = journals.record(at)
        del entry["SPAWN_REMOTE_ADDR"], entry["SPAWN_REMOTE_PORT"]
        entries.append(entry | {"MESSAGE": "policy: x"} | fields)
    journals.write(tmp_path / "a.journal", entries)
    status, out, _ = said("log", f"-D{tmp_path}")
    assert status == 0
    columns = [re.split(r"  +", line)[4] for line in out.splitlines()]
    # The sentence stands where the last one's client would.
    assert columns == [
        "192.0.2.7",
        "no address",
        "192.0.2.7\\x00",
        "pid 6 of uid 5",
        "uid 5",
        "x",
    ]
    assert len(said("log", f"-D{tmp_path}", *FROM)[1].splitlines()) == 3
    assert (
        "2 connections, 0 failed" in said("stats", f"-D{tmp_path}", "-U", "@1793000000.000001")[1]
    )


def test_the_verbose_form_has_each_value_of_a_field(tmp_path: Path) -> None:
    odd = journals.record(0, SPAWN_REMOTE_ADDR=["192.0.2.7", b"\x1b[2J\xff"])
    journals.write(tmp_path / "a.journal", [odd])
    out = said("log", f"-D{tmp_path}", "-o", "verbose")[1]
    assert "    SPAWN_REMOTE_ADDR=192.0.2.7\n" in out
    assert "    SPAWN_REMOTE_ADDR=\\x1b[2J\N{REPLACEMENT CHARACTER}\n" in out


@pytest.mark.parametrize("verb", ["log", "stats"])
def test_a_terminal_that_has_not_all_letters(tmp_path: Path, verb: str) -> None:
    journals.write(tmp_path / "a.journal", [journals.record(0, service="\N{SNOWMAN}")])
    page = tmp_path / "page.html"
    latin = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    spawnctl = (sys.executable, "-m", "spawnhelper.ctl")  # the program heeds no such variables
    done = run(*spawnctl, verb, f"-D{tmp_path}", env=latin)
    assert "\\u2603" in done.stdout
    run(*spawnctl, "stats", f"-D{tmp_path}", "--html", str(page), env=latin)
    assert "\N{SNOWMAN}" in page.read_text(encoding="utf-8")


def test_of_more_lines_than_there_can_be(tmp_path: Path) -> None:
    journals.write(tmp_path / "a.journal", [journals.record(0)])
    assert len(said("log", f"-D{tmp_path}", "-n", "1" * 30)[1].splitlines()) == 1


def test_follow_goes_on_behind_an_odd_record_and_says_so_at_its_end(tmp_path: Path) -> None:
    odd = journals.record(MINUTE, SPAWN_REMOTE_ADDR=["192.0.2.7", "192.0.2.8"])
    none = journals.record(2 * MINUTE)
    none["MESSAGE"] = ["a", "b"]
    entries = [journals.record(0), odd, none, journals.record(3 * MINUTE)]
    journals.write(tmp_path / "a.journal", entries)
    with following(f"-D{tmp_path}", "-n", "9", stderr=subprocess.PIPE) as (follower, lines):
        until(lambda: len(lines) == 3)
        journals.write(tmp_path / "b.journal", [journals.record(4 * MINUTE, PRIORITY="x")])
        until(lambda: len(lines) == 4)
        follower.send_signal(signal.SIGINT)
        assert follower.wait() == 128 + signal.SIGINT
        assert follower.stderr is not None
        assert follower.stderr.read() == (
            "spawnctl: 1 damaged entries were left out\n"
            "spawnctl: 2 records have odd fields, passed over here: "
            "first SPAWN_REMOTE_ADDR= of Mon 2026-10-26 07:34:20 UTC\n"
        )


def with_journal(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """spawnctl where this folder's files are the machine's own journal."""
    machine = Path("/etc/machine-id").read_text().strip()
    own = f"/run/log/journal/{machine}"
    code = (
        f"mount -t tmpfs none /var/log && mount -t tmpfs none /run/log && mkdir -p {own} && "
        f'cp {folder}/*.journal {own} && exec spawnctl "$@"'
    )
    return run("unshare", "--mount", "sh", "-c", code, "sh", *arguments, check=False)


def test_list_and_status_go_by_the_last_sound_record(tmp_path: Path) -> None:
    name = "oddity"
    file = Path(f"/etc/spawn/{name}.conf")
    none = journals.record(3 * MINUTE, service=name)
    none["MESSAGE"] = ["a", "b"]
    entries = [
        journals.record(0, service=name, result="signal", SPAWN_DURATION_USEC="9" * 30),
        journals.record(MINUTE, service=name, SPAWN_REMOTE_ADDR=["192.0.2.7", "192.0.2.8"]),
        none,
    ]
    journals.write(tmp_path / "a.journal", entries)
    file.write_text("[Socket]\nListenStream=127.0.0.1:9\n[Spawn]\nUser=nobody\nArgv=/bin/true\n")
    try:
        for arguments in (["list"], ["list", "--json"]):
            done = with_journal(tmp_path, *arguments)
            assert done.returncode == os.EX_IOERR
            assert "spawnctl: 1 damaged entries were left out\n" in done.stderr
            assert "SPAWN_REMOTE_ADDR=" in done.stderr
            assert name in done.stdout
        (last,) = [each["last"] for each in json.loads(done.stdout) if each["service"] == name]
        assert (last["result"], last["usec"]) == ("success", journals.START + MINUTE)
        for arguments in (["status", name], ["status", "--json", name]):
            done = with_journal(tmp_path, *arguments)
            assert done.returncode == 3  # it does not listen
            assert "SPAWN_DURATION_USEC=" in done.stderr
        assert json.loads(done.stdout)["last_failure"]["result"] == "signal"
    finally:
        file.unlink()


def test_a_file_that_names_no_service_is_not_listed() -> None:
    odd = [Path("/etc/spawn") / name for name in ("two words.conf", "\udcff.conf")]
    try:
        for file in odd:
            file.write_text("")
        done = run("spawnctl", "list", check=False)
        assert done.stderr == ""
        assert "two" not in done.stdout
        for file in odd:
            status, out, errors = said("status", file.stem)
            assert (status, out) == (4, "")
            assert re.fullmatch(
                r"spawnctl: (two words|\\udcff) is no service; "
                r"a service is named with letters, digits, - _ and \., the first no - or \.\n",
                errors,
            )
    finally:
        for file in odd:
            file.unlink()


def test_a_name_that_no_journal_can_be_asked_for() -> None:
    sentence = "spawnctl: there is no service \\udcff, nor a record of one\n"
    assert said("log", "\udcff") == (os.EX_NOINPUT, "", sentence)
    assert said("stats", "\udcff") == (os.EX_NOINPUT, "", sentence)
    sentence = "spawnctl: --user=\\udcff is no name of a user\n"
    assert said("log", "--user", "\udcff") == (os.EX_USAGE, "", sentence)


FIELDS = (
    "MESSAGE",
    "PRIORITY",
    "SPAWN_SERVICE",
    "SPAWN_REMOTE_ADDR",
    "SPAWN_REMOTE_PORT",
    "SPAWN_REMOTE_UID",
    "SPAWN_REMOTE_PID",
    "SPAWN_DURATION_USEC",
    "SPAWN_CPU_USEC",
    "SPAWN_BYTES_IN",
    "SPAWN_BYTES_OUT",
    "SPAWN_USER",
    "SPAWN_RESULT",
)
texts = st.one_of(
    st.binary(max_size=9),
    st.text(max_size=9).map(str.encode),
    st.integers(-(10**31), 10**31).map(lambda number: str(number).encode()),
    st.integers(0, 10**18).map(lambda number: str(number).encode()),
    st.sampled_from(
        [b"", b"9" * 5000, b"x" * 70_000, b"</svg><script>", b"{{ x }}", b"%s", b"[bold]", b"::1"]
    ),
)
# One or two a record: of many, one alone makes it none.
odd_fields = st.dictionaries(
    st.sampled_from(FIELDS),
    st.one_of(st.none(), texts.map(lambda text: [text]), st.lists(texts, min_size=2, max_size=3)),
    min_size=1,
    max_size=2,
)
odd_records = st.tuples(
    st.sampled_from(tuple(MESSAGE_IDS)),
    st.one_of(st.integers(1, LATEST), st.integers(journals.START, journals.START + 10**9)),
    odd_fields,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(odd_records, min_size=8, max_size=25))
def test_no_record_ends_spawnctl(
    tmp_path: Path, chosen: list[tuple[str, int, dict[str, list[bytes] | None]]]
) -> None:
    folder = tmp_path / "journal"
    shutil.rmtree(folder, ignore_errors=True)
    entries: list[dict[str, object]] = []
    for result, when, changes in sorted(chosen, key=lambda each: each[1]):
        entry = journals.record(0, result=result) | changes
        entry |= {"__REALTIME_TIMESTAMP": when, "__MONOTONIC_TIMESTAMP": 1_000_000 + len(entries)}
        entries.append({name: value for name, value in entry.items() if value is not None})
    journals.write(folder / "a.journal", entries)
    place = f"-D{folder}"
    fine = {0, os.EX_IOERR}
    status, out, errors = said("log", place, "-o", "json")
    damaged = re.search(r"(\d+) damaged entries", errors)
    assert len(out.splitlines()) + int(damaged[1] if damaged else 0) == len(entries)
    assert (status == 0) == (errors == "")
    for filters in ([], ["-n3"], ["--failed"], FROM, ["--slower-than=1ms"], ["--user=nobody"]):
        status, out, _ = said("log", place, *filters)
        assert status in fine
        assert all(line.isprintable() for line in out.splitlines())
    for form in (*FORMS, *WHOLE):
        assert said("log", place, "-o", form)[0] in fine
    page = tmp_path / "page.html"
    for by in GROUPS:
        assert said("stats", place, "--by", by)[0] in fine
        status, out, _ = said("stats", place, "--json", "--by", by)
        assert sum(group["connections"] for group in json.loads(out)["groups"]) <= len(entries)
        assert said("stats", place, "--by", by, "--html", str(page))[0] in fine
        assert "<script" not in page.read_text()
