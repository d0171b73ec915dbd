"""An idle database is whole in its main file, and an empty store never begins beside another's data."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from taskyard_server.accounts import Accounts
from taskyard_server.app import running
from taskyard_server.auth import Authenticator, digest
from taskyard_server.config import ServerConfig
from taskyard_server.errors import StartRefused
from taskyard_server.store import writer
from taskyard_server.store.sqlite import SqliteStore

from tests.support.records import draft
from tests.support.waiting import becomes_true_async


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    return ServerConfig(data=tmp_path / "data")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_SECONDS", 0.2)


async def served_once(config: ServerConfig) -> None:
    async with running(config):
        pass


@pytest.mark.usefixtures("often")
async def test_the_main_file_of_an_idle_database_holds_everything(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "control.db")
    await store.open()
    record = draft()
    await store.add_tasks([record])

    assert await becomes_true_async(lambda: (tmp_path / "control.db-wal").stat().st_size == 0)
    shutil.copy(tmp_path / "control.db", tmp_path / "copy.db")
    await store.close()

    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT id FROM tasks").fetchall() == [(record.id,)]


@pytest.mark.usefixtures("often")
async def test_a_reader_of_an_old_state_neither_stops_writes_nor_the_later_checkpoint(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "control.db")
    await store.open()
    await store.add_tasks([draft()])
    with closing(sqlite3.connect(tmp_path / "control.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM tasks").fetchone()
        for _ in range(3):
            await store.add_tasks([draft()])
        assert (tmp_path / "control.db-wal").stat().st_size > 0

    assert await becomes_true_async(lambda: (tmp_path / "control.db-wal").stat().st_size == 0)
    await store.close()


@pytest.mark.parametrize("left", ["logs", "blobs", "admin-token"])
async def test_a_missing_database_beside_another_stores_data_is_refused(config: ServerConfig, left: str) -> None:
    file = config.data / left if left == "admin-token" else config.data / left / "ab" / "abcdef"
    file.parent.mkdir(parents=True)
    file.write_text("another store's")

    with pytest.raises(StartRefused, match=rf"missing or empty, but .* holds {left} .*server restore"):
        await served_once(config)
    assert file.read_text() == "another store's"
    assert not (config.data / "control.db").exists()


async def test_a_database_copied_without_its_newest_part_is_refused(config: ServerConfig, tmp_path: Path) -> None:
    """What the main file held before: tables without a row, while everything stood in the WAL."""
    await served_once(config)
    other = SqliteStore(tmp_path / "other" / "control.db")
    await other.open()
    await other.close()
    for path in config.data.glob("control.db*"):
        path.unlink()
    shutil.copy(tmp_path / "other" / "control.db", config.data / "control.db")
    token = (config.data / "admin-token").read_text()

    with pytest.raises(StartRefused, match=r"missing or empty, but .* holds admin-token"):
        await served_once(config)
    assert (config.data / "admin-token").read_text() == token


async def test_a_restart_and_an_empty_folder_are_no_refusal(config: ServerConfig) -> None:
    (config.data / "logs").mkdir(parents=True)

    for _ in range(2):
        await served_once(config)


async def test_a_start_killed_while_it_made_the_administrator_leaves_a_way_in(tmp_path: Path) -> None:
    """Between the file and the token, between the token and the file's name: the next start completes it."""
    store = SqliteStore(tmp_path / "control.db")
    await store.open()
    accounts = Accounts(store, Authenticator(store, lambda: 1.0), lambda: 1.0)
    (tmp_path / "admin-token.new").write_text("ty_administrator_never_valid\n")

    assert await accounts.ensure_administrator(tmp_path / "admin-token")
    (tmp_path / "admin-token").rename(tmp_path / "admin-token.new")
    assert not await accounts.ensure_administrator(tmp_path / "admin-token")

    secret = (tmp_path / "admin-token").read_text().strip()
    assert await store.token_by_hash(digest(secret)) is not None
    assert not (tmp_path / "admin-token.new").exists()
    await store.close()


async def test_an_empty_store_never_replaces_the_token_file_of_another(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "control.db")
    await store.open()
    (tmp_path / "admin-token").write_text("of another store\n")

    with pytest.raises(StartRefused, match="store is empty, but"):
        await Accounts(store, Authenticator(store, lambda: 1.0), lambda: 1.0).ensure_administrator(
            tmp_path / "admin-token"
        )
    await store.close()
    assert (tmp_path / "admin-token").read_text() == "of another store\n"
