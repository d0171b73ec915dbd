"""A MongoDB that will not do is refused at start, with the cure and without the password."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from taskyard_server.errors import StartRefused
from taskyard_server.store.mongo import MongoStore

from tests.support.mongod import Mongod, collect_sockets, forgets_sockets

pytestmark = [pytest.mark.mongo, pytest.mark.usefixtures("collect_sockets"), forgets_sockets]
__all__ = ["collect_sockets"]


@pytest.fixture(scope="module")
def standalone() -> Iterator[str]:
    with Mongod(replica_set=False) as server:
        yield server.uri


async def test_a_standalone_mongod_is_refused_with_the_cure(standalone: str) -> None:
    with pytest.raises(StartRefused, match=r"not a replica set.*--replSet rs0.*rs\.initiate\(\)"):
        await MongoStore(standalone).open()


async def test_a_replica_set_that_was_never_initiated_is_refused_with_the_cure() -> None:
    with Mongod(initiate=False) as server:
        with pytest.raises(StartRefused, match=r"not been initiated.*rs\.initiate\(\)"):
            await MongoStore(f"{server.uri}/?serverSelectionTimeoutMS=1000").open()


async def test_a_mongod_that_is_not_there_is_refused_with_its_address() -> None:
    with pytest.raises(StartRefused, match=r"no MongoDB can be reached at 127\.0\.0\.1:1"):
        await MongoStore("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200").open()


async def test_a_user_that_mongodb_does_not_know_is_refused_with_the_cure(mongo_uri: str) -> None:
    with pytest.raises(StartRefused, match="refuses the user or the password") as refused:
        await MongoStore(mongo_uri.replace("://", "://ada:s3cret@")).open()
    assert_no_password(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "mongodb://ada:s3cret/x@localhost",
        "mongodb://ada:s3cret@x@localhost",
        "mongodb://ada:s3cret",
        "mongodb://localhost:s3cret/x",
        "mongodb://ada:p@localhost/s3cret data base",
    ],
)
async def test_an_address_that_cannot_be_read_is_not_shown(address: str) -> None:
    with pytest.raises(StartRefused, match="percent-encoded") as refused:
        await MongoStore(address).open()
    assert_no_password(refused.value)


async def test_a_password_is_not_shown_when_the_host_is_not_there() -> None:
    with pytest.raises(StartRefused, match="no MongoDB can be reached at") as refused:
        await MongoStore("mongodb://ada:s3cret@127.0.0.1:1/?serverSelectionTimeoutMS=200").open()
    assert_no_password(refused.value)


def assert_no_password(error: BaseException) -> None:
    shown: BaseException | None = error
    while shown is not None:
        assert "s3cret" not in str(shown)
        shown = shown.__cause__
