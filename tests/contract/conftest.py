"""Every backend behind the same fixtures: a test that names `store`, `logs`, `blobs` or `samples` runs on each."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from taskyard_server.store import Stores, open_store
from taskyard_server.store.artifacts import ArtifactStore, PartStore
from taskyard_server.store.base import BlobStore, LogStore, QueueRecord, SampleStore, Store

from tests.support.memory_disk import memory_disk
from tests.support.records import queue as new_queue


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A place that stores can be opened on, again and again."""

    url: str
    data: Path

    def stores(self) -> Stores:
        """As a server that starts would have them; still to be opened."""
        return open_store(self.url, self.data, self.data / "artifacts")


@pytest.fixture(scope="session")
def mongo_uri() -> Iterator[str]:
    """A running MongoDB. Without one the tests that need it are skipped, but fail in continuous integration."""
    pytest.importorskip("pymongo")
    from tests.support.mongod import mongod

    try:
        with mongod() as uri:
            yield uri
    except pytest.skip.Exception as absent:
        if os.environ.get("CI"):
            pytest.fail(f"continuous integration tests both stores: {absent}")
        raise


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder for what a store keeps in files: in memory, where that can be."""
    with tempfile.TemporaryDirectory(prefix="taskyard-", dir=memory_disk(), ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "data"


@pytest.fixture(params=["sqlite", pytest.param("mongodb", marks=pytest.mark.mongo)])
def backend(request: pytest.FixtureRequest, data: Path) -> Iterator[Backend]:
    if request.param == "sqlite":
        yield Backend(url=f"sqlite://{data}/control.db", data=data)
        return
    uri, name = request.getfixturevalue("mongo_uri"), f"test_{uuid.uuid4().hex}"
    yield Backend(url=urlsplit(uri)._replace(path=f"/{name}").geturl(), data=data)
    # A mongod of our own goes with all that it holds; there, a killed writer's transaction would hold up a drop.
    if os.environ.get("TASKYARD_TEST_MONGO_URI"):
        _drop(uri, name)


def _drop(uri: str, name: str) -> None:
    from pymongo import MongoClient

    with MongoClient[dict[str, object]](uri) as client:
        client.drop_database(name)


@pytest.fixture
async def stores(backend: Backend) -> AsyncIterator[Stores]:
    opened = backend.stores()
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def store(stores: Stores) -> Store:
    return stores.store


@pytest.fixture
def logs(stores: Stores) -> LogStore:
    return stores.logs


@pytest.fixture
def blobs(stores: Stores) -> BlobStore:
    return stores.blobs


@pytest.fixture
def artifacts(stores: Stores) -> ArtifactStore:
    return stores.artifacts


@pytest.fixture
def parts(stores: Stores) -> PartStore:
    assert stores.artifact_parts is not None
    return stores.artifact_parts


@pytest.fixture
def samples(stores: Stores) -> SampleStore:
    return stores.samples


@pytest.fixture
async def queue(store: Store) -> QueueRecord:
    """An empty queue."""
    record = new_queue()
    await store.add_queue(record)
    return record
