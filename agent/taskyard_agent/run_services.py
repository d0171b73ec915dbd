"""What every run of an agent shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from taskyard.client import Client

from .answers import Troubles
from .checkout import CheckoutSettings
from .clock import ServerClock
from .containers import Containers
from .environments import EnvironmentSettings
from .held import LaunchJob
from .hooks import Hooks
from .journal import Journal
from .log_shipper import LogShipper
from .outputs import Uploads
from .probes import Probes
from .run_as import Account
from .spare_keeper import SpareKeeper
from .tally import Tally
from .terminals import Terminals


@dataclass(frozen=True, kw_only=True)
class RunServices:
    """The agent's parts and settings, as a run uses them."""

    client: Client
    journal: Journal
    shipper: LogShipper
    clock: ServerClock
    checkout: CheckoutSettings
    environments: EnvironmentSettings
    containers: Containers
    inherited: Mapping[str, str]
    """The agent's own variables that a task may see."""
    inherited_inside: Mapping[str, str]
    """The same for a task in a container."""
    server_variables: Mapping[str, str]
    """How user code reaches the server, without a token."""
    server_files: tuple[Path, ...]
    """Files that these variables name."""
    send_beat: Callable[[], None]
    keepers: SpareKeeper
    uploads: Uploads
    """Of what runs that have ended keep."""
    gpus_by_index: bool = False
    """Whether tasks read indices in CUDA_VISIBLE_DEVICES, not UUIDs."""
    job: LaunchJob | None = None
    """The batch job that the agent, and all that it runs, is in."""
    terminals: Terminals
    account: Account | None = None
    """Whom tasks run as; None: the agent's own user."""
    hooks: Hooks
    tally: Tally = field(default_factory=Tally)
    probes: Probes = field(default_factory=Probes)
    troubles: Troubles = field(default_factory=Troubles)
