"""A machine with as many GPUs as a test wants: a real shared library in the place of NVIDIA's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_nvml.c")


def uuid(index: int) -> str:
    """The UUID of the fake GPU with this index."""
    return f"GPU-{0xA0 + index:08x}-0000-4000-8000-000000000000"


def compiler() -> str | None:
    """A C compiler, where there is one."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def install(folder: Path, gpus: int, *, lost: int | None = None, use: Path | None = None) -> dict[str, str]:
    """Builds the library into `folder`; returns the variables with which a process sees that many GPUs.

    What the file `use` holds, a number or `none`, is their utilisation, from the next question on. The
    loader reads LD_LIBRARY_PATH when a process starts, so the variables are of use to a new process alone.
    """
    library = folder / "libnvidia-ml.so.1"
    if not library.exists():
        subprocess.run([compiler() or "cc", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")]))
    return {
        "LD_LIBRARY_PATH": path,
        "FAKE_NVML_GPUS": str(gpus),
        "FAKE_NVML_LOST": "" if lost is None else str(lost),
        "FAKE_NVML_USE": str(use or ""),
    }
