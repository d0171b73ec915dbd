"""The kernel bounds the processes of a run, where the agent may make control groups."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard_agent.keeper import cgroups

from tests.conftest import KERNEL

TOP = Path("/sys/fs/cgroup")
RUN = """
import os, sys, tempfile
from pathlib import Path
from taskyard_agent.held import HeldRun, Launch
group, script = sys.argv[1:]
Path(group, "cgroup.procs").write_text(str(os.getpid()))
with tempfile.TemporaryDirectory() as folder:
    held = HeldRun.start(Path(folder), Launch(run=folder, argv=(sys.executable, "-c", script), cwd="/", env={}))
    held.wait(60)
    print(Path(folder, "output.log").read_text())
"""
LOOK = """
from pathlib import Path
own = Path("/sys/fs/cgroup" + Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2])
print((own / "pids.max").read_text())
"""


@pytest.fixture
def unit() -> Iterator[Path]:
    """A group like that of a unit, in which the daemon has one of its own."""
    folder = TOP / "taskyard-test-processes"
    controllers = TOP / "cgroup.controllers"
    if not (controllers.exists() and "pids" in controllers.read_text().split()):
        pytest.skip(f"{KERNEL}no control groups of version 2 with pids")
    try:
        (TOP / "cgroup.subtree_control").write_text("+pids")
        (folder / "agent").mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"{KERNEL}no control group can be made here: {error}")
    yield folder
    for group in (*folder.glob("taskyard-*"), folder / "agent", folder):
        group.rmdir()


def test_a_run_has_a_bounded_number_of_processes(unit: Path) -> None:
    argv = [sys.executable, "-c", RUN, str(unit / "agent"), LOOK]

    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120)

    assert done.stdout.split() == [str(cgroups.PROCESSES)]


def test_the_bound_is_written_where_a_group_of_version_2_takes_it(tmp_path: Path) -> None:
    group = tmp_path / "taskyard-1"
    group.mkdir()

    assert cgroups.limit_processes(str(group))

    assert (group / "pids.max").read_text() == str(cgroups.PROCESSES)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+pids"


def test_without_a_group_there_is_no_bound() -> None:
    assert not cgroups.limit_processes("")
