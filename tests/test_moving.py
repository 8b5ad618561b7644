"""What `spawnctl import` makes of a corpus of files, to the letter, and of any other text. Needs no
machine."""

from __future__ import annotations

import importlib
import ipaddress
import os
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_machine import Made

import spawnhelper.moving
from spawnhelper.conf import addresses, service
from spawnhelper.moving import access, defaults, draft, sources, store
from spawnhelper.moving.access import Network, Rule, Rules
from spawnhelper.moving.inetd import table as inetd_table
from spawnhelper.moving.job import ANEW, BROKEN_FILE, COMMON
from spawnhelper.moving.machine import Machine
from spawnhelper.moving.postfix import table as postfix_table
from spawnhelper.moving.report import Report
from spawnhelper.moving.source import Unreadable
from spawnhelper.moving.traps import Row, Trap
from spawnhelper.moving.xinetd import merge
from spawnhelper.moving.xinetd import table as xinetd_table
from spawnhelper.stages import admission

CORPUS = Path(__file__).parent / "moving"
EXPECTED = "expected"
REPORT = "report"
# What is read of each folder, where it is not the file of the usual name.
READ = {"xinetd/alone": "service", "xinetd/folder": "xinetd.d", "inetd/folder": "inetd.d"}
RESOLVED = ("postfix/columns", "inetd/freebsd", "xinetd/alone")  # with --resolve once more
CASES = [
    (f"{folder.parent.name}/{folder.name}", resolve)
    for folder in sorted(CORPUS.glob("*/*"))
    for resolve in (False, True)
    if not resolve or f"{folder.parent.name}/{folder.name}" in RESOLVED
]
TABLES: dict[str, tuple[Row[Any], ...]] = {
    "postfix": (*postfix_table.ROWS, *postfix_table.PARAMETER_ROWS),
    "inetd": inetd_table.ROWS,
    "xinetd": xinetd_table.ROWS,
}
GENERAL = (*postfix_table.GENERAL, *inetd_table.GENERAL, *xinetd_table.GENERAL)


def imported(case: str, *, resolve: bool = False) -> Report:
    """What becomes of a folder of the corpus, which is the working directory meanwhile: paths in
    reports are relative to it."""
    source = case.partition("/")[0]
    file = READ.get(case) or os.path.basename(sources.DEFAULT_FILES[source])
    before = Path.cwd()
    os.chdir(CORPUS / case)
    try:
        return sources.imported(source, file, Made(CORPUS / case, resolve=resolve))
    finally:
        os.chdir(before)


def outcome(case: str, *, resolve: bool) -> dict[str, str]:
    """The report and the service files, by the names of their files in the corpus."""
    report = imported(case, resolve=resolve)
    lines = [*report.lines(), f"status {report.status}"]
    files = {f"{each.name}.conf": each.text(report.source) for each in report.files}
    return {REPORT: "\n".join(lines) + "\n"} | files


def folder_of(case: str, *, resolve: bool) -> Path:
    return CORPUS / case / (f"{EXPECTED}-resolved" if resolve else EXPECTED)


@pytest.mark.parametrize(("case", "resolve"), CASES)
def test_the_corpus(case: str, resolve: bool) -> None:
    """To renew what is expected, and then read it: python3 tests/test_moving.py"""
    expected = {file.name: file.read_text() for file in folder_of(case, resolve=resolve).iterdir()}
    assert outcome(case, resolve=resolve) == expected


@pytest.mark.parametrize(("case", "resolve"), CASES)
def test_all_of_it_is_accounted_for(case: str, resolve: bool, tmp_path: Path) -> None:
    look_at(imported(case, resolve=resolve), tmp_path)


def look_at(report: Report, folder: Path) -> None:
    """Whatever is in a source: each of its lines is something, each of its services is one of the
    kinds, and each file that is made is one that spawnctl(1) can read."""
    for text in report.reading.texts:
        assert None not in text.kinds
        assert sum(text.counts().values()) == len(text.lines)
        services = {
            number
            for each in report.drafts
            if each.found.place.file == text.file
            for number, _ in each.found.lines
        }
        marked = {at for at, kind in enumerate(text.kinds, 1) if kind == "service"}
        assert services == marked
    assert sum(report.counts.values()) == len(report.drafts) == len(report.reading.services)
    for each in report.files:
        file = folder / f"{each.name}.conf"
        assert not file.exists()
        file.write_text(each.text(report.source))
        file.chmod(0o644)
        loaded = service.load(str(file))
        if any(networks for networks in (each.values("AllowFrom"), each.values("DenyFrom"))):
            assert loaded.restricted
    assert all(line.isprintable() for line in report.lines())


