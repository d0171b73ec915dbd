"""Log lines that one server takes, and how soon a follower sees them."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

from tests.benchmarks.bench import Bench
from tests.benchmarks.load import Connection, drive
from tests.benchmarks.results import Measurement, p50, percentile
from tests.support.claimants import Claimant, enqueue
from tests.support.demo import TASKYARD
from tests.support.servers import ServerProcess
from tests.support.yard import Yard

RUNS = 8
LINES = 5000
CHUNK = b"".join(b"epoch 12 step %08d loss 0.123456 accuracy 0.987654\n" % number for number in range(LINES))
"""A quarter of what an agent sends at once when it has that much."""
EMIT = "import time\nfor _ in range({lines}): print(time.time(), flush=True); time.sleep(0.02)"


def measure(bench: Bench) -> Iterator[Measurement]:
    """Many runs that write as fast as they can; then one that writes a line now and then."""
    with ServerProcess("--min-free-disk-bytes", "0") as server:
        rounds = len(bench.times(600, 150))
        token = server.issue("agent", name="bench")
        load = asyncio.run(_send(server, token, _started_runs(server, token), rounds))
        yield Measurement(
            metric=f"log lines taken per second by one server process, {RUNS} runs, 55 bytes a line",
            value=load * LINES,
            unit="/s",
            at_least=200_000,
            peer="flush every 5 s",
        )
        yield from _follow(bench, server)


def _started_runs(server: ServerProcess, token: str) -> list[tuple[str, str]]:
    """Runs that may send logs, with their control tokens."""
    runs = []
    for number in range(RUNS):
        with Claimant(server, token, f"bench:{number}") as claimant, server.client() as http:
            enqueue(http)
            run = claimant.claim()["run"]["id"]
            claimant.beat(run)
            claimant.start(run).raise_for_status()
            runs.append((run, claimant.control_token))
    return runs


async def _send(server: ServerProcess, token: str, runs: list[tuple[str, str]], rounds: int) -> float:
    offsets = [0] * RUNS
    async with AsyncExitStack() as stack:
        lanes = [await stack.enter_async_context(Connection(server, token)) for _ in runs]

        async def send(lane: int) -> None:
            run, control = runs[lane]
            headers = f"Taskyard-Control-Token: {control}\r\nContent-Type: application/octet-stream\r\n"
            answer = await lanes[lane].send(f"/runs/{run}/logs?offset={offsets[lane]}", CHUNK, headers)
            offsets[lane] = answer["offset"]

        return (await drive(send, rounds=rounds, at_once=RUNS)).per_second


def _follow(bench: Bench, server: ServerProcess) -> Iterator[Measurement]:
    """A line every 20 ms, from `print` in the task to the standard output of `taskyard logs -f`."""
    lines = len(bench.times(300, 100))
    with (
        Yard(server) as yard,
        yard.agent("--queue", "followed", "--create-queue"),
        contextlib.ExitStack() as stack,
    ):
        task = yard.python(EMIT.format(lines=lines), queue=yard.queue("followed"))
        yard.wait_for_output(task, ".")
        follower = stack.enter_context(
            subprocess.Popen(
                [TASKYARD, "logs", "-f", task.id],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={"TASKYARD_SERVER": server.url, "TASKYARD_TOKEN": server.admin_token, "PATH": "/usr/bin:/bin"},
            )
        )
        assert follower.stdout is not None
        seen = [(time.time(), line) for line in follower.stdout]
    waits = [(at - float(line)) * 1000 for at, line in seen if line[:1].isdigit()][lines // 4 :]
    metric = "emitted in the task → printed by `taskyard logs -f`"
    yield Measurement(metric=f"{metric}, p50", value=p50(waits), unit="ms")
    yield Measurement(
        metric=f"{metric}, p95", value=percentile(waits, 95), unit="ms", at_most=500, peer="flush every 5 s"
    )
