"""One file holds everything a store keeps as of one moment, and brings it back; a hostile one brings nothing."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import stat
import tarfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from taskyard.cli.app import execute
from taskyard.wire import Artifact, ArtifactFile, Sample, TokenKind
from taskyard_server.app import running
from taskyard_server.config import ServerConfig
from taskyard_server.copies import archive, pins
from taskyard_server.copies.backup import Backup, back_up
from taskyard_server.copies.restore import Restored, restore
from taskyard_server.errors import CopyRefused, StartRefused
from taskyard_server.store import Stores, open_store
from taskyard_server.store.artifacts import ArtifactRecord
from taskyard_server.store.base import TokenRecord

from tests.support.full_disk import full_beyond
from tests.support.records import draft
from tests.support.waiting import becomes_true_async

RUN = f"{'ab' * 16}.1"
BLOB = b"code" * 1000
DIGEST = hashlib.sha256(BLOB).hexdigest()


def ignored(_done: int, _total: int) -> None:
    """Progress that nobody looks at."""


async def content(data: bytes) -> AsyncIterator[bytes]:
    yield data


def token(token_id: str) -> TokenRecord:
    return TokenRecord(
        id=token_id,
        hash=f"hash of {token_id}",
        kind=TokenKind.USER,
        name="ada",
        owner="ada",
        created_at=1.0,
        expires_at=None,
    )


@dataclass(frozen=True)
class Folder:
    """A data folder with a store in it."""

    data: Path

    @property
    def control(self) -> Path:
        return self.data / "control.db"

    def stores(self) -> Stores:
        return open_store("", self.data)

    def back_up(self, target: Path, *, replace: bool = False) -> Backup:
        return back_up(self.control, self.data, target, replace=replace, progress=ignored)

    def restore(self, source: Path, *, compare: Path | None = None) -> Restored:
        return restore(source, self.control, self.data, compare=compare, progress=ignored)

    def names(self) -> set[str]:
        return {path.name for path in self.data.iterdir()} if self.data.exists() else set()


async def fill(stores: Stores) -> str:
    """One of each; returns the task's id."""
    record = draft()
    await stores.store.add_tasks([record])
    await stores.store.add_token(token("t" * 32))
    await stores.logs.append(RUN, 0, b"a line\n", cap=1 << 20)
    await stores.blobs.put(DIGEST, content(BLOB), limit=1 << 20)
    await stores.samples.add([Sample(subject="worker:w", name="cpu_percent", at=10.0, value=7.0)])
    return record.id


@pytest.fixture
def old(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "old")


@pytest.fixture
def new(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "new")


@pytest.fixture
def copy(old: Folder, tmp_path: Path) -> Path:
    """A copy of a store that is closed."""

    async def filled() -> None:
        stores = old.stores()
        await stores.open()
        await fill(stores)
        await stores.close()

    asyncio.run(filled())
    (old.data / "admin-token").write_text("the secret\n")
    old.back_up(tmp_path / "copy.tar")
    return tmp_path / "copy.tar"


async def test_what_is_restored_is_what_an_open_store_held(old: Folder, new: Folder, tmp_path: Path) -> None:
    stores = old.stores()
    await stores.open()
    task = await fill(stores)
    (old.data / "admin-token").write_text("the secret\n")

    made = await asyncio.to_thread(old.back_up, tmp_path / "copy.tar")
    await stores.logs.append(RUN, 7, b"later", cap=1 << 20)
    await stores.close()
    await asyncio.to_thread(new.restore, tmp_path / "copy.tar")

    assert (made.tasks, made.tokens, made.logs, made.blobs) == (1, 1, 1, 1)
    back = new.stores()
    await back.open()
    assert (await back.store.task(task)).id == task
    assert [one.id for one in await back.store.tokens()] == ["t" * 32]
    assert await back.logs.read(RUN, 0, 100) == b"a line\n"
    assert b"".join([piece async for piece in back.blobs.get(DIGEST)]) == BLOB
    (series,) = await back.samples.series("worker:w", start=0, end=20, points=1)
    assert series.points[0].mean == 7.0
    await back.close()
    assert (new.data / "admin-token").read_text() == "the secret\n"


