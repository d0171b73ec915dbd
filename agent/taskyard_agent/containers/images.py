"""Images: found on this machine, or fetched."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import docker.errors

from taskyard_agent.containers.engine import Engine
from taskyard_agent.containers.failure import bad_image, engine_failed, registry_away, translated
from taskyard_agent.errors import RunFailed, RunStopped

Log = Callable[[str], None]

_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::\d{1,5})?/)?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
NAME = re.compile(
    rf"(?:{_HOST}{_PART}(?:/{_PART})*(?::\w[\w.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?|sha256:[0-9a-f]{{64}})"
)
"""As the distribution's grammar has it: https://pkg.go.dev/github.com/distribution/reference."""
_ABSENT = re.compile(
    r"not found|manifest unknown|no such image|does not exist|denied|unauthorized|no matching manifest"
)
_NO_SUCH_HOST = re.compile(r"no such host")
_FOR_NOW = re.compile(
    r"timeout|timed out|deadline exceeded|connection refused|connection reset|server misbehaving|"
    r"temporary failure|unreachable|no route to host|\beof\b|too ?many ?requests|\b5\d\d\b|unavailable"
)
_DEFAULT_REGISTRY = "docker.io"
SAY_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that is on this machine."""

    name: str
    """As it was asked for."""
    id: str
    digest: str
    """What its registry calls it, `name@sha256:…`; its id where it came from none."""
    architecture: str
    variables: Mapping[str, str] = field(default_factory=dict)
    start: Mapping[str, Any] = field(default_factory=dict)
    """What it does of itself: the engine's `Entrypoint`, `Cmd`, `User` and `WorkingDir`."""


def obtain(engine: Engine, name: str, *, platform: str | None, log: Log, cancelled: threading.Event) -> Image:
    """Returns the image, fetched where it is not here. Raises RunFailed or RunStopped."""
    if len(name) > 255 or NAME.fullmatch(name) is None:
        raise bad_image(f"{name!r} is not the name of an image; write it like python:3.12 or host/name@sha256:…")
    found = find(engine, name)
    if found is not None:
        return found
    log(f"fetching image {name}")
    _pull(engine, name, platform, log, cancelled)
    found = find(engine, name)
    if found is None:
        raise bad_image(f"image {name} was fetched, but is not here; does `docker image ls` show it?")
    return found


def find(engine: Engine, name: str) -> Image | None:
    """The image if it is on this machine."""
    with translated(f"image {name}"):
        try:
            record = engine.client.images.get(name).attrs
        except docker.errors.ImageNotFound:
            return None
    return _read(name, record)


def _read(name: str, record: Mapping[str, Any]) -> Image:
    digests = record.get("RepoDigests") or ()
    repository = name.partition("@")[0].rpartition(":")[0] if ":" in name.rpartition("/")[2] else name
    named = [digest for digest in digests if digest.partition("@")[0].endswith(repository.partition("@")[0])]
    config = record.get("Config") or {}
    lines = config.get("Env") or ()
    return Image(
        name=name,
        id=str(record["Id"]),
        digest=str((named or digests or [record["Id"]])[0]),
        architecture=str(record.get("Architecture", "")),
        variables=dict(line.split("=", 1) for line in lines if "=" in line),
        start={
            "Entrypoint": config.get("Entrypoint") or [],
            **{name: config[name] for name in ("Cmd", "User", "WorkingDir") if config.get(name)},
        },
    )


def _pull(engine: Engine, name: str, platform: str | None, log: Log, cancelled: threading.Event) -> None:
    tag = None if "@" in name or ":" in name.rpartition("/")[2] else "latest"
    try:
        with translated("the engine"):
            progress = Progress(log)
            for event in engine.client.api.pull(name, tag=tag, platform=platform, stream=True, decode=True):
                if cancelled.is_set():
                    raise RunStopped("the run was ended while its image was fetched")
                if "error" in event:
                    raise _pull_failure(name, str(event["error"]))
                progress.take(event)
    except RunFailed as failure:
        raise _pull_failure(name, str(failure)) from failure


def _pull_failure(name: str, message: str) -> RunFailed:
    if _ABSENT.search(message.lower()):
        return bad_image(
            f"there is no image {name} on this machine, and its registry does not give it: {message}. Is the name "
            "right, and is this machine logged in there (`docker login`)?"
        )
    if _NO_SUCH_HOST.search(message.lower()):
        return bad_image(f"image {name} cannot be fetched, because there is no such host: {message}")
    if _FOR_NOW.search(message.lower()):
        return registry_away(f"image {name} cannot be fetched just now: {message}", registry_of(name))
    return engine_failed(f"image {name} cannot be fetched: {message}")


def registry_of(name: str) -> str:
    """The host of the registry that an image is named for, as the distribution's grammar has it."""
    first, slash, _ = name.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else _DEFAULT_REGISTRY


class Progress:
    """Says how a download goes, every other second."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._layers: dict[str, tuple[int, int]] = {}
        self._said_at = time.monotonic()

    def take(self, event: Mapping[str, Any]) -> None:
        """Notes one message of the engine."""
        detail = event.get("progressDetail") or {}
        if event.get("status") == "Downloading" and detail.get("total"):
            self._layers[str(event.get("id"))] = (int(detail["current"]), int(detail["total"]))
        elif str(event.get("status", "")).startswith(("Digest:", "Status:")):
            self._log(str(event["status"]))
        if self._layers and time.monotonic() - self._said_at >= SAY_SECONDS:
            self._said_at = time.monotonic()
            done, total = (sum(numbers) for numbers in zip(*self._layers.values(), strict=True))
            self._log(f"fetched {done / 1e6:.0f} of {total / 1e6:.0f} MB")
