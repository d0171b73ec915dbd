"""The database in MongoDB: its settings, its fitness at start, and its errors as ours."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from bson.errors import BSONError
from gridfs import AsyncGridFSBucket
from pymongo import AsyncMongoClient, IndexModel, ReadPreference, WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    ConfigurationError,
    DocumentTooLarge,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern
from taskyard.log_lines import Outage

from taskyard_server.errors import Invalid, StartRefused, TooLarge, Unavailable

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
Document = dict[str, Any]

DEFAULT_DATABASE = "taskyard"
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
_OLDEST = (6, 0)
_TRANSACTION_SECONDS = 45.0
_FILE_CHUNK_BYTES = 1024 * 1024
_MAJORITY = WriteConcern("majority", wtimeout=10_000)
# What an address in the form of mongodb://… may set otherwise.
_PATIENCE = {"serverSelectionTimeoutMS": 5_000, "connectTimeoutMS": 5_000, "socketTimeoutMS": 30_000}
_ACCESS_DENIED = (13, 18, 8000)
_INITIATE = "run once: mongosh --eval 'rs.initiate()'"


class Database:
    """One client, shared by everything of one server that is kept in MongoDB. No message holds its password."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: AsyncMongoClient[Document] | None = None
        self._opened: AsyncDatabase[Document] | None = None
        self._collections: dict[str, AsyncCollection[Document]] = {}
        self._indexes: dict[str, Sequence[IndexModel]] = {}

    def declare(self, name: str, indexes: Sequence[IndexModel]) -> None:
        """Says which indexes a collection needs; they are made when the database is opened."""
        self._indexes[name] = indexes

    async def open(self) -> None:
        """Connects and makes the indexes. Raises StartRefused with the cure when this MongoDB is unfit."""
        client = self._make_client()
        try:
            await self._refuse_unfit(client)
        except BaseException:
            await client.close()
            raise
        self._client = client
        self._opened = self._durable(client)

    async def close(self) -> None:
        """Lets go; nothing happens when it is closed."""
        if self._client is not None:
            await self._client.close()
            self._client = self._opened = None
            self._collections.clear()

    def collection(self, name: str) -> AsyncCollection[Document]:
        """A collection whose writes are durable, whatever the address says of them."""
        if name not in self._collections:
            self._collections[name] = self._named[name]
        return self._collections[name]

    async def sizes(self) -> dict[str, int]:
        """Bytes that the database takes on the disk, with its indexes. Raises Unavailable."""
        with translated():
            found = await self._named.command("dbStats")
        return {"database": int(found["storageSize"] + found.get("indexSize", 0))}

    @property
    def files(self) -> AsyncGridFSBucket:
        """What is too large for one document."""
        return AsyncGridFSBucket(self._named, "blobs", chunk_size_bytes=_FILE_CHUNK_BYTES)

    async def transaction(self, work: Callable[[AsyncClientSession], Awaitable[T]]) -> T:
        """All or nothing; `work` runs again after a conflict, and what it raises undoes everything."""

        async def attempt(session: AsyncClientSession) -> T:
            try:
                return await work(session)
            except ServerSelectionTimeoutError as error:
                # The driver would try for as long as the whole transaction may take.
                raise _unavailable(error) from error

        async with self._named.client.start_session() as session:
            whole = session.with_transaction(
                attempt, read_concern=ReadConcern("snapshot"), write_concern=_MAJORITY
            )
            # Not pymongo's own timeout, under which each message is repeated until the time is over.
            try:
                return await asyncio.wait_for(whole, _TRANSACTION_SECONDS)
            except asyncio.TimeoutError as error:
                raise _unavailable(error) from error

    @property
    def _named(self) -> AsyncDatabase[Document]:
        if self._opened is None:
            raise Unavailable("the server is starting or stopping: try again")
        return self._opened

    @property
    def _address(self) -> str:
        return self._uri.partition("://")[2].partition("/")[0].rpartition("@")[2]

    def _make_client(self) -> AsyncMongoClient[Document]:
        patience: dict[str, Any] = {
            name: value for name, value in _PATIENCE.items() if f"{name}=".lower() not in self._uri.lower()
        }
        try:
            client: AsyncMongoClient[Document] = AsyncMongoClient(
                self._uri, appname="taskyard", retryWrites=True, retryReads=True, **patience
            )
            client.get_default_database(DEFAULT_DATABASE)
        except (PyMongoError, ValueError):
            # The driver quotes the part that it cannot read, which may be a piece of the password.
            raise StartRefused(
                "the address of MongoDB cannot be read: write it as mongodb://USER:PASSWORD@HOST:PORT/DATABASE,"
                " with the characters : / ? # [ ] @ % of user and password percent-encoded"
            ) from None
        return client

    def _durable(self, client: AsyncMongoClient[Document]) -> AsyncDatabase[Document]:
        """The database named in the address, else `taskyard`."""
        database = client.get_default_database(DEFAULT_DATABASE)
        return database.with_options(read_preference=ReadPreference.PRIMARY, write_concern=_MAJORITY)

    async def _refuse_unfit(self, client: AsyncMongoClient[Document]) -> None:
        try:
            hello = await client.admin.command("hello")
            version = (await client.server_info())["version"]
            self._refuse_kind(hello, version)
            for name, indexes in self._indexes.items():
                await self._durable(client)[name].create_indexes(indexes)
        except ServerSelectionTimeoutError as error:
            raise StartRefused(self._why_unreachable(client)) from error
        except ConfigurationError as error:
            raise StartRefused(f"MongoDB at {self._address} cannot be used: {error}") from error
        except OperationFailure as error:
            raise StartRefused(self._why_denied(error)) from error
        except PyMongoError as error:
            raise StartRefused(f"MongoDB at {self._address} does not answer: {error}") from error

    def _refuse_kind(self, hello: Document, version: str) -> None:
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
            raise StartRefused(
                f"MongoDB at {self._address} is version {version}; Taskyard needs 6.0 or newer: upgrade it"
            )
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise StartRefused(
                f"MongoDB at {self._address} is not a replica set, which transactions and change streams need (one"
                f" node is enough): start it with --replSet rs0, then {_INITIATE}"
            )

    def _why_unreachable(self, client: AsyncMongoClient[Document]) -> str:
        found = client.topology_description.server_descriptions().values()
        if any(server.server_type_name == "RSGhost" for server in found):
            return f"the replica set at {self._address} has not been initiated: {_INITIATE}"
        if any(server.server_type_name.startswith("RS") for server in found):
            return f"the replica set at {self._address} has no primary: start the other members, see rs.status()"
        return (
            f"no MongoDB can be reached at {self._address}: check that it runs, its host and port, the firewall,"
            " and TLS (?tls=true)"
        )

    def _why_denied(self, error: OperationFailure) -> str:
        if error.code in _ACCESS_DENIED:
            return (
                f"MongoDB at {self._address} refuses the user or the password: check them, name the database that"
                " holds the user with ?authSource=admin, and give the user the role readWrite"
            )
        reason = (error.details or {}).get("errmsg", "it does not say why")
        return f"MongoDB at {self._address} cannot be prepared: {reason}"


@contextmanager
def translated() -> Iterator[None]:
    """The one boundary: what pymongo raises inside becomes an error of ours."""
    try:
        yield
    except DocumentTooLarge as error:
        raise TooLarge(
            "the record is larger than the 16 MB that MongoDB can hold: shorten its diff or its log"
        ) from error
    except (UnicodeEncodeError, BSONError) as error:
        raise Invalid(f"this cannot be stored: {error}") from error
    except PyMongoError as error:
        raise _unavailable(error) from error


_outage = Outage(logger, "MongoDB did not do it", "store_unavailable")


def _unavailable(error: Exception) -> Unavailable:
    _outage.failed(error)
    return Unavailable("MongoDB cannot be reached or written just now: try again")


def translating(verb: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Puts a whole coroutine function behind `translated`."""

    @functools.wraps(verb)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        with translated():
            return await verb(*args, **kwargs)

    return guarded
