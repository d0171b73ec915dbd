"""What is the files' own: segments, names, a full disk."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from taskyard_server.blobs.folder import FolderBlobs
from taskyard_server.errors import Invalid, Unavailable
from taskyard_server.logs.files import FileLogs
from taskyard_server.logs.segments import Segments

from tests.support.full_disk import full_beyond

RUN = f"{'ab' * 16}.1"
CAP = 1 << 30
CONTENT = bytes(range(256)) * 4


@pytest.fixture
async def logs(tmp_path: Path) -> AsyncIterator[FileLogs]:
    opened = FileLogs(tmp_path / "logs", segment_bytes=100)
    await opened.open()
    yield opened
    await opened.close()


async def test_a_long_log_is_cut_into_segments_and_read_as_one(logs: FileLogs, tmp_path: Path) -> None:
    held = 0
    while held < len(CONTENT):
        held = await logs.append(RUN, held, CONTENT[held : held + 77], cap=CAP)

    sizes = [path.stat().st_size for path in sorted((tmp_path / "logs" / "ab").iterdir())]
    assert sizes == [100] * 10 + [24]
    assert await logs.read(RUN, 0, 5000) == CONTENT
    assert await logs.read(RUN, 150, 300) == CONTENT[150:450]
    assert await logs.length(RUN) == len(CONTENT)


async def test_a_deleted_log_leaves_no_segment(logs: FileLogs, tmp_path: Path) -> None:
    await logs.append(RUN, 0, CONTENT, cap=CAP)

    await logs.delete(RUN)

    assert list((tmp_path / "logs" / "ab").iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../../etc/passwd.1", "", "x", f"{'AB' * 16}.1", f"{'ab' * 16}.1\n", f"{'ab' * 16}.-1"]
)
async def test_no_path_is_made_of_what_is_no_run_id(logs: FileLogs, name: str) -> None:
    with pytest.raises(Invalid):
        await logs.append(name, 0, b"x", cap=CAP)
    with pytest.raises(Invalid):
        await logs.read(name, 0, 1)
    with pytest.raises(Invalid):
        await logs.delete(name)


@pytest.mark.parametrize("name", ["../" * 21 + "a", "", "A" * 64, "a" * 63, "a" * 64 + "\n"])
async def test_no_path_is_made_of_what_is_no_digest(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid):
        await FolderBlobs(tmp_path).size(name)


async def test_a_full_disk_is_unavailable_and_resending_completes_the_log(tmp_path: Path) -> None:
    logs = FileLogs(tmp_path / "logs")
    await logs.open()
    content = CONTENT * 500
    await logs.append(RUN, 0, content[:1000], cap=CAP)

    with full_beyond(100_000), pytest.raises(Unavailable, match="free space"):
        await logs.append(RUN, 1000, content[1000:], cap=CAP)
    end = await logs.append(RUN, 1000, content[1000:], cap=CAP)

    assert end == len(content)
    assert await logs.read(RUN, 0, CAP) == content
    await logs.close()


async def test_one_log_that_cannot_be_written_fails_no_other(logs: FileLogs, tmp_path: Path) -> None:
    (tmp_path / "logs" / "cd").write_text("in the way")
    blocked = f"{'cd' * 16}.1"

    ways = [logs.append(run, 0, b"text", cap=CAP) for run in (RUN, blocked, f"{'ab' * 16}.2")]
    ended = await asyncio.gather(*ways, return_exceptions=True)

    assert [ended[0], ended[2]] == [4, 4]
    assert isinstance(ended[1], Unavailable)


async def test_what_was_left_behind_a_short_segment_never_reappears(logs: FileLogs, tmp_path: Path) -> None:
    await logs.append(RUN, 0, CONTENT[:150], cap=CAP)
    first = tmp_path / "logs" / "ab" / f"{RUN}.0000"
    first.write_bytes(CONTENT[:60])

    end = await logs.append(RUN, 60, b"x" * 45, cap=CAP)

    assert end == 105
    assert await logs.read(RUN, 0, 500) == CONTENT[:60] + b"x" * 45


class Disk:
    """What a power cut would leave, by Linux's rule: pages whose flush failed count as clean from then on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing = False
        self._dirty: set[str] = set()
        self._kept: dict[str, bytes] = {}
        write = os.pwrite

        def pwrite(descriptor: int, data: bytes, position: int) -> int:
            self._dirty.add(os.readlink(f"/proc/self/fd/{descriptor}"))
            return write(descriptor, data, position)

        monkeypatch.setattr(os, "pwrite", pwrite)
        monkeypatch.setattr("taskyard_server.logs.files.flush", self._flush)

    def _flush(self, path: Path) -> None:
        written = str(path) in self._dirty
        self._dirty.discard(str(path))
        if written and self.failing:
            raise OSError(errno.EIO, "Input/output error")
        if path.is_file():
            kept = path.read_bytes() if written else self._kept.get(str(path), b"")
            self._kept[str(path)] = kept[: path.stat().st_size]

    def content(self, path: Path) -> bytes:
        return self._kept.get(str(path), b"")


async def test_what_an_earlier_process_left_is_not_taken_for_durable_after_a_failed_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, file = Disk(monkeypatch), tmp_path / "logs" / "ab" / f"{RUN}.0000"
    file.parent.mkdir(parents=True)
    with file.open("wb", buffering=0) as left:
        os.pwrite(left.fileno(), b"left ", 0)
    logs = FileLogs(tmp_path / "logs")
    await logs.open()

    disk.failing = True
    with pytest.raises(Unavailable):
        await logs.append(RUN, 5, b"more", cap=CAP)
    disk.failing = False
    end = await logs.append(RUN, 5, b"more", cap=CAP)
    await logs.close()

    assert end == 9
    assert disk.content(file) == b"left more"


async def test_bytes_that_cannot_be_taken_back_after_a_failed_flush_are_never_acknowledged(
    logs: FileLogs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, file = Disk(monkeypatch), tmp_path / "logs" / "ab" / f"{RUN}.0000"
    await logs.append(RUN, 0, b"first ", cap=CAP)
    truncate = Segments.truncate

    def broken(segments: Segments, length: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Segments, "truncate", broken)
    disk.failing = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            await logs.append(RUN, 6, b"lost", cap=CAP)
    monkeypatch.setattr(Segments, "truncate", truncate)
    disk.failing = False
    end = await logs.append(RUN, 6, b"second", cap=CAP)

    assert end == 12
    assert disk.content(file) == b"first second" == await logs.read(RUN, 0, CAP)
