"""Makes `import taskyard` work where it is not installed: a folder of nothing but the SDK and its needs."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import taskyard
from packaging.requirements import Requirement

OLDEST_PYTHON = (3, 10)


@functools.lru_cache(maxsize=8)
def sdk_folder(root: Path) -> Path:
    """Returns a folder of links to the running SDK and its needs, made below `root` unless it is there.

    The agent's own site-packages would do as well, but would also lend the task whatever else lies there.
    """
    targets = sorted(set(_targets()))
    digest = hashlib.sha256("\n".join(map(str, targets)).encode()).hexdigest()[:16]
    folder = root / digest
    if not folder.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        _link_all(targets, folder)
    return folder


def _link_all(targets: list[Path], folder: Path) -> None:
    fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    for target in targets:
        (fresh / target.name).symlink_to(target)
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
