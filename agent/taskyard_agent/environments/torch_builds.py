"""Which build of PyTorch a task is given, and where it is: its own choice, else what the machine can run."""

from __future__ import annotations

import re

from taskyard.wire import RequirementsKind

from taskyard_agent.environments.indexes import PYTORCH_INDEX, Indexes, configured_indexes
from taskyard_agent.environments.reach import has_torch
from taskyard_agent.environments.request import EnvironmentRequest, EnvironmentSettings, failed
from taskyard_agent.environments.requirements import Requirements

PACKAGES = ("torch", "torchvision", "torchaudio", "torchtext", "torchdata", "pytorch-triton")
_BUILD = r"cpu|xpu|cu\d+|rocm[\d.]+"
_LABELLED = re.compile(rf"^(?:{'|'.join(PACKAGES)})(?:\[.*?\])?\s*={{2,3}}\s*[\w.]+\+(?P<build>{_BUILD})")
_INDEX = re.compile(rf"{re.escape(PYTORCH_INDEX)}/(?P<build>{_BUILD})/?")
_NAMED = re.compile(rf"(?m)^(?:{'|'.join(PACKAGES)})\b")
_LOCKS = (RequirementsKind.UV_LOCK, RequirementsKind.PYLOCK, RequirementsKind.POETRY_LOCK)
BUILDS = (("cu130", (580,)), ("cu129", (525, 60, 13)), ("cu118", (450, 80, 2)))
"""The newest build for each driver on Linux: CUDA keeps to one driver within a major version.
https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/index.html#cuda-driver"""


def torch_backend_of(
    request: EnvironmentRequest, requirements: Requirements, indexes: Indexes, settings: EnvironmentSettings
) -> str | None:
    """Returns the build in the words of uv's `--torch-backend`; None: as the indexes have it.

    First a requirement's own label, then what the task asks for, then an index that its files name, then what the
    operator chose: a build, or indexes of pip's configuration that hold PyTorch. Raises RunFailed.
    """
    wanted = request.environment.torch_backend
    if wanted == "auto":
        wanted = settings.torch_backend
    if request.environment.requirements in _LOCKS or indexes.no_index or wanted == "none":
        return None
    if wanted != "auto" and re.fullmatch(_BUILD, wanted) is None:
        raise failed(f"{wanted!r} is no build of PyTorch; write `--torch-backend auto`, `cpu` or `cu126`")
    asked = None if wanted == "auto" else wanted
    named = _labelled(requirements) or asked or _of_index(requirements)
    if named is None and has_torch(configured_indexes(settings.variables)):
        return None
    return named or _fitting(request, requirements)


def index_of_build(backend: str | None) -> tuple[str, ...]:
    """Returns the index that has a build, for what does not know it by name; none for `auto` and None."""
    return () if backend in (None, "auto") else (f"{PYTORCH_INDEX}/{backend}",)


def names_torch(requirements: Requirements) -> bool:
    """Whether a line names a package of PyTorch."""
    return _NAMED.search("\n".join(requirements.lines)) is not None


def remarks_on_build(request: EnvironmentRequest) -> tuple[str, ...]:
    """Says for the run's log that a lock's word stands against the build that was asked for."""
    wanted = request.environment
    if wanted.requirements not in _LOCKS or wanted.torch_backend in ("auto", "none"):
        return ()
    return (
        f"--torch-backend {wanted.torch_backend} changes nothing: {wanted.path} says which build of PyTorch is "
        "installed; lock that one, or name the packages with --package",
    )


def _labelled(requirements: Requirements) -> str | None:
    labels = (_LABELLED.match(line) for line in requirements.lines)
    return next((label["build"] for label in labels if label), None)


def _of_index(requirements: Requirements) -> str | None:
    indexes = (*requirements.extra_indexes, requirements.default_index or "")
    builds = (_INDEX.fullmatch(address) for address in indexes)
    return next((build["build"] for build in builds if build), None)


def _fitting(request: EnvironmentRequest, requirements: Requirements) -> str:
    """Where no PyTorch is named the driver is not asked: environments of other packages do not hang on it."""
    if not request.gpus:
        return "cpu"
    return (build_for_this_machine() if names_torch(requirements) else None) or "auto"


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
