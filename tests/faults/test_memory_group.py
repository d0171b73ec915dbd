"""The kernel holds a run to its memory, where the agent's unit lets it (`DelegateSubgroup`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import KERNEL

TOP = Path("/sys/fs/cgroup")
LIMIT = 100 << 20
RUN = """
import json, os, sys, tempfile
from pathlib import Path
from taskyard_agent.held import HeldRun, Launch
group, script, limit = sys.argv[1:]
Path(group, "cgroup.procs").write_text(str(os.getpid()))
with tempfile.TemporaryDirectory() as folder:
    launch = Launch(run=folder, argv=(sys.executable, "-c", script), cwd="/", env={}, memory_bytes=int(limit))
    held = HeldRun.start(Path(folder), launch)
    held.wait(60)
    record = held.exit_record()
    print(json.dumps([os.path.dirname(held.cgroup), record.cause.value, record.signal, record.message]))
"""
HOG = "held = []\nwhile True: held.append(bytearray(5 << 20))"
HIDDEN = f"import os, time\nif os.fork() == 0:\n    os.setsid()\n    exec({HOG!r})\ntime.sleep(600)"
KILLED = "import os; os.kill(os.getpid(), 9)"
TOLD = "used all of the 100 MiB it was given; ask for more with --memory"


@pytest.fixture
def unit() -> Iterator[Path]:
    """A group like that of a unit, in which the daemon has one of its own."""
    folder = TOP / f"taskyard-test-{os.getpid()}"
    controllers = TOP / "cgroup.controllers"
    if not (controllers.exists() and "memory" in controllers.read_text().split()):
        pytest.skip(f"{KERNEL}no control groups of version 2 with memory")
    try:
        (TOP / "cgroup.subtree_control").write_text("+memory")
        (folder / "agent").mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"{KERNEL}no control group can be made here: {error}")
    yield folder
    for group in (*folder.glob("taskyard-*"), folder / "agent", folder):
        group.rmdir()


@pytest.mark.parametrize(
    ("script", "cause", "told"),
    [(HOG, "memory", TOLD), (HIDDEN, "memory", TOLD), (KILLED, "exit", "")],
    ids=["itself", "its child", "a kill by somebody else"],
)
def test_the_kernel_holds_a_run_to_its_memory(unit: Path, script: str, cause: str, told: str) -> None:
    argv = [sys.executable, "-c", RUN, str(unit / "agent"), script, str(LIMIT)]

    said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout

    assert json.loads(said) == [str(unit), cause, 9, told]
