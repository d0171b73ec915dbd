"""Which run names which parts, which account has sent them, and the parts themselves."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from taskyard.wire import Artifact, ArtifactFile
from taskyard_server.errors import Conflict, Invalid, NotFound, StartRefused, TooLarge
from taskyard_server.store import open_store
from taskyard_server.store.artifacts import LOOKED_AT, ArtifactRecord, ArtifactStore, PartStore, Totals
from taskyard_server.store.base import Store, TaskRecord

from tests.contract.conftest import Backend
from tests.support.records import draft

A, B, C = (letter * 64 for letter in "abc")
DAY = 86_400.0


def record(
    task: TaskRecord, *digests: str, name: str = "out/model.pt", account: str = "ada", run: int = 1
) -> ArtifactRecord:
    file = ArtifactFile(path="model.pt", size=10, sha256=A, parts=digests)
    made = Artifact(run=f"{task.id}.{run}", name=name, kind="output", size=10, created_at=1.0, files=(file,))
    return ArtifactRecord(artifact=made, task=task.id, account=account)


@pytest.fixture
async def task(store: Store) -> TaskRecord:
    """A task in the store."""
    made = draft()
    await store.add_tasks([made])
    return made


# --- References


async def test_what_is_attached_is_read_back_by_name(artifacts: ArtifactStore, task: TaskRecord) -> None:
    second, first = record(task, A, B, name="b"), record(task, name="a")
    for digest in (A, B):
        await artifacts.note_sent(digest, "ada", 1.0)

    await artifacts.attach([second, first])

    assert await artifacts.artifacts(f"{task.id}.1") == [first, second]
    assert await artifacts.artifact(f"{task.id}.1", "b") == second
    with pytest.raises(NotFound):
        await artifacts.artifact(f"{task.id}.2", "b")


async def test_the_same_name_replaces_what_was_there(artifacts: ArtifactStore, task: TaskRecord) -> None:
    for digest in (A, B):
        await artifacts.note_sent(digest, "ada", 1.0)
    await artifacts.attach([record(task, A)])

    await artifacts.attach([record(task, B)])

    assert await artifacts.artifacts(f"{task.id}.1") == [record(task, B)]
    await artifacts.forget_unused(2.0, DAY)
    assert await artifacts.referenced([A, B]) == {B}


async def test_a_part_that_another_account_sent_cannot_be_named(
    artifacts: ArtifactStore, task: TaskRecord
) -> None:
    await artifacts.note_sent(A, "ada", 1.0)
    await artifacts.attach([record(task, A)])

    assert await artifacts.sent_by("bob", [A, B]) == set()
    with pytest.raises(Conflict):
        await artifacts.attach(
            [record(task, name="empty", account="bob"), record(task, A, account="bob", name="x")]
        )

    assert [kept.artifact.name for kept in await artifacts.artifacts(f"{task.id}.1")] == ["out/model.pt"]


async def test_totals_leave_out_the_names_that_are_replaced(artifacts: ArtifactStore, task: TaskRecord) -> None:
    await artifacts.attach([record(task, name="a"), record(task, name="b"), record(task, name="a", run=2)])

    assert await artifacts.totals(f"{task.id}.1", besides={"b"}) == Totals(files=1, bytes=10)


async def test_nothing_is_kept_of_a_task_that_is_gone(
    artifacts: ArtifactStore, store: Store, task: TaskRecord
) -> None:
    await artifacts.note_sent(A, "ada", 1.0)
    await artifacts.attach([record(task, A)])
    await store.delete_task(task.id, lambda _record: None)

    await artifacts.forget_unused(2.0, DAY)  # a server may have died between the two

    assert await artifacts.artifacts(f"{task.id}.1") == []
    await artifacts.forget_unused(2.0, DAY)
    assert await artifacts.referenced([A]) == set()
    with pytest.raises((NotFound, Conflict)):
        await artifacts.attach([record(task, name="late")])


async def test_a_task_is_forgotten_with_all_its_runs(artifacts: ArtifactStore, task: TaskRecord) -> None:
    await artifacts.attach([record(task), record(task, run=2)])

    await artifacts.forget_task(task.id)

    assert await artifacts.artifacts(f"{task.id}.1") == await artifacts.artifacts(f"{task.id}.2") == []


async def test_who_sent_a_part_is_forgotten_unless_an_artifact_of_theirs_names_it(
    artifacts: ArtifactStore, task: TaskRecord
) -> None:
    await artifacts.note_sent(A, "ada", 1.0)
    await artifacts.note_sent(A, "bob", 1.0)
    await artifacts.note_sent(B, "ada", 1.0)
    await artifacts.note_sent(C, "ada", 5.0)
    await artifacts.attach([record(task, A)])

    assert await artifacts.forget_unused(2.0, DAY) == 2

    assert await artifacts.sent_by("ada", [A, B, C]) == {A, C}
    assert await artifacts.sent_by("bob", [A]) == set()
    assert await artifacts.referenced([A, B, C]) == {A, C}


async def test_parts_that_are_named_hide_no_others_from_being_forgotten(
    artifacts: ArtifactStore, task: TaskRecord
) -> None:
    digests = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(LOOKED_AT)]
    for digest in digests:
        await artifacts.note_sent(digest, "ada", 1.0)
    await artifacts.attach([record(task, *digests)])
    await artifacts.note_sent(B, "ada", 2.0)

    await artifacts.forget_unused(3.0, DAY)
    await artifacts.forget_unused(3.0, DAY)

    assert await artifacts.referenced([B]) == set()
    assert await artifacts.sent_by("ada", digests) == set(digests)


async def test_references_survive_a_restart(backend: Backend) -> None:
    first, task = backend.stores(), draft()
    await first.open()
    await first.store.add_tasks([task])
    await first.artifacts.note_sent(A, "ada", 1.0)
    await first.artifacts.attach([record(task, A)])
    await first.close()

    again = backend.stores()
    await again.open()

    assert await again.artifacts.artifacts(f"{task.id}.1") == [record(task, A)]
    await again.close()


# --- Parts


async def sent(data: bytes) -> AsyncIterator[bytes]:
    yield data[:3]
    yield data[3:]


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_a_part_is_read_in_stretches(parts: PartStore) -> None:
    digest = digest_of(b"0123456789")

    assert await parts.size(digest) is None
    assert await parts.put(digest, sent(b"0123456789"), limit=10) == 10

    assert await parts.size(digest) == 10
    assert await parts.read(digest, 4, 3) == b"456"
    assert await parts.read(digest, 10, 3) == b""
    with pytest.raises(NotFound):
        await parts.read(B, 0, 1)


async def test_bytes_are_read_and_compared_even_where_the_part_is_held(parts: PartStore) -> None:
    digest = digest_of(b"of another account")
    await parts.put(digest, sent(b"of another account"), limit=100)

    with pytest.raises(Invalid):
        await parts.put(digest, sent(b""), limit=100)
    with pytest.raises(TooLarge):
        await parts.put(digest, sent(b"of another account"), limit=5)


async def test_only_parts_that_were_not_used_for_long_are_forgotten(parts: PartStore, backend: Backend) -> None:
    old, used = digest_of(b"old"), digest_of(b"used")
    for data in (b"old", b"used"):
        await parts.put(digest_of(data), sent(data), limit=10)
        os.utime(backend.data / "artifacts" / digest_of(data)[:2] / digest_of(data), (1.0, 1.0))
    before = time.time() - 3600
    found = [digest for each in {old[:2], used[:2]} for digest in await parts.old(each, before)]
    assert sorted(found) == sorted([old, used])

    await parts.size(used)  # between the look and the removal

    assert await parts.forget(found, before) == 1
    assert await parts.size(old) is None
    assert await parts.read(used, 0, 10) == b"used"


# --- The folder


async def test_servers_that_name_different_folders_refuse_to_start(backend: Backend, tmp_path: Path) -> None:
    first = backend.stores()
    await first.open()
    await first.close()

    other = open_store(backend.url, backend.data, tmp_path / "other")
    with pytest.raises(StartRefused, match="in another folder"):
        await other.open()

    (tmp_path / "other/id").write_text((backend.data / "artifacts/id").read_text())  # the same one, elsewhere
    again = open_store(backend.url, backend.data, tmp_path / "other")
    await again.open()
    await again.close()


@pytest.mark.mongo
async def test_a_server_without_a_folder_refuses_a_store_that_has_one(
    mongo_uri: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = urlsplit(mongo_uri)._replace(path=f"/{request.node.name[:40]}").geturl()
    without = open_store(url, tmp_path)
    await without.open()
    assert without.artifact_parts is None
    await without.close()
    folder = open_store(url, tmp_path, tmp_path / "artifacts")
    await folder.open()
    await folder.close()

    with pytest.raises(StartRefused, match="--artifacts FOLDER"):
        await open_store(url, tmp_path).open()


def test_a_record_knows_its_parts() -> None:
    made = record(draft(), A, B, A)
    file = replace(made.artifact.files[0], parts=(C,))

    assert replace(made, artifact=replace(made.artifact, files=(*made.artifact.files, file))).parts == {A, B, C}
