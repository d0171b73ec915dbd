"""The systemd units say what the agent's crash safety needs, and systemd reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.units import faults

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy/systemd"
INIT = ROOT / "agent/taskyard_agent/init/worker.service"
OWN = ("Description", "User", "StateDirectory", "Environment", "LoadCredential", "ExecStart")
"""What is started, and as whom, is each unit's own."""


def lives_by(unit: Path) -> list[str]:
    """How the unit is started, watched and ended: all but what is its own."""
    lines = [line for line in unit.read_text().splitlines() if line and not line.startswith("#")]
    return [line for line in lines if not line.startswith(OWN)]


def test_a_custom_worker_lives_as_the_agents_unit_does() -> None:
    assert lives_by(INIT) == lives_by(UNITS / "taskyard-agent.service")


@pytest.mark.parametrize("unit", ["taskyard-agent.service", "taskyard-server.service"])
def test_what_cannot_start_yet_is_tried_again_for_ever(unit: str) -> None:
    lines = (UNITS / unit).read_text().splitlines()

    assert {"StartLimitIntervalSec=0", "RestartMaxDelaySec=60"} <= set(lines)


def test_a_restart_of_the_agents_unit_leaves_its_runs_alone() -> None:
    lines = (UNITS / "taskyard-agent.service").read_text().splitlines()

    assert {"KillMode=process", "KillSignal=SIGUSR1", "OOMPolicy=continue", "Delegate=yes"} <= set(lines)


def test_the_agents_unit_comes_back_whatever_ends_it_but_a_drain() -> None:
    lines = (UNITS / "taskyard-agent.service").read_text().splitlines()

    assert {"Type=notify", "WatchdogSec=60", "Restart=always", "RestartPreventExitStatus=0"} <= set(lines)


@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.glob("*.service")))
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_finds_no_fault_with_a_unit(unit: str, tmp_path: Path) -> None:
    assert faults(UNITS / unit, tmp_path) == []