async def test_outputs_are_in_the_copy_with_their_folder_s_id(old: Folder, new: Folder, tmp_path: Path) -> None:
    stores = old.stores()
    await stores.open()
    task = await fill(stores)
    assert stores.artifact_parts is not None
    await stores.artifact_parts.put(DIGEST, content(BLOB), limit=1 << 20)
    await stores.artifacts.note_sent(DIGEST, "ada", 1.0)
    file = ArtifactFile(path="m", size=len(BLOB), sha256=DIGEST, parts=(DIGEST,))
    made = Artifact(run=f"{task}.1", name="m", kind="output", size=len(BLOB), created_at=1.0, files=(file,))
    await stores.artifacts.attach([ArtifactRecord(artifact=made, task=task, account="ada")])

    copied = await asyncio.to_thread(old.back_up, tmp_path / "copy.tar")
    await stores.close()
    await asyncio.to_thread(new.restore, tmp_path / "copy.tar")

    assert copied.artifact_parts == 1
    back = new.stores()
    await back.open()
    assert back.artifact_parts is not None
    assert [kept.artifact for kept in await back.artifacts.artifacts(f"{task}.1")] == [made]
    assert await back.artifact_parts.read(DIGEST, 0, 1 << 20) == BLOB
    await back.close()


def test_outputs_that_lie_elsewhere_are_named(
    old: Folder, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--data", str(old.data), "--artifacts", "/srv/outputs"]

    assert execute(["server", "backup", str(tmp_path / "second.tar"), *place]) == 0

    assert "the outputs in /srv/outputs are not in it: copy that folder, too" in capsys.readouterr().err


async def test_a_copy_is_of_one_moment_while_tasks_arrive(old: Folder, new: Folder, tmp_path: Path) -> None:
    """A witness notes what is acknowledged; each note of before the copy's moment is in the copy."""
    stores = old.stores()
    await stores.open()
    await stores.store.add_token(token("t" * 32))
    acknowledged: list[tuple[float, str, str]] = []
    stop = asyncio.Event()

    async def write(number: int) -> None:
        while not stop.is_set():
            await _write_each(stores, number, len(acknowledged), acknowledged)

    writers = [asyncio.ensure_future(write(number)) for number in range(4)]
    assert await becomes_true_async(lambda: len(acknowledged) >= 60)
    made = await asyncio.to_thread(old.back_up, tmp_path / "copy.tar")
    stop.set()
    await asyncio.gather(*writers)
    await stores.close()
    await asyncio.to_thread(new.restore, tmp_path / "copy.tar")

    back = new.stores()
    await back.open()
    before = [(kind, name) for at, kind, name in acknowledged if at < made.copied_at]
    assert len(before) >= 60
    for kind, name in before:
        if kind == "task":
            await back.store.task(name)
        elif kind == "blob":
            assert await back.blobs.size(name) is not None, name
        else:
            run, _, length = name.partition(" ")
            assert await back.logs.length(run) >= int(length), name
    await back.close()


async def _write_each(stores: Stores, number: int, count: int, noted: list[tuple[float, str, str]]) -> None:
    """A task, some bytes of a log, a blob; each is noted once it is acknowledged."""
    record = draft()
    await stores.store.add_tasks([record])
    noted.append((time.time(), "task", record.id))
    run = f"{number:032x}.1"
    length = await stores.logs.append(run, await stores.logs.length(run), b"x" * 100, cap=1 << 30)
    noted.append((time.time(), "log", f"{run} {length}"))
    data = f"{number} {count} {record.id}".encode()
    digest = hashlib.sha256(data).hexdigest()
    await stores.blobs.put(digest, content(data), limit=1 << 20)
    noted.append((time.time(), "blob", digest))


async def test_what_is_deleted_during_the_copy_is_in_it(
    old: Folder, new: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = old.stores()
    await stores.open()
    await fill(stores)
    loop = asyncio.get_running_loop()

    def then_deleted(data: Path, pinned: Path) -> None:
        pins.pin(data, pinned)
        asyncio.run_coroutine_threadsafe(stores.logs.delete(RUN), loop).result()
        asyncio.run_coroutine_threadsafe(stores.blobs.forget_unused((), float("inf")), loop).result()

    monkeypatch.setattr("taskyard_server.copies.backup.pin", then_deleted)

    await asyncio.to_thread(old.back_up, tmp_path / "copy.tar")
    await stores.close()
    await asyncio.to_thread(new.restore, tmp_path / "copy.tar")

    assert (new.data / "logs" / "ab" / f"{RUN}.0000").read_bytes() == b"a line\n"
    assert (new.data / "blobs" / DIGEST[:2] / DIGEST).read_bytes() == BLOB


def test_a_copy_is_private_and_leaves_nothing_beside_it(copy: Path, old: Folder) -> None:
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [path.name for path in copy.parent.iterdir() if path.name.startswith(".")] == []
    assert [name for name in old.names() if name.startswith(".")] == []


def test_an_existing_file_is_replaced_only_where_that_is_asked_for(copy: Path, old: Folder) -> None:
    before = copy.read_bytes()

    with pytest.raises(CopyRefused, match=r"exists: name another file, or give --replace"):
        old.back_up(copy)
    assert copy.read_bytes() == before
    old.back_up(copy, replace=True)
    assert copy.read_bytes() != before


def test_a_full_disk_leaves_the_earlier_copy_and_nothing_else(copy: Path, old: Folder) -> None:
    before = copy.read_bytes()

    with full_beyond(30_000), pytest.raises(CopyRefused, match=r"no copy was made: .*make room"):
        old.back_up(copy, replace=True)

    assert copy.read_bytes() == before
    assert {path.name for path in copy.parent.iterdir()} == {"copy.tar", "old"}
    assert not [name for name in old.names() if name.startswith(".")]


def test_a_disk_without_room_is_refused_before_anything_is_written(
    copy: Path, old: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 10_000})())

    with pytest.raises(CopyRefused, match=r"needs about .* MiB and its disk has 0 MiB free"):
        old.back_up(copy.with_name("second.tar"))
    assert not copy.with_name("second.tar").exists()


