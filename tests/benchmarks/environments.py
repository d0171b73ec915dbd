"""A new environment whose five packages are in the download cache already, by manager and by what is compiled."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from taskyard.wire import Environment, Manager, OutcomeKind, Phase, RequirementsKind, Task
from taskyard_agent.environments import EnvironmentSettings, cache

from tests.benchmarks.bench import Bench
from tests.benchmarks.results import Measurement, p50
from tests.support.agents import AgentProcess
from tests.support.conda import Channel
from tests.support.servers import ServerProcess
from tests.support.waiting import becomes_true
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
CONDA = tuple((name, ("1.0", "2.0")) for name in ("alpha", "beta", "gamma", "delta"))
"""Python is the fifth."""
METRIC = "new environment, 5 packages in the download cache"
Choices = tuple[tuple[str, tuple[str, str]], ...]


def measure(bench: Bench) -> Iterator[Measurement]:
    """Of two versions of each package, both downloaded before, every round takes a new combination.

    What differs between the rows is whether other environments have compiled the modules before.
    """
    with tempfile.TemporaryDirectory(prefix="taskyard-bench-") as folder, ServerProcess() as server:
        yield from _measure_tiny(bench, server, Path(folder))
        yield from _measure_real(bench, server)
        yield from _measure_conda(bench, server, Path(folder))


def _measure_tiny(bench: Bench, server: ServerProcess, folder: Path) -> Iterator[Measurement]:
    with Yard(server) as yard, package_index(folder / "index") as index:
        for name, version in itertools.product((name for name, _ in TINY), ("1.0", "2.0")):
            index.add(name, version)
        variables = {"PIP_INDEX_URL": index.url, "PIP_CONFIG_FILE": os.devnull}
        with yard.agent(variables=variables):
            yield _promised(f"{METRIC}: uv, wheels of 1 kB made for this, p50", _rounds(bench, yard, TINY))
            spent = _rounds(bench, yard, TINY, manager=Manager.PIP)
            yield Measurement(metric=f"{METRIC}: pip, the same wheels, p50", value=p50(spent), unit="ms")


def _measure_real(bench: Bench, server: ServerProcess) -> Iterator[Measurement]:
    with Yard(server) as yard, yard.agent(name="real") as agent:
        what = "uv, attrs, click, idna, packaging, numpy"
        spent = _rounds(bench, yard, REAL)
        if not spent:
            bench.console.print("real packages are left out: no package index can be reached")
            return
        yield _promised(f"{METRIC}: {what}, modules compiled by earlier environments, p50", spent)
        spent = [_build_alone(yard, agent, _combination(REAL, (1, 1, 1, 1, last))) for last in (0, 1, 0)]
        yield Measurement(metric=f"{METRIC}: {what}, no other environment, p50", value=p50(spent), unit="ms")


def _measure_conda(bench: Bench, server: ServerProcess, folder: Path) -> Iterator[Measurement]:
    channel = Channel(folder / "channel")
    channel.add_python()
    for name, version in itertools.product((name for name, _ in CONDA), ("1.0", "2.0")):
        channel.add(name, version, depends=["python"], python=True)
    flags = ("--allow-channel", f"conda-forge={channel.url}", "--conda-binary", "none")
    with Yard(server) as yard, yard.agent(*flags, name="conda"):
        spent = _rounds(bench, yard, CONDA, manager=Manager.CONDA)
        yield Measurement(metric=f"{METRIC}: conda (py-rattler), made for this, p50", value=p50(spent), unit="ms")


def _rounds(bench: Bench, yard: Yard, choices: Choices, manager: Manager = Manager.UV) -> list[float]:
    """Milliseconds in the phase `environment`; none where even the first cannot be built."""
    newest, oldest = _combination(choices, (1,) * len(choices)), _combination(choices, (0,) * len(choices))
    if not all(_build(yard, packages, manager) for packages in (newest, oldest)):
        return []
    mixed = list(itertools.product((0, 1), repeat=len(choices)))[1:-1]
    chosen = [mixed[number] for number in bench.times(10, 4)]
    return [_build(yard, _combination(choices, which), manager) or 0.0 for which in bench.progress(chosen)]


def _build_alone(yard: Yard, agent: AgentProcess, packages: tuple[str, ...]) -> float:
    """Builds where downloads are kept, and nothing else."""
    settings = EnvironmentSettings(root=agent.cache)
    assert becomes_true(lambda: _is_emptied(settings))
    return _build(yard, packages, Manager.UV) or 0.0


def _is_emptied(settings: EnvironmentSettings) -> bool:
    """An environment goes once the keeper of its run has ended."""
    cache.prune(settings, everything=True)
    return not cache.list_environments(settings)


def _combination(choices: Choices, which: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{name}=={versions[place]}" for (name, versions), place in zip(choices, which, strict=True))


def _build(yard: Yard, packages: tuple[str, ...], manager: Manager) -> float | None:
    wanted = Environment(manager=manager, requirements=RequirementsKind.PACKAGES, packages=packages)
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
