"""What each part of an agent is told of the operator's settings."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from urllib.parse import urlsplit

from .checkout import CheckoutSettings
from .config import AgentSettings
from .containers import ContainerSettings
from .environments import EnvironmentSettings
from .journal import folder_name
from .outputs import Limits
from .run_as import BUILDS_NOTHING

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def agents_folder(settings: AgentSettings) -> Path:
    """Where the agents of this machine for one server have their folders."""
    return settings.local_dir / "agents" / _server_folder(settings)


def executes_folder(settings: AgentSettings) -> Path:
    """Where `agent execute` has its folders on this machine: where several share a user's folder, none may take
    another's for abandoned."""
    return settings.local_dir / "executes" / _server_folder(settings) / folder_name(settings.host)


def _server_folder(settings: AgentSettings) -> str:
    return settings.connection.server.partition("://")[2].replace("/", "_").replace(":", "_")


def checkout_settings(settings: AgentSettings) -> CheckoutSettings:
    """The checkout's part of the settings."""
    return CheckoutSettings(
        folder=settings.local_dir / "git",
        trees_folder=settings.job.folder if settings.job else None,
        allow_file=settings.allow_file_repositories,
        apart=settings.docker is not None or settings.run_as is not None,
        allow_filters=settings.allow_git_filters,
        submodule_hosts=settings.submodule_hosts,
        tokens=settings.git_tokens,
        ssh_key=settings.git_ssh_key,
        memory_bytes=settings.checkout_memory,
        tree_bytes=settings.checkout_bytes,
        tree_paths=settings.checkout_files,
        stall_seconds=settings.git_stall,
        mirror_bytes=settings.cache_mirror_bytes,
        min_free_bytes=settings.min_free_disk,
        environ=settings.environ,
    )


def environment_settings(settings: AgentSettings) -> EnvironmentSettings:
    """The environments' part of the settings."""
    return EnvironmentSettings(
        root=settings.local_dir,
        variables=settings.environ if settings.run_as is None else {**settings.environ, **BUILDS_NOTHING},
        builds=settings.run_as is None,
        inherit=settings.inherit,
        python=settings.python,
        python_downloads=settings.python_downloads,
        python_mirror=settings.python_mirror,
        torch_backend=settings.torch_backend,
        allowed_indexes=settings.allow_indexes,
        allowed_channels=settings.allow_channels,
        conda_binary=settings.conda_binary,
        max_environments=settings.cache_environments,
        max_bytes=settings.cache_bytes,
        max_download_bytes=settings.cache_download_bytes,
        min_free_bytes=settings.min_free_disk,
    )


def container_settings(settings: AgentSettings, agent: Path) -> ContainerSettings:
    """The containers' part of the settings. Raises SettingsError for arguments that are none."""
    found = ContainerSettings(
        enabled=settings.docker is not None,
        image=settings.docker or "",
        args=settings.docker_args,
        allowed=settings.docker_allow,
        kept_images=settings.cache_environments,
        folder=settings.local_dir,
        agent=str(agent),
        environ=settings.environ,
    )
    found.check()
    if found.enabled and os.geteuid() == 0 and settings.run_as is None:
        logger.warning(
            "tasks in containers run as root inside, and what they write is root's: start the agent as another "
            "user, or name one with --run-as",
            extra={"action": "containers_as_root"},
        )
    server = settings.connection.server
    if found.enabled and urlsplit(server).hostname in LOOPBACK and "host" not in settings.docker_args:
        logger.warning(
            "containers cannot reach %s: their tasks run, but the SDK in them cannot report; give the server an "
            "address, or --docker-args '--network host'",
            server,
            extra={"action": "server_out_of_reach"},
        )
    return found


def output_limits(settings: AgentSettings) -> Limits:
    """The most that is kept of one run's files, as far as this agent has a say."""
    return Limits(
        file_bytes=settings.output_file_bytes, run_bytes=settings.output_bytes, run_files=settings.output_files
    )


def server_files(settings: AgentSettings) -> tuple[Path, ...]:
    ca_file = settings.connection.ca_file
    return () if ca_file is None else (Path(ca_file).absolute(),)


def server_variables(settings: AgentSettings) -> dict[str, str]:
    """How user code finds the server; its token is the run's own."""
    link = settings.connection
    found = {"TASKYARD_SERVER": link.server}
    if link.ca_file is not None:
        found["TASKYARD_CA_FILE"] = str(Path(link.ca_file).absolute())
    if link.insecure:
        found["TASKYARD_INSECURE"] = "1"
    return found