def test_folders_of_a_killed_copy_go_with_the_next(copy: Path, old: Folder) -> None:
    for parent in (old.data, copy.parent):
        left = parent / f"{pins.PREFIX}0123456789abcdef"
        left.mkdir()
        (left / "archive").write_bytes(b"half")

    old.back_up(copy.with_name("second.tar"))

    assert {path.name for path in copy.parent.iterdir()} == {"copy.tar", "second.tar", "old"}
    assert not [name for name in old.names() if name.startswith(".")]


def test_where_there_is_no_store_there_is_no_copy(new: Folder, tmp_path: Path) -> None:
    with pytest.raises(CopyRefused, match=r"there is no store at .* --data"):
        new.back_up(tmp_path / "copy.tar")


def test_a_restore_fills_only_an_empty_folder(copy: Path, new: Folder) -> None:
    new.data.mkdir()
    (new.data / "mine").write_text("keep")

    with pytest.raises(CopyRefused, match=r"is not empty \(mine\)"):
        new.restore(copy)
    assert (new.data / "mine").read_text() == "keep"


def test_a_restore_begins_a_generation_that_no_other_restore_had(copy: Path, new: Folder, tmp_path: Path) -> None:
    first = new.restore(copy)

    assert first.generation > 1
    again = Folder(tmp_path / "again")
    (tmp_path / "copy2.tar").write_bytes(b"")
    assert new.back_up(tmp_path / "copy2.tar", replace=True).tasks == 1
    assert again.restore(tmp_path / "copy2.tar").generation > first.generation


def test_a_restore_that_was_killed_is_begun_again_and_no_server_starts_before(copy: Path, new: Folder) -> None:
    new.data.mkdir()
    (new.data / ".restoring").touch()
    (new.data / "control.db").write_bytes(b"half")
    (new.data / "logs").mkdir()

    with pytest.raises(StartRefused, match="did not come to its end: run it again"):
        asyncio.run(_start(new.data))
    new.restore(copy)

    assert ".restoring" not in new.names()
    asyncio.run(_start(new.data))


async def _start(data: Path) -> None:
    async with running(ServerConfig(data=data)):
        pass


def test_a_full_disk_during_a_restore_leaves_an_empty_folder(copy: Path, new: Folder) -> None:
    with full_beyond(30_000), pytest.raises(CopyRefused, match=r"nothing was restored: .*make room"):
        new.restore(copy)

    assert new.names() == set()
    new.restore(copy)


def test_tokens_that_the_old_store_revoked_since_are_revoked_again(copy: Path, old: Folder, new: Folder) -> None:
    async def changed() -> None:
        stores = old.stores()
        await stores.open()
        await stores.store.update_token("t" * 32, lambda record: replace(record, revoked=True))
        await stores.store.add_token(replace(token("u" * 32), name="bob"))
        await stores.close()

    async def tokens() -> list[TokenRecord]:
        stores = new.stores()
        await stores.open()
        found = await stores.store.tokens()
        await stores.close()
        return found

    asyncio.run(changed())

    restored = new.restore(copy, compare=old.data)

    assert (restored.revoked, restored.unknown) == (("user ada (tttttttt)",), ("user bob (uuuuuuuu)",))
    assert [(one.id, one.revoked) for one in asyncio.run(tokens())] == [("t" * 32, True)]


