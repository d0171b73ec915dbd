"""Which build of PyTorch the machine's driver can run."""

from __future__ import annotations

import re

BUILDS = (("cu130", (580,)), ("cu129", (525, 60, 13)), ("cu118", (450, 80, 2)))
"""The newest build for each driver on Linux: CUDA keeps to one driver within a major version.
https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/index.html#cuda-driver"""


def build_for_this_machine() -> str | None:
    """Returns `cu129` and the like from the driver's version; `cpu` for an older one, None where none answers."""
    version = driver_version()
    return build_for(version) if version else None


def build_for(driver: str) -> str:
    """Returns the newest build that a driver such as `550.54.14` can run."""
    numbers = tuple(map(int, re.findall(r"\d+", driver)))
    return next((build for build, least in BUILDS if numbers >= least), "cpu")


def driver_version() -> str | None:
    """Asks NVIDIA's management library; None where there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        answer = pynvml.nvmlSystemGetDriverVersion()
        return answer.decode() if isinstance(answer, bytes) else str(answer)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
