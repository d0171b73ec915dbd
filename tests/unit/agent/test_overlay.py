"""A run's own environment over a shared one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from taskyard_agent.environments.overlay import Base, make_overlay

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
LIBRARY = f"lib/python{MINOR}/site-packages"
HOME = getattr(sys, "_base_executable", sys.executable)


@pytest.fixture
def base(tmp_path: Path) -> Base:
    """A virtual environment with a module, a launcher and a program of another kind."""
    prefix = tmp_path / "base"
    site = prefix / LIBRARY
    site.mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "share").mkdir()
    (prefix / "pyvenv.cfg").write_text("home = /nowhere\n")
    (site / "shared.py").write_text("where = 'base'\n")
    (site / "extra.pth").write_text(str(tmp_path / "more"))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "editable.py").touch()
    (prefix / "bin" / "tool").write_text(f"#!{prefix}/bin/python\nimport sys, shared; print(sys.prefix)\n")
    (prefix / "bin" / "program").write_text("#!/bin/sh\necho binary\n")
    for file in (prefix / "bin").iterdir():
        file.chmod(0o755)
    return Base(home=HOME, version=f"{MINOR}.0", prefix=prefix, site_paths=(str(site),), library=LIBRARY)


def output(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def test_overlay_is_a_virtual_environment_of_its_own_over_the_base(tmp_path: Path, base: Base) -> None:
    python = make_overlay(tmp_path / "run", base)

    program = "import sys, shared, editable; print(sys.prefix, sys.prefix != sys.base_prefix, shared.where)"
    assert output(python, "-c", program) == f"{tmp_path / 'run'} True base"


def test_own_packages_come_first_then_the_base_and_the_lent_folders_last(tmp_path: Path, base: Base) -> None:
    (tmp_path / "last").mkdir()
    for name in ("shared", "lent"):
        (tmp_path / "last" / f"{name}.py").write_text("where = 'last'\n")
    python = make_overlay(tmp_path / "run", base, last=[tmp_path / "last"])
    program = "import shared, lent; print(shared.where, lent.where)"
    before = output(python, "-c", program)

    (tmp_path / "run" / LIBRARY / "shared.py").write_text("where = 'own'\n")

    assert (before, output(python, "-c", program)) == ("base last", "own last")


@pytest.mark.parametrize("folder", ["run", "a run with spaces", "long" * 40])
def test_launchers_run_with_the_overlays_python_wherever_it_lies(tmp_path: Path, base: Base, folder: str) -> None:
    python = make_overlay(tmp_path / folder / "overlay", base)

    assert output(python.parent / "tool") == str(tmp_path / folder / "overlay")
    assert output(python.parent / "program") == "binary"


def test_launcher_that_goes_through_a_shell_is_rewritten_too(tmp_path: Path, base: Base) -> None:
    tool = base.prefix / "bin" / "tool"
    tool.write_text(
        f"#!/bin/sh\n'''exec' '{base.prefix}/bin/python' \"$0\" \"$@\"\n' '''\nimport sys; print(sys.prefix)\n"
    )

    python = make_overlay(tmp_path / "run", base)

    assert output(python.parent / "tool") == str(tmp_path / "run")


def test_data_files_are_found_at_the_overlays_prefix(tmp_path: Path, base: Base) -> None:
    (base.prefix / "share" / "data.txt").write_text("here")

    make_overlay(tmp_path / "run", base)

    assert (tmp_path / "run" / "share" / "data.txt").read_text() == "here"


def test_programs_of_a_systems_folder_are_left_where_they_are(tmp_path: Path, base: Base) -> None:
    (base.prefix / "pyvenv.cfg").unlink()

    python = make_overlay(tmp_path / "run", base)

    assert (python.parent / "tool").exists()
    assert not (python.parent / "program").exists()
