"""The uv that an image needs where this machine's own does not run in it."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from importlib import metadata
from pathlib import Path

from taskyard_agent.environments import EnvironmentSettings
from taskyard_agent.environments.image_python import uv_for
from taskyard_agent.environments.installer import Installer, visible_variables
from taskyard_agent.environments.interpreters import probe

from tests.support.wheels import make_wheel, package_index


def test_uv_for_musl_comes_from_the_operators_index_once(tmp_path: Path) -> None:
    with package_index(tmp_path / "wheels") as index:
        make_wheel(index.folder, "uv", metadata.version("uv"), scripts={"uv": "uv:main"})
        variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PIP_INDEX_URL": index.url}
        settings = EnvironmentSettings(root=tmp_path / "agent", variables=variables, min_free_bytes=0)
        python = dataclasses.replace(probe(Path(sys.executable), settings), image="sha256:1", musl=True)
        inside = visible_variables(variables, inside=True)
        installer = Installer(
            log=print, cancelled=threading.Event(), downloads=tmp_path / "images", variables=inside
        )

        first = uv_for(python, settings, installer)
        asked = list(index.requests)
        second = uv_for(python, settings, installer)

    assert Path(first).is_relative_to(settings.root / "tools")
    assert Path(first).exists()
    assert "/simple/uv/" in asked
    assert (second, index.requests) == (first, asked)
