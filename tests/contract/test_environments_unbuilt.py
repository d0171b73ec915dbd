"""Under `--run-as` the agent installs as root: no code of what it installs may run."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.wire import Manager, RequirementsKind
from taskyard_agent.errors import RunFailed
from taskyard_agent.run_as import BUILDS_NOTHING

from tests.support.environments import Bench, bench_for
from tests.support.wheels import PackageIndex, make_wheel, package_index


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PackageIndex]:
    (tmp_path / "packages").mkdir()
    with package_index(tmp_path / "packages") as index:
        yield index


@pytest.fixture(params=[Manager.UV, pytest.param(Manager.PIP, marks=pytest.mark.thorough)])
def bench(request: pytest.FixtureRequest, tmp_path: Path, index: PackageIndex) -> Iterator[Bench]:
    with bench_for(request.param, tmp_path, index.url) as bench:
        variables = {**bench.settings.variables, **BUILDS_NOTHING}
        bench.settings = dataclasses.replace(bench.settings, builds=False, variables=variables)
        yield bench


def write_sdist(folder: Path, ran: Path) -> Path:
    """A package whose build leaves a file."""
    archive = folder / "hostile-1.0.tar.gz"
    backend = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    members = {
        "pyproject.toml": f'[project]\nname = "hostile"\nversion = "1.0"\n{backend}',
        "backend.py": f"open({str(ran)!r}, 'w')\n",
        "PKG-INFO": "Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n",
    }
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in members.items():
            member = tarfile.TarInfo(f"hostile-1.0/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return archive


def test_a_path_file_of_a_wheel_is_not_run_by_the_agent(bench: Bench, index: PackageIndex, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    make_wheel(index.folder, "hostile", files={"hostile.pth": f"import os; open({str(ran)!r}, 'w')\n"})

    bench.provision("hostile")

    assert not ran.exists()


@pytest.mark.parametrize(
    "lines", ["./hostile-1.0.tar.gz", "hostile --no-binary hostile", "--no-binary hostile\nhostile", "hostile"]
)
def test_no_source_is_built(bench: Bench, index: PackageIndex, tmp_path: Path, lines: str) -> None:
    ran = tmp_path / "ran"
    write_sdist(bench.tree, ran)
    write_sdist(index.folder, ran)

    with pytest.raises(RunFailed):
        bench.from_file("requirements.txt", f"{lines}\n")

    assert not ran.exists()


@pytest.mark.parametrize(
    "line", ["hostile @ https://example.org/hostile-1.0.tar.gz", "git+https://example.org/x/hostile", "./a.zip"]
)
def test_what_could_only_be_built_is_refused_by_its_line(bench: Bench, line: str) -> None:
    (bench.tree / "a.zip").touch()

    with pytest.raises(RunFailed, match=r"requirements.txt:1: .* is no wheel: .*--run-as.*an image that has it"):
        bench.from_file("requirements.txt", f"{line}\n")


def test_a_wheel_by_its_address_or_path_is_taken(bench: Bench, index: PackageIndex) -> None:
    make_wheel(bench.tree, "local")

    ready = bench.from_file("requirements.txt", "./local-1.0-py3-none-any.whl\n")

    assert "local==1.0" in ready.packages


def test_conda_is_refused(bench: Bench) -> None:
    bench.manager = Manager.CONDA

    with pytest.raises(RunFailed, match="conda packages bring programs"):
        bench.provision("python", requirements=RequirementsKind.PACKAGES)
