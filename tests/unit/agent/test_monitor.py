"""Measurements of the machine and of runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from taskyard.wire import Gpu
from taskyard_agent.monitor import Monitor, WatchedRun, WatchedWorker

from tests.support.waiting import becomes_true

GPU = Gpu(index=3, uuid="GPU-3")
BUSY = "block = bytearray(50_000_000); print('ready', flush=True)\nwhile True: pass"
PARENT_OF_BUSY = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])"


@pytest.fixture
def monitor(tmp_path):
    return Monitor(
        disk=tmp_path, measure_gpu=lambda gpu: {"gpu_percent": 55.0, "gpu_celsius": 60.0}, clock=lambda: 7.0
    )


@pytest.fixture
def keeper():
    """Stands for a keeper whose command is busy."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT_OF_BUSY], stdout=subprocess.PIPE, start_new_session=True
    )
    process.stdout.readline()
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def measured(monitor, *, worker=WatchedWorker(name="one"), runs=()) -> dict[tuple[str, str], float]:
    return {(sample.subject, sample.name): sample.value for sample in monitor.samples(worker, runs)}


def test_a_worker_is_measured_with_its_machine_and_its_gpus(monitor):
    worker = WatchedWorker(name="one", gpus=(GPU,))
    measured(monitor, worker=worker)

    samples = measured(monitor, worker=worker)

    assert samples["worker:one", "gpu_percent:3"] == 55.0
    for name in ("cpu_percent", "memory_percent", "disk_percent"):
        assert 0 <= samples["worker:one", name] <= 100
    assert samples["worker:one", "memory_bytes"] > 0
    assert samples["worker:one", "network_receive_bytes_per_second"] >= 0


def test_the_first_call_gives_no_rates(monitor):
    samples = measured(monitor)

    assert ("worker:one", "cpu_percent") not in samples
    assert ("worker:one", "memory_percent") in samples


def test_a_run_is_the_sum_of_its_whole_tree(monitor, keeper):
    runs = [WatchedRun(id="task.1", keeper_pid=keeper.pid, gpus=(GPU,))]
    measured(monitor, runs=runs)

    assert becomes_true(lambda: measured(monitor, runs=runs)["run:task.1", "cpu_percent"] > 1)
    samples = measured(monitor, runs=runs)
    assert samples["run:task.1", "memory_bytes"] > 50_000_000
    assert samples["run:task.1", "gpu_celsius:3"] == 60.0


def test_a_run_that_is_first_seen_late_makes_no_spike(monitor, keeper):
    runs = [WatchedRun(id="task.1", keeper_pid=keeper.pid)]
    measured(monitor)

    assert ("run:task.1", "cpu_percent") not in measured(monitor, runs=runs)


def test_a_run_that_is_gone_takes_nothing(monitor):
    gone = subprocess.Popen(["true"])
    gone.wait()

    samples = measured(monitor, runs=[WatchedRun(id="task.1", keeper_pid=gone.pid)])

    assert samples["run:task.1", "memory_bytes"] == 0


def test_samples_carry_the_given_clock(monitor):
    assert {sample.at for sample in monitor.samples(WatchedWorker(name="one"), [])} == {7.0}