def modules() -> Iterator[object]:
    for module in pkgutil.walk_packages(spawnhelper.moving.__path__, "spawnhelper.moving."):
        yield importlib.import_module(module.name)


def every_trap() -> dict[str, Trap]:
    found = {
        f"{getattr(module, '__name__', '')}.{name}": trap
        for module in modules()
        for name, trap in vars(module).items()
        if isinstance(trap, Trap)
    }
    assert len(found) > 80
    return found


def test_every_sentence_is_in_the_corpus() -> None:
    met = [
        remark.trap
        for case, resolve in CASES
        for each in imported(case, resolve=resolve).drafts
        for remark in each.told
    ]
    others = (*GENERAL, BROKEN_FILE, ANEW)  # in each report, and in tests of their own
    assert [name for name, each in every_trap().items() if each not in (*met, *others)] == []


def test_every_sentence_is_in_the_manual_page() -> None:
    """Those of the tables are, for it is made of them."""
    tables = [trap for rows in TABLES.values() for row in rows for trap in row.traps]
    missing = [
        name
        for name, each in every_trap().items()
        if each not in (*tables, *COMMON, *GENERAL, *xinetd_table.ANYWHERE)
    ]
    assert missing == []


@pytest.mark.parametrize("case", [case for case, resolve in CASES if not resolve])
@pytest.mark.parametrize("end", [b"\r\n", b""], ids=["CRLF", "no newline at the end"])
def test_the_ends_of_lines_do_not_matter(case: str, end: bytes, tmp_path: Path) -> None:
    copy = tmp_path / Path(case).name
    for file in (CORPUS / case).rglob("*"):
        if file.is_dir() or EXPECTED in str(file):
            continue
        there = copy / file.relative_to(CORPUS / case)
        there.parent.mkdir(parents=True, exist_ok=True)
        content = file.read_bytes()
        ends = content.replace(b"\n", end) if end else content.rstrip(b"\n")
        # A last line of these without an end libwrap ignores.
        there.write_bytes(content if not end and file.name.startswith("hosts.") else ends)
    source = case.partition("/")[0]
    file_name = READ.get(case) or os.path.basename(sources.DEFAULT_FILES[source])
    before = Path.cwd()
    os.chdir(copy)
    try:
        report = sources.imported(source, file_name, Made(copy))
    finally:
        os.chdir(before)
    wanted = imported(case)
    assert [each.text("x") for each in report.files] == [each.text("x") for each in wanted.files]
    assert report.counts == wanted.counts


networks = st.builds(
    lambda number, length, six: access.network(
        f"{ipaddress.IPv6Address(number << 64) if six else ipaddress.IPv4Address(number % 2**32)}"
        f"/{length * 4 if six else length}"
    ),
    st.integers(0, 2**40 - 1),
    st.integers(0, 32),
    st.booleans(),
)
near = st.sampled_from(
    [access.network(each) for each in ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "0.0.0.0/0")]
    + [access.network(each) for each in ("::/0", "2001:db8::/32", "2001:db8::1", "::1")]
)
rules = st.builds(
    lambda found, otherwise: Rules(tuple(found), otherwise),
    st.lists(
        st.builds(
            lambda found, allows: Rule(tuple(found), allows),
            st.lists(near | networks, max_size=4),
            st.booleans(),
        ),
        max_size=5,
    ),
    st.booleans(),
)


def first_match(rule_list: Rules, address: Network) -> bool:
    for rule in rule_list.rules:
        if any(access.covers(each, address) for each in rule.networks):
            return rule.allows
    return rule_list.otherwise


@given(st.lists(rules, max_size=3), st.lists(near | networks, max_size=10))
def test_the_lists_say_what_the_rules_say(every: list[Rules], asked: list[Network]) -> None:
    """Of any address: whom the first rule lets in, the longest prefix lets in, and nobody else."""
    allow, deny = access.lists(every)
    allowed, denied = (addresses.prefixes(" ".join(each)) for each in (allow, deny))
    asked += [each for rule_list in every for rule in rule_list.rules for each in rule.networks]
    for each in asked:
        for address in (each.network_address, each.broadcast_address):
            wanted = all(
                first_match(rule_list, access.network(str(address))) for rule_list in every
            )
            numbered = addresses.numbered(str(address))
            assert admission.verdict(allowed, denied, numbered)[0] == wanted, (address, allow, deny)


