"""How a pool splits a machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from taskyard.wire import Gpu
from taskyard_agent import means
from taskyard_agent.errors import SettingsError
from taskyard_agent.life.pool import places


def shares(gpus: int, workers: int, **wishes: Any) -> list[tuple[str, ...]]:
    """The flags of each agent."""
    told = {"http": None, "memory": None, "machine_part": 1.0, "resources": {}, **wishes}
    settings: Any = SimpleNamespace(name="host", workers=workers, **told)
    devices = [Gpu(index=index, uuid=f"GPU-{index}") for index in range(gpus)]
    return [place.flags for place in places(settings, devices, Path("/agents"))]


def value(flags: tuple[str, ...], flag: str) -> str:
    return flags[flags.index(flag) + 1]


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

    assert [value(own, "--gpus") for own in flags] == split


def test_more_agents_than_gpus_are_refused() -> None:
    with pytest.raises(SettingsError, match="there are only 2 GPUs"):
        shares(2, 3)


def test_without_gpus_every_agent_has_a_name_and_no_gpu() -> None:
    flags = shares(0, 2)

    assert [value(own, "--name") for own in flags] == ["host:1", "host:2"]
    assert all("--cpu-only" in own for own in flags)


def test_amounts_are_split_whole_so_that_their_sum_stays_within_what_there_is() -> None:
    flags = shares(0, 2, resources={"LICENSE": 1.0, "SCRATCH": 5.0})

    assert [own[own.index("--resources") + 1 :][:2] for own in flags] == [
        ("LICENSE=1", "SCRATCH=3"),
        ("LICENSE=0", "SCRATCH=2"),
    ]


def test_an_amount_that_is_not_whole_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"DISK=2.5 cannot be split among agents; give a whole amount"):
        shares(0, 2, resources={"DISK": 2.5})


@pytest.mark.parametrize(("memory", "own"), [(None, None), (0.5, None), (0, None), (8 << 30, "4294967296B")])
def test_memory_is_split_whoever_reckons_it(memory: float | None, own: str | None) -> None:
    for flags in shares(0, 2, memory=memory):
        assert value(flags, "--machine-part") == "0.500000"
        assert (value(flags, "--memory") if "--memory" in flags else None) == own


@pytest.mark.parametrize("memory", [None, 1.0])
def test_an_agent_reckons_with_its_part_of_the_machine(memory: float | None) -> None:
    told: Any = SimpleNamespace(
        memory=memory, machine_part=0.25, services_mode=None, slots=None, share_gpus=False, resources={}, job=None
    )

    found = means.of(told, (), {})

    assert found.memory_bytes == found.machine_memory_bytes == means.machine_memory() // 4
