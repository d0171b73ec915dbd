"""From enqueue to the first line of user code, by phase; from the process's exit to its final state; cancel."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from taskyard import snapshot
from taskyard.wire import (
    Code,
    Command,
    CommandKind,
    Environment,
    Manager,
    NewTask,
    Phase,
    RequirementsKind,
    Run,
    TaskSpec,
    TaskState,
    WorkerState,
)

from tests.benchmarks.bench import Bench
from tests.benchmarks.results import Measurement, p50, percentile
from tests.support import docker
from tests.support.agents import wait_until
from tests.support.repositories import Repository
from tests.support.servers import ServerProcess
from tests.support.yard import Yard

TELL_TIME = (
    "import time; print(time.time(), flush=True)\nimport atexit; atexit.register(lambda: print(time.time()))\n"
)
UNTIL_SIGTERM = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda number, frame: (print(time.time(), flush=True), sys.exit()))
print('ready', flush=True)
time.sleep(60)
"""
PEER_FIRST_LINE = "ClearML agent 8.7 s after a poll of 5 s"
PEER_CONTAINER = "minutes (apt and pip inside each run)"
CACHED = Environment(requirements=RequirementsKind.PACKAGES, packages=())
INHERIT = Environment(manager=Manager.INHERIT)


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One task, by the clocks of this machine; milliseconds."""

    first_line: float
    final: float
    """From the last instruction of the script to the end that the server recorded."""
    phases: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a first line may take, in milliseconds, and the best known elsewhere."""

    p50: float
    p95: float | None = None
    peer: str = PEER_FIRST_LINE


ON_THE_MACHINE = Target(p50=100, p95=250)


def measure_cached(bench: Bench) -> Iterator[Measurement]:
    """A script without a repository, in a cached uv environment and in the agent's own."""
    for name, environment in (("cached venv", CACHED), ("agent's own Python", INHERIT)):
        with _yard() as yard:
            timed = _repeat(bench, yard, name, lambda environment=environment: _spec(environment=environment))
        yield from _first_line(f"enqueue → first user line, {name}", timed)
        yield from _final(name, timed)


def measure_snapshot(bench: Bench) -> Iterator[Measurement]:
    """A script of a repository with an uncommitted change, in a cached uv environment."""
    with tempfile.TemporaryDirectory(prefix="taskyard-bench-") as folder, _yard() as yard:
        files = {"train.py": "", **{f"package/module_{number}.py": "x = 1\n" for number in range(200)}}
        repository = Repository.create(Path(folder) / "work", files)
        (repository.root / "train.py").write_text(TELL_TIME)
        taken = snapshot.capture(repository.root, ship_code=True)
        for digest, blob in taken.blobs.items():
            yard.client.put_blob(digest, blob)
        timed = _repeat(bench, yard, "git snapshot", lambda: _spec(environment=CACHED, code=taken.code))
    yield from _first_line("enqueue → first user line, git snapshot and cached venv", timed)


def measure_container(bench: Bench) -> Iterator[Measurement]:
    """The same in a container: image present, environment cached, a network of its own."""
    with contextlib.closing(docker.connect()) as engine:
        docker.ensure_image(engine)
    with _yard("--docker", docker.IMAGE) as yard:
        spec = _spec(environment=CACHED, python="python3")
        timed = _repeat(bench, yard, "container", lambda: spec)
    yield from _first_line("enqueue → first user line, container", timed, Target(p50=500, peer=PEER_CONTAINER))
    yield from _final("container", timed)


def measure_cancel(bench: Bench) -> Iterator[Measurement]:
    """From the request to stop to the signal, as the process sees it."""
    waits = []
    with _yard() as yard:
        for _ in bench.progress(bench.times(20, 5)):
            task = yard.python(UNTIL_SIGTERM)
            yard.wait_for_output(task, "ready")
            asked = time.time()
            yard.client.stop_task(task.id)
            yard.wait_for_end(task)
            waits.append((float(yard.text(task).splitlines()[-1]) - asked) * 1000)
    yield Measurement(
        metric="cancel → SIGTERM in the process, p50",
        value=p50(waits),
        unit="ms",
        at_most=1000,
        peer="4.5 s, and it is a SIGKILL",
    )
    yield Measurement(metric="cancel → SIGTERM, worst", value=max(waits), unit="ms", at_most=1000)


