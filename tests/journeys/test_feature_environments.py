"""The agent's own environment stays out of a task's, and a second run installs nothing: C05, C06, C21, D04."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.agents import AgentProcess
from tests.support.interpreters import install, make_environment
from tests.support.person import Person
from tests.support.servers import ServerProcess
from tests.support.wheels import PackageIndex, package_index

LOOK = """
import importlib.util, os, sys
print("agent's packages:", importlib.util.find_spec("psutil") is not None)
print("agent's prefix:", sys.prefix == os.environ["AGENTS_PREFIX"])
print("VIRTUAL_ENV:", os.environ.get("VIRTUAL_ENV") == os.environ["AGENTS_PREFIX"])
"""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A server, an agent started inside a virtual environment, and the index that it installs from."""

    server: ServerProcess
    index: PackageIndex


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with package_index(tmp_path_factory.mktemp("wheels")) as index, ServerProcess() as server:
        index.add("speck_of_dust")
        activated = {
            "VIRTUAL_ENV": sys.prefix,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        indexes = {"PIP_INDEX_URL": index.url, "PIP_CONFIG_FILE": os.devnull}
        with AgentProcess(server, variables={**activated, **indexes}):
            yield Site(server=server, index=index)


@pytest.fixture
def person(tmp_path: Path, site: Site) -> Person:
    return Person(tmp_path / "person").log_in(site.server)


def test_an_agent_inside_a_venv_keeps_it_to_itself(person: Person) -> None:
    (person.work / "look.py").write_text(LOOK)

    ran = person.types("run", "--wait", "--env", f"AGENTS_PREFIX={sys.prefix}", "--", "python", "look.py")

    assert ran.returncode == 0, ran.stderr
    assert "agent's packages: False\nagent's prefix: False\nVIRTUAL_ENV: False" in ran.stdout


def test_an_inherited_environment_is_the_agents_own(person: Person) -> None:
    (person.work / "look.py").write_text("import psutil; print('it is there')")

    ran = person.types("run", "--wait", "--manager", "inherit", "--", "python", "look.py")

    assert "it is there" in ran.stdout, ran.stderr


def test_packages_and_variables_are_the_tasks(person: Person) -> None:
    (person.work / "use.py").write_text("import os, speck_of_dust as s; print(s.version, os.environ['COLOUR'])")

    ran = person.types(
        "run", "--wait", "--package", "speck_of_dust", "--env", "COLOUR=green", "--", "python", "use.py"
    )

    assert "1.0 green" in ran.stdout, ran.stdout + ran.stderr


def test_local_code_is_never_a_strangers_package_of_its_name(person: Person, site: Site) -> None:
    site.index.add("tools", "9.0")
    write = {
        "src/tools.py": "version = 'of the repository'",
        "libs/more.py": "version = 'of the search path'",
        "scripts/use.py": "import more, speck_of_dust as s, tools; print(tools.version, more.version, s.version)",
        ".gitignore": ".venv",
    }
    for path, text in write.items():
        (person.work / path).parent.mkdir(exist_ok=True)
        (person.work / path).write_text(text)
    subprocess.run(["git", "init", "-q", person.work], check=True)
    packages = make_environment(person.work / ".venv")
    (packages / "ours.pth").write_text(str(person.work / "src"))
    install(packages, "speck_of_dust", "1.0", files=["speck_of_dust/__init__.py"])
    asked = len(site.index.requests)

    words = ("run", "--wait", "--env", "PYTHONPATH=libs", "--", "python", "scripts/use.py")
    ran = person.types(*words, VIRTUAL_ENV="", CONDA_PREFIX="")

    assert "of the repository of the search path 1.0" in ran.stdout, ran.stdout + ran.stderr
    assert not any("tools" in path for path in site.index.requests[asked:])


@pytest.mark.parametrize("manager", ["uv", "pip"])
def test_a_second_run_installs_nothing(person: Person, site: Site, manager: str) -> None:
    (person.work / "use.py").write_text("import speck_of_dust; print('used', speck_of_dust.version)")
    command = (
        "run", "--wait", "--manager", manager, "--package", "speck_of_dust==1.0", "--", "python", "use.py",
    )  # fmt: skip
    first = person.types(*command)
    asked = len(site.index.requests)

    second = person.types(*command)

    assert "used 1.0" in first.stdout, first.stdout + first.stderr
    assert "used 1.0" in second.stdout, second.stderr
    assert len(site.index.requests) == asked
