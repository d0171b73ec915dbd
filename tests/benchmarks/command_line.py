"""How soon the command line answers, how long an import takes, and the first task on a fresh folder."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks.bench import Bench
from tests.benchmarks.results import Measurement, p50
from tests.support.claimants import Claimant, enqueue
from tests.support.demo import TASKYARD, port_of, separate_environment, wait_for_worker
from tests.support.person import Person
from tests.support.servers import ServerProcess

STARTS = (
    ("taskyard --version", (str(TASKYARD), "--version"), 100.0, ""),
    ("import taskyard", (sys.executable, "-c", "import taskyard"), 100.0, "clearml import 650 ms"),
    ("from taskyard import Task", (sys.executable, "-c", "from taskyard import Task"), None, ""),
    ("python -c pass, to compare", (sys.executable, "-c", "pass"), None, ""),
)


def measure(bench: Bench) -> Iterator[Measurement]:
    """Whole processes, from their start to their end."""
    for metric, argv, at_most, peer in STARTS:
        spent = [_milliseconds(argv) for _ in bench.progress(bench.times(20, 7), metric)]
        yield Measurement(metric=f"{metric}, p50", value=p50(spent), unit="ms", at_most=at_most, peer=peer)


def measure_reading(bench: Bench) -> Iterator[Measurement]:
    """CPU time of whole reading commands, at a server with one task that ended."""
    with tempfile.TemporaryDirectory(prefix="taskyard-bench-") as folder, ServerProcess() as server:
        person = Person(Path(folder)).log_in(server)
        with Claimant(server, server.issue("agent"), "reader") as agent:
            task = enqueue(server.client(server.admin_token))
            agent.run_one("default")
        for words in (("ps",), ("show", task), ("logs", task), ("explain", task)):
            argv = (str(TASKYARD), *words)
            metric = f"taskyard {words[0]}, CPU"
            spent = [_cpu_milliseconds(argv, person.variables) for _ in bench.progress(bench.times(20, 7), metric)]
            yield Measurement(metric=f"{metric}, p50", value=p50(spent), unit="ms", peer="goal 150 ms")


def measure_first_task(bench: Bench) -> Iterator[Measurement]:
    """`taskyard up` and `taskyard run --wait` where nothing was before, but what is installed."""
    with tempfile.TemporaryDirectory(prefix="taskyard-bench-") as folder:
        seconds = _first_task(Path(folder))
    yield Measurement(
        metric="first task on a fresh folder: `taskyard up`, then `taskyard run --wait`",
        value=seconds,
        unit="s",
        at_most=120,
        peer="8 containers, 4–8 GB, ~11 steps",
    )


def _milliseconds(argv: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True)
    return (time.perf_counter() - began) * 1000


def _cpu_milliseconds(argv: Sequence[str], environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def _first_task(place: Path) -> float:
    environment = separate_environment(place) | {"TASKYARD_LOCAL_DIR": str(place / "agent")}
    code = place / "code"
    code.mkdir()
    (code / "train.py").write_text("print('hello')\n")
    port = str(port_of(environment))
    log = place / "up.log"
    began = time.perf_counter()
    with log.open("wb") as output:
        up = subprocess.Popen(
            [TASKYARD, "up", "--port", port, "--data", str(place / "server")],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        wait_for_worker(environment, up, log)
        run = [TASKYARD, "run", "--wait", "--yes", "--", "python", "train.py"]
        done = subprocess.run(run, cwd=code, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.count("hello")) == (0, 1), done
        return time.perf_counter() - began
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(timeout=30)
