"""What somebody asks for, as people write it, and what it is on the wire: sizes, times, resources, containers."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from taskyard.errors import UsageError
from taskyard.wire import Container, Environment, OnLost, Policy, RequirementsKind, Resources

_SPAN_SECONDS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_SPAN = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in _SPAN_SECONDS), re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", re.IGNORECASE)
TORCH_BACKEND = re.compile(r"auto|none|cpu|xpu|cu\d+|rocm\d+(\.\d+)*")
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
NOTHING = "none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What a task asks of its worker; None and empty leave things as they are."""

    gpus: int | None = None
    gpu_memory: str | int | None = None
    memory: str | int | float | None = None
    """`auto` (an equal share), `none`, `8GB` or a part like `0.5`."""
    resources: Mapping[str, float] = dataclasses.field(default_factory=dict)
    require: Mapping[str, str] = dataclasses.field(default_factory=dict)
    on_worker: str | None = None
    """Empty: any."""
    image: str | None = None
    """`none`: no container."""
    docker_args: str | Sequence[str] | None = None
    setup_script: str | Path | None = None
    """A file."""
    apt: str | Sequence[str] = ()
    """Packages, or their names with spaces between them."""
    torch_backend: str | None = None
    """The build of PyTorch: `auto`, `cpu`, `cu126` and the like; `none`: whatever the indexes have."""
    with_packages: str | Sequence[str] = ()
    """Packages besides those that the task's requirements name."""


def environment(asked: Asked, base: Environment) -> Environment:
    """`base` with what is asked for. Raises UsageError."""
    added = asked.with_packages
    base = with_packages(base, tuple(added.split() if isinstance(added, str) else added))
    if asked.torch_backend is None:
        return base
    if TORCH_BACKEND.fullmatch(asked.torch_backend) is None:
        raise UsageError(f"--torch-backend {asked.torch_backend}: write auto, cpu, cu126 or the like, or none")
    return dataclasses.replace(base, torch_backend=asked.torch_backend)


_ADDED_TO = ("packages", "imports", "script", "requirements.txt", "pyproject.toml")
"""Requirements that come down to lines; a lock names all that is installed, and nothing is added to it."""


def with_packages(base: Environment, packages: tuple[str, ...]) -> Environment:
    """Return `base` with more packages. Raises UsageError where its requirements take none."""
    if not packages:
        return base
    if base.manager == "inherit":
        raise UsageError("--with: with --manager inherit nothing is installed; leave one of the two out")
    if base.requirements == "none":
        base = dataclasses.replace(base, requirements=RequirementsKind.PACKAGES)
    if base.requirements not in _ADDED_TO or base.manager in ("poetry", "conda"):
        raise UsageError(
            f"--with: {base.path} names all that {base.manager} installs; add {' '.join(packages)} there, "
            "or say everything with --package"
        )
    return dataclasses.replace(base, packages=tuple(dict.fromkeys((*base.packages, *packages))))


def resources(asked: Asked, base: Resources) -> Resources:
    """`base` with what is asked for. Raises UsageError."""
    changed = dataclasses.replace(
        base,
        custom={**base.custom, **{name: _amount(name, value) for name, value in asked.resources.items()}},
        requires={**base.requires, **asked.require},
    )
    if asked.gpus is not None and asked.gpu_memory is not None:
        raise UsageError("give --gpus for whole GPUs or --gpu-memory for a part of one, not both")
    if asked.gpus is not None:
        if asked.gpus < 0:
            raise UsageError("--gpus: a number of GPUs is 0 or more")
        changed = dataclasses.replace(changed, gpus=asked.gpus, gpu_memory_bytes=None)
    if asked.gpu_memory is not None:
        changed = dataclasses.replace(
            changed, gpus=None, gpu_memory_bytes=_bytes(asked.gpu_memory, "--gpu-memory")
        )
    if asked.memory is not None:
        changed = _with_memory(changed, str(asked.memory))
    return changed if asked.on_worker is None else dataclasses.replace(changed, worker=asked.on_worker or None)


