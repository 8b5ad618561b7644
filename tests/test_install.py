"""packaging/install: where the files go that every package is made of. Needs no machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

INSTALL = Path(__file__).parent.parent / "packaging/install"


def install(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", str(INSTALL), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_the_places_are_filled_in(tmp_path: Path) -> None:
    """Nothing is left to be filled in, and all that is named below the prefix is there."""
    options = ("--prefix=/usr/local", "--python=/opt/bin/python3", "--libraries=/opt/lib64")
    done = install(*options, str(tmp_path))
    assert done.returncode == 0, done.stderr
    local = tmp_path / "usr/local"
    package = local / "lib/spawnhelper/spawnhelper"
    assert '\nLIBRARIES = ("/opt/lib64",)\n' in (package / "__init__.py").read_text()
    assert (package / "ctl/page.html").exists()
    programs = [local / "bin/spawnctl", local / "lib/systemd/system-generators/spawn-generator"]
    for file in programs:
        assert file.read_text().startswith("#!/opt/bin/python3 -I\n")
        assert file.stat().st_mode & 0o777 == 0o755
    units = list((local / "lib/systemd/system").iterdir())
    assert len(units) >= 6
    for file in (*programs, *units):
        words = file.read_text().replace('"', " ").split()
        assert [word for word in words if word.startswith("@")] == []
        named = [word.partition("=")[2] or word for word in words]
        ours = [word for word in named if word.startswith("/usr/local/")]
        assert ours or file.suffix == ".timer"
        assert [word for word in ours if not (tmp_path / word[1:]).exists()] == []


def test_the_interpreter_says_where_libraries_are(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\nprintf '/lib/a\\n/lib/b\\n'\n")
    python.chmod(0o755)
    assert install(f"--python={python}", str(tmp_path / "root")).returncode == 0
    made = tmp_path / "root/usr/lib/spawnhelper/spawnhelper/__init__.py"
    assert '\nLIBRARIES = ("/lib/a", "/lib/b")\n' in made.read_text()


def test_a_library_is_missing(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    done = install(f"--python={python}", str(tmp_path / "root"))
    assert done.returncode == 1
    what = "has no module _prctl; install it, or say with --libraries=DIR where it will be"
    assert done.stderr == f"install: {python} {what}\n"
    assert not (tmp_path / "root").exists()


def test_no_interpreter(tmp_path: Path) -> None:
    done = install("--python=/no/python3", str(tmp_path))
    assert (done.returncode, done.stderr) == (
        1,
        "install: /no/python3: No such file or directory\n",
    )
