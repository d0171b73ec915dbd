"""What is the files' own: segments, names, a full disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from taskyard_server.blobs.folder import FolderBlobs
from taskyard_server.errors import Invalid, Unavailable
from taskyard_server.logs.files import FileLogs

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