WORDS = {
    "postfix": "a 127.0.0.1:9 [::1]:10 10031 unix inet - n y 0 1 x spawn smtpd user=nobody "
    "user=root user=a:b argv=/bin/cat argv= -o -oa=b {b {a } a_time_limit=1 $x /x \u00b2 'y \" "
    "\\ # \0",
    "inetd": "7 finger 127.0.0.1:80 *:81 a,b:82 /run/s [::1]:83 tcpmux/x stream dgram tcp tcp6 "
    "unix udp rpc/udp nowait wait nowait.5 nowait/1/2/3 nowait/\u00b2 nobody root "
    "nobody.games internal /bin/cat cat /usr/sbin/tcpd tcpd \"a b' # #<off># 127.0.0.1: \0 \\",
    "xinetd": "service defaults include includedir x . .. { } = += -= disable yes no type UNLISTED "
    "INTERNAL port 7000 user nobody root server /bin/cat server_args wait socket_type stream "
    "dgram only_from no_access 10.0.0.0 ::/0 localhost a.b.{1,2} 10.0.0.0/33 1.2.3.{4,5} id flags "
    "IPv6 UNLIMITED -1 A=1 A 9 \u00b2 7K 1:00-2:00 FILE SYSLOG daemon 1 2 # \0 \\ "
    + " ".join(merge.WORDS),
}
TEXTS = {
    source: st.lists(
        st.lists(st.sampled_from(words.split(" ")) | st.text(max_size=5), max_size=14).map(" ".join)
        | st.sampled_from(("", " ", "\t#", "{", "}", "service x", "defaults", "\ud800")),
        max_size=30,
    ).map("\n".join)
    for source, words in WORDS.items()
}
# What a service needs, so that many of them are converted.
WHOLE = {
    "postfix": "{0} unix - n n - {1} spawn\n {2}\n user=nobody {3} argv=/bin/cat {4}\n",
    "inetd": "{0} stream {1} {2} nobody /bin/cat {3} {4}\n{0} stream tcp {2} {3} /bin/cat\n",
    "xinetd": "service s{0}\n{{\ntype = UNLISTED\nport = 7{1}\nsocket_type = stream\nwait = no\n"
    "user = nobody\nserver = /bin/cat\n{2} = {3}\n{4} = {0}\nonly_from = {1}\n}}\n",
}


