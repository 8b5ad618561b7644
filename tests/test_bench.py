"""What tests/bench makes of its numbers; to have them takes a machine that does nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from conftest import in_machine

PAGE = Path(__file__).parent / "BENCH.md"
OURS = ("spawnhelper", "with SizeLimit=", "with a long file")


@pytest.fixture
def results() -> object:
    """A run of two rounds in which a connection of ours takes 21 ms, and any other one 10."""
    from benchmark import servers, session, usage

    made = session.Results({"processor": "none"}, 10, starts=[[0.01], [0.008]], idle=2_000_000.0)
    for name in servers.SERVERS:
        seconds = 0.021 if name in OURS else 0.01
        figures = session.Figures(first=[[seconds] * 2] * 2, end=[[seconds + 0.001] * 2] * 2)
        for at_once in session.AT_ONCE:
            figures.rates[at_once] = [1 / seconds] * 2
        figures.processor = [seconds] * 2
        figures.held = [session.Held(10, seconds, 3_000_000.0, 500_000.0)]
        figures.up = figures.down = [1e9 if name == "with SizeLimit=" else 2e9]
        figures.burst = 100 if name == "naive unit" else 400
        figures.crowd = session.CROWD, seconds
        figures.changes = [(seconds + 0.01, seconds)]
        figures.arrivals = [session.Arrived(10, 1.0, seconds)]
        figures.shares = {name: [0.001] * 2 for name in (*usage.SHARES, usage.UNITS)}
        made.servers[name] = figures
    made.stages = {"fork": [0.002, 0.003, 0.004]}
    made.standing = {"the commands": 0.003, "the server": 0.001}
    return made


@in_machine
def test_bars(results: object) -> None:
    from benchmark import bars, session

    assert isinstance(results, session.Results)
    found = [(bar.figure, bar.met) for bar in bars.of(results)]
    assert [round(figure or 0, 3) for figure, _ in found] == [
        1.238,  # 11 ms of 10 and of 8: the median of the rounds' ratios
        0.476,
        0.476,
        1.25,
        0.5,
        1.0,
        1.0,
        0.25,
        *[1.0] * 9,
        *[2.5, 1.0, 1.0, 0.01],
    ]
    assert [met for _, met in found[:8]] == [True, False, False, False, False, True, True, True]
    failing = [bar.what for bar in bars.of_standing(results) if not bar.met]
    assert failing == [
        "Accept=no: by 16, Log=failures, against the best super-server",
        "Accept=no: MB a held connection beyond the command's",
    ]


@in_machine
def test_a_run_without_some_part(results: object) -> None:
    from benchmark import bars, report, session

    assert isinstance(results, session.Results)
    results.servers = {"spawnhelper": results.servers["spawnhelper"]}
    results.servers["spawnhelper"].up = []
    known = [bar.figure is not None for bar in bars.of(results)]
    assert known == [False, False, False, True, False, False, True, False, *[False] * 13]
    assert report.of_bars(results).row_count == len(known)
    assert report.of_servers(results).row_count == 1


@in_machine
def test_tables_and_plot(
    results: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmark import bars, report, servers, session

    assert isinstance(results, session.Results)
    file, plot, other = (tmp_path / name for name in ("results.json", "plot.svg", "other.svg"))
    file.write_text(json.dumps(dataclasses.asdict(results)))
    options = [f"--results={file}", f"--plot={plot}", f"--arrivals-plot={other}"]
    assert report.main(options) == 0
    said = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines()]
    (ours,) = [row for row in rows if row[:1] == ["spawnhelper"] and len(row) > 8]
    assert ours[1:5] == ["21.0", "21.0", "22.0", "22.0"]
    for name in servers.SERVERS:
        assert sum(row[:1] == [name] for row in rows) == 3 + (name in bars.UNITS)
    assert ["fork", "3.00", "0.33"] in rows
    assert ["the commands", "3.00", "75%"] in rows
    assert plot.read_text().count("<svg") == other.read_text().count("<svg") == 1


@in_machine
def test_the_long_file_is_followed() -> None:
    from benchmark import servers
    from conftest import FOLDER, run

    text = servers.long_file()
    keys = [line.partition("=")[0] for line in text.splitlines()]
    assert len([key for key in keys if key != "AllowFrom"]) == servers.KEYS - 3
    words = re.findall(r"AllowFrom=(.*)", text)
    assert sum(len(line.split()) for line in words) == servers.PREFIXES
    file = FOLDER / "long-file.conf"
    head = "[Socket]\nListenStream=127.0.0.1:9\n[Spawn]\nUser=nobody\nArgv=/bin/cat\n"
    file.write_text(f"{head}TimeLimit=infinity\n{text}")
    try:
        run("spawnctl", "check", "long-file")
    finally:
        file.unlink()


def test_the_page_has_every_server() -> None:
    """In its tables, or in its words where those are older. To renew it: tests/bench, then
    tests/bench --page."""
    text = PAGE.read_text().replace("\n", " ")
    listed = (Path(__file__).parent / "benchmark/servers.py").read_text().partition("SERVERS: ")[2]
    names = re.findall(r'^    "(.+?)": ', listed, re.MULTILINE)
    assert len(names) == 17
    assert [name for name in names if f"| {name} " not in text and f'"{name}"' not in text] == []