def _with_memory(base: Resources, text: str) -> Resources:
    if text == "auto":
        return dataclasses.replace(base, memory_bytes=None, memory_fraction=None)
    if text == NOTHING:
        return dataclasses.replace(base, memory_bytes=0, memory_fraction=None)
    try:
        part = float(text)
    except ValueError:
        part = 2.0
    if 0 < part <= 1:
        return dataclasses.replace(base, memory_bytes=None, memory_fraction=part)
    try:
        return dataclasses.replace(base, memory_bytes=_bytes(text, "--memory"), memory_fraction=None)
    except UsageError as error:
        raise UsageError(f"{error}, a part like 0.5, auto or none") from None


def _amount(name: str, value: Any) -> float:
    try:
        amount = float(value)
    except ValueError:
        amount = -1.0
    if not (math.isfinite(amount) and amount >= 0):
        raise UsageError(f"--resource {name}={value}: an amount is a number, 0 or more")
    return amount


def container(asked: Asked, base: Container | None) -> Container | None:
    """`base` with what is asked for; None where nothing is in a container. Raises UsageError."""
    parts: dict[str, Any] = {}
    if asked.image is not None:
        parts["image"] = asked.image
    if asked.docker_args is not None:
        parts["args"] = _docker_args(asked.docker_args)
    if asked.setup_script is not None:
        parts["setup_script"] = _script(Path(asked.setup_script))
    if asked.apt:
        parts["apt"] = tuple(asked.apt.split() if isinstance(asked.apt, str) else asked.apt)
    if parts.get("image") == NOTHING:
        if len(parts) > 1:
            raise UsageError("--image none takes the container away; leave out what belongs in one")
        return None
    return dataclasses.replace(base or Container(), **parts) if parts else base


def _docker_args(given: str | Sequence[str]) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(given)) if isinstance(given, str) else tuple(given)
    except ValueError as error:
        raise UsageError(f"--docker-args {given}: {error}; quote it as a shell would read it") from error
    if words and not words[0].startswith("-"):
        raise UsageError(f"--docker-args: {words[0]!r} is no argument of `docker run`; they begin with a dash")
    return words


