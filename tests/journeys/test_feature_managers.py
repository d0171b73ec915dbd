"""The same script under every manager, chosen by the repository's own files or by name: C22, D04."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from taskyard.wire import Environment, RequirementsKind

from tests.support.agents import AgentProcess
from tests.support.conda import MINOR, Channel
from tests.support.person import Person
from tests.support.servers import ServerProcess
from tests.support.wheels import PackageIndex, package_index, sha256
from tests.support.yard import Yard

SCRIPT = "import iniconfig, sys; print('trained with', iniconfig.__name__)"
PROJECT = """
[tool.poetry]
package-mode = false
[tool.poetry.dependencies]
python = "*"
iniconfig = "*"
"""
LOCK = """
[[package]]
name = "iniconfig"
version = "1.0"
python-versions = "*"
groups = ["main"]
files = [{{file = "iniconfig-1.0-py3-none-any.whl", hash = "sha256:{digest}"}}]
[metadata]
lock-version = "2.1"
content-hash = "of nothing"
"""
FILES = {
    "uv": {"requirements.txt": "iniconfig\n"},
    "pip": {"requirements.txt": "iniconfig\n"},
    "poetry": {"pyproject.toml": PROJECT, "poetry.lock": LOCK, "requirements.txt": "not-this-one\n"},
    "conda": {"environment.yml": f"channels: [conda-forge]\ndependencies: [python={MINOR}, iniconfig]\n"},
    "inherit": {},
}
SAID = {
    "uv": "using requirements.txt, because the task names it",
    "pip": "using requirements.txt, because the task names it",
    "poetry": "using poetry.lock (lock format 2.1), because the task names it",
    "conda": "using environment.yml, because the task names it",
    "inherit": "trained with",
}
NAMED = {"pip": ("--manager", "pip"), "inherit": ("--manager", "inherit")}
"""The others are chosen by their file."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A server and an agent, whose operator has a package index and a conda channel."""

    server: ServerProcess
    index: PackageIndex


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    channel = Channel(tmp_path_factory.mktemp("channel"))
    channel.add_python()
    channel.add("iniconfig", depends=["python"], python=True)
    with package_index(tmp_path_factory.mktemp("wheels")) as index, ServerProcess() as server:
        index.add("iniconfig")
        flags = ("--allow-channel", f"conda-forge={channel.url}", "--conda-binary", "none")
        with AgentProcess(server, *flags, variables={"PIP_INDEX_URL": index.url, "PIP_CONFIG_FILE": os.devnull}):
            yield Site(server=server, index=index)


@pytest.fixture
def person(tmp_path: Path, site: Site) -> Person:
    return Person(tmp_path / "person").log_in(site.server)


def write(person: Person, site: Site, files: dict[str, str]) -> None:
    """The person's project."""
    digest = sha256(site.index.folder / "iniconfig-1.0-py3-none-any.whl")
    for name, text in {"train.py": SCRIPT, **files}.items():
        (person.work / name).write_text(text.format(digest=digest) if name == "poetry.lock" else text)


@pytest.mark.parametrize("manager", FILES)
def test_the_same_script_runs_under_every_manager(person: Person, site: Site, manager: str) -> None:
    write(person, site, FILES[manager])

    ran = person.types("run", "--wait", *NAMED.get(manager, ()), "--", "python", "train.py")

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "trained with iniconfig" in ran.stdout
    assert SAID[manager] in ran.stdout


def test_the_plan_names_the_manager_that_the_repositorys_lock_chooses(person: Person, site: Site) -> None:
    write(person, site, FILES["poetry"])

    planned = person.types("run", "--", "python", "train.py")

    assert "the nearest file is poetry.lock" in planned.stderr
    assert "built by poetry" in planned.stderr


def test_a_failing_install_names_the_line_at_fault_in_its_outcome(person: Person, site: Site) -> None:
    write(person, site, {"requirements.txt": "iniconfig\n\nnosuchpackage==9\n"})

    ran = person.types("run", "--wait", "--", "python", "train.py")

    assert ran.returncode != 0
    assert "requirements.txt:3: nosuchpackage==9" in ran.stdout + ran.stderr
    assert "environment" in ran.stdout + ran.stderr


def test_two_agents_that_need_the_same_new_environment_build_it_once(site: Site, tmp_path: Path) -> None:
    place = ("--local-dir", str(tmp_path / "shared"))
    variables = {"PIP_INDEX_URL": site.index.url, "PIP_CONFIG_FILE": os.devnull}
    wanted = Environment(requirements=RequirementsKind.PACKAGES, packages=("iniconfig==1.0",))

    with ServerProcess() as server, Yard(server) as yard:
        tasks = [yard.python("import iniconfig", environment=wanted) for _ in range(2)]
        with (
            yard.agent(*place, name="one", variables=variables),
            yard.agent(*place, name="two", variables=variables),
        ):
            yard.wait_for_end(*tasks, seconds=120)
        runs = [yard.run(task) for task in tasks]

    assert {run.worker for run in runs} == {"one", "two"}
    assert sorted(run.environment_reused or False for run in runs) == [False, True]


def test_broken_environment_is_told_and_removed_from_the_command_line(person: Person, site: Site) -> None:
    write(person, site, FILES["uv"])
    settings = {"PIP_INDEX_URL": site.index.url, "PIP_CONFIG_FILE": os.devnull}
    with ServerProcess() as server:
        person.log_in(server)
        with AgentProcess(server, variables=settings) as agent:
            person.types("run", "--wait", "--server", server.url, "--", "python", "train.py")
            place = ("--local-dir", str(agent.folder / "cache"))
            whole = person.types("agent", "cache", "verify", *place)
            (file,) = (agent.folder / "cache" / "environments").rglob("iniconfig/__init__.py")
            file.chmod(0o644)
            file.write_text("broken")

            broken = person.types("agent", "cache", "verify", *place)
            repaired = person.types("agent", "cache", "verify", "--repair", *place)

    assert (whole.returncode, broken.returncode, repaired.returncode) == (0, 1, 0)
    assert "changed since it was built" in broken.stdout
    assert "removed" in repaired.stdout
