"""How containers fail: the task's fault, the image's, or the engine's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from taskyard.wire import Phase, Reason

from taskyard_agent.errors import RunFailed

if TYPE_CHECKING:
    import docker.errors


def refused(message: str) -> RunFailed:
    """What the task asks for is not to be had here."""
    return RunFailed(Phase.CONTAINER, Reason.CONTAINER, message)


def bad_image(message: str) -> RunFailed:
    """The image is missing, or cannot run the task."""
    return RunFailed(Phase.CONTAINER, Reason.IMAGE, message)


def registry_away(message: str, registry: str) -> RunFailed:
    """The image's registry cannot be reached just now: the task waits for it."""
    return RunFailed(Phase.CONTAINER, Reason.IMAGE, message, target=registry)


def engine_failed(message: str) -> RunFailed:
    """The engine's failure, which is not the task's."""
    return RunFailed(Phase.CONTAINER, Reason.CONTAINER, message, infrastructure=True)


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns the errors of the engine's library into a run's failure."""
    import docker.errors
    import requests

    try:
        yield
    except docker.errors.ImageNotFound as error:
        raise bad_image(f"{what}: {_words(error)}") from error
    except docker.errors.APIError as error:
        if error.status_code is not None and error.status_code < 500:
            raise refused(f"{what}: {_words(error)}") from error
        raise engine_failed(f"{what}: {_words(error)}") from error
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise engine_failed(f"{what}: the container engine does not answer: {error}") from error


@contextlib.contextmanager
def without_status(*statuses: int) -> Iterator[list[int]]:
    """Lets the engine answer with one of these; yields a list that holds the status if it did."""
    import docker.errors

    met: list[int] = []
    try:
        yield met
    except docker.errors.APIError as error:
        if error.status_code not in statuses:
            raise
        met.append(error.status_code)


def _words(error: docker.errors.APIError) -> str:
    """The engine's own explanation."""
    return str(error.explanation or error).strip()
