"""Real servers and agents for journeys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers import ServerProcess
from tests.support.yard import Yard


@pytest.fixture
def yard() -> Iterator[Yard]:
    """A server of the test's own."""
    with ServerProcess() as server, Yard(server) as yard:
        yield yard
