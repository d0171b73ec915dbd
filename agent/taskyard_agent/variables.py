"""The variables that a task's process is started with."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Mapping, Sequence

from .keeper import masking

INHERITED = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_*",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "HF_HOME",
    "NCCL_*",
)
"""What a task may see of the agent's own variables; `--pass-env` adds patterns."""


INSIDE = (
    "LANG",
    "LC_*",
    "TZ",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "NCCL_*",
)
"""What it may see of them in a container: the others name folders that are not there, or are the image's own."""


def inherited(
    environ: Mapping[str, str], patterns: Sequence[str] = (), *, base: Sequence[str] = INHERITED
) -> dict[str, str]:
    """Returns the variables of `environ` that the base list or one of `patterns` names; never Taskyard's own."""
    wanted = (*base, *patterns)
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith("TASKYARD_") and any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)
    }


def secret(environ: Mapping[str, str], patterns: Sequence[str] = masking.NAMES) -> tuple[str, ...]:
    """Returns the values whose names say that they are secret."""
    named = (name for name in environ if any(fnmatch.fnmatchcase(name.upper(), pattern) for pattern in patterns))
    return tuple(environ[name] for name in named)


def compose(*layers: Mapping[str, str], bin_folder: str, platform: str = sys.platform) -> dict[str, str]:
    """Merges the layers, later ones winning, puts `bin_folder` first on the PATH and makes Python unbuffered.

    Without PYTHONUNBUFFERED a piped script shows nothing for seconds and loses its last lines on SIGTERM. A task
    that forks, such as a data loader, is ended by the libraries of macOS unless it is told that it may.
    """
    merged: dict[str, str] = {"PYTHONUNBUFFERED": "1"}
    if platform == "darwin":
        merged["OBJC_DISABLE_INITIALIZE_FORK_SAFETY"] = "YES"
    for layer in layers:
        merged.update(layer)
    merged["PATH"] = f"{bin_folder}:{merged['PATH']}" if merged.get("PATH") else bin_folder
    return merged
