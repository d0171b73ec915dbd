"""Real servers and agents for journeys."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import ServerProcess
from tests.support.yard import Yard


@pytest.fixture
def yard() -> Iterator[Yard]:
    """A server of the test's own."""
    with ServerProcess() as server, Yard(server) as yard:
        yield yard


@pytest.fixture
def images_alone() -> Iterator[None]:
    """Alone among the tests of this machine to prepare images and prune them: they are the engine's."""
    with (Path(tempfile.gettempdir()) / "taskyard-prepared-images.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