# --- copies that are not ours


def tarred(*members_: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members_:
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, len(data)
            member.linkname = "/etc/passwd" if kind != tarfile.REGTYPE else ""
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def manifest(**files: bytes) -> tuple[str, bytes]:
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return "manifest.json", archive.Manifest(copied_at=1.0, version="0", digests=digests).dump()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "a path upwards": (tarred(("../../escaped", b"x")), "it holds '../../escaped'"),
    "an absolute path": (tarred(("/tmp/escaped", b"x")), "it holds '/tmp/escaped'"),
    "a name upwards inside": (tarred(("logs/../../escaped", b"x")), "it holds"),
    "a symbolic link": (tarred(("control.db", b""), kind=tarfile.SYMTYPE), "it holds 'control.db'"),
    "a hard link": (tarred(("control.db", b""), kind=tarfile.LNKTYPE), "it holds 'control.db'"),
    "a device": (tarred(("control.db", b""), kind=tarfile.CHRTYPE), "it holds 'control.db'"),
    "a long name": (tarred(("n" * 5000, b"x")), "it holds"),
    "a file of its own": (tarred(("authorized_keys", b"x")), "it holds 'authorized_keys'"),
    "one name twice": (tarred(("control.db", b"x"), ("control.db", b"y")), "it holds control.db twice"),
    "no manifest": (tarred(("control.db", b"x")), "it has no manifest"),
    "no database": (tarred(manifest()), "it has no control database"),
    "another digest": (tarred(("control.db", b"y"), manifest(**{"control.db": b"x"})), "control.db is not what"),
    "a missing file": (
        tarred(("control.db", b"x"), manifest(**{"control.db": b"x", "samples.db": b""})),
        "samples.db is not what",
    ),
    "no tar": (b"a letter to a friend " * 100, "no copy that Taskyard made, or it is damaged"),
    "an empty file": (b"", "ends in the middle"),
    "a manifest of prose": (tarred(("manifest.json", b"hello")), "manifest of the copy cannot be read"),
    "a later format": (
        tarred(("manifest.json", json.dumps({"format": 2, "version": "9"}).encode())),
        "has format 2, this version reads 1",
    ),
    "no database inside": (
        tarred(("control.db", b"x" * 4096), manifest(**{"control.db": b"x" * 4096})),
        "cannot be opened as a database",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_copy_of_ours_is_refused_and_leaves_nothing(what: str, new: Folder, tmp_path: Path) -> None:
    data, reason = HOSTILE[what]
    (tmp_path / "copy.tar").write_bytes(data)

    with pytest.raises(CopyRefused, match=reason):
        new.restore(tmp_path / "copy.tar")

    assert new.names() == set()
    assert {path.name for path in tmp_path.iterdir()} == {"copy.tar", "new"}


@pytest.mark.parametrize("part", [0.2, 0.7, 0.99])
def test_a_copy_that_was_cut_short_is_refused(copy: Path, new: Folder, part: float) -> None:
    whole = copy.read_bytes()
    copy.write_bytes(whole[: int(len(whole) * part)])

    with pytest.raises(CopyRefused, match="ends in the middle"):
        new.restore(copy)
    assert new.names() == set()


def test_each_flipped_bit_of_a_copy_is_found(copy: Path, tmp_path: Path) -> None:
    whole = bytearray(copy.read_bytes())
    end = whole.rstrip(b"\0").__len__()
    for number, place in enumerate(range(600, end, max(1, end // 25))):
        changed = bytearray(whole)
        changed[place] ^= 1
        copy.write_bytes(changed)
        folder = Folder(tmp_path / f"flipped{number}")
        try:
            folder.restore(copy)
        except CopyRefused:
            assert folder.names() == set()
        else:
            pytest.fail(f"byte {place} was changed, and nothing noticed")


def test_progress_ends_at_all_of_it(copy: Path, old: Folder, new: Folder, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    note: Callable[[int, int], None] = lambda done, total: seen.append((done, total))  # noqa: E731

    back_up(old.control, old.data, tmp_path / "second.tar", progress=note)

    assert seen == sorted(seen)
    assert all(done <= total + 2000 for done, total in seen)
