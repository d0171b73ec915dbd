"""Makes `import taskyard` work where it is not installed: a folder of nothing but the SDK and its needs."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import taskyard
from packaging.requirements import Requirement

OLDEST_PYTHON = (3, 10)


@functools.lru_cache(maxsize=8)
def sdk_folder(root: Path, *, copied: bool = False) -> Path:
    """Returns a folder of links to the running SDK and its needs, made below `root` unless it is there.

    The agent's own site-packages would do as well, but would also lend the task whatever else lies there.
    `copied`: one that holds them itself, for a container, in which the places that links lead to are not.
    """
    targets = sorted(set(_targets()))
    marks = [f"{target} {_changed(target)}" if copied else str(target) for target in targets]
    digest = hashlib.sha256("\n".join(marks).encode()).hexdigest()[:16]
    folder = root / (f"{digest}-copied" if copied else digest)
    if not folder.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        _fill(targets, folder, _copy if copied else _link)
    return folder


def _changed(target: Path) -> int:
    files = target.rglob("*.py") if target.is_dir() else [target]
    return max((file.stat().st_mtime_ns for file in files), default=0)


def _link(target: Path, place: Path) -> None:
    place.symlink_to(target)


def _copy(target: Path, place: Path) -> None:
    if target.is_dir():
        shutil.copytree(target, place, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(target, place)


def _fill(targets: list[Path], folder: Path, put: Callable[[Path, Path], None]) -> None:
    fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    for target in targets:
        put(target, fresh / target.name)
    fresh.chmod(0o755)
    try:
        fresh.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(fresh)


def _targets() -> Iterator[Path]:
    yield Path(taskyard.__file__).parent
    for distribution in _closure("taskyard", {}).values():
        yield from _top_level(distribution)
    own = metadata.distribution("taskyard")
    for name in {file.parts[0] for file in own.files or ()}:
        if name.endswith(".dist-info"):
            yield Path(str(own.locate_file(name)))


def _closure(name: str, found: dict[str, metadata.Distribution]) -> dict[str, metadata.Distribution]:
    """Adds everything that `name` needs without extras to `found`, and returns that."""
    for line in metadata.distribution(name).requires or ():
        need = Requirement(line)
        if need.name in found or (need.marker and not need.marker.evaluate({"extra": ""})):
            continue
        try:
            found[need.name] = metadata.distribution(need.name)
        except metadata.PackageNotFoundError:
            continue
        _closure(need.name, found)
    return found


def _top_level(distribution: metadata.Distribution) -> Iterator[Path]:
    lines = (distribution.read_text("RECORD") or "").splitlines()
    names = {path.partition("/")[0] for path in lines if "/" in path or path.partition(",")[0].endswith(".py")}
    for name in {name.partition(",")[0] for name in names}:
        if name not in ("..", "__pycache__") and not name.endswith((".dist-info", ".egg-info")):
            yield Path(os.path.normpath(str(distribution.locate_file(name))))
