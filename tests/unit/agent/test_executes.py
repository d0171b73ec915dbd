"""The folders of `agent execute`: whose end tells whether somebody must look after what they left."""

from __future__ import annotations

from pathlib import Path

from taskyard_agent import executes
from taskyard_agent.journal import Journal


def test_a_living_execute_is_not_abandoned_and_one_that_ended_well_leaves_nothing(tmp_path: Path) -> None:
    with executes.opened(tmp_path) as journal:
        assert journal.folder.is_dir()
        assert executes.abandoned(tmp_path) == []

    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_an_execute_that_was_killed_is_abandoned_once(tmp_path: Path) -> None:
    killed = Journal(tmp_path, "1-killed")
    killed.open()
    killed.close()

    (found,) = executes.abandoned(tmp_path)

    assert found.folder == killed.folder
    assert executes.abandoned(tmp_path) == []
    found.close()
