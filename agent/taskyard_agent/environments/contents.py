"""What an environment holds, listed when it is built and compared when somebody asks whether it is whole."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

LISTING = "contents.json"
_MOST_NAMED = 3
_START_SECONDS = 60


def list_contents(prefix: Path) -> dict[str, str]:
    """Returns each file's size and time, and where each link leads, by its path below `prefix`."""
    return dict(sorted(_walk(prefix)))


def problems_of(prefix: Path, listed: dict[str, str], home: str, site_paths: Sequence[str]) -> Iterator[str]:
    """Yields what is wrong with the environment at `prefix`; reads every file whose hash is recorded.

    `home` is its interpreter; empty where that is in an image.
    """
    if home and not Path(home).exists():
        yield f"its interpreter {home} is gone"
    elif home and not _starts(prefix, home):
        yield "its Python does not start"
    here = list_contents(prefix)
    for what, paths in (
        ("missing", sorted(listed.keys() - here.keys())),
        ("new", sorted(here.keys() - listed.keys())),
        ("changed", sorted(path for path in listed.keys() & here.keys() if listed[path] != here[path])),
    ):
        if paths:
            yield _named(f"{what} since it was built", paths)
    damaged = [path for site in site_paths for path in _damaged(Path(site))] + list(_damaged_by_conda(prefix))
    if damaged:
        yield _named("not what their packages recorded", damaged)


def _walk(prefix: Path) -> Iterator[tuple[str, str]]:
    for folder, names, files in os.walk(prefix):
        links = (name for name in names if os.path.islink(os.path.join(folder, name)))
        for name in (*files, *links):
            path = os.path.join(folder, name)
            yield os.path.relpath(path, prefix), _mark(path)


def _mark(path: str) -> str:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return f"-> {os.readlink(path)}"
    return f"{status.st_size} {status.st_mtime_ns}"


def _starts(prefix: Path, home: str) -> bool:
    python = prefix / "bin" / "python"
    program = str(python) if python.exists() else home
    try:
        done = subprocess.run(
            [program, "-I", "-S", "-c", "import encodings"],
            capture_output=True,
            check=False,
            timeout=_START_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _damaged(site: Path) -> Iterator[str]:
    """https://packaging.python.org/en/latest/specifications/recording-installed-packages/#the-record-file."""
    if any(site.glob("../../../conda-meta")):
        return  # conda writes its prefix into files, and keeps a record of its own
    for record in sorted(site.glob("*.dist-info/RECORD")):
        with record.open(newline="", encoding="utf-8") as stream:
            for path, digest, *_ in csv.reader(stream):
                file = site / path
                if digest.startswith("sha256=") and file.is_file() and _sha256(file) != _from_record(digest):
                    yield path


def _damaged_by_conda(prefix: Path) -> Iterator[str]:
    for record in sorted((prefix / "conda-meta").glob("*.json")):
        for entry in json.loads(record.read_bytes()).get("paths_data", {}).get("paths", []):
            digest, file = entry.get("sha256_in_prefix") or entry.get("sha256"), prefix / entry["_path"]
            linked = entry.get("path_type") == "softlink" or file.is_symlink()
            if digest and not linked and file.is_file() and _sha256(file).hex() != digest:
                yield entry["_path"]


def _from_record(digest: str) -> bytes:
    text = digest.partition("=")[2]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _sha256(file: Path) -> bytes:
    with file.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.digest()


def _named(what: str, paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
    return f"{what}: {', '.join(paths[:_MOST_NAMED])}{more}"
