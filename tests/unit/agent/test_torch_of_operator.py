"""Where PyTorch comes from: first the operator's word, then the operator's own indexes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from taskyard.wire import Environment, RequirementsKind
from taskyard_agent.environments import reach
from taskyard_agent.environments.indexes import configured_indexes
from taskyard_agent.environments.reach import unreachable_index
from taskyard_agent.environments.request import EnvironmentRequest, EnvironmentSettings
from taskyard_agent.environments.requirements import Requirements
from taskyard_agent.environments.torch_builds import torch_backend_of

from tests.support.wheels import package_index


def backend(
    tmp_path: Path, *, wanted: str = "auto", line: str = "torch", build: str = "auto", **variables: str
) -> str | None:
    """The build that is chosen for a task without GPUs, which asks for `wanted` and names `line`."""
    settings = EnvironmentSettings(
        root=tmp_path, torch_backend=build, variables={"PIP_CONFIG_FILE": os.devnull, **variables}
    )
    request = EnvironmentRequest(
        environment=Environment(requirements=RequirementsKind.PACKAGES, packages=(line,), torch_backend=wanted),
        tree=tmp_path,
        work=tmp_path,
        script=None,
        gpus=0,
        overlay=tmp_path / "overlay",
    )
    requirements = Requirements(lines=(line,), origins=("the task",))
    return torch_backend_of(request, requirements, configured_indexes(settings.variables), settings)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "torch-2.6.0-cp311-cp311-linux_x86_64.whl").touch()
    return tmp_path / "wheels"


def test_operators_own_pytorch_comes_first(tmp_path: Path, wheels: Path) -> None:
    (tmp_path / "simple" / "torch").mkdir(parents=True)

    assert backend(tmp_path) == "cpu"
    assert backend(tmp_path, PIP_FIND_LINKS=str(tmp_path)) == "cpu"
    assert backend(tmp_path, PIP_FIND_LINKS=str(wheels)) is None
    assert backend(tmp_path, PIP_FIND_LINKS=wheels.as_uri()) is None
    assert backend(tmp_path, PIP_EXTRA_INDEX_URL=(tmp_path / "simple").as_uri()) is None


def test_an_index_is_asked_whether_it_has_pytorch(tmp_path: Path) -> None:
    with package_index(tmp_path / "one") as without, package_index(tmp_path / "two") as holding:
        holding.add("torch")

        assert backend(tmp_path, PIP_INDEX_URL=without.url) == "cpu"
        assert [backend(tmp_path, PIP_INDEX_URL=holding.url) for _ in range(3)] == [None] * 3
        assert holding.requests == ["/simple/torch/"]

    assert backend(tmp_path, PIP_INDEX_URL="http://127.0.0.1:9/simple") is None  # it may hold it


def test_an_index_that_says_nothing_is_not_asked_by_every_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "ANSWER_SECONDS", 0.2)
    with package_index(tmp_path / "wheels") as index:
        index.stuck.set()

        assert [backend(tmp_path, PIP_INDEX_URL=index.url) for _ in range(5)] == [None] * 5

        assert index.requests == ["/simple/torch/"]


def test_operators_build_is_for_tasks_that_name_none(tmp_path: Path, wheels: Path) -> None:
    assert backend(tmp_path, build="cu126") == "cu126"
    assert backend(tmp_path, build="none") is None
    assert backend(tmp_path, build="cu126", wanted="cpu") == "cpu"
    assert backend(tmp_path, wanted="cu126", PIP_FIND_LINKS=str(wheels)) == "cu126"
    assert backend(tmp_path, line="torch==2.6.0+cu118", PIP_FIND_LINKS=str(wheels)) == "cu118"


def test_an_operators_index_that_does_not_answer_is_found(tmp_path: Path) -> None:
    with package_index(tmp_path / "wheels") as index:
        there = EnvironmentSettings(
            root=tmp_path, variables={"PIP_INDEX_URL": index.url, "PIP_CONFIG_FILE": os.devnull}
        )
        assert unreachable_index(there) is None

    assert "does not answer" in (unreachable_index(there) or "")
    assert unreachable_index(EnvironmentSettings(root=tmp_path, variables={"PIP_CONFIG_FILE": os.devnull})) is None
