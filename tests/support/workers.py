"""Building images of ours without any index: a base that asks none, and wheels of all that goes in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import docker

from tests.support import docker as engine

ROOT = Path(__file__).parents[2]
BASE = "taskyard-test/python:no-index"
PYTHON = "3.11"
"""The base's."""
UV = str(Path(sys.executable).with_name("uv"))


def ensure_base(client: docker.DockerClient) -> None:
    """Makes the base of an operator whose builds reach no index."""
    engine.ensure_image(client)
    engine.derive(client, BASE, "true", Env=["PIP_NO_INDEX=1"])


def make_base(client: docker.DockerClient, folder: Path, *extras: str) -> str:
    """Makes a base that holds the wheels of what Taskyard needs; returns its name."""
    engine.ensure_image(client)
    (folder / "wheels").mkdir(parents=True)
    (own,) = download_wheels(folder / "wheels", *extras).glob("taskyard-*.whl")
    own.unlink()
    lines = (f"FROM {engine.IMAGE}", "COPY wheels /wheels", "ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels")
    (folder / "Dockerfile").write_text("\n".join(lines))
    client.images.build(path=str(folder), tag=f"{BASE}-wheels", rm=True)
    return f"{BASE}-wheels"


def download_wheels(folder: Path, *extras: str) -> Path:
    """Fills the folder with the wheel of this very tree and those of everything that it needs; returns it."""
    subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("taskyard-*.whl")
    which = ("--python-version", PYTHON, "--only-binary", ":all:")
    fetch = [UV, "tool", "run", "pip", "download", "--quiet", "--dest", folder, *which]
    subprocess.run([*fetch, f"{wheel}[{','.join(extras)}]"], check=True)
    return folder
