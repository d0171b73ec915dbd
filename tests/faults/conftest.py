"""A yard in which patience is short: what takes minutes in production takes seconds here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.witness import Witness
from tests.support.relay import Relay
from tests.support.servers import PATIENT, ServerProcess
from tests.support.yard import Yard

QUICK = ("--lease-seconds", "2", "--confirm-seconds", "2", "--lost-after-seconds", "5")


class Faulty(Yard):
    """A yard whose tasks bear witness."""

    def __init__(self, server: ServerProcess, folder: Path) -> None:
        super().__init__(server)
        self.folder = folder
        self._witnesses = 0

    def witness(self, **options: object) -> Witness:
        """A new task."""
        self._witnesses += 1
        return Witness(self, self.folder / f"task{self._witnesses}", **options)  # type: ignore[arg-type]


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Faulty]:
    """A server that gives silent runs up soon."""
    with ServerProcess(*QUICK) as server, Faulty(server, tmp_path / "witnesses") as yard:
        yield yard


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Faulty]:
    """A server that waits a minute for silent runs."""
    with ServerProcess(*PATIENT) as server, Faulty(server, tmp_path / "witnesses") as yard:
        yield yard


@pytest.fixture
def relay(request: pytest.FixtureRequest) -> Iterator[Relay]:
    """The network between the test's yard and its agents."""
    yard: Faulty = request.getfixturevalue("hasty" if "hasty" in request.fixturenames else "patient")
    with Relay(yard.server.port) as relay:
        yield relay
