"""The systemd units say what the agent's crash safety needs, and systemd reads them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "deploy/systemd"


def test_a_restart_of_the_agents_unit_leaves_its_runs_alone() -> None:
    lines = (UNITS / "taskyard-agent.service").read_text().splitlines()

    assert {"KillMode=process", "KillSignal=SIGUSR1", "OOMPolicy=continue", "Delegate=yes"} <= set(lines)


def test_the_agents_unit_comes_back_whatever_ends_it_but_a_drain() -> None:
    lines = (UNITS / "taskyard-agent.service").read_text().splitlines()

    assert {"Type=notify", "WatchdogSec=60", "Restart=always", "RestartPreventExitStatus=0"} <= set(lines)


@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.glob("*.service")))
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_finds_no_fault_with_a_unit(unit: str, tmp_path: Path) -> None:
    copy = tmp_path / unit
    copy.write_text((UNITS / unit).read_text().replace("User=taskyard", "User=root"))

    found = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)

    # Systemd knows DelegateSubgroup from 254 on; an older one leaves it out, as it says.
    faults = [line for line in found.stderr.splitlines() if unit in line and "DelegateSubgroup" not in line]
    assert not faults
