"""Fixtures of the server's unit tests."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.memory_disk import memory_disk
from tests.support.services import Services, open_services


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory, where that can be."""
    if not (memory := memory_disk()):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="taskyard-", dir=memory, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with open_services(tmp_path / "data") as opened:
        yield opened
