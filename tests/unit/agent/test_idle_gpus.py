"""Which runs let their GPUs idle for too long."""

from __future__ import annotations

from taskyard.wire import Sample
from taskyard_agent.idle_gpus import GpuRun, IdleGpus


class Bench:
    """One run on two GPUs, and a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.run = GpuRun(id="task.1", max_idle_seconds=60, gpus=2)
        self.idle = IdleGpus(5.0, clock=lambda: self.now)

    def after(self, seconds: float, *percent: float) -> dict[str, str]:
        self.now += seconds
        samples = [
            Sample(subject="run:task.1", name=f"gpu_percent:{index}", at=self.now, value=value)
            for index, value in enumerate(percent)
        ]
        return self.idle.overdue([self.run], samples)


def test_a_run_whose_gpus_idle_for_the_whole_window_is_overdue() -> None:
    bench = Bench()

    told = [bench.after(30, 0, 4) for _ in range(3)]

    assert told == [{}, {}, {"task.1": "its GPUs stayed below 5 % for 60 s"}]


def test_one_busy_gpu_begins_the_window_anew() -> None:
    bench = Bench()

    told = [bench.after(30, 0, percent) for percent in (0, 0, 50, 0, 0)]

    assert told == [{}, {}, {}, {}, {}]
    assert bench.after(30, 0, 0)


def test_a_gpu_that_reports_no_utilisation_is_not_idle() -> None:
    bench = Bench()

    assert not any(bench.after(30, 0) for _ in range(9))


def test_a_run_without_gpus_is_never_overdue() -> None:
    bench = Bench()
    bench.run = GpuRun(id="task.1", max_idle_seconds=60, gpus=0)

    assert not any(bench.after(30) for _ in range(9))
