"""Taskyard as it was at an earlier commit, for journeys in which two versions meet."""

from __future__ import annotations

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
BEFORE_TYPED_PARAMETERS = "7427203d0579f748cca219854a3419994448e291"
"""The last version whose parameters were strings alone and whose readers refused unknown words."""


def has(commit: str) -> bool:
    """Return whether the clone that the tests run from holds the commit."""
    return _git("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0


def unpack(commit: str, folder: Path) -> dict[str, str]:
    """Write the commit's files into a folder; return the variables that make Python import them."""
    folder.mkdir(parents=True)
    archive = _git("archive", commit, "sdk", "agent", "server")
    archive.check_returncode()
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return {"PYTHONPATH": ":".join(str(folder / part) for part in ("sdk", "agent", "server"))}


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", REPOSITORY, *words], capture_output=True, check=False)
