"""What was acknowledged outlives the process, however it ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from taskyard.wire import TaskState
from taskyard_server.store import Stores
from taskyard_server.store.base import QueueRecord

from tests.contract.conftest import Backend
from tests.support.acknowledging_writer import log_of
from tests.support.records import any_fits, draft, fill, order, prepare, queued, token, worker

REPOSITORY = Path(__file__).parents[2]


async def test_a_restart_keeps_everything(backend: Backend, stores: Stores, queue: QueueRecord) -> None:
    store, account = stores.store, token()
    tasks = await fill(store, [replace(draft(), due_at=4.0), *(queued(queue.id) for _ in range(5))])
    claimed = await store.claim([queue.id], any_fits, prepare(request_id="request"))
    await store.save_worker("w", lambda record: worker("w"))
    await store.add_token(account)
    await store.sign_of_life("server", 5.0)
    before = [await store.task(task) for task in tasks]
    await stores.close()

    again = backend.stores()
    await again.open()
    kept = again.store

    assert [await kept.task(task) for task in tasks] == before
    assert await order(kept, queue.id) == tasks[2:]
    assert await kept.run_of_request("request") == claimed
    assert await kept.token_by_hash(account.hash) == account
    assert (await kept.workers(), await kept.queues()) == ([worker("w")], [queue])
    assert await kept.sign_of_life("another", 6.0) == 5.0
    await again.close()


async def test_what_a_killed_process_was_told_is_done_is_done(backend: Backend) -> None:
    said = await asyncio.to_thread(_write_until_killed, backend, 300)

    stores = backend.stores()
    await stores.open()

    for task in said["added"]:
        assert (await stores.store.task(task[0])).state in (TaskState.QUEUED, TaskState.PREPARING)
    for task, request in said["claimed"]:
        record = await stores.store.task(task)
        assert [run.request_id for run in record.runs] == [request]
    for run, length in said["logged"]:
        assert (await stores.logs.read(run, 0, 1 << 20)).startswith(log_of(run, int(length)))
    await stores.close()


async def test_after_a_kill_each_entry_is_still_handed_out_once(backend: Backend) -> None:
    said = await asyncio.to_thread(_write_until_killed, backend, 200)
    stores = backend.stores()
    await stores.open()
    busy = await stores.store.queue_named("busy")
    assert busy is not None

    left = await order(stores.store, busy.id)
    claims = await asyncio.gather(*(stores.store.claim([busy.id], any_fits, prepare()) for _ in [*left, *"more"]))
    await stores.close()

    taken = [claim.id for claim in claims if claim is not None]
    assert sorted(taken) == sorted(left)
    assert not set(taken) & {task for task, _ in said["claimed"]}


def _write_until_killed(backend: Backend, lines: int) -> dict[str, list[list[str]]]:
    """Returns what the process had said when it was killed, amid its work."""
    command = [sys.executable, "-m", "tests.support.acknowledging_writer", backend.url, str(backend.data)]
    writer = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    with writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        said += writer.stdout.readlines()
    # The last line may have been cut by the kill.
    words = [line.split() for line in said if line.endswith("\n")]
    return {kind: [line[1:] for line in words if line[0] == kind] for kind in ("added", "claimed", "logged")}
