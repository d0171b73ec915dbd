"""Units as systemd reads them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

NEWER = ("DelegateSubgroup", "RestartSteps", "RestartMaxDelaySec")
"""Systemd knows them from 254 on; an older one leaves them out, as it says."""


def faults(unit: Path, folder: Path) -> list[str]:
    """What systemd says against a unit of that name, started as a user and by a program that are there."""
    copy = folder / f"checked-{unit.name}"
    text = unit.read_text().replace("User=taskyard", "User=root")
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if copy.name in line]
    return [line for line in said if not any(name in line for name in NEWER)]
