"""The Debian packages, built from the sources as they are, or were, in a clean root.

For the host's side, as machine.py is.
"""

from __future__ import annotations

import contextlib
import email.utils
import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from machine import CACHE, TREE, base_root, discard, fetched, nspawn, overlay

PACKAGING = {
    "cysystemd": TREE / "packaging/cysystemd/debian",
    "spawnhelper": TREE / "packaging/debian",
}
CYSYSTEMD = TREE / "packaging/cysystemd.txt"  # its version, and the sum of its source
# In the tree, but made from it.
NOT_SOURCES = ("build", "dist", "__pycache__")


def source_digest() -> str:
    """What tells one state of the packages from another."""
    tops = ("spawnhelper", "units", "man", "examples", "bin", "packaging")
    digest = hashlib.sha256()
    for path in source_files():
        name = path.relative_to(TREE)
        if name.parts[0] in tops or len(name.parts) == 1:
            digest.update(f"{name} {path.stat().st_mode:o}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def source_files() -> list[Path]:
    """The files that the source package is made of."""
    files = []
    for folder, folders, names in os.walk(TREE):
        folders[:] = [
            name
            for name in folders
            if name not in NOT_SOURCES and (name == ".ci" or not name.startswith("."))
        ]
        files += [Path(folder, name) for name in names if name not in (*NOT_SOURCES, ".git")]
    return sorted(files)


def build(release: str, output: Path, cache: Path = CACHE) -> None:
    """Builds the release's Debian packages and their source packages, in a clean root, into a
    folder; call isolate() first. The same sources give the same bytes."""
    root = overlay(base_root(release, "build", cache))
    try:
        place = root / "build"
        place.mkdir()
        for name, packaging in PACKAGING.items():
            _build(root, name, packaging, cache)
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        for made in place.iterdir():
            if made.is_file() and made.suffix != ".buildinfo":
                shutil.copyfile(made, output / made.name)
    finally:
        discard(root)


def _build(root: Path, name: str, packaging: Path, cache: Path) -> None:
    """Builds a source package and what it makes, in the root's folder /build."""
    changelog = (packaging / "changelog").read_text().splitlines()
    version = changelog[0].partition("(")[2].partition("-")[0]
    dated = next(line for line in changelog if line.startswith(" -- ")).partition("  ")[2]
    folder = f"{name}-{version}"
    place = root / "build"
    upstream = place / f"{name}_{version}.orig.tar.gz"
    if name == "cysystemd":
        shutil.copyfile(cysystemd(cache), upstream)
    else:
        pack_sources(upstream, folder, int(email.utils.parsedate_to_datetime(dated).timestamp()))
    unpack = ["tar", "-x", "--no-same-owner", f"--directory={place}", f"--file={upstream}"]
    subprocess.run(unpack, check=True)
    shutil.copytree(packaging, place / folder / "debian")
    # A .buildinfo has the time of the build, and .changes would have its checksum.
    hook = "--hook-changes=sed -i /[.]buildinfo/d debian/files"
    build = f"cd /build/{folder} && exec dpkg-buildpackage --no-sign '{hook}'"
    done = subprocess.run(
        nspawn(root, "--as-pid2", "--setenv=DEB_BUILD_OPTIONS=noautodbgsym", "sh", "-c", build),
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name} does not build:\n{done.stdout}{done.stderr}")


def pack_sources(target: Path, folder: str, date: int) -> None:
    """The sources as an upstream's tarball, without the packaging; date: of every file in it."""
    with (
        target.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=date) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for path in source_files():
            name = path.relative_to(TREE)
            if TREE / "packaging/debian" in path.parents:
                continue
            entry = archive.gettarinfo(path, f"{folder}/{name}")
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = "root"
            entry.mode = 0o755 if entry.mode & 0o100 else 0o644
            entry.mtime = date
            with path.open("rb") as content:
                archive.addfile(entry, content)


@contextlib.contextmanager
def folder(name: str) -> Iterator[Path]:
    """A folder for packages: kept for the next run, if the tree can hold it."""
    if os.access(TREE, os.W_OK):
        yield TREE / "build/test-packages" / name
        return
    with tempfile.TemporaryDirectory() as fresh:
        yield Path(fresh, name)


def build_current(release: str, output: Path, cache: Path = CACHE) -> None:
    """The same, unless the folder has been made from these very sources already."""
    stamp = output / ".sources"
    digest = source_digest()
    if not stamp.is_file() or stamp.read_text() != digest:
        build(release, output, cache)
        stamp.write_text(digest)


def build_previous(release: str, output: Path) -> None:
    """Has the last commit that is not what lies in the tree build its packages into a folder;
    without git(1) and such a commit the folder stays empty."""
    git = ["git", "-c", "safe.directory=*", "-C", str(TREE)]
    output.mkdir(parents=True, exist_ok=True)
    try:
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], check=False).returncode == 1
        name = [*git, "rev-parse", "--verify", "--quiet", "HEAD" if changed else "HEAD^"]
        commit = subprocess.run(name, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return
    stamp = output / ".commit"
    if stamp.is_file() and stamp.read_text() == commit:
        return
    archive = [*git, "archive", commit]
    packed = subprocess.run(archive, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["tar", "-x", f"--directory={place}"], check=True, input=packed)
        subprocess.run([f"{place}/packaging/build-deb", release], check=True, capture_output=True)
        shutil.rmtree(output)
        shutil.copytree(f"{place}/dist", output)
    stamp.write_text(commit)


def cysystemd(cache: Path = CACHE) -> Path:
    """The published source of cysystemd."""
    (archive,) = fetched("cysystemd", CYSYSTEMD, "--no-binary=:all:", cache=cache).iterdir()
    return archive
