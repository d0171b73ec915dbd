"""How a pool splits a machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from taskyard.wire import Gpu
from taskyard_agent.errors import SettingsError
from taskyard_agent.life.pool import places


def shares(gpus: int, workers: int, **wishes: Any) -> list[tuple[str, ...]]:
    """The flags of each agent."""
    settings: Any = SimpleNamespace(name="host", workers=workers, http=None, **wishes)
    devices = [Gpu(index=index, uuid=f"GPU-{index}") for index in range(gpus)]
    return [place.flags for place in places(settings, devices, Path("/agents"))]


@pytest.mark.parametrize(
    ("gpus", "workers", "split"),
    [
        (4, 2, ["GPU-0,GPU-1", "GPU-2,GPU-3"]),
        (4, 4, ["GPU-0", "GPU-1", "GPU-2", "GPU-3"]),
        (5, 2, ["GPU-0,GPU-1", "GPU-2,GPU-3,GPU-4"]),
        (8, 3, ["GPU-0,GPU-1", "GPU-2,GPU-3,GPU-4", "GPU-5,GPU-6,GPU-7"]),
    ],
)
def test_gpus_are_split_as_evenly_as_they_go(gpus: int, workers: int, split: list[str]) -> None:
    flags = shares(gpus, workers)

    assert [own[own.index("--gpus") + 1] for own in flags] == split


def test_more_agents_than_gpus_are_refused() -> None:
    with pytest.raises(SettingsError, match="there are only 2 GPUs"):
        shares(2, 3)


def test_without_gpus_every_agent_has_a_name_and_no_gpu() -> None:
    flags = shares(0, 2)

    assert [own[own.index("--name") + 1] for own in flags] == ["host:1", "host:2"]
    assert all("--cpu-only" in own for own in flags)
