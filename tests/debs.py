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

PACKAGING = (TREE / "packaging/cysystemd/debian", TREE / "packaging/debian")
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


def build(release: str, output: Path, cache: Path = CACHE, *, tested: bool = False) -> None:
    """Builds the release's Debian packages and their source packages, in a clean root, into a
    folder; call isolate() first. The same sources give the same bytes. tested: whether the tests
    that need no machine are run there, too."""
    root = overlay(base_root(release, "build", cache))
    try:
        place = root / "build"
        folders = [unpack_cysystemd(place, cache), unpack_sources(place)]
        for folder, packaging in zip(folders, PACKAGING, strict=True):
            shutil.copytree(packaging, folder / "debian")
            _build(root, folder.name, tested=tested)
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        for made in place.iterdir():
            if made.is_file() and made.suffix != ".buildinfo":
                shutil.copyfile(made, output / made.name)
    finally:
        discard(root)


def unpack_cysystemd(place: Path, cache: Path) -> Path:
    """The published sources of cysystemd, in a folder of that place, beside the archive."""
    version, _ = _latest(PACKAGING[0])
    upstream = place / f"cysystemd_{version}.orig.tar.gz"
    place.mkdir(exist_ok=True)
    shutil.copyfile(cysystemd(cache), upstream)
    return _unpacked(upstream, f"cysystemd-{version}")


def unpack_sources(place: Path) -> Path:
    """The sources of the tree, without the packaging, in a folder of that place, beside the
    archive, which has the names that Debian and others want."""
    version, date = _latest(PACKAGING[1])
    upstream = place / f"spawnhelper_{version}.orig.tar.gz"
    place.mkdir(exist_ok=True)
    pack_sources(upstream, f"spawnhelper-{version}", date)
    return _unpacked(upstream, f"spawnhelper-{version}")


def _latest(packaging: Path) -> tuple[str, int]:
    """The upstream version that the packaging is of, and when it was made."""
    changelog = (packaging / "changelog").read_text().splitlines()
    dated = next(line for line in changelog if line.startswith(" -- ")).partition("  ")[2]
    version = changelog[0].partition("(")[2].partition("-")[0]
    return version, int(email.utils.parsedate_to_datetime(dated).timestamp())


def _unpacked(archive: Path, folder: str) -> Path:
    unpack = ["tar", "-x", "--no-same-owner", f"--directory={archive.parent}", f"--file={archive}"]
    subprocess.run(unpack, check=True)
    return archive.parent / folder


def _build(root: Path, folder: str, *, tested: bool) -> None:
    """Builds the packages of a source package, in the root's folder /build."""
    options = "noautodbgsym" if tested else "noautodbgsym nocheck"
    # A .buildinfo has the time of the build, and .changes would have its checksum.
    hook = "--hook-changes=sed -i /[.]buildinfo/d debian/files"
    build = f"cd /build/{folder} && exec dpkg-buildpackage --no-sign '{hook}'"
    done = subprocess.run(
        nspawn(root, "--as-pid2", f"--setenv=DEB_BUILD_OPTIONS={options}", "sh", "-c", build),
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{folder} does not build:\n{done.stdout}{done.stderr}")


def pack_sources(target: Path, folder: str, date: int) -> None:
    """The sources as an upstream's tarball, without the packaging; date: of every file in it."""
    with (
        target.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=date) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for path in source_files():
            name = path.relative_to(TREE)
            if PACKAGING[1] in path.parents:
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
        build = [f"{place}/packaging/build-deb", release]
        environment = os.environ | {"DEB_BUILD_OPTIONS": "nocheck"}
        subprocess.run(build, check=True, capture_output=True, env=environment)
        shutil.rmtree(output)
        shutil.copytree(f"{place}/dist", output)
    stamp.write_text(commit)


def cysystemd(cache: Path = CACHE) -> Path:
    """The published source of cysystemd."""
    (archive,) = fetched("cysystemd", CYSYSTEMD, "--no-binary=:all:", cache=cache).iterdir()
    return archive
