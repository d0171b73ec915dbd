"""Containers by Podman, through its compatible socket."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.wire import TaskState

from tests.support.agents import wait_until
from tests.support.docker import archive
from tests.support.yard import Yard

IMAGE = "localhost/taskyard-test/python:bookworm"
LIMITS = '[containers]\ndefault_ulimits=["nofile=1024:1024", "nproc=4096:4096"]\n'
"""Podman asks for more than a container that is itself in one may have."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a short name: Podman takes no `--runroot` of more than 50 characters."""
    with tempfile.TemporaryDirectory(prefix="podman-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def socket(folder: Path) -> Iterator[Path]:
    """A service of the test's own that has the image."""
    if not shutil.which("podman") or os.getuid():
        pytest.skip("no podman, or not root")
    (folder / "containers.conf").write_text(LIMITS)
    places = ["--root", str(folder / "root"), "--runroot", str(folder / "run"), "--storage-driver", "overlay"]
    podman = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", *places]
    subprocess.run([*podman, "import", "--quiet", str(archive()), IMAGE], check=True, capture_output=True)
    place = folder / "podman.sock"
    environ = {**os.environ, "CONTAINERS_CONF": str(folder / "containers.conf")}
    with subprocess.Popen(
        [*podman, "system", "service", "--time", "0", f"unix://{place}"], env=environ
    ) as service:
        wait_until(place.exists, what="Podman's socket")
        yield place
        service.terminate()
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run(["umount", str(folder / "root" / "overlay")], check=True, capture_output=True)


def test_a_task_runs_and_is_cancelled_in_a_container_of_podman(yard: Yard, socket: Path) -> None:
    source = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('told to end'), sys.exit(0)))\n"
        "print('ready')\n"
        "time.sleep(100)"
    )
    fine = yard.submit("python3", "-c", "print('fine')")
    stopped = yard.submit("python3", "-c", source)

    with yard.agent("--docker", IMAGE, variables={"DOCKER_HOST": f"unix://{socket}"}):
        (ended,) = yard.wait_for_end(fine, seconds=120)
        yard.wait_for_output(stopped, "ready", seconds=60)
        yard.client.stop_task(stopped.id)
        (cancelled,) = yard.wait_for_end(stopped, seconds=60)

    assert (ended.state, yard.text(fine)) == (TaskState.COMPLETED, "fine\n")
    assert cancelled.state is TaskState.CANCELLED
    assert "told to end" in yard.text(stopped)
