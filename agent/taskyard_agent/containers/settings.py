"""What the operator decided about containers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from taskyard_agent.errors import SettingsError

PIDS = 4096


@dataclass(frozen=True, kw_only=True)
class ContainerSettings:
    """What the operator decided about containers."""

    enabled: bool = False
    """`--docker`: tasks may ask for a container."""
    image: str = ""
    """`--docker IMAGE`: what tasks run in that name none; empty: on the machine itself."""
    args: str = ""
    """`--docker-args`: added to every container, as the operator wrote them."""
    allowed: tuple[str, ...] = ()
    """`--docker-allow`: arguments that tasks may use beyond the list."""
    kept_images: int = 20
    """How many images with a set-up are kept."""
    folder: Path = Path()
    """The agent's folder."""
    agent: str = ""
    """Marks this agent's containers; no other agent has the same."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """The agent's own variables."""

    def check(self) -> None:
        """Raises SettingsError for arguments that the engine would refuse every container."""
        if not (self.args or self.allowed):
            return
        from taskyard_agent.containers import arguments

        try:
            arguments.operators(self.args)
        except ValueError as error:
            raise SettingsError(f"--docker-args: {error}") from error
        unknown = [name for name in self.allowed if name.lstrip("-") not in arguments.known_names()]
        if unknown:
            known = ", ".join(arguments.known_names())
            raise SettingsError(f"--docker-allow: {unknown[0]!r} is none of {known}")
