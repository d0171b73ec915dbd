"""Who a process is, and the end of everything that carries a run's mark."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

import pytest
from taskyard_agent.keeper import processes
from taskyard_agent.keeper.processes import ProcessIdentity

from tests.support.waiting import becomes_true


@pytest.fixture
def run_id():
    return f"{uuid.uuid4().hex}.1"


@pytest.fixture
def start():
    """Starts commands, and leaves none of them."""
    started = []

    def start(*argv: str, **variables: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(argv, env={**os.environ, **variables}, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_running_process_is_itself(start):
    process = start("sleep", "600")

    identity = processes.identify(process.pid)

    assert identity is not None
    assert identity.alive()
    assert identity == processes.identify(process.pid)


def test_a_zombie_does_not_live(start):
    process = start("true")
    identity = ProcessIdentity(pid=process.pid, start_ticks=1, boot_id=processes.boot_id())

    assert becomes_true(lambda: processes.identify(process.pid) is None)
    assert not identity.alive()


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another"}, {"pid": 2**22 + 1}])
def test_another_start_boot_or_pid_is_another_process(start, change):
    identity = processes.identify(start("sleep", "600").pid)
    assert identity is not None
    parts = {"pid": identity.pid, "start_ticks": identity.start_ticks, "boot_id": identity.boot_id}

    assert not ProcessIdentity(**{**parts, **change}).alive()


def test_a_child_that_has_ended_is_reaped(start):
    process = start("sleep", "600")
    identity = processes.identify(process.pid)
    process.terminate()
    assert becomes_true(lambda: not identity.alive())

    processes.reap(identity)

    with pytest.raises(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)


def test_a_name_with_brackets_and_blanks_is_no_riddle(tmp_path, start):
    odd = tmp_path / "a) S 1 (b"
    odd.symlink_to("/bin/sleep")

    assert processes.identify(start(str(odd), "600").pid) is not None


def test_a_sweep_ends_what_carries_the_mark_and_nothing_else(start, run_id):
    marked = [start("sh", "-c", "setsid sleep 600 & sleep 600", TASKYARD_RUN=run_id) for _ in range(3)]
    others = [start("sleep", "600", TASKYARD_RUN=run_id + "0"), start("sleep", "600")]
    assert becomes_true(lambda: len(processes.marked(run_id)) == 9)

    assert processes.sweep(run_id) == ()

    assert processes.marked(run_id) == set()
    assert all(process.wait() != 0 for process in marked)
    assert [process.poll() for process in others] == [None, None]


def test_a_sweep_spares_whoever_sweeps(run_id):
    script = f"from taskyard_agent.keeper import processes; print(processes.sweep({run_id!r}))"

    answer = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "TASKYARD_RUN": run_id}, capture_output=True, check=True
    )

    assert answer.stdout == b"()\n"


def test_what_cannot_be_ended_is_told():
    assert processes.end_all(lambda: {2**22 + 1}, seconds=0.05) == (2**22 + 1,)


def test_descendants_are_found_to_the_last_generation(start):
    process = start("sh", "-c", "sh -c 'sh -c \"sleep 600; :\"; :'; :")

    assert becomes_true(lambda: len(processes.descendants(process.pid)) == 3)

    processes.end_all(lambda: processes.descendants(process.pid))


def test_the_boot_clock_never_goes_back():
    earlier = processes.boot_clock()

    assert processes.boot_clock() >= earlier
