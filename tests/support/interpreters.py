"""Virtual environments of a project, made in a moment, and what is installed in them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def make_environment(folder: Path) -> Path:
    """Makes `folder` a virtual environment without packages; returns its site-packages."""
    home = Path(getattr(sys, "_base_executable", sys.executable))
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(home)
    version = ".".join(map(str, sys.version_info[:3]))
    (folder / "pyvenv.cfg").write_text(f"home = {home.parent}\nversion = {version}\n")
    return site


def install(
    site: Path,
    name: str,
    version: str = "1.0",
    *,
    files: Sequence[str] | Mapping[str, str] = (),
    origin: Mapping[str, Any] | None = None,
    installer: str = "pip",
) -> None:
    """Puts a distribution with these files into site-packages; `origin` is its PEP 610 record."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    texts = dict(files) if isinstance(files, Mapping) else dict.fromkeys(files, "")
    for path, text in texts.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "INSTALLER").write_text(f"{installer}\n")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))
    listed = [*texts, f"{info.name}/METADATA", f"{info.name}/INSTALLER"]
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in listed))
