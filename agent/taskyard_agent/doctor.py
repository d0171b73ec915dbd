"""`agent doctor`: what a machine needs to run tasks, each failure with the command that mends it."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskyard.client import Client
from taskyard.config import user_folder
from taskyard.errors import TaskyardError
from taskyard.wire import to_json

from . import account, gpus, means
from .checkout import check_repository
from .config import AgentSettings
from .containers import ContainerSettings
from .containers.engine import Engine, engine_name, engine_of, find_socket
from .environments import conda
from .errors import AgentError, SettingsError
from .hooks import HookFailed, Hooks
from .life.running import on_this_machine
from .part_settings import checkout_settings, environment_settings
from .run_as import account_of, check_reach

OLDEST_GIT = (2, 34)
"""Configuration by environment, which keeps credentials out of argv, and mirrors that are packed in portions."""
CLOCK_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    cure: str = ""

    @property
    def line(self) -> str:
        """For people."""
        cure = f"\n      → {self.cure}" if self.cure and not self.ok else ""
        return f"{'ok  ' if self.ok else 'FAIL'}  {self.name}: {self.detail}{cure}"

    @property
    def record(self) -> Any:
        """For scripts."""
        return to_json(self)


def examine(settings: AgentSettings, *, repository: str | None = None) -> Iterator[Finding]:
    """Looks at one thing after the other; a failure never keeps the rest from being looked at."""
    yield _git()
    yield _uv()
    yield _pythons(settings)
    yield _folder(settings.local_dir)
    yield _disk(settings)
    yield from _server(settings)
    yield from _agents(settings)
    yield _gpus(settings)
    yield from _containers(settings)
    yield from _conda(settings)
    yield from _other_user(settings)
    yield from _hooks(settings)
    yield _agent_command()
    if repository is not None:
        yield _repository(repository, settings)


def _git() -> Finding:
    found = _output("git", "--version")
    version = tuple(map(int, re.findall(r"\d+", found)[:2]))
    cure = "install git 2.34 or newer, on Debian: apt-get install git"
    return Finding(name="git", ok=version >= OLDEST_GIT, detail=found or "not found", cure=cure)


def _uv() -> Finding:
    found = _output(_beside("uv"), "--version")
    return Finding(name="uv", ok=bool(found), detail=found or "not found", cure="pip install 'taskyard[agent]'")


def _pythons(settings: AgentSettings) -> Finding:
    listed = _output(_beside("uv"), "python", "list", "--only-installed", "--no-config")
    versions = sorted({".".join(found) for found in re.findall(r"python-(\d+)\.(\d+)", listed)}, key=_by_number)
    absent = "others are downloaded" if settings.python_downloads == "auto" else "tasks that want others fail"
    return Finding(
        name="Python",
        ok=bool(versions),
        detail=f"{', '.join(versions) or 'none found'}; {absent}",
        cure="uv python install 3.11",
    )


def _by_number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _folder(folder: Path) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".doctor"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        cure = "name a folder that this user may write with --local-dir DIR"
        return Finding(name="local folder", ok=False, detail=f"{folder}: {error.strerror}", cure=cure)
    return Finding(name="local folder", ok=True, detail=str(folder))


def _disk(settings: AgentSettings) -> Finding:
    place = next(path for path in (settings.local_dir, *settings.local_dir.parents) if path.exists())
    free = shutil.disk_usage(place).free
    return Finding(
        name="disk",
        ok=free >= settings.min_free_disk,
        detail=f"{free / 2**30:.1f} GiB free, {settings.min_free_disk / 2**30:.1f} GiB to be left free",
        cure="taskyard agent cache prune --all, or a larger disk with --local-dir DIR",
    )


def _server(settings: AgentSettings) -> Iterator[Finding]:
    link = settings.connection
    try:
        with Client.of(link) as client:
            asked_at = time.time()
            info = client.info(patience_seconds=0.0)
            skew = info.time - (asked_at + time.time()) / 2
    except TaskyardError as error:
        cure = "taskyard up on this machine, or --server URL (or TASKYARD_SERVER) for another one's"
        yield Finding(name="server", ok=False, detail=str(error), cure=cure)
        return
    yield Finding(name="server", ok=True, detail=f"{link.server}, version {info.version}, store {info.store}")
    yield Finding(
        name="clock",
        ok=abs(skew) <= CLOCK_SECONDS,
        detail=f"{abs(skew):.1f} s {'behind' if skew > 0 else 'ahead of'} the server's",
        cure="timedatectl set-ntp true",
    )
    yield _token(settings)


def _token(settings: AgentSettings) -> Finding:
    if settings.connection.token and not account.holds_token(settings):
        return Finding(
            name="token", ok=True, detail="none yet; the daemon gets one with your login when it starts"
        )
    try:
        with account.connect(settings) as client:
            token = client.whoami()
    except TaskyardError as error:
        cure = f"taskyard agent join {settings.connection.server}"
        return Finding(name="token", ok=False, detail=str(error), cure=cure)
    queues = " ".join(token.queues) or "any queue"
    return Finding(name="token", ok=True, detail=f"{token.name}, for {queues}")


def _agents(settings: AgentSettings) -> Iterator[Finding]:
    """The agents that run here and cannot do what they should."""
    for agent in on_this_machine(settings.local_dir).values():
        if agent.trouble:
            cure = f"taskyard agent join {agent.server}; it goes on by itself once it is let in"
            yield Finding(name=f"agent {agent.name}", ok=False, detail=agent.trouble, cure=cure)


def _gpus(settings: AgentSettings) -> Finding:
    there = gpus.devices()
    if settings.cpu_only or (settings.gpus is None and not there):
        return Finding(name="GPUs", ok=True, detail=f"none used of {len(there)}")
    return _checked(
        "GPUs",
        lambda: ", ".join(
            f"{gpu.index} {gpu.name}" for gpu in gpus.parse_selection(settings.gpus or "all", there)
        ),
        cure="nvidia-smi shows what the driver sees; choose others with --gpus, or --cpu-only",
    )


def _containers(settings: AgentSettings) -> Iterator[Finding]:
    if settings.docker is None:
        return
    wanted = ContainerSettings(
        enabled=True, args=settings.docker_args, allowed=settings.docker_allow, environ=settings.environ
    )
    try:
        wanted.check()
        with contextlib.closing(engine_of(wanted)) as engine:
            detail = f"{engine_name(settings.environ)} {engine.version} at {engine.socket}"
            yield Finding(name="container engine", ok=True, detail=detail)
            yield from _container_gpus(settings, engine)
    except AgentError as error:
        cure = _engine_cure(settings)
        yield Finding(name="container engine", ok=False, detail=str(error), cure=cure)


def _engine_cure(settings: AgentSettings) -> str:
    """For an engine that may not be asked, that is down, or that is not there."""
    with contextlib.suppress(SettingsError):
        socket = find_socket(settings.environ)
        if socket is not None and socket.exists() and not os.access(socket, os.R_OK | os.W_OK):
            return f"usermod --append --groups docker {getpass.getuser()}, then log in anew"
        if socket is not None:
            return "systemctl start docker, or for Podman: systemctl --user enable --now podman.socket"
    return "install Docker or Podman, on Debian: apt-get install docker.io; or leave out --docker"


def _container_gpus(settings: AgentSettings, engine: Engine) -> Iterator[Finding]:
    try:
        devices = means.choose_gpus(settings)
    except SettingsError:
        return  # said already
    if not devices:
        return
    ok = engine.gives_gpus(settings.environ)
    cure = (
        "install nvidia-container-toolkit, then: nvidia-ctk runtime configure --runtime=docker && systemctl "
        "restart docker; for Podman: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
    )
    detail = "NVIDIA's container toolkit is there" if ok else "no container gets one: NVIDIA's toolkit is missing"
    yield Finding(name="GPUs in containers", ok=ok, detail=detail, cure=cure)


def _conda(settings: AgentSettings) -> Iterator[Finding]:
    if settings.conda_binary is None:
        return
    cure = "pip install 'taskyard[conda]' and leave out --conda-binary, or name a conda, mamba or micromamba"

    def look() -> str:
        program = conda.program(environment_settings(settings))
        if program is None:
            return conda.version()
        said = _output(program, "--version")
        if not said:
            raise SettingsError(f"{program} --version fails")
        return f"{program} {said}"

    yield _checked("conda", look, cure=cure)


def _other_user(settings: AgentSettings) -> Iterator[Finding]:
    if settings.run_as is None:
        return

    def look() -> str:
        account = account_of(str(settings.run_as))
        check_reach(account, settings.local_dir)
        return f"{account.name} ({account.uid_and_gid}) reaches {settings.local_dir}"

    cure = f"sudo taskyard agent doctor --run-as {settings.run_as} --local-dir /var/lib/taskyard"
    yield _checked("tasks' user", look, cure=cure)


def _hooks(settings: AgentSettings) -> Iterator[Finding]:
    folder = settings.hooks
    if not folder.is_dir():
        if folder != user_folder() / "hooks":  # it was named
            cure = f"mkdir -p {folder}, or name another folder with --hooks DIR"
            yield Finding(name="hooks", ok=False, detail=f"{folder} is no folder", cure=cure)
        return
    try:
        there = ", ".join(hook.value for hook in Hooks(folder=folder).check()) or "none"
    except HookFailed as error:
        happened, _, cure = str(error).rpartition("; ")
        yield Finding(name="hooks", ok=False, detail=happened, cure=cure)
        return
    yield Finding(name="hooks", ok=True, detail=f"{there} in {folder}")


def _agent_command() -> Finding:
    found = shutil.which("agent")
    own = Path(sys.executable).parent / "agent"
    if found is None or Path(found).resolve() == own.resolve():
        return Finding(name="`agent` command", ok=True, detail=found or "not on the PATH; use `taskyard agent`")
    cure = "use `taskyard agent` in place of `agent`"
    return Finding(name="`agent` command", ok=False, detail=f"{found} is another program", cure=cure)


def _repository(url: str, settings: AgentSettings) -> Finding:
    check = check_repository(url, checkout_settings(settings))
    return Finding(name="repository", ok=check.reachable, detail=f"{check.url}: {check.detail}", cure=check.advice)


def _checked(name: str, look: Callable[[], str], *, cure: str) -> Finding:
    try:
        return Finding(name=name, ok=True, detail=look())
    except AgentError as error:
        return Finding(name=name, ok=False, detail=str(error), cure=cure)


def _beside(program: str) -> str:
    """The program of this very installation, else the one on the PATH."""
    own = Path(sys.executable).parent / program
    return str(own) if own.is_file() else program


def _output(*argv: str) -> str:
    """What a program prints, or an empty string when it is not there or fails."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
