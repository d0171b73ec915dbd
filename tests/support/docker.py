"""A real container engine with a small image: Debian with Python and git, made without any registry.

A user's own engine is taken where there is one. On CI, `.ci/run` has started one; see there.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import docker
import docker.errors
import platformdirs
import pytest
from docker.models.containers import Container
from taskyard_agent.containers.engine import find_socket

IMAGE = "taskyard-test/python:bookworm"
BASE = "python:3.11-slim-bookworm"
"""Where the image cannot be made by debootstrap, which needs root."""
PACKAGES = "python3,python3-venv,git,ca-certificates"
MUSL_IMAGE = "taskyard-test/musl:bookworm"
MUSL_PACKAGES = ("musl", "busybox-static")
FOLDER = platformdirs.user_cache_path("taskyard-tests")


def connect() -> docker.DockerClient:
    """The engine of this machine. Skips the test where there is none."""
    socket = find_socket(os.environ)
    if socket is None:
        pytest.skip("no container engine: start Docker or Podman, or set DOCKER_HOST")
    try:
        return docker.DockerClient(base_url=f"unix://{socket}", version="auto", timeout=120)
    except docker.errors.DockerException as error:
        pytest.skip(f"the container engine does not answer: {error}")


def ensure_image(client: docker.DockerClient) -> None:
    """Makes the image unless the engine has it; one process at a time."""
    with _alone():
        try:
            client.images.get(IMAGE)
        except docker.errors.ImageNotFound:
            _make(client)


def _make(client: docker.DockerClient) -> None:
    if os.getuid() or not shutil.which("debootstrap"):
        client.images.pull(BASE).tag(IMAGE)
        return
    client.api.import_image_from_file(str(_archive()), *IMAGE.split(":"))


def archive() -> Path:
    """The image's files, made once and kept; needs root."""
    with _alone():
        return _archive()


def _archive() -> Path:
    kept = FOLDER / "bookworm.tar"
    if not kept.exists():
        _bootstrap(kept)
    return kept


def _bootstrap(archive: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="taskyard-image-", dir="/var/tmp") as folder:
        root = Path(folder, "root")
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)]
        subprocess.run(command, check=True, capture_output=True)
        for packages in (root / "var/cache/apt/archives").glob("*.deb"):
            packages.unlink()
        subprocess.run(["tar", "-C", str(root), "-cf", f"{archive}.new", "."], check=True)
    os.rename(f"{archive}.new", archive)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def derive(client: docker.DockerClient, name: str, script: str, **config: object) -> str:
    """Makes an image of the test image by a shell script that root runs in it; returns its name."""
    made = client.containers.run(IMAGE, ["sh", "-ec", script], detach=True, network_mode="none")
    try:
        assert made.wait()["StatusCode"] == 0, made.logs().decode()
        repository, _, tag = name.partition(":")
        made.commit(repository, tag or "latest", conf=config or None)
    finally:
        made.remove(force=True)
    return name


def bare_image(client: docker.DockerClient, name: str, files: Mapping[str, bytes]) -> str:
    """Makes an image of these executables and nothing else; returns its name."""
    with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
        with tarfile.open(archive.name, "w") as members:
            for path, content in files.items():
                member = tarfile.TarInfo(path.lstrip("/"))
                member.size, member.mode = len(content), 0o755
                members.addfile(member, io.BytesIO(content))
        repository, _, tag = name.partition(":")
        client.api.import_image_from_file(archive.name, repository, tag or "latest")
    return name


def musl_image(client: docker.DockerClient) -> str:
    """Makes an image of a shell and musl, without Python, of Debian's packages; returns its name."""
    if os.getuid() or not shutil.which("dpkg-deb"):
        pytest.skip("an image with musl is made of Debian's packages, by root")
    with _alone():
        kept = FOLDER / "musl.tar"
        if not kept.exists():
            _unpack_musl(kept)
        client.api.import_image_from_file(str(kept), *MUSL_IMAGE.split(":"))
    return MUSL_IMAGE


def _unpack_musl(archive: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="taskyard-image-", dir="/var/tmp") as folder:
        root = Path(folder, "root")
        for command in (["update", "-qq"], ["-o", "APT::Sandbox::User=root", "download", "-qq", *MUSL_PACKAGES]):
            subprocess.run(["apt-get", *command], check=True, capture_output=True, cwd=folder)
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)
        (root / "bin/sh").symlink_to("busybox")
        subprocess.run(["tar", "-C", str(root), "-cf", f"{archive}.new", "."], check=True)
    os.rename(f"{archive}.new", archive)


def containers_of(client: docker.DockerClient, run: str) -> list[Container]:
    """The containers that carry the run's label, running or not."""
    found: list[Container] = client.containers.list(
        all=True, filters={"label": f"taskyard.run={run}"}, ignore_removed=True
    )
    return found
