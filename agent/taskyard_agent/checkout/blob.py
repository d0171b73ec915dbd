"""Fetching what was uploaded with the task: for as long as it takes, and proven to be what was meant."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

from taskyard.errors import TaskyardError
from taskyard.wire import Reason

from taskyard_agent.answers import Act, Conversation, Route
from taskyard_agent.errors import RunStopped

from .failure import of_machine, refused

FetchBlob = Callable[[str, Path], None]
"""Downloads a blob of the server's to a file."""


def download(digest: str, target: Path, fetch_blob: FetchBlob, cancelled: threading.Event) -> None:
    """Downloads and checks. Raises RunFailed where the server has no such blob, RunStopped when cancelled."""
    conversation = Conversation(Route.CODE, digest[:12])
    while True:
        try:
            fetch_blob(digest, target)
            return _check_digest(target, digest)
        except TaskyardError as error:
            if conversation.heed(error) is Act.GIVE_UP:
                problem = f"the server does not give out the uploaded code: {error}"
                raise refused(problem, "submit it again") from error
            if cancelled.wait(conversation.pause):
                raise RunStopped("cancelled during the checkout") from error


def _check_digest(file: Path, expected: str) -> None:
    hashed = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            hashed.update(block)
    if hashed.hexdigest() != expected:
        raise of_machine(
            Reason.DISK, f"the code arrived damaged: its SHA-256 is {hashed.hexdigest()}, not {expected}"
        )
