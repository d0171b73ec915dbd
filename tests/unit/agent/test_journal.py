"""What an agent still knows after a crash."""

from __future__ import annotations

import hashlib
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskyard.wire import Claim, Outcome, OutcomeKind, Phase, PhaseTime, Reason, Run, Task, TaskSpec, TaskState
from taskyard_agent.allotment import Share
from taskyard_agent.errors import SettingsError
from taskyard_agent.journal import Journal, RunProgress, folder_name


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "agents", "workstation")
    journal.open()
    yield journal
    journal.close()


def claim(number: int = 1) -> Claim:
    task = Task(
        id="ab" * 16, spec=TaskSpec(name="train"), state=TaskState.PREPARING, created_at=1.0, updated_at=2.0
    )
    run = Run(
        id=f"{task.id}.{number}", task=task.id, number=number, worker="workstation:gpu0", claimed_at=float(number)
    )
    return Claim(run=run, task=task, secrets={"HF_TOKEN": "sesame-open"}, lease_seconds=42.0)


def again(journal: Journal) -> Journal:
    """The journal as the next daemon finds it."""
    return Journal(journal.folder.parent, "workstation")


def everything_below(folder) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_drawn_claim_survives_until_it_is_forgotten(journal):
    tokens = journal.draw_claim()

    assert again(journal).open_claims() == [tokens]

    journal.forget_claim(tokens.request_id)

    assert again(journal).open_claims() == []


def test_the_server_learns_hashes_of_the_tokens():
    tokens = Journal.__new__(Journal).draw_listening()

    assert tokens.control_hash == hashlib.sha256(tokens.control_token.encode()).hexdigest()
    assert tokens.report_hash != tokens.control_hash


def test_a_saved_run_survives_and_settles_its_claim(journal):
    tokens = journal.draw_claim()
    saved = journal.save_run(claim(), tokens)

    assert again(journal).runs() == [saved]
    assert again(journal).open_claims() == []
    assert saved.tokens == tokens


def test_the_secrets_of_a_task_are_not_journalled(journal):
    journal.save_run(claim(), journal.draw_claim())

    assert b"sesame" not in everything_below(journal.folder)


def test_progress_survives(journal):
    saved = journal.save_run(claim(), journal.draw_claim())
    progress = RunProgress(
        phases=(PhaseTime(phase=Phase.CHECKOUT, started_at=1.0, seconds=0.5),),
        started=True,
        outcome=Outcome(kind=OutcomeKind.FAILED, reason=Reason.EXIT, phase=Phase.RUNNING, exit_code=3),
        log_bytes=10,
    )

    journal.save_progress(saved.run.id, progress)

    assert again(journal).runs()[0].progress == progress


def test_runs_come_oldest_first_and_a_closed_one_leaves_nothing(journal):
    runs = [journal.save_run(claim(number), journal.draw_claim()) for number in (1, 2, 3)]
    journal.save_share(runs[0], Share(gpus=("GPU-0",)))

    journal.close_run(runs[1].run.id)

    assert [run.run.number for run in again(journal).runs()] == [1, 3]
    assert not runs[1].directory.path.exists()


def test_what_a_killed_daemon_had_begun_to_close_is_gone_with_the_next(journal):
    saved = journal.save_run(claim(), journal.draw_claim())
    (saved.directory.path / "run.json").unlink()
    journal.close()

    following = again(journal)
    following.open()
    following.close()

    assert not saved.directory.path.exists()


def test_files_are_for_the_agent_alone(journal):
    saved = journal.save_run(claim(), journal.draw_claim())

    assert (saved.directory.path / "run.json").stat().st_mode & 0o777 == 0o600
    assert saved.directory.spool.stat().st_mode & 0o777 == 0o600
    assert saved.directory.path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"run": {}}', b"\xff"])
def test_a_torn_file_is_told_and_the_rest_is_read(journal, caplog, content):
    torn = journal.save_run(claim(1), journal.draw_claim())
    whole = journal.save_run(claim(2), journal.draw_claim())
    (torn.directory.path / "run.json").write_bytes(content)

    assert again(journal).runs() == [whole]
    assert "cannot be read" in caplog.text


def test_a_second_daemon_of_the_same_name_is_refused(journal):
    with pytest.raises(SettingsError, match="--name"):
        again(journal).open()


def test_every_daemon_of_a_folder_is_the_same_agent_and_another_folder_is_another(journal, tmp_path):
    elsewhere = Journal(tmp_path / "elsewhere", "workstation")
    journal.close()

    for opened in (later := again(journal), elsewhere):
        opened.open()
        opened.close()

    assert later.instance == journal.instance
    assert elsewhere.instance not in ("", journal.instance)


def test_a_copy_of_an_agent_s_folder_is_another_agent_and_a_folder_that_was_moved_is_not(journal, tmp_path):
    journal.close()
    shutil.copytree(tmp_path / "agents", tmp_path / "copy")
    (tmp_path / "agents").rename(tmp_path / "moved")

    with Journal(tmp_path / "copy", "workstation") as copy, Journal(tmp_path / "moved", "workstation") as moved:
        pass

    assert copy.instance not in ("", journal.instance)
    assert moved.instance == journal.instance


@given(st.text(min_size=1), st.text(min_size=1))
def test_every_name_gets_a_safe_folder_of_its_own(one, other):
    assert "/" not in folder_name(one)
    assert not folder_name(one).startswith((".", "-"))
    assert len(folder_name(one).encode()) < 200
    assert one == other or folder_name(one) != folder_name(other)


def test_what_a_run_occupies_survives_a_crash_and_may_change(journal):
    share = Share(slots=2, gpus=("GPU-1", "GPU-2"), memory_bytes=7, memory_limit_bytes=7, custom={"LICENSE": 0.5})
    saved = journal.save_run(claim(), journal.draw_claim(), share)
    (read,) = journal.runs()

    changed = journal.save_share(saved, Share(gpus=("GPU-0",)))

    assert read == saved
    assert read.share == share
    assert journal.runs() == [changed]
