"""Which script a launcher starts, and what the launcher itself needs."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from taskyard.requirements import plan_requirements
from taskyard.requirements.launchers import started_by
from taskyard.submission import read_command
from taskyard.wire import RequirementsKind

from tests.support.interpreters import install, make_environment


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    for name in ("x.py", "package/__init__.py", "package/train.py"):
        (tmp_path / name).write_text("import speck\n")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "script", "module", "launcher"),
    [
        ("python x.py", "x.py", "", ""),
        ("python -m package.train", "", "package.train", ""),
        ("python -m cProfile -o out x.py --lr 1", "x.py", "cProfile", "cProfile"),
        ("python -m torch.distributed.run --nproc-per-node 2 x.py", "x.py", "torch.distributed.run",
         "torch.distributed.run"),
        ("python -m torch.distributed.run -m package.train", "", "package.train", "torch.distributed.run"),
        ("torchrun --nproc-per-node=2 x.py", "x.py", "", "torch.distributed.run"),
        ("accelerate launch --config_file c.yaml x.py", "x.py", "", "accelerate"),
        ("accelerate launch -m package.train", "", "package.train", "accelerate"),
        ("bash -c 'cd . && python x.py | tee log'", "x.py", "", ""),
        ("bash -lc 'accelerate launch x.py'", "x.py", "", "accelerate"),
        ("bash -c \"echo it's\"", "", "", ""),
        ("python -m http.server", "", "http.server", "http.server"),
        ("echo ../outside.py", "", "", ""),
    ],
)  # fmt: skip
def test_the_script_behind_a_launcher_is_found(
    root: Path, line: str, script: str, module: str, launcher: str
) -> None:
    (root.parent / "outside.py").write_text("")
    command, _ = read_command(shlex.split(line))

    found = started_by(command, root, root)

    assert found.script == (root / script if script else None)
    assert (found.module, found.launcher) == (module, launcher)


@pytest.mark.parametrize(
    ("line", "packages"),
    [
        ("python -m cProfile x.py", ("speck==1.0",)),
        ("python -m torch.distributed.run x.py", ("speck==1.0", "torch==2.9.0")),
        ("accelerate launch -m package.train", ("accelerate==1.1", "speck==1.0")),
        ("bash -c 'python x.py'", ("speck==1.0",)),
    ],
)
def test_script_and_launcher_are_installed_as_they_are_here(
    root: Path, line: str, packages: tuple[str, ...]
) -> None:
    site = make_environment(root / ".venv")
    for name, version in (("speck", "1.0"), ("accelerate", "1.1"), ("torch", "2.9.0")):
        install(site, name, version, files=[f"{name}/__init__.py"])
    command, _ = read_command(shlex.split(line))
    started = started_by(command, root, root)

    plan = plan_requirements(
        root, started.script, module=started.module or None, launcher=started.launcher, start=root, variables={}
    )

    assert (plan.kind, plan.packages) == (RequirementsKind.IMPORTS, packages)
