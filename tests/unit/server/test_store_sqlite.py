"""What is SQLite's own: where its file may live, how groups fail, what a claim costs."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from taskyard.wire import TaskState
from taskyard_server.errors import Conflict, NotFound, StartRefused, Unavailable
from taskyard_server.store.base import TaskRecord
from taskyard_server.store.place import Place
from taskyard_server.store.schema import CONTROL
from taskyard_server.store.sqlite import SqliteStore
from taskyard_server.store.tables import entries, queues, tasks

from tests.support.full_disk import full_beyond
from tests.support.records import any_fits, at_most, draft, new_id, order, prepare, queue, queued


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "control.db")
    await opened.open()
    yield opened
    await opened.close()


async def test_a_second_server_process_on_one_file_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    second = SqliteStore(tmp_path / "control.db")

    with pytest.raises(StartRefused, match=rf"another server process \(pid {os.getpid()}\)"):
        await second.open()


async def test_a_file_is_free_again_once_its_server_closed_it(tmp_path: Path) -> None:
    for _ in range(2):
        store = SqliteStore(tmp_path / "control.db")
        await store.open()
        await store.close()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "lustre"])
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    mounts = _mounts(tmp_path, kind)

    with pytest.raises(StartRefused, match=rf"network file system \({kind}\).*mongodb"):
        Place(tmp_path / "data" / "control.db", mounts=mounts).__enter__()


def test_a_local_file_system_is_taken(tmp_path: Path) -> None:
    with Place(tmp_path / "data" / "control.db", mounts=_mounts(tmp_path, "ext4")) as place:
        assert place.file.stat().st_mode & 0o777 == 0o600


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StartRefused, match=r"cannot be written .* --data"):
        await SqliteStore(tmp_path / "file" / "control.db").open()


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    path.write_bytes(b"a letter to a friend " * 100)

    with pytest.raises(StartRefused, match="cannot be opened as a database"):
        await SqliteStore(path).open()
    assert path.read_bytes() == b"a letter to a friend " * 100


async def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with _raw(tmp_path / "control.db") as connection:
        connection.execute("CREATE TABLE songs (title)")

    with pytest.raises(StartRefused, match="another program"):
        await SqliteStore(tmp_path / "control.db").open()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "control.db")
    await store.open()
    await store.close()
    with _raw(tmp_path / "control.db") as connection:
        connection.execute(f"PRAGMA user_version = {len(CONTROL.migrations) + 1}")

    with pytest.raises(StartRefused, match="written by a newer Taskyard"):
        await SqliteStore(tmp_path / "control.db").open()


async def test_after_a_refusal_the_file_is_free(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(StartRefused):
        await SqliteStore(path).open()

    path.unlink()
    store = SqliteStore(path)
    await store.open()
    await store.close()


async def test_every_commit_is_flushed_before_it_is_answered(store: SqliteStore) -> None:
    def settings(connection: sqlite3.Connection) -> list[str | int]:
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]

    assert await store._database.write(settings) == ["wal", 2]


async def test_an_operation_that_raises_takes_none_of_its_group_with_it(store: SqliteStore) -> None:
    records = [draft() for _ in range(30)]

    def refuse(record: TaskRecord) -> TaskRecord:
        raise Conflict("not this one")

    ways = [way for record in records for way in (store.add_tasks([record]), store.update(record.id, refuse))]
    ended = await asyncio.gather(*ways, return_exceptions=True)

    assert [type(end) for end in ended] == [type(None), Conflict] * 30
    assert [await store.task(record.id) for record in records] == records


async def test_an_operation_that_raises_half_way_leaves_nothing(store: SqliteStore) -> None:
    records = [draft(), draft()]

    with pytest.raises(Conflict):
        await store.add_tasks([*records, records[0]])

    with pytest.raises(NotFound):
        await store.task(records[0].id)


async def test_a_full_disk_is_unavailable_and_loses_nothing(store: SqliteStore) -> None:
    kept, refused = draft(), draft(description="x" * 2_000_000)
    await store.add_tasks([kept])

    with full_beyond(1_000_000), pytest.raises(Unavailable, match="free space"):
        await store.add_tasks([refused])
    await store.update(kept.id, lambda record: replace(record, losses=1))

    assert (await store.task(kept.id)).losses == 1
    with pytest.raises(NotFound):
        await store.task(refused.id)


async def test_a_verb_whose_caller_gave_up_before_its_turn_is_left_out(store: SqliteStore) -> None:
    record = queue()
    await store.add_queue(record)
    await store.add_tasks([queued(record.id)])

    claim = asyncio.create_task(store.claim([record.id], any_fits, prepare()))
    claim.cancel()
    await asyncio.gather(claim, return_exceptions=True)

    assert len(await order(store, record.id)) == 1


async def test_a_closed_store_is_unavailable(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "control.db")
    await store.open()
    await store.close()

    with pytest.raises(Unavailable):
        await store.task(new_id())
    with pytest.raises(Unavailable):
        await store.queues()
    with pytest.raises(Unavailable):
        await store.add_tasks([draft()])


@pytest.mark.parametrize("fitting", [True, False])
def test_a_claim_takes_as_many_steps_behind_two_thousand_entries_as_behind_twenty(fitting: bool) -> None:
    assert _steps_of_a_claim(2000, fitting=fitting) <= _steps_of_a_claim(20, fitting=fitting) + 10


def test_a_forced_queue_is_emptied_in_portions(tmp_path: Path) -> None:
    with _tables() as connection:
        record = queue()
        queues.add(connection, record)
        tasks.add_all(connection, [tasks.ready(queued(record.id)) for _ in range(25)])

        gone = [queues.delete_some(connection, record.id, _take_out, limit=10) for _ in range(3)]

        assert gone == [False, False, True]


def _take_out(record: TaskRecord) -> TaskRecord:
    return replace(record, state=TaskState.DRAFT, queue=None, rank=None)


def _steps_of_a_claim(entered: int, *, fitting: bool) -> int:
    """Instructions of SQLite's machine for a claim among so many entries, half of which fit."""
    with _tables() as connection:
        record = queue()
        queues.add(connection, record)
        added = [queued(record.id, gpus=index % 2 * 8) for index in range(entered)]
        tasks.add_all(connection, map(tasks.ready, added))
        shapes = entries.Shapes()
        entries.claim(connection, shapes, [record.id], at_most(0), prepare())
        steps: list[None] = []
        connection.set_progress_handler(lambda: steps.append(None), 1)
        entries.claim(connection, shapes, [record.id], at_most(0 if fitting else -1), prepare())
        connection.set_progress_handler(None, 0)
        return len(steps)


@contextmanager
def _tables() -> Iterator[sqlite3.Connection]:
    with _raw(Path(":memory:")) as connection:
        connection.executescript(CONTROL.migrations[0])
        yield connection


@contextmanager
def _raw(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path)
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def _mounts(folder: Path, kind: str) -> Path:
    device = folder.stat().st_dev
    line = f"36 35 {os.major(device)}:{os.minor(device)} / {folder} rw,noatime master:1 - {kind} host:/export rw\n"
    path = folder / "mountinfo"
    path.write_text(f"1 0 0:1 / /proc rw - proc proc rw\n{line}")
    return path
