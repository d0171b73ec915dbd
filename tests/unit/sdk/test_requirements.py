"""What a script needs: from the nearest file, else from its imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from taskyard.errors import UsageError
from taskyard.requirements import plan_python, plan_requirements, project_python
from taskyard.requirements.files import decoded
from taskyard.wire import Manager, RequirementsKind

from tests.support.wheels import make_wheel

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
BLOCK = '# /// script\n# requires-python = ">=3.9,<3.10"\n# dependencies = ["six"]\n# ///\nimport six\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a script two folders down."""
    (tmp_path / "tools" / "train").mkdir(parents=True)
    (tmp_path / "tools" / "train" / "train.py").write_text("import os\n")
    return tmp_path


def write(root: Path, path: str, text: str = "") -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    return root / path


def make_venv(root: Path) -> Path:
    """An environment without packages; returns its site-packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    return next((root / ".venv").glob("lib/python*/site-packages"))


# --- Files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "kind", "path"),
    [
        (["requirements.txt"], RequirementsKind.REQUIREMENTS_TXT, "requirements.txt"),
        (["tools/requirements.txt", "uv.lock"], RequirementsKind.REQUIREMENTS_TXT, "tools/requirements.txt"),
        (["uv.lock", "pylock.toml", "requirements.txt"], RequirementsKind.UV_LOCK, "uv.lock"),
        (["pylock.toml", "requirements.txt"], RequirementsKind.PYLOCK, "pylock.toml"),
        (["requirements.txt", "environment.yml", "pyproject.toml"], RequirementsKind.REQUIREMENTS_TXT,
         "requirements.txt"),
    ],
)  # fmt: skip
def test_nearest_file_that_says_most_is_taken(project: Path, files: list[str], kind: str, path: str) -> None:
    for name in files:
        write(project, name, "[project]\n" if name.endswith("pyproject.toml") else "")

    plan = plan_requirements(project, project / "tools/train/train.py")

    assert (plan.kind, plan.path) == (kind, path)
    assert path in plan.origin


def test_project_file_of_tools_alone_says_nothing(project: Path) -> None:
    write(project, "tools/pyproject.toml", "[tool.ruff]\n")
    write(project, "pyproject.toml", "[project]\nname = 'x'\n")

    assert plan_requirements(project, project / "tools/train/train.py").path == "pyproject.toml"


def test_block_in_the_script_beats_files_and_flags_beat_the_block(project: Path) -> None:
    script = write(project, "one.py", BLOCK)
    file = write(project, "requirements.txt")

    by_block = plan_requirements(project, script)
    by_flag = plan_requirements(project, script, packages=["numpy<2"])
    by_file = plan_requirements(project, script, file=file)

    assert (by_block.kind, by_block.path) == (RequirementsKind.SCRIPT, "one.py")
    assert (by_flag.kind, by_flag.packages) == (RequirementsKind.PACKAGES, ("numpy<2",))
    assert by_file.kind is RequirementsKind.REQUIREMENTS_TXT


@pytest.mark.parametrize(
    ("files", "chosen", "kind", "manager"),
    [
        (["poetry.lock", "pyproject.toml"], None, RequirementsKind.POETRY_LOCK, Manager.POETRY),
        (["poetry.lock", "pyproject.toml"], Manager.UV, RequirementsKind.PYPROJECT, Manager.UV),
        (["pyproject.toml"], Manager.POETRY, RequirementsKind.PYPROJECT, Manager.POETRY),
        (["environment.yml", "pyproject.toml"], None, RequirementsKind.ENVIRONMENT_YML, Manager.CONDA),
        (["conda-lock.yml", "requirements.txt"], None, RequirementsKind.ENVIRONMENT_YML, Manager.CONDA),
        (["environment.yml", "requirements.txt"], None, RequirementsKind.REQUIREMENTS_TXT, Manager.UV),
        (["environment.yml", "requirements.txt"], Manager.CONDA, RequirementsKind.ENVIRONMENT_YML, Manager.CONDA),
        (["pyproject.toml"], None, RequirementsKind.PYPROJECT, Manager.UV),
    ],
)
def test_lock_of_the_repository_chooses_its_manager_unless_one_is_named(
    project: Path, files: list[str], chosen: Manager | None, kind: str, manager: Manager
) -> None:
    for name in files:
        write(project, name, "[tool.poetry]\n" if name.endswith("toml") else "")

    plan = plan_requirements(project, project / "tools/train/train.py", manager=chosen)

    assert (plan.kind, plan.manager) == (kind, manager)


def test_format_that_nobody_reads_is_refused_by_name(project: Path) -> None:
    write(project, "Pipfile")

    with pytest.raises(UsageError, match=r"Pipfile.*pipenv requirements"):
        plan_requirements(project, project / "tools/train/train.py")


def test_manager_that_cannot_read_the_named_file_is_refused_before_anything_is_sent(project: Path) -> None:
    lock = write(project, "poetry.lock")

    with pytest.raises(UsageError, match=r"pip does not read poetry.lock; use `--manager poetry`"):
        plan_requirements(project, None, file=lock, manager=Manager.PIP)


def test_pip_passes_over_the_locks_of_others(project: Path) -> None:
    write(project, "uv.lock")
    write(project, "requirements.txt")

    plan = plan_requirements(project, project / "tools/train/train.py", manager=Manager.PIP)

    assert plan.path == "requirements.txt"


@pytest.mark.parametrize("flags", [{"file": Path("/etc/hostname")}, {"file": Path("no.txt")}])
def test_file_that_the_agent_would_not_get_is_refused(project: Path, flags: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="--requirements"):
        plan_requirements(project, None, **flags)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "packages", "named"),
    [
        ({"setup.py": "import setuptools\n"}, ("./",), "setup.py"),
        ({"setup.cfg": "[options]\ninstall_requires = six\n"}, ("./",), "setup.cfg"),
        ({"tools/setup.py": "", "setup.py": ""}, ("./tools",), "tools/setup.py"),
        ({"setup.cfg": "[flake8]\nignore = E501\n", "setup.py": ""}, ("./",), "setup.py"),
        ({"pyproject.toml": "[build-system]\nrequires = []\n", "setup.py": ""}, ("./",), "setup.py"),
    ],
)
def test_setup_of_a_project_is_a_source_like_its_pyproject(
    project: Path, files: dict[str, str], packages: tuple[str, ...], named: str
) -> None:
    for name, text in files.items():
        write(project, name, text)

    plan = plan_requirements(project, project / "tools/train/train.py", variables={})

    assert (plan.kind, plan.packages) == (RequirementsKind.PACKAGES, packages)
    assert plan.origin == f"the nearest file is {named}"


def test_settings_of_tools_in_a_setup_cfg_say_nothing(project: Path) -> None:
    write(project, "setup.cfg", "[flake8]\nignore = E501\n")

    assert plan_requirements(project, project / "tools/train/train.py", variables={}).kind is RequirementsKind.NONE


@pytest.mark.parametrize(
    "data",
    [
        "\ufeffsix\n".encode(),
        "\ufeffsix\n".encode("utf-16-le"),
        "\ufeffsix\n".encode("utf-16-be"),
        "\ufeffsix\n".encode("utf-32-le"),
        "# -*- coding: latin-1 -*-\nsix  # f\xfcr\n".encode("latin-1"),
    ],
)
def test_requirements_are_decoded_as_pip_decodes_them(project: Path, data: bytes) -> None:
    (project / "requirements.txt").write_bytes(data)

    assert plan_requirements(project, project / "tools/train/train.py").path == "requirements.txt"
    assert "six" in decoded(data)
    assert "\ufeff" not in decoded(data)


@pytest.mark.parametrize("name", ["requirements.txt", "more.txt"])
def test_requirements_that_cannot_be_decoded_are_refused_with_the_fix(project: Path, name: str) -> None:
    write(project, "requirements.txt", "-r more.txt\n")
    write(project, "more.txt", "six\n")
    (project / name).write_bytes("six  # f\xfcr\n".encode("latin-1"))

    with pytest.raises(UsageError, match=rf"{name} is not UTF-8.*coding: latin-1.*iconv -f latin1"):
        plan_requirements(project, project / "tools/train/train.py")


def test_included_file_that_is_absent_is_refused_with_its_line(project: Path) -> None:
    write(project, "requirements/dev.txt", "six\n-cbase.txt\n")

    with pytest.raises(UsageError, match=r"requirements/dev.txt:2: there is no base.txt beside it"):
        plan_requirements(project, None, file=project / "requirements/dev.txt")


# --- Imports ---------------------------------------------------------------------------------------------


def test_imports_of_the_script_and_its_modules_are_pinned_by_the_projects_interpreter(tmp_path: Path) -> None:
    site = make_venv(tmp_path)
    for name, version in (("alpha", "1.2+cu126"), ("beta", "3.4"), ("unused", "9.9")):
        wheel = make_wheel(tmp_path, name, version)
        subprocess.run([sys.executable, "-m", "zipfile", "-e", wheel, site], check=True)
    script = write(tmp_path, "train.py", "import os, alpha\nfrom helpers import tool\n")
    write(tmp_path, "src/helpers/__init__.py")
    write(tmp_path, "src/helpers/tool.py", "def f():\n    from beta import version\n    from . import near\n")
    write(tmp_path, "src/helpers/near.py", "import helpers.tool\n")
    write(site, "project.pth", str(tmp_path / "src"))

    plan = plan_requirements(tmp_path, script, variables={})

    assert plan.kind is RequirementsKind.IMPORTS
    assert plan.packages == ("alpha==1.2", "beta==3.4")
    assert plan.import_from == ("src",)
    assert plan.notes == ("modules are found in src, too, as .venv/bin/python finds them",)
    assert "train.py" in plan.origin
    assert ".venv/bin/python" in plan.origin


def test_known_imports_are_unpinned_with_a_note_and_optional_ones_left_out(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        "train.py",
        "import cv2, sklearn.svm, taskyard\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import pandas\n"
        "try:\n    import wandb\nexcept ImportError:\n    wandb = None\n",
    )

    plan = plan_requirements(tmp_path, script, variables={})

    assert plan.packages == ("opencv-python-headless", "scikit-learn")
    assert any("sklearn is not installed here" in note for note in plan.notes)


def test_data_folder_of_the_same_name_is_no_local_module(tmp_path: Path) -> None:
    write(tmp_path, "datasets/cats.csv")
    script = write(tmp_path, "train.py", "from datasets import load_dataset\n")

    assert plan_requirements(tmp_path, script, variables={}).packages == ("datasets",)


def test_script_of_the_standard_library_alone_needs_nothing(project: Path) -> None:
    plan = plan_requirements(project, project / "tools/train/train.py", variables={})

    assert plan.kind is RequirementsKind.NONE
    assert "standard library" in plan.origin


def test_module_is_read_like_a_script(tmp_path: Path) -> None:
    write(tmp_path, "pkg/__init__.py")
    write(tmp_path, "pkg/main.py", "import six\n")

    plan = plan_requirements(tmp_path, None, module="pkg.main", variables={})

    assert plan.packages == ("six",)


# --- The interpreter -------------------------------------------------------------------------------------


def test_projects_interpreter_is_never_the_one_of_an_installed_tool(tmp_path: Path) -> None:
    tool = write(tmp_path, "tool/bin/python").parent.parent
    write(tool, "uv-receipt.toml")

    assert project_python(tmp_path, tmp_path, {"VIRTUAL_ENV": str(tool), "PATH": str(tool / "bin")}) is None


def test_active_environment_comes_before_the_one_in_the_folder(tmp_path: Path) -> None:
    make_venv(tmp_path)
    active = write(tmp_path, "active/bin/python")

    assert project_python(tmp_path, tmp_path, {"VIRTUAL_ENV": str(tmp_path / "active")}) == active
    assert project_python(tmp_path, tmp_path, {}) == tmp_path / ".venv/bin/python"


@pytest.mark.parametrize(
    ("files", "version", "origin"),
    [
        ({".python-version": "# ours\n3.9.18\n"}, "3.9.18", ".python-version"),
        ({".python-version": "my-env\n", "pyproject.toml": "[project]\nrequires-python='~=3.9.2'"}, "3.9",
         "requires-python in pyproject.toml"),
        ({"pyproject.toml": "[project]\nrequires-python='>=3.8,!=3.8.*,<3.10'"}, "3.9", "requires-python"),
        ({"pyproject.toml": "[project]\nrequires-python='==3.10.4'"}, "3.10.4", "requires-python"),
        ({"train.py": BLOCK, ".python-version": "3.12"}, "3.9", "requires-python in train.py"),
        ({}, None, "the agent's own"),
    ],
)  # fmt: skip
def test_version_comes_from_the_first_that_names_one(
    tmp_path: Path, files: dict[str, str], version: str | None, origin: str
) -> None:
    for name, text in files.items():
        write(tmp_path, name, text)

    plan = plan_python(tmp_path, script=tmp_path / "train.py", variables={})

    assert plan.version == version
    assert origin in plan.origin


def test_projects_own_minor_version_is_taken_where_it_is_allowed(tmp_path: Path) -> None:
    make_venv(tmp_path)
    write(tmp_path, "pyproject.toml", "[project]\nrequires-python = '>=3.8'\n")

    assert plan_python(tmp_path, variables={}).version == MINOR
    assert plan_python(tmp_path, "3.12.1", variables={}).version == "3.12.1"


def test_flag_that_is_no_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--python 3\.11"):
        plan_python(tmp_path, "latest", variables=os.environ)


# --- uv's tables -----------------------------------------------------------------------------------------

WORKSPACE = '[tool.uv.workspace]\nmembers = ["packages/*"]\nexclude = ["packages/apart"]\n'
MEMBER = '[project]\nname = "one"\nversion = "1"\n'


def test_lock_of_a_workspace_is_taken_for_a_member_whatever_lies_in_its_folder(project: Path) -> None:
    write(project, "pyproject.toml", WORKSPACE)
    write(project, "uv.lock", "version = 1\n")
    write(project, "packages/one/pyproject.toml", MEMBER)
    write(project, "packages/one/requirements.txt", "numpy\n")
    write(project, "packages/apart/pyproject.toml", MEMBER)
    script = write(project, "packages/one/src/train.py", "import numpy\n")
    apart = write(project, "packages/apart/train.py", "import numpy\n")

    plan, other = plan_requirements(project, script), plan_requirements(project, apart)

    assert (plan.kind, plan.path) == (RequirementsKind.PYPROJECT, "packages/one/pyproject.toml")
    assert plan.origin == "uv.lock is the lock of the workspace of packages/one/pyproject.toml"
    assert other.origin == "the nearest file is packages/apart/pyproject.toml"


@pytest.mark.parametrize(
    ("text", "manager", "words"),
    [
        ("[tool.uv]\nexclude-newer = '2025-01-01'\n", Manager.PIP, r"toml:5: pip does not follow exclude-newer"),
        ("[tool.uv.sources]\na = { workspace = true }\n", None, r"toml:5: a .*no workspace in .* member"),
        ("[tool.uv.sources]\n\na = { path = '../a' }\n", None, r"pyproject.toml:6: a comes from ../a, .*outside"),
        ("[tool.uv.sources]\na = { path = 'a' }\n", None, r"pyproject.toml:5: a comes from a, which is not there"),
        ("[tool.uv.sources]\na = { index = 'mine' }\n", None, r"pyproject.toml:5: a .* 'mine', which no"),
        ("[tool.uv.sources]\na = { index = 'b' }\n[[tool.uv.index]]\nname = 'b'\nurl = 'x'\n", Manager.PIP,
         r"pyproject.toml:5: pip cannot take a from one index alone"),
    ],
)  # fmt: skip
def test_what_no_agent_follows_in_the_tables_of_uv_is_refused_with_its_line(
    project: Path, text: str, manager: Manager | None, words: str
) -> None:
    write(project, "pyproject.toml", MEMBER + text)
    script = write(project, "train.py", "")

    with pytest.raises(UsageError, match=words):
        plan_requirements(project, script, manager=manager)


def test_block_of_a_script_is_looked_at_for_uv_too(project: Path) -> None:
    block = "# /// script\n# dependencies = []\n# [tool.uv]\n# exclude-newer = '2025-01-01'\n# ///\n"

    with pytest.raises(UsageError, match=r"train.py:4: .*exclude-newer"):
        plan_requirements(project, write(project, "train.py", block), manager=Manager.PIP)
