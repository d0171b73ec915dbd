"""What an agent learns of the batch job that it is in, and when it ends."""

from __future__ import annotations

import argparse
import dataclasses
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from taskyard_agent import job_folder
from taskyard_agent.batch import BatchJob, found
from taskyard_agent.config import DAEMON_SETTINGS, read_settings
from taskyard_agent.held import Cause
from taskyard_agent.job_end import JobEnd
from taskyard_agent.keeper.processes import ProcessIdentity
from taskyard_agent.part_settings import checkout_settings

from tests.support.waiting import becomes_true

SHOWN = "JobId=7 JobState=RUNNING TimeLimit=01:00:00 StartTime=1000 EndTime=4600 Deadline=N/A"
CONFIG = "Configuration data\nKillOnBadExit           = 0\nKillWait                = 45 sec\n"


def job(environ: dict[str, str], wanted: bool | None = None, shown: str = SHOWN, **given: Any) -> BatchJob | None:
    def ask(command: tuple[str, ...]) -> str:
        return shown if command[-1] == "7" else CONFIG

    return found(environ, wanted=wanted, ask=ask, **given)


def in_slurm(**environ: str) -> BatchJob:
    known = job({"SLURM_JOB_ID": "7", **environ})
    assert known is not None
    return known


def test_a_job_is_found_by_slurms_number_unless_the_operator_says_otherwise() -> None:
    assert job({}) is None
    assert job({"SLURM_JOB_ID": "7"}, wanted=False) is None
    assert in_slurm().id == "7"
    other = job({}, wanted=True)
    assert other is not None
    assert (other.id, other.gpus, other.ends_at, other.grace_seconds) == ("", None, None, 28.0)


@pytest.mark.parametrize(
    ("environ", "shown", "ends_at"),
    [
        ({"SLURM_JOB_END_TIME": "99"}, SHOWN, 99.0),
        ({}, SHOWN, 4600.0),
        ({}, "JobId=7 EndTime=Unknown", None),
        ({}, "", None),
    ],
)
def test_the_end_is_what_slurm_says(environ: dict[str, str], shown: str, ends_at: float | None) -> None:
    known = job({"SLURM_JOB_ID": "7", **environ}, shown=shown)
    assert known is not None
    assert known.ends_at == ends_at


def test_runs_end_two_seconds_before_slurm_kills() -> None:
    assert in_slurm().grace_seconds == 43.0
    shorter = job({"SLURM_JOB_ID": "7"}, kill_wait_seconds=1.0)
    assert shorter is not None
    assert shorter.grace_seconds == 0.0


@pytest.mark.parametrize(
    ("environ", "memory"),
    [
        ({}, None),
        ({"SLURM_MEM_PER_NODE": "0"}, None),
        ({"SLURM_MEM_PER_NODE": "2000"}, 2000 << 20),
        ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_ON_NODE": "4"}, 2000 << 20),
        ({"SLURM_MEM_PER_CPU": "500"}, None),
        ({"SLURM_MEM_PER_NODE": "much"}, None),
    ],
)
def test_memory_is_the_jobs(environ: dict[str, str], memory: int | None) -> None:
    assert in_slurm(**environ).memory_bytes == memory


@pytest.mark.parametrize(
    ("environ", "gpus"),
    [
        ({}, ""),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_GPUS": "4,5"}, "0,1"),
        ({"SLURM_JOB_GPUS": "0-2,5"}, "0,1,2,5"),
        ({"CUDA_VISIBLE_DEVICES": "MIG-1234"}, "MIG-1234"),
    ],
)
def test_gpus_are_those_that_the_job_may_see(environ: dict[str, str], gpus: str) -> None:
    assert in_slurm(**environ).gpus == gpus


def test_the_nodes_own_disk_is_where_slurm_says(tmp_path: Path) -> None:
    assert in_slurm(SLURM_TMPDIR=str(tmp_path), TMPDIR="/tmp").temporary == tmp_path
    assert in_slurm(SLURM_TMPDIR=str(tmp_path / "gone"), TMPDIR=str(tmp_path)).temporary == tmp_path
    assert in_slurm(TMPDIR="relative").temporary is None


def test_an_end_within_ninety_seconds_of_the_limit_is_the_limits() -> None:
    known = in_slurm()

    assert known.cause(4509.0) is Cause.PREEMPTED
    assert known.cause(4510.0) is Cause.TIME_LIMIT
    assert BatchJob(id="7").cause(1e12) is Cause.PREEMPTED


# --- The end


class Run:
    """As `JobEnd` knows one."""

    def __init__(self, number: str) -> None:
        self.id = number
        self.stops: list[tuple[Cause, float]] = []

    def stop(self, cause: Cause, *, message: str, grace_seconds: float) -> None:
        assert message
        self.stops.append((cause, grace_seconds))


def ending(job: BatchJob, runs: Callable[[], list[Run]], left: list[int]) -> JobEnd:
    return JobEnd(job, runs, leave=left.append)  # type: ignore[arg-type]


def test_each_run_is_stopped_once_also_one_that_comes_late() -> None:
    runs, left = [Run("a.1")], []  # type: ignore[var-annotated]
    end = ending(BatchJob(id="7", kill_wait_seconds=30.0), lambda: runs, left)
    end.begin()
    end.begin()
    assert becomes_true(lambda: bool(runs[0].stops))
    runs.append(Run("b.1"))

    assert becomes_true(lambda: bool(runs[1].stops))

    end.close()
    assert [len(run.stops) for run in runs] == [1, 1]
    assert runs[0].stops[0][0] is Cause.PREEMPTED
    assert runs[0].stops[0][1] <= 28.0
    assert left == []


def test_what_cannot_be_reported_in_time_does_not_keep_the_agent() -> None:
    left: list[int] = []
    end = ending(BatchJob(id="7", kill_wait_seconds=1.5), lambda: [Run("a.1")], left)

    end.begin()

    assert becomes_true(lambda: left == [143])


def test_the_job_ends_with_its_batch_script() -> None:
    gone = ProcessIdentity(pid=1 << 22, start_ticks=1, boot_id="")
    run = Run("a.1")
    end = ending(BatchJob(id="7", process=gone), lambda: [run], [])

    assert becomes_true(lambda: bool(run.stops))

    end.close()


def test_an_agent_that_ends_by_itself_stops_nothing() -> None:
    before = threading.active_count()
    run = Run("a.1")

    ending(BatchJob(id="7"), lambda: [run], []).close()

    assert becomes_true(lambda: threading.active_count() <= before)
    assert run.stops == []


# --- Its folder


def test_a_jobs_folder_is_its_users_alone_and_those_of_killed_agents_are_removed(tmp_path: Path) -> None:
    namespace = argparse.Namespace(server="http://127.0.0.1:9", token="t", cpu_only=True)
    read = dataclasses.replace(read_settings(namespace, DAEMON_SETTINGS), job=BatchJob(id="7", temporary=tmp_path))
    abandoned = tmp_path / "taskyard-job-killed"
    (abandoned / "trees").mkdir(parents=True)
    (abandoned / "lock").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    (tmp_path / "taskyard-job-link").symlink_to(elsewhere)

    with job_folder.opened(read) as placed, job_folder.opened(read) as second:
        folders = [settings.job.folder for settings in (placed, second) if settings.job]
        assert all(folder and stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in folders)
        assert checkout_settings(placed).trees == folders[0]
        assert not abandoned.exists()
        assert len(set(folders)) == 2

    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "taskyard-job-link"]
    assert (elsewhere / "lock").exists()