def _script(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--setup-script {file} cannot be read: {error}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedPolicy:
    """What is asked of a task's policy; None keeps a field. Times are written like `30m`, or in seconds."""

    timeout: str | float | None = None
    max_idle_gpu: str | float | None = None
    give_up_after: str | float | None = None
    grace: str | float | None = None
    """Between SIGTERM and SIGKILL."""
    retries: int | None = None
    retry_delay: str | float | None = None
    """Before the first retry; doubled for each further one."""
    on_lost: str | None = None
    """`requeue`, `fail` or `wait`."""
    exclusive: bool | None = None
    """Whether its own machine ends it before another could get it."""


def policy(asked: AskedPolicy, base: Policy) -> Policy:
    """`base` with what is asked for. Raises UsageError."""
    given: dict[str, Any] = {}
    for name in ("timeout", "max_idle_gpu", "give_up_after"):
        if (value := getattr(asked, name)) is not None:
            given[f"{name}_seconds"] = seconds(value, _flag(name))
    for name in ("grace", "retry_delay"):
        if (value := getattr(asked, name)) is not None:
            given[f"{name}_seconds"] = _seconds_or_none(value, _flag(name))
    if asked.retries is not None:
        if asked.retries < 0:
            raise UsageError("--retries: a number of retries is 0 or more")
        given["retries"] = asked.retries
    if asked.on_lost is not None:
        if asked.on_lost not in [each.value for each in OnLost]:
            raise UsageError(f"--on-lost {asked.on_lost}: write {', '.join(OnLost)}")
        given["on_lost"] = OnLost(asked.on_lost)
    if asked.exclusive is not None:
        given["exclusive"] = asked.exclusive
    return dataclasses.replace(base, **given)


def policy_in_words(policy: Policy) -> str:
    """What differs from how a task is usually treated, for people; empty where nothing does."""
    usual = Policy()
    parts = [f"{policy.retries} retries"] if policy.retries != usual.retries else []
    for name, words in _TIMES.items():
        value = getattr(policy, f"{name}_seconds")
        if value != getattr(usual, f"{name}_seconds"):
            parts.append(f"{words} {value:g} s")
    parts += [f"when lost: {policy.on_lost}"] if policy.on_lost != usual.on_lost else []
    parts += ["exclusive"] if policy.exclusive else []
    return ", ".join(parts)


_TIMES = {
    "timeout": "at most",
    "grace": "grace",
    "retry_delay": "retried after",
    "max_idle_gpu": "ended when its GPUs idle for",
    "give_up_after": "gives up on a host after",
}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _seconds_or_none(given: str | float, flag: str) -> float:
    try:
        return span(str(given))
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def seconds(given: str | float, flag: str) -> float:
    """Reads a time span of more than nothing, as `span` does. Raises UsageError."""
    try:
        return span_above_zero(str(given))
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def span(text: str) -> float:
    """Reads `90`, `90s`, `1.5h`, `1h30m`, `2d`; returns seconds. Raises ValueError saying how one is written."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    match = _SPAN.fullmatch(text)
    if not (text and match):
        raise ValueError(f"{text!r} is not a time span; write it like 90s, 30m, 1h30m or 2d")
    return sum(float(part or 0) * unit for part, unit in zip(match.groups(), _SPAN_SECONDS.values(), strict=True))


def span_above_zero(text: str) -> float:
    """Reads a span as `span` does, where none at all makes no sense. Raises ValueError."""
    found = span(text)
    if found == 0:
        raise ValueError(f"{text!r} is no time at all; write a longer one, like 90s, 30m or 1h30m")
    return found


def _bytes(given: str | int, flag: str) -> int:
    try:
        found = size(str(given))
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None
    if found < 1:
        raise UsageError(f"{flag} {given}: write a size of more than nothing, like 8GB or 500M")
    return found


def size(text: str) -> int:
    """Reads `10GB`, `1.5G`, `500M` or a number of bytes; powers of 1024. Raises ValueError saying how."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or ("." in match[1] and not match[2]):
        raise ValueError(f"{text!r} is not a size; write it like 8GB or 500M")
    return int(float(match[1]) * 1024 ** _POWERS[match[2].upper()])


def in_words(resources: Resources) -> str:
    """What is asked of the worker, for people; empty where nothing is."""
    parts = [f"{resources.gpus} GPU{'s' * (resources.gpus != 1)}"] if resources.gpus is not None else []
    if resources.gpu_memory_bytes is not None:
        parts.append(f"{size_in_words(resources.gpu_memory_bytes)} of one GPU")
    if resources.memory_bytes is not None:
        amount = size_in_words(resources.memory_bytes) + " of memory"
        parts.append(amount if resources.memory_bytes else "memory without a limit")
    if resources.memory_fraction is not None:
        parts.append(f"{resources.memory_fraction:g} of the memory")
    parts += [f"{amount:g} {name}" for name, amount in sorted(resources.custom.items())]
    parts += [f"{name}={value}" for name, value in sorted(resources.requires.items())]
    return ", ".join([*parts, *([f"on worker {resources.worker}"] if resources.worker else [])])


def container_in_words(container: Container) -> str:
    """The image, and what is added to it."""
    added = [f"apt {' '.join(container.apt)}"] if container.apt else []
    added += ["a setup script"] if container.setup_script else []
    added += [shlex.join(container.args)] if container.args else []
    return "; ".join([container.image or "the agent's default image", *added])


def size_in_words(amount: int) -> str:
    """Return it in powers of 1024, as it is asked for: `--memory 500MB` is `500 MiB`."""
    found = float(amount)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if found < 1024:
            return f"{found:.4g} {unit}"
        found /= 1024
    return f"{found:.4g} TiB"


def outputs(given: Iterable[str]) -> tuple[str, ...]:
    """Reads patterns of output files, with slashes as on every system. Raises UsageError."""
    found = tuple(dict.fromkeys(given))
    for pattern in found:
        if not pattern or pattern.startswith(("/", "~")) or ".." in pattern.split("/") or "\\" in pattern:
            raise UsageError(
                f"--output {pattern!r}: name files relative to the working folder and inside it, like 'out/**'"
            )
    return found


def pairs(given: Iterable[str], flag: str) -> dict[str, str]:
    """Reads `NAME=VALUE` each. Raises UsageError."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{flag} {text}: write it as NAME=VALUE")
        found[name] = value
    return found
