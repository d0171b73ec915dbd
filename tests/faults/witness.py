"""Tasks that bear witness: each run writes down outside of Taskyard that it began, and every byte that it says."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from taskyard.wire import Run, Task, TaskState

from tests.support.agents import wait_until
from tests.support.yard import Yard

SCRIPT = """
import os, signal, sys, time
if sys.argv[4] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder, lines, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
run = os.environ["TASKYARD_RUN"]
starts = os.open(os.path.join(folder, "starts"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(starts, run.encode() + b"\\n")
said = os.open(os.path.join(folder, run + ".said"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def say(text):
    line = text.encode() + b"\\n"
    os.write(said, line)
    while line:
        line = line[os.write(1, line):]
number = 0
while number < lines or (lines < 0 and not os.path.exists(os.path.join(folder, "gate"))):
    say(f"line {number} of {run}")
    number += 1
    time.sleep(pause)
say("the end")
"""


class Witness:
    """One task. Without a number of lines it goes on until it is let go; a stubborn one ignores SIGTERM."""

    def __init__(
        self,
        yard: Yard,
        folder: Path,
        *,
        lines: int = -1,
        pause: float = 0.05,
        stubborn: bool = False,
        **options: Any,
    ) -> None:
        self._yard = yard
        self._folder = folder
        folder.mkdir(parents=True)
        argv = [str(folder), str(lines), str(pause), "stubborn" if stubborn else ""]
        source = f"import sys; sys.argv[1:] = {json.dumps(argv)}\n{SCRIPT}"
        self.task: Task = yard.python(source, **options)

    @property
    def starts(self) -> list[str]:
        """The runs whose command began, as often as it began."""
        file = self._folder / "starts"
        return file.read_text().split() if file.exists() else []

    def said(self, run: Run) -> bytes:
        """What the run's command wrote, by its own account."""
        file = self._folder / f"{run.id}.said"
        return file.read_bytes() if file.exists() else b""

    def wait_for_start(self, number: int = 1, *, seconds: float = 30.0) -> None:
        """Waits until the command began in that many runs, and said something in the last."""
        wait_until(lambda: len(self.starts) >= number, seconds=seconds, what=f"start {number} of {self.task.id}")
        said = self._folder / f"{self.starts[-1]}.said"
        wait_until(lambda: said.exists() and said.stat().st_size > 0, seconds=seconds, what="a first line")

    def let_go(self) -> None:
        """The command may end."""
        (self._folder / "gate").touch()

    def ends_once(
        self,
        *,
        runs: int = 1,
        starts: int | None = None,
        state: TaskState = TaskState.COMPLETED,
        seconds: float = 40,
    ) -> Run:
        """Waits for the end and checks what must hold after any fault; returns the last run."""
        self.let_go()
        (task,) = self._yard.wait_for_end(self.task, seconds=seconds)
        assert (task.state, task.run_count) == (state, runs), self.told()
        self.check()
        assert starts is None or len(self.starts) == starts, self.starts
        return self._yard.run(self.task)

    def check(self) -> None:
        """The task ended once, no run began twice, and the last run's log is what its command wrote."""
        repeated = [run for run, times in Counter(self.starts).items() if times > 1]
        assert not repeated, f"began twice: {repeated}"
        kinds = Counter(event.kind for event in self._yard.client.story(self.task.id).events)
        task = self._yard.task(self.task)
        assert task.state.terminal, task.state
        assert kinds[task.state.value] == 1, self.told()
        run = self._yard.run(self.task)
        assert self._yard.output(run) == self.said(run), f"the log of {run.id} is not what its command wrote"

    def told(self) -> list[tuple[str, int | None, str]]:
        """The task's story, for an assertion's message."""
        return [(event.kind, event.run, event.detail) for event in self._yard.client.story(self.task.id).events]
