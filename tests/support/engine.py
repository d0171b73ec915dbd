"""A container engine of a test's own, that can be stopped, killed and started again on its data."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import docker
import pytest

from tests.support.waiting import becomes_true


class OwnEngine:
    """One dockerd without any network. As a context manager it starts, and leaves neither process nor folder.

    It lives in a network namespace of its own: without a bridge it removes that of other engines.
    """

    def __init__(self) -> None:
        if os.getuid() or not shutil.which("dockerd"):
            pytest.skip("an engine of the test's own needs root and dockerd")
        self.folder = Path(tempfile.mkdtemp(prefix="tyengine-", dir="/var/tmp"))  # its sockets have short names
        self.folder.chmod(0o711)
        self.host = f"unix://{self.folder}/docker.sock"

    def __enter__(self) -> OwnEngine:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.closing(self.client()) as client:
            for container in client.containers.list(all=True):
                container.remove(force=True)
        self.stop()
        for place in ("exec/netns/default", "data"):
            subprocess.run(["umount", "-q", self.folder / place], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def client(self) -> docker.DockerClient:
        """A connection of the test's."""
        return docker.DockerClient(base_url=self.host)

    def start(self) -> None:
        """Returns when it answers."""
        for left in ("pid", "exec/containerd/containerd.pid"):  # of one that was killed
            (self.folder / left).unlink(missing_ok=True)
        places = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "pid"}
        argv = [word for flag, place in places.items() for word in (flag, str(self.folder / place))]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "unshare",
                    "--net",
                    "dockerd",
                    "--host",
                    self.host,
                    "--bridge",
                    "none",
                    "--iptables=false",
                    *argv,
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        assert becomes_true(self._answers, seconds=60), (self.folder / "log").read_text()

    def stop(self) -> None:
        """As a service's restart does; it ends its containers first."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Its containers live on until it is started again."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        self._process.send_signal(number)
        self._process.wait(60)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as link, contextlib.suppress(OSError):
            link.connect(self.host.removeprefix("unix://"))
            link.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in link.recv(64)
        return False
