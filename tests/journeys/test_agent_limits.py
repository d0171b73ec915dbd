"""Limits on what runs, and on taking more: K04, K05."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.wire import Policy, Reason, Resources, TaskState, Worker, WorkerState

from tests.support import nvml
from tests.support.agents import wait_until
from tests.support.servers import PATIENT, ServerProcess
from tests.support.yard import Yard

HOG = "held = []\nwhile True: held.append(bytearray(5 << 20))"
GPU = (os.getpid() % 15 + 1) * 4 + 2
"""Locks of GPUs are the whole machine's, so suites that run side by side use GPUs of their own."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, or makes a control group: needs root")
with_compiler = pytest.mark.skipif(nvml.compiler() is None, reason="builds a fake driver with a C compiler")


@pytest.fixture
def yard() -> Iterator[Yard]:
    """Its agents measure with every beat: often."""
    with ServerProcess(*PATIENT) as server, Yard(server) as yard:
        yield yard


def wait_for_worker(yard: Yard, state: WorkerState) -> Worker:
    """Waits until the only worker is in that state."""
    wait_until(lambda: [worker.state for worker in yard.client.workers()] == [state], what=f"worker {state.value}")
    return yard.client.workers()[0]


# --- A run's own memory


def test_a_hog_ends_with_the_reason_memory_and_its_neighbour_completes(yard: Yard) -> None:
    neighbour = yard.python("import time; time.sleep(5); print('unharmed')")
    hog = yard.python(HOG, resources=Resources(memory_bytes=200 << 20))

    with yard.agent("--slots", "2") as agent:
        yard.wait_for_end(hog, neighbour)
        assert agent.process is not None
        assert agent.process.poll() is None

    outcome = yard.run(hog).outcome
    assert outcome is not None
    assert (outcome.reason, outcome.signal) == (Reason.MEMORY, 9)
    assert "of the 200 MiB it was given; ask for more with --memory" in outcome.message
    assert yard.text(neighbour) == "unharmed\n"


# --- Its time


def test_a_task_that_takes_too_long_ends_with_the_reason_timeout(yard: Yard) -> None:
    task = yard.python("import time; time.sleep(600)", policy=Policy(timeout_seconds=1))

    with yard.agent():
        yard.wait_for_end(task)

    outcome = yard.run(task).outcome
    assert outcome is not None
    assert outcome.reason is Reason.TIMEOUT


# --- Its GPUs


@pytest.fixture
def use(tmp_path: Path) -> Path:
    """The file that says how busy the fake GPUs are."""
    return tmp_path / "use"


@pytest.fixture
def driver(tmp_path: Path, use: Path) -> dict[str, str]:
    use.write_text("90")
    return nvml.install(tmp_path, gpus=64, use=use)


SLEEPING = "import time; print('begun'); time.sleep(600)"


@with_compiler
def test_a_run_whose_gpus_fall_idle_is_ended(yard: Yard, driver: dict[str, str], use: Path) -> None:
    task = yard.python(SLEEPING, gpus=1, policy=Policy(max_idle_gpu_seconds=3))

    with yard.agent("--gpus", str(GPU), variables=driver):
        yard.wait_for_output(task, "begun")
        use.write_text("2")
        yard.wait_for_end(task)

    outcome = yard.run(task).outcome
    assert outcome is not None
    assert (outcome.reason, outcome.message) == (Reason.IDLE_GPU, "its GPUs stayed below 5 % for 3 s")


@with_compiler
def test_a_gpu_that_reports_no_utilisation_ends_no_run(yard: Yard, driver: dict[str, str], use: Path) -> None:
    use.write_text("none")
    task = yard.python("import time; time.sleep(5)", gpus=1, policy=Policy(max_idle_gpu_seconds=1))

    with yard.agent("--gpus", str(GPU), variables=driver):
        (ended,) = yard.wait_for_end(task)

    assert ended.state is TaskState.COMPLETED


# --- A full machine


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 64 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@as_root
def test_an_agent_takes_nothing_while_its_disk_is_too_full(yard: Yard, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    with yard.agent("--pause-at", "0.8", folder=small_disk) as agent:
        wait_for_worker(yard, WorkerState.IDLE)
        ballast.write_bytes(bytes(56 << 20))
        paused = wait_for_worker(yard, WorkerState.PAUSED)
        task = yard.python("print('at last')")

        assert "below 75%" in paused.paused_reason
        assert "paused: disk is 8" in str(yard.client.explain(task.id))
        assert yard.task(task).state is TaskState.QUEUED
        ballast.unlink()
        yard.wait_for_end(task)
        assert agent.log.count("nothing is taken until") == 1


@as_root
def test_without_a_setting_an_agent_takes_nothing_while_its_disk_has_no_room_for_a_log(
    yard: Yard, small_disk: Path
) -> None:
    ballast = small_disk / "ballast"
    with yard.agent(folder=small_disk):
        wait_for_worker(yard, WorkerState.IDLE)
        free = shutil.disk_usage(small_disk).free
        ballast.write_bytes(bytes(free - (2 << 20)))
        paused = wait_for_worker(yard, WorkerState.PAUSED)
        task = yard.python("print('at last')")

        assert "of disk are free: nothing is taken until" in paused.paused_reason
        assert "of disk are free" in str(yard.client.explain(task.id))
        assert yard.task(task).run_count == 0
        ballast.unlink()
        yard.wait_for_end(task)


@as_root
def test_an_agent_that_starts_on_a_full_machine_takes_nothing(yard: Yard, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(56 << 20))
    task = yard.python("print('too early')")

    with yard.agent("--pause-at", "0.8", folder=small_disk):
        wait_for_worker(yard, WorkerState.PAUSED)

        assert yard.task(task).state is TaskState.QUEUED
        assert yard.task(task).run_count == 0


V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group that may hold 600 MB, of whichever version this machine has."""
    version_1 = (V1 / "memory.limit_in_bytes").exists()
    if not (version_1 or (V2 / "cgroup.controllers").exists()):
        pytest.skip("this machine has no control groups")
    folder = (V1 if version_1 else V2) / f"taskyard-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / ("memory.limit_in_bytes" if version_1 else "memory.max")).write_text(str(600 << 20))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield folder
    wait_until(lambda: not (folder / "cgroup.procs").read_text().split(), what="group empty")
    folder.rmdir()


@as_root
def test_an_agent_takes_nothing_while_its_memory_is_too_full(yard: Yard, small_group: Path) -> None:
    enter = ("sh", "-c", f'echo $$ > {small_group}/cgroup.procs && exec "$0" "$@"')
    with yard.agent("--pause-at", "0.8", under=enter):
        ballast = yard.python("import time; held = bytearray(450 << 20); time.sleep(10); print('done')")

        paused = wait_for_worker(yard, WorkerState.PAUSED)
        task = yard.python("print('at last')")

        assert "memory is " in paused.paused_reason
        yard.wait_for_end(ballast, task)
