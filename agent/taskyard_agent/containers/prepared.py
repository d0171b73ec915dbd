"""Images that a set-up made: a script and system packages on top of an image, kept for the next run."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from docker.types import Mount
from taskyard.wire import Container, Phase, Reason

from taskyard_agent.containers import authorities
from taskyard_agent.containers.arguments import Created
from taskyard_agent.containers.engine import OF_NOBODY, PREPARED, Engine
from taskyard_agent.containers.failure import engine_failed, refused, translated
from taskyard_agent.containers.images import Image, Log, find
from taskyard_agent.containers.kept import REPOSITORY, Uses
from taskyard_agent.containers.workshop import attach_command, lent, made_of
from taskyard_agent.errors import RunFailed, RunStopped
from taskyard_agent.programs import Lines, Program

FORMAT = 2
"""Raised when images are made differently: those of an older agent are then left to be pruned."""
OF_THE_OPERATOR = (
    "network_mode", "dns", "extra_hosts", "runtime", "platform", "userns_mode", "cgroup_parent",
    "mem_limit", "memswap_limit", "mem_reservation", "nano_cpus", "cpuset_cpus", "cpu_shares", "pids_limit",
)  # fmt: skip
"""What holds for a set-up, too. No folder, device or privilege: it is the task's script, and root."""
SCRIPT = "/run/taskyard/setup.sh"
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*(:[a-z0-9]+)?(=[\w.+:~-]+|/[\w.-]+)?")
STOP_SECONDS = 1.0
TAIL_LINES = 20
INSTALL = """\
if ! command -v apt-get >/dev/null; then
    echo 'the image has no apt-get: install them in a set-up script' >&2
    exit 127
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || exit
apt-get install -y -qq --no-install-recommends {packages} || exit
rm -rf /var/lib/apt/lists/*
"""


@dataclass(frozen=True, kw_only=True)
class SetUp:
    """Makes an image of an image, as root; one at a time on this machine for the same wishes."""

    engine: Engine
    image: Image
    wanted: Container
    task: str
    run: str
    uses: Uses
    bundle: Path | None
    options: Created
    """Of the operator."""
    proxies: Mapping[str, str]
    log: Log
    cancelled: threading.Event

    @property
    def key(self) -> str:
        """Equal images, scripts and packages have equal keys."""
        parts = [FORMAT, self.image.id, self.wanted.setup_script, sorted(self.wanted.apt)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    @property
    def tag(self) -> str:
        """What the finished image is called on this machine."""
        return f"{REPOSITORY}:{self.key}"

    def image_ready(self) -> tuple[Image, int]:
        """Returns the finished image, made unless it is there, and a lock that keeps it from being pruned.

        Raises RunFailed or RunStopped.
        """
        wrong = [package for package in self.wanted.apt if PACKAGE.fullmatch(package) is None]
        if wrong:
            raise refused(
                f"{wrong[0]!r} is not the name of a Debian package; write name, name=version or name/suite"
            )
        with self._alone():
            if find(self.engine, self.tag) is None:
                self._make()
            else:
                self.log(f"using the image that the same set-up made before, {self.tag}")
        lock = self._take_lock(fcntl.LOCK_SH)
        try:
            return self._made(), lock
        except BaseException:
            os.close(lock)
            raise

    def _made(self) -> Image:
        found = find(self.engine, self.tag)
        if found is None:
            raise engine_failed(f"the image {self.tag} was made, but is not here")
        return found

    def _make(self) -> None:
        with tempfile.TemporaryDirectory(prefix="taskyard-setup-") as folder:
            container = self.engine.create(self._options(Path(folder)))
            try:
                if self.wanted.setup_script:
                    self.log("running the set-up script")
                if self.wanted.apt:
                    self.log(f"installing system packages: {' '.join(self.wanted.apt)}")
                self._run(container)
                self._commit(container)
            finally:
                self.engine.remove(container)

    def _options(self, folder: Path) -> Created:
        """The variables are in the script, not the container's: those would stay in the image."""
        script = folder / "setup.sh"
        script.touch(mode=0o600)
        script.write_text(self._text())
        kept = {name: value for name, value in self.options.items() if name in OF_THE_OPERATOR}
        mount = Mount(type="bind", source=str(script), target=SCRIPT, read_only=True)
        return {
            **made_of(self.engine, self.task, self.run, kept),
            "image": self.image.id,
            "entrypoint": ["/bin/sh"],
            "command": [SCRIPT],
            "working_dir": "/",
            "user": "0:0",
            "mounts": [mount, *lent(self.bundle)],
        }

    def _text(self) -> str:
        variables = {**self.proxies, **authorities.variables_of(self.bundle)}
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        if self.wanted.setup_script:
            lines += ["(", self.wanted.setup_script, ") || exit"]
        if self.wanted.apt:
            lines += [INSTALL.format(packages=shlex.join(self.wanted.apt))]
        return "\n".join(lines) + "\n"

    def _run(self, container: str) -> None:
        argv = attach_command(self.engine, container, STOP_SECONDS)
        lines = Lines(Program(argv=argv, cwd=Path("/"), variables={}, cancelled=self.cancelled))
        said: list[str] = []
        for line in lines:
            said.append(line)
            self.log(line)
        if lines.exit_code == -signal.SIGHUP:
            raise engine_failed("it was stopped or restarted while an image was set up in a container")
        if lines.exit_code:
            what = "set-up script" if self.wanted.setup_script else "installation of system packages"
            words = "\n".join(line for line in said if line.strip()).splitlines()[-TAIL_LINES:]
            message = "\n".join([f"the {what} in the container ended with {lines.exit_code}:", *words])
            raise RunFailed(Phase.CONTAINER, Reason.CONTAINER, message)

    def _commit(self, container: str) -> None:
        conf = {**self.image.start, "Labels": {**OF_NOBODY, PREPARED: self.key}}
        with translated("the image that the set-up made cannot be kept"):
            self.engine.client.api.commit(container, repository=REPOSITORY, tag=self.key, conf=conf)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = self._take_lock(fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(lock)

    def _take_lock(self, mode: int) -> int:
        while (lock := self.uses.lock(self.key, mode)) is None:
            if self.cancelled.wait(0.05):
                raise RunStopped("the run was ended while its image was prepared")
        self.uses.note(self.key)
        return lock
