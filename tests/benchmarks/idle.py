"""What an agent costs that has nothing to do."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
from taskyard.wire import WorkerState

from tests.benchmarks.bench import Bench
from tests.benchmarks.results import Measurement
from tests.support.agents import wait_until
from tests.support.servers import ServerProcess
from tests.support.yard import Yard

MIB = 1 << 20


def measure(bench: Bench) -> Iterator[Measurement]:
    """An agent that has registered and waits, and one that has carried a run to its end before."""
    with ServerProcess() as server, Yard(server) as yard, yard.agent() as agent:
        wait_until(lambda: [worker.state for worker in yard.client.workers()] == [WorkerState.IDLE])
        assert agent.process is not None
        process = psutil.Process(agent.process.pid)
        yield _memory("idle agent, resident memory", process)
        yield _cpu(bench, process)
        yard.wait_for_end(yard.python("print('hello')"))
        time.sleep(1.0)
        yield _memory("idle agent after its first run, resident memory", process)
        yield Measurement(metric="idle agent, proportional share (PSS)", value=_pss(process), unit="MiB")
        keeper = _spare_keeper(process)
        if keeper is not None:
            yield Measurement(metric="its spare keeper, proportional share (PSS)", value=_pss(keeper), unit="MiB")


def _cpu(bench: Bench, process: psutil.Process) -> Measurement:
    seconds = 10 if bench.quick else 30
    time.sleep(2.0)  # the last of its start
    before, began = _busy(process), time.monotonic()
    for _ in bench.progress(range(seconds)):
        time.sleep(1.0)
    percent = (_busy(process) - before) / (time.monotonic() - began) * 100
    return Measurement(
        metric=f"idle agent, part of one core over {seconds} s", value=percent, unit="%", at_most=0.1
    )


def _busy(process: psutil.Process) -> float:
    """Seconds of processor time."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _spare_keeper(agent: psutil.Process) -> psutil.Process | None:
    """The last one that was started; it is no child of the agent's."""
    everything = psutil.process_iter(["name", "status"])
    named = [one for one in everything if one.info["name"] == "taskyard-keeper" and one.info["status"] != "zombie"]
    since = [one for one in named if one.create_time() > agent.create_time()]
    return max(since, key=psutil.Process.create_time, default=None)


def _memory(metric: str, process: psutil.Process) -> Measurement:
    return Measurement(metric=metric, value=process.memory_info().rss / MIB, unit="MiB", at_most=50)


def _pss(process: psutil.Process) -> float:
    return float(process.memory_full_info().pss / MIB)
