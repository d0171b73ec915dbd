"""A process that writes to stores and says so once it was told that it is done: killed by tests at any moment."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from taskyard_server.store import Stores, open_store

from tests.support.records import any_fits, new_id, prepare, queue, queued


def log_of(run_id: str, length: int) -> bytes:
    """What the log of a run holds, so that whoever reads it can tell."""
    return (run_id.encode() * (length // len(run_id) + 1))[:length]


async def main(url: str, data: Path) -> None:
    stores = open_store(url, data)
    await stores.open()
    record = queue("busy")
    await stores.store.add_queue(record)
    await asyncio.gather(*(_work(stores, record.id) for _ in range(8)))


async def _work(stores: Stores, queue_id: str) -> None:
    while True:
        added = queued(queue_id)
        await stores.store.add_tasks([added])
        _say("added", added.id)
        request = new_id()
        claimed = await stores.store.claim([queue_id], any_fits, prepare(request_id=request))
        if claimed is not None:
            _say("claimed", claimed.id, request)
            await _write_log(stores, f"{claimed.id}.1")


async def _write_log(stores: Stores, run_id: str) -> None:
    for length in (10, 5000, 12_000):
        held = await stores.logs.append(run_id, 0, log_of(run_id, length), cap=1 << 30)
        _say("logged", run_id, str(held))


def _say(*words: str) -> None:
    print(*words, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
