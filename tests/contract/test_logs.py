"""The bytes of a run's log: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from taskyard_server.store import Stores
from taskyard_server.store.base import LogStore

from tests.contract.conftest import Backend
from tests.support.records import new_id

CAP = 1 << 30
CONTENT = random.Random(7).randbytes(700_000)


def new_run() -> str:
    return f"{new_id()}.1"


async def test_a_run_without_a_log_has_an_empty_one(logs: LogStore) -> None:
    run = new_run()

    await logs.delete(run)

    assert await logs.length(run) == 0
    assert await logs.read(run, 0, 100) == b""


async def test_appends_make_one_stream_of_bytes(logs: LogStore) -> None:
    run = new_run()

    sends = [(0, b"one\n"), (4, b"\x00\xff\r"), (7, b"")]
    ends = [await logs.append(run, offset, part, cap=CAP) for offset, part in sends]

    assert ends == [4, 7, 7]
    assert await logs.read(run, 0, 100) == b"one\n\x00\xff\r"


async def test_resent_bytes_are_held_once(logs: LogStore) -> None:
    run = new_run()
    await logs.append(run, 0, b"abcdef", cap=CAP)

    sends = [(0, b"abcdef"), (2, b"cd"), (3, b"defgh")]
    ends = [await logs.append(run, offset, part, cap=CAP) for offset, part in sends]

    assert ends == [6, 6, 8]
    assert await logs.read(run, 0, 100) == b"abcdefgh"


async def test_an_offset_beyond_the_end_changes_nothing_and_tells_the_end(logs: LogStore) -> None:
    run = new_run()
    await logs.append(run, 0, b"abc", cap=CAP)

    end = await logs.append(run, 5, b"fgh", cap=CAP)

    assert end == 3
    assert await logs.read(run, 0, 100) == b"abc"


async def test_bytes_beyond_the_cap_are_dropped(logs: LogStore) -> None:
    run = new_run()

    sends = [(0, b"12345678"), (8, b"9abc"), (12, b"def")]
    ends = [await logs.append(run, offset, part, cap=10) for offset, part in sends]

    assert ends == [8, 10, 10]
    assert await logs.read(run, 0, 100) == b"123456789a"


async def test_a_stretch_is_read_from_any_offset(logs: LogStore) -> None:
    run = new_run()
    await logs.append(run, 0, CONTENT, cap=CAP)

    stretches = [(0, 10), (650_000, 40_000), (699_990, 99), (800_000, 5)]
    read = [await logs.read(run, offset, limit) for offset, limit in stretches]

    assert read == [CONTENT[:10], CONTENT[650_000:690_000], CONTENT[-10:], b""]


async def test_concurrent_senders_of_one_run_neither_interleave_nor_double(logs: LogStore) -> None:
    run = new_run()

    async def send(size: int) -> None:
        held = 0
        while held < len(CONTENT):
            held = await logs.append(run, held, CONTENT[held : held + size], cap=CAP)

    await asyncio.gather(*(send(size) for size in (40_000, 65_536, 99_999)))

    assert await logs.read(run, 0, CAP) == CONTENT


async def test_logs_of_many_runs_written_at_once_stay_apart(logs: LogStore) -> None:
    runs = [new_run() for _ in range(30)] + [f"{new_id()}.{number}" for number in (1, 10, 11)]

    await asyncio.gather(*(logs.append(run, 0, run.encode(), cap=CAP) for run in runs))

    assert [await logs.read(run, 0, 100) for run in runs] == [run.encode() for run in runs]


async def test_a_log_is_deleted_alone(logs: LogStore) -> None:
    task = new_id()
    for number in (1, 11):
        await logs.append(f"{task}.{number}", 0, b"text", cap=CAP)

    await logs.delete(f"{task}.1")

    assert await logs.length(f"{task}.1") == 0
    assert await logs.length(f"{task}.11") == 4


async def test_a_log_outlives_a_restart_and_goes_on(backend: Backend, stores: Stores) -> None:
    run = new_run()
    await stores.logs.append(run, 0, b"before ", cap=CAP)
    await stores.close()

    again = backend.stores()
    await again.open()
    end = await again.logs.append(run, 4, b"re after", cap=CAP)
    text = await again.logs.read(run, 0, 100)
    await again.close()

    assert (end, text) == (12, b"before after")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sends=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), max_size=12), cap=st.integers(0, 500))
async def test_whatever_is_sent_the_log_is_a_prefix_of_what_was_written(
    logs: LogStore, sends: list[tuple[int, int]], cap: int
) -> None:
    run, held = new_run(), 0

    for offset, size in sends:
        end = await logs.append(run, offset, CONTENT[offset : offset + size], cap=cap)
        held = max(held, min(offset + size, cap)) if offset <= held else held

        assert end == held == await logs.length(run)

    assert await logs.read(run, 0, 1000) == CONTENT[:held]