@contextlib.contextmanager
def _yard(*flags: str) -> Iterator[Yard]:
    """A server and an agent that waits for work."""
    with ServerProcess() as server, Yard(server) as yard, yard.agent(*flags):
        yield yard


def _spec(*, environment: Environment, code: Code | None = None, python: str = "python") -> TaskSpec:
    if code is not None:
        command = Command(kind=CommandKind.SCRIPT, target="train.py")
    else:
        python = sys.executable if environment.manager is Manager.INHERIT else python
        command = Command(kind=CommandKind.EXECUTABLE, target=python, args=("-c", TELL_TIME))
    return TaskSpec(code=code or Code(), command=command, environment=environment)


def _repeat(bench: Bench, yard: Yard, name: str, spec: Callable[[], TaskSpec]) -> list[Timed]:
    """The first one makes tree and environment, and is not counted."""
    _run_one(yard, spec())
    return [_run_one(yard, spec()) for _ in bench.progress(bench.times(60, 12), name)]


def _run_one(yard: Yard, spec: TaskSpec) -> Timed:
    _wait_until_idle(yard)
    enqueued = time.time()
    task = yard.client.create_task(NewTask(spec=spec, queue="default"))
    yard.wait_for_end(task, seconds=120)
    first, last = map(float, yard.text(task).split())
    run = yard.run(task)
    assert yard.task(task).state is TaskState.COMPLETED
    assert run.ended_at is not None
    return Timed(
        first_line=(first - enqueued) * 1000,
        final=(run.ended_at - last) * 1000,
        phases=_phases(run, enqueued, first),
    )


def _wait_until_idle(yard: Yard) -> None:
    """An agent beats once more when it is free; its claim is parked within milliseconds of that."""
    wait_until(lambda: [worker.state for worker in yard.client.workers()] == [WorkerState.IDLE])
    time.sleep(0.05)


def _phases(run: Run, enqueued: float, first_line: float) -> dict[str, float]:
    """What each step to the first line took; the server's and the agent's clock are this machine's."""
    began = {time.phase: time.started_at for time in run.phases}
    steps = {
        "enqueue → claimed": (enqueued, run.claimed_at),
        "claimed → checkout": (run.claimed_at, began[Phase.CHECKOUT]),  # the container's image, too
        "checkout": (began[Phase.CHECKOUT], began[Phase.ENVIRONMENT]),
        "environment and the server's word to start": (began[Phase.ENVIRONMENT], began[Phase.RUNNING]),
        "keeper and start of Python": (began[Phase.RUNNING], first_line),
    }
    return {name: (end - begin) * 1000 for name, (begin, end) in steps.items()}


def _first_line(metric: str, timed: list[Timed], target: Target = ON_THE_MACHINE) -> Iterator[Measurement]:
    waits = [one.first_line for one in timed]
    yield Measurement(metric=f"{metric}, p50", value=p50(waits), unit="ms", at_most=target.p50, peer=target.peer)
    yield Measurement(metric=f"{metric}, p95", value=percentile(waits, 95), unit="ms", at_most=target.p95)
    for phase in timed[0].phases:
        spent = p50([one.phases[phase] for one in timed])
        yield Measurement(metric=f"{metric}: {phase}, p50", value=spent, unit="ms")


def _final(name: str, timed: list[Timed]) -> Iterator[Measurement]:
    ends = [one.final for one in timed]
    metric = f"process exit → final state at the server, {name}"
    yield Measurement(metric=f"{metric}, p50", value=p50(ends), unit="ms", at_most=100, peer="2–4 s")
    yield Measurement(metric=f"{metric}, p95", value=percentile(ends, 95), unit="ms")
