"""What the doctor looks at before a machine takes work."""

from __future__ import annotations

from pathlib import Path

import pytest
from taskyard_agent import doctor


@pytest.mark.parametrize(("version", "taken"), [("2.33.8", False), ("2.34.1", True), ("2.50.0", True)])
def test_a_git_with_known_holes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, taken: bool
) -> None:
    git = tmp_path / "git"
    git.write_text(f"#!/bin/sh\necho git version {version}\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    finding = doctor._git()

    assert (finding.name, finding.ok) == ("git", taken)
    assert taken or "2.34" in finding.cure
