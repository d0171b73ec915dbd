"""Files of a task that are not what their format says, or would grow without bound: a clear failure at once."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from taskyard.wire import Manager, RequirementsKind
from taskyard_agent.errors import RunFailed
from taskyard_agent.hooks import Hook, HookFailed, Hooks

from tests.support.environments import KINDS, Bench, bench_for
from tests.support.unnoticed import unnoticed

BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{f'*{chr(97 + n)}, ' * 10}]\n" for n in range(12)
)


@pytest.mark.parametrize(
    ("manager", "name", "text"),
    [
        (Manager.CONDA, "environment.yml", f"{BOMB}variables: {{X: *m}}\n"),
        (Manager.CONDA, "environment.yml", "[" * 5000),
        (Manager.CONDA, "environment.yml", "dependencies: 3\n"),
        (Manager.CONDA, "environment.yml", "variables: [1]\n"),
        (Manager.CONDA, "conda-lock.yml", "package: [{platform: linux-64, manager: conda}]\n"),
        (Manager.CONDA, "conda-lock.yml", "package: [1]\n"),
        (Manager.UV, "uv.lock", "version = 1\n[[package]]\nname = 'x'\nsource = 3\n"),
        (Manager.UV, "pylock.toml", "packages = [3]\n"),
        (Manager.POETRY, "poetry.lock", "package = 3\n"),
    ],
)
def test_a_file_that_is_no_such_thing_fails_the_task_and_not_its_agent(
    tmp_path: Path, manager: Manager, name: str, text: str
) -> None:
    with bench_for(manager, tmp_path, "http://127.0.0.1:9/simple") as bench, pytest.raises(RunFailed) as failure:
        provision(bench, name, text)

    assert not failure.value.infrastructure
    assert name in str(failure.value)


@pytest.mark.parametrize(
    ("manager", "name"),
    [
        (Manager.UV, "uv.lock"),
        (Manager.POETRY, "poetry.lock"),
        (Manager.UV, "pylock.toml"),
        (Manager.UV, "requirements.txt"),
        (Manager.CONDA, "conda-lock.yml"),
    ],
)
def test_a_lock_that_is_larger_than_memory_is_not_read(tmp_path: Path, manager: Manager, name: str) -> None:
    with bench_for(manager, tmp_path, "http://127.0.0.1:9/simple") as bench, unnoticed():
        with pytest.raises(RunFailed, match=f"{name} has 2000000000 bytes") as failure:
            provision_sparse(bench, name, 2_000_000_000)

    assert not failure.value.infrastructure


def provision(bench: Bench, name: str, text: str) -> None:
    (bench.tree / "pyproject.toml").write_text("[project]\nname = 'x'\nversion = '1'\n")
    bench.from_file(name, text)


def provision_sparse(bench: Bench, name: str, size: int) -> None:
    (bench.tree / name).touch()
    os.truncate(bench.tree / name, size)
    bench.provision(requirements=KINDS.get(name, RequirementsKind.REQUIREMENTS_TXT), path=name)


@pytest.mark.parametrize("through_link", [False, True])
def test_a_hook_below_a_folder_that_others_may_change_is_refused(tmp_path: Path, through_link: bool) -> None:
    folder, ran = tmp_path / "loose/hooks", tmp_path / "ran"
    folder.mkdir(parents=True)
    (folder / "start").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (folder / "start").chmod(0o755)
    (tmp_path / "loose").chmod(0o777)
    if through_link:
        (tmp_path / "hooks").mkdir()
        (tmp_path / "hooks/start").symlink_to(folder / "start")
        folder = tmp_path / "hooks"

    with pytest.raises(HookFailed, match=f"others may change {tmp_path}/loose;"):
        Hooks(folder=folder).run(Hook.START, {}, say=print, cancelled=threading.Event())

    assert not ran.exists()
