"""A bounded session of each fuzzer, from the corpus that is kept, with the installed package."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import in_machine

pytestmark = in_machine

HERE = Path(__file__).parent
LIBRARY = "/srv/atheris"  # see suites.py
MODULES = "/usr/lib/spawnhelper"
GROWN = Path("/srv/corpus")
TARGETS = {
    "service_file": "service files",
    "handed_over": "LISTEN_* and REMOTE_* environments, descriptors of every kind",
    "proxy_header": "PROXY headers",
}

CLOSES = ("handed_over",)  # libFuzzer's own files, too, so that it cannot look for less of the same


def drive(target: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HERE / "drive.py", *options],
        env={"PYTHONPATH": f"{LIBRARY}:{MODULES}", "TARGET": target},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


@pytest.mark.parametrize("target", TARGETS)
def test_session(
    target: str, promise: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    """Input that nobody thought of: it is followed or gets a sentence, by the rules, and nothing
    else comes of it."""
    seconds = request.config.getoption("--seconds")
    corpus, finding = Path(f"/run/{target}.corpus"), Path(f"/run/{target}.finding")
    shutil.rmtree(corpus, ignore_errors=True)
    shutil.copytree(HERE / "corpus" / target, corpus)
    finding.unlink(missing_ok=True)
    known = len(list(corpus.iterdir()))
    limits = (f"-max_total_time={seconds}", "-timeout=10", "-max_len=2048")
    done = drive(target, *limits, f"-exact_artifact_path={finding}", str(corpus))
    found = repr(finding.read_bytes()) if finding.exists() else "nothing"
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}\n{found}"
    (count,) = re.findall(r"Done (\d+) runs", done.stderr)
    assert int(count) > 1000
    grown = GROWN / target
    shutil.rmtree(grown, ignore_errors=True)
    if target in CLOSES:
        shutil.copytree(corpus, grown)
    else:
        grown.mkdir(parents=True)
        merged = drive(target, "-merge=1", str(grown), str(corpus))
        assert merged.returncode == 0, merged.stderr[-4000:]
    kept = len(list(grown.iterdir()))
    assert kept > 0
    promise(
        f"{TARGETS[target]}: {count} more in {seconds} s, from {known} kept, to {kept}; no find"
    )