def bytes_of(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


@pytest.mark.parametrize("source", TEXTS)
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_whatever_is_fed(
    source: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fed")
    file = folder / os.path.basename(sources.DEFAULT_FILES[source])
    pieces = st.sampled_from(WORDS[source].split(" ")) | st.text(max_size=6)
    text = data.draw(TEXTS[source])
    for _ in range(data.draw(st.integers(0, 3))):
        text += "\n" + WHOLE[source].format(*(data.draw(pieces) for _ in range(5)))
    file.write_bytes(bytes_of(text))
    if source == "postfix":
        (folder / "main.cf").write_bytes(bytes_of(data.draw(TEXTS[source])))
    (folder / "hosts.allow").write_bytes(bytes_of(data.draw(TEXTS["inetd"])))
    report = sources.imported(source, str(file), Made(folder, resolve=data.draw(st.booleans())))
    made = folder / "made"
    made.mkdir()
    look_at(report, made)


@given(octets=st.binary(max_size=300))
@pytest.mark.parametrize("source", TEXTS)
def test_whatever_octets_are_fed(
    source: str, octets: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fed")
    file = folder / "x"
    file.write_bytes(octets)
    report = sources.imported(source, str(file), Made(folder))
    (folder / "made").mkdir()
    look_at(report, folder / "made")


words = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=10)


@given(st.lists(words, min_size=1, max_size=6))
def test_a_command_line_comes_back(given_words: list[str]) -> None:
    from spawnhelper.conf import values

    text = draft.command_line(given_words)
    assert "\n" not in text
    assert values.words(text) == given_words


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.unlink(), "cannot be opened: No such file or directory"),
        (lambda path: os.truncate(path, (16 << 20) + 1), "is longer than 16 MiB; split it"),
        (fifo, "is not a regular file; name one"),
    ],
)
@pytest.mark.parametrize("source", TEXTS)
def test_a_source_that_cannot_be_read(
    source: str, make: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    path.touch()
    make(path)
    with pytest.raises(Unreadable) as caught:
        sources.imported(source, str(path), Machine())
    assert str(caught.value) == sentence


def drafts() -> tuple[list[draft.Draft], dict[str, str]]:
    report = imported("postfix/policy")
    return report.files, {f"{each.name}.conf": each.text("postfix") for each in report.files}


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_files_are_written_all_or_none(tmp_path: Path) -> None:
    made, wanted = drafts()
    folder = tmp_path / "to"
    paths = store.write(made, "postfix", str(folder), force=False)
    assert sorted(paths) == sorted(str(folder / name) for name in wanted)
    assert contents(folder) == wanted
    (folder / "10031.conf").write_text("mine")
    (folder / "greylist.conf").unlink()
    before = contents(folder)
    with pytest.raises(store.Failed, match=r"10031\.conf would be replaced; use --force if"):
        store.write(made, "postfix", str(folder), force=False)
    assert contents(folder) == before
    store.write(made, "postfix", str(folder), force=True)
    assert contents(folder) == wanted


def test_drop_ins_that_are_there_would_add_to_a_file(tmp_path: Path) -> None:
    made, _ = drafts()
    (tmp_path / "10031.conf.d").mkdir()
    for force in (False, True):
        with pytest.raises(store.Failed, match=r"10031\.conf\.d would add to the new files; move"):
            store.write(made, "postfix", str(tmp_path), force=force)


@pytest.mark.parametrize("force", [False, True])
def test_what_cannot_be_replaced_undoes_all(tmp_path: Path, force: bool) -> None:
    made, _ = drafts()
    for name in ("10031.conf", "greylist.conf"):
        (tmp_path / name).write_text("mine") if force else None
    last = tmp_path / f"{made[-1].name}.conf"
    last.unlink(missing_ok=True)
    last.mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(store.Failed):
        store.write(made, "postfix", str(tmp_path), force=force)
    assert sorted(tmp_path.iterdir()) == before
    if force:
        assert (tmp_path / "greylist.conf").read_text() == "mine"


def test_where_the_folder_cannot_be_made(tmp_path: Path) -> None:
    made, _ = drafts()
    (tmp_path / "file").touch()
    with pytest.raises(store.Failed, match="Not a directory; nothing was written"):
        store.write(made, "postfix", str(tmp_path / "file/to"), force=False)


@pytest.mark.parametrize(("mode", "wanted"), [(0o640, 0o600), (0o644, 0o644)])
def test_who_could_not_read_the_source_cannot_read_the_file(
    tmp_path: Path, mode: int, wanted: int
) -> None:
    source = tmp_path / "inetd.conf"
    source.write_text("2001 stream tcp4 nowait nobody /bin/cat cat\n")
    source.chmod(mode)
    report = sources.imported("inetd", str(source), Made(tmp_path))
    (path,) = store.write(report.files, "inetd", str(tmp_path / "to"), force=False)
    assert os.stat(path).st_mode & 0o777 == wanted


def test_the_defaults_for_all_services_add_nothing(tmp_path: Path) -> None:
    file = tmp_path / "spawn.conf"
    file.write_text(
        "[Spawn]\nUMask=0\nSupplementaryGroups=disk\nAllowFrom=127.0.0.0/8\nDenyFrom=::1\n"
        "TimeLimit=9\nAccessTimes=00:00-12:00\nRefuseUsers=www-data\n"
    )
    source = tmp_path / "xinetd.conf"
    body = "type = UNLISTED\nport = 7\nsocket_type = stream\nwait = no\nuser = nobody\n"
    body += "server = /bin/cat\ninstances = 3\n"
    source.write_text(
        f"defaults\n{{\n}}\nservice a\n{{\n{body}only_from = 10.0.0.0\n}}\n"
        f"service b\n{{\n{body.replace('7', '8')}}}\n"
    )
    report = sources.imported("xinetd", str(source), Made(tmp_path))
    defaults.begin_anew(report.files, str(file))
    one, other = report.files
    reset = [line.key for line in one.lines if not line.value]
    assert sorted(reset) == ["AllowFrom", "SupplementaryGroups", "UMask"]
    assert one.values("AllowFrom") == ["", "10.0.0.0/8"]
    assert [line.key for line in other.lines if not line.value] == ["SupplementaryGroups", "UMask"]
    (said,) = (each for each in one.told if each.what == "UMask=")
    assert f"{said.place}: {said}" == (
        f"{file}:2: UMask=: it is for all services, and this one begins anew, to be as it was in "
        "the source"
    )


def renew() -> None:
    for case, resolve in CASES:
        folder = folder_of(case, resolve=resolve)
        folder.mkdir(exist_ok=True)
        for file in folder.iterdir():
            file.unlink()
        for name, text in outcome(case, resolve=resolve).items():
            (folder / name).write_text(text)


if __name__ == "__main__":
    renew()
