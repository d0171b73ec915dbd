"""Drawn projects: what is imported is what was shipped, and the versions are those of the project's own tool."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from taskyard.requirements import RequirementsPlan, plan_requirements
from taskyard_agent.checkout import CheckoutSettings, GitSources
from taskyard_agent.environments import EnvironmentSettings, ReadyEnvironment
from taskyard_agent.errors import RunFailed

from tests.support.drawn_projects import Drawn, Tools, Universe, draw, make_universe, own_versions
from tests.support.environments import Bench, operator_variables, run
from tests.support.repositories import ALONE
from tests.support.wheels import package_index

FIRST = int(os.environ.get("TASKYARD_TEST_SEED", "20261130"))
"""The seed of the first project; each further one has the next."""
FEW, MANY = 12, 200


@pytest.fixture(scope="module")
def universe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Universe]:
    folder = tmp_path_factory.mktemp("universe")
    with package_index(folder / "wheels") as index, package_index(folder / "apart") as apart:
        yield make_universe(folder, index, apart)


def planned(tree: Path, drawn: Drawn) -> RequirementsPlan:
    """What the command line would submit for the script."""
    named = tree / drawn.path if drawn.tool == "pip" else None
    return plan_requirements(tree, tree / drawn.script, file=named)


def bench_of(universe: Universe, tmp_path: Path, drawn: Drawn, tree: Path) -> Bench:
    """An agent's bench for one tree; all of a test share the agent's folder, and with it the cache."""
    plan = planned(tree, drawn)
    settings = EnvironmentSettings(
        root=tmp_path / "agent",
        variables=operator_variables(universe.index.url),
        allowed_indexes=(universe.apart.url,),
        min_free_bytes=0,
    )
    environ = {**settings.variables, **ALONE}
    checkout = CheckoutSettings(folder=settings.root / "git", environ=environ, allow_file=True)
    bench = Bench(settings=settings, tree=tree, manager=plan.manager)
    git = GitSources(settings=checkout, log=bench.log.append, cancelled=threading.Event())
    return dataclasses.replace(bench, git=git)


def provided(bench: Bench, drawn: Drawn) -> ReadyEnvironment:
    plan = planned(bench.tree, drawn)
    assert plan.path is not None
    assert Path(plan.path).name in (Path(drawn.path).name, "uv.lock", "poetry.lock")
    return bench.provision(requirements=plan.kind, path=plan.path, packages=plan.packages)


def imports(ready: ReadyEnvironment, drawn: Drawn) -> list[str]:
    program = "".join(f"import {name}; print({name}.code)\n" for name in drawn.local)
    return run(ready, "python", "-c", program).split()


def versions(ready: ReadyEnvironment) -> set[str]:
    return {line for line in ready.packages if not line.startswith(("near==", "study=="))}


def try_project(seed: int, universe: Universe, tmp_path: Path) -> None:
    drawn = draw(seed, universe)
    about = f"TASKYARD_TEST_SEED={seed}: {drawn.words}"
    scratch = tmp_path / "scratch"
    origin = drawn.ship(tmp_path / "origin", "@CODE@")
    if not Tools(universe=universe, scratch=scratch).lock(drawn, origin):
        return  # nothing fits: the project's own tool says so before there is a commit
    trees = {code: shutil.copytree(origin, tmp_path / f"tree-{code}") for code in ("one", "two", "three")}
    for code, tree in trees.items():
        drawn.ship(tree, code)
    expected = own_versions(
        drawn, drawn.ship(shutil.copytree(origin, tmp_path / "copy"), "copy"), universe, scratch
    )
    benches = {code: bench_of(universe, tmp_path, drawn, tree) for code, tree in trees.items()}
    if expected is None:
        with pytest.raises(RunFailed):
            provided(benches["one"], drawn)
        return
    for number, bench in enumerate(benches.values()):
        bench.numbers = iter(range(number * 10, number * 10 + 9))

    with ThreadPoolExecutor() as pool:
        at_once = list(pool.map(lambda code: provided(benches[code], drawn), ("one", "two")))
    seen = [imports(ready, drawn) for ready in at_once]
    shutil.rmtree(trees["one"])
    later = provided(benches["three"], drawn)

    try:
        wanted = [[code] * len(drawn.local) for code in ("one", "two", "three")]
        assert [*seen, imports(later, drawn)] == wanted, about
        for ready in (*at_once, later):
            assert versions(ready) == expected, about
    finally:
        for bench in benches.values():
            for ready in bench.ready:
                ready.release()


@pytest.mark.parametrize("number", range(FEW))
def test_drawn_project_runs_what_was_shipped_with_the_versions_of_its_own_tool(
    number: int, universe: Universe, tmp_path: Path
) -> None:
    try_project(FIRST + number, universe, tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("number", range(FEW, MANY))
def test_many_drawn_projects_do_so_too(number: int, universe: Universe, tmp_path: Path) -> None:
    try_project(FIRST + number, universe, tmp_path)
