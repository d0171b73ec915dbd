"""What the doctor looks at before a machine takes work."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from taskyard_agent import doctor
from taskyard_agent.life.running import Announcement


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


def test_an_agent_that_is_kept_out_is_a_finding_until_it_is_let_in(tmp_path: Path) -> None:
    folder = tmp_path / "agents" / "place" / "w"
    folder.mkdir(parents=True)
    announcement = Announcement(folder, "w", "http://127.0.0.1:1")
    settings = cast(Any, SimpleNamespace(local_dir=tmp_path))

    announcement.make(known=True)
    before = list(doctor._agents(settings))
    announcement.note("the token was revoked")
    (found,) = doctor._agents(settings)
    announcement.note("")

    assert (found.name, found.ok, found.detail) == ("agent w", False, "the token was revoked")
    assert "taskyard agent join http://127.0.0.1:1" in found.cure
    assert before == list(doctor._agents(settings)) == []
    assert b"trouble" not in (folder / "agent.json").read_bytes()
