"""A new environment whose five packages are in the download cache already."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from taskyard.wire import Environment, OutcomeKind, Phase, RequirementsKind, Task

from tests.benchmarks.bench import Bench
from tests.benchmarks.results import Measurement, p50
from tests.support.servers import ServerProcess
from tests.support.wheels import package_index
from tests.support.yard import Yard

TINY = tuple((name, ("1.0", "2.0")) for name in ("alpha", "beta", "gamma", "delta", "epsilon"))
REAL = (
    ("attrs", ("24.2.0", "24.3.0")),
    ("click", ("8.1.7", "8.1.8")),
    ("idna", ("3.9", "3.10")),
    ("packaging", ("24.1", "24.2")),
    ("numpy", ("1.26.3", "1.26.4")),
)
"""numpy among them: 60 MB in 800 files."""
METRIC = "new environment, warm download cache, 5 packages"
Choices = tuple[tuple[str, tuple[str, str]], ...]


def measure(bench: Bench) -> Iterator[Measurement]:
    """Of two versions of each package, both downloaded before, every round takes a new combination."""
    with tempfile.TemporaryDirectory(prefix="taskyard-bench-") as folder, ServerProcess() as server:
        with Yard(server) as yard, package_index(Path(folder) / "index") as index:
            for name, versions in TINY:
                for version in versions:
                    index.add(name, version)
            variables = {"PIP_INDEX_URL": index.url, "PIP_CONFIG_FILE": os.devnull}
            with yard.agent(variables=variables):
                spent = _rounds(bench, yard, TINY)
                yield _promised(f"{METRIC} (wheels of 1 kB made for this), p50", spent)
        with Yard(server) as yard, yard.agent(name="real"):
            spent = _rounds(bench, yard, REAL)
            if spent:
                yield _promised(f"{METRIC} (attrs, click, idna, packaging, numpy), p50", spent)
            else:
                bench.console.print("real packages are left out: no package index can be reached")


def _rounds(bench: Bench, yard: Yard, choices: Choices) -> list[float]:
    """Milliseconds in the phase `environment`; none where even the first cannot be built."""
    newest, oldest = _combination(choices, (1,) * len(choices)), _combination(choices, (0,) * len(choices))
    if not all(_build(yard, packages) for packages in (newest, oldest)):
        return []
    mixed = list(itertools.product((0, 1), repeat=len(choices)))[1:-1]
    chosen = [mixed[number] for number in bench.times(10, 4)]
    return [_build(yard, _combination(choices, which)) or 0.0 for which in bench.progress(chosen)]


def _combination(choices: Choices, which: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{name}=={versions[place]}" for (name, versions), place in zip(choices, which, strict=True))


def _build(yard: Yard, packages: tuple[str, ...]) -> float | None:
    wanted = Environment(requirements=RequirementsKind.PACKAGES, packages=packages)
    (task,) = yard.wait_for_end(yard.submit("true", environment=wanted), seconds=180)
    return _environment_milliseconds(yard, task)


def _environment_milliseconds(yard: Yard, task: Task) -> float | None:
    run = yard.run(task)
    if run.outcome is None or run.outcome.kind is not OutcomeKind.COMPLETED:
        return None
    assert run.environment_reused is False
    return sum((time.seconds or 0.0) * 1000 for time in run.phases if time.phase is Phase.ENVIRONMENT)


def _promised(metric: str, spent: Sequence[float]) -> Measurement:
    return Measurement(
        metric=metric, value=p50(spent), unit="ms", at_most=1000, peer="ClearML agent 15.7 s for one package"
    )
