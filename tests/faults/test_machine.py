"""The machine itself: it restarts, its clock is set, its disk is full; the daemon is told to end at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.errors import Unavailable
from taskyard.wire import OutcomeKind, Policy, Reason, TaskState
from taskyard_agent.keeper.processes import marked

from tests.faults.conftest import Faulty
from tests.support.agents import wait_until
from tests.support.servers import PATIENT, ServerProcess

root_only = pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="mounting needs root on Linux: run the tests as root"
)
LIBFAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
needs_faketime = pytest.mark.skipif(LIBFAKETIME is None, reason="no libfaketime: apt-get install faketime")


# --- It restarts


@root_only
def test_a_reboot_loses_the_run_at_once_and_its_task_runs_again(patient: Faulty, tmp_path: Path) -> None:
    witness = patient.witness()
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("11111111-2222-3333-4444-555555555555\n")

    with patient.agent() as agent:
        witness.wait_for_start()
        agent.reboot(boot_id)
        witness.wait_for_start(2)
        witness.ends_once(runs=2, starts=2)

    first = patient.runs(witness.task)[0].outcome
    assert first is not None
    assert (first.kind, first.reason) == (OutcomeKind.LOST, Reason.REBOOT)


@root_only
def test_what_ended_before_a_reboot_keeps_its_true_end(patient: Faulty, tmp_path: Path) -> None:
    witness = patient.witness()
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("11111111-2222-3333-4444-555555555555\n")

    with patient.agent() as agent:
        witness.wait_for_start()
        agent.kill()
        witness.let_go()
        wait_until(lambda: not agent.keepers())
        agent.reboot(boot_id)
        witness.ends_once(starts=1)


# --- Its clock is set


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """How far the clock of a process with `stepped(clock)` is off; a test writes another number there."""
    file = tmp_path / "clock"
    file.write_text("+0\n")
    return file


def stepped(clock: Path) -> dict[str, str]:
    return {
        "LD_PRELOAD": str(LIBFAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


@needs_faketime
@pytest.mark.parametrize("step", ["+3600", "-3600"])
def test_a_step_of_the_agents_clock_loses_nothing(patient: Faulty, clock: Path, step: str) -> None:
    witness, later = patient.witness(), patient.witness(lines=3)

    with patient.agent(variables=stepped(clock)):
        witness.wait_for_start()
        clock.write_text(f"{step}\n")
        beats = last_seen(patient)
        wait_until(lambda: last_seen(patient) > beats + 1.0)
        run = witness.ends_once(starts=1)
        later.ends_once(starts=1)

    assert run.ended_at is not None
    assert run.ended_at - run.claimed_at < 600


@needs_faketime
@pytest.mark.parametrize("step", ["+3600", "-3600"])
def test_a_step_of_the_servers_clock_loses_no_run_and_keeps_the_order(
    tmp_path: Path, clock: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as faked:
        for name, value in stepped(clock).items():
            faked.setenv(name, value)
        server = ServerProcess(*PATIENT).start()
    with contextlib.ExitStack() as stack, Faulty(server, tmp_path / "witnesses") as yard:
        stack.push(server)
        first = yard.witness()
        queued = [yard.witness(lines=2) for _ in range(2)]
        with yard.agent():
            first.wait_for_start()
            clock.write_text(f"{step}\n")
            queued.append(yard.witness(lines=2))
            wait_until(lambda: "given back to the leases" in server.log)
            first.ends_once(starts=1)
            runs = [witness.ends_once(starts=1) for witness in queued]

    assert [run.started_at for run in runs] == sorted(run.started_at or 0.0 for run in runs)


def last_seen(yard: Faulty) -> float:
    return yard.client.worker("tester").last_seen_at


# --- Its disk is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@root_only
def test_a_full_disk_blocks_the_writer_and_loses_nothing(patient: Faulty, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(6 << 20))
    witness = patient.witness(lines=60_000, pause=0.0)

    with patient.agent("--min-free-disk", "0", folder=small_disk / "agent"):
        wait_until(lambda: "disk is full" in str(witness.told()), seconds=60, what="a note in the story")
        (small_disk / "ballast").unlink()
        witness.ends_once(starts=1)


def test_a_low_disk_at_the_server_refuses_logs_and_enqueues_but_no_state(tmp_path: Path) -> None:
    with ServerProcess(*PATIENT) as server, Faulty(server, tmp_path / "witnesses") as yard:
        witness = yard.witness()
        with yard.agent() as agent:
            witness.wait_for_start()
            run, token = yard.run(witness.task), agent.control_token()
            server.kill()
            low = ServerProcess(
                *PATIENT, "--min-free-disk-bytes", str(1 << 60), data=server.data, port=server.port
            )
            with low:
                with agent.client() as client, pytest.raises(Unavailable, match="disk is low"):
                    client.append_log(run.id, 0, b"x", control_token=token, patience_seconds=0.0)
                with server.client() as http:
                    refused = http.post("/tasks", json={"spec": {}, "queue": "default"})
                witness.let_go()
                yard.wait_for_state(witness.task, TaskState.COMPLETED)
                assert not yard.client.read_log(run.id).complete
            server.start()
            witness.ends_once(starts=1)

    assert (refused.status_code, "disk is low" in refused.json()["detail"]) == (503, True)


# --- The daemon is told to end


def test_the_third_signal_kills_at_once_and_tells_the_truth(patient: Faulty) -> None:
    witness = patient.witness(policy=Policy(grace_seconds=60), stubborn=True)

    with patient.agent() as agent:
        witness.wait_for_start()
        run = patient.run(witness.task)
        for told in ("draining", "stopping", "killing"):  # two signals at once would count as one
            agent.signal(signal.SIGTERM)
            wait_until(lambda word=told: word in agent.log)
        assert agent.wait() == 0
        assert not marked(run.id)
        assert patient.task(witness.task).state is TaskState.QUEUED
        assert patient.runs(witness.task)[0].outcome.reason is Reason.AGENT_STOPPED  # type: ignore[union-attr]
        agent.start()
        witness.ends_once(runs=2, starts=2)
