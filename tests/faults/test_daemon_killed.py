"""kill -9 of the daemon, at every step of a run."""

from __future__ import annotations

import os
from pathlib import Path

from taskyard.wire import Environment, Phase, Reason, RequirementsKind

from tests.faults.conftest import Faulty
from tests.support.agents import wait_until
from tests.support.relay import Relay
from tests.support.waiting import becomes_true
from tests.support.wheels import PackageIndex, make_wheel, package_index


def test_a_task_goes_on_without_its_daemon_and_ends_once(patient: Faulty) -> None:
    witness = patient.witness()

    with patient.agent() as agent:
        witness.wait_for_start()
        agent.restart()
        wait_until(lambda: "carrying on" in agent.log)
        run = witness.ends_once(starts=1)

    assert [time.phase for time in run.phases] == [phase for phase in Phase if phase is not Phase.CONTAINER]
    assert all(time.seconds is not None for time in run.phases)


def test_a_task_that_ended_while_there_was_no_daemon_is_reported_by_the_next(patient: Faulty) -> None:
    witness = patient.witness()

    with patient.agent() as agent:
        witness.wait_for_start()
        agent.kill()
        witness.let_go()
        wait_until(lambda: not agent.keepers())
        agent.start()
        witness.ends_once(starts=1)


def test_a_daemon_that_stays_away_too_long_finds_its_run_alive_again(hasty: Faulty) -> None:
    witness = hasty.witness()

    with hasty.agent() as agent:
        witness.wait_for_start()
        agent.kill()
        wait_until(lambda: hasty.run(witness.task).outcome is not None, what="verdict lost")
        agent.start()
        wait_until(lambda: hasty.run(witness.task).outcome is None, what="revival")
        witness.ends_once(starts=1)


def test_a_daemon_killed_while_the_claims_answer_is_on_its_way_takes_the_same_run(
    patient: Faulty, relay: Relay
) -> None:
    snag = relay.hold_answers(b"POST /api/v1/claims")
    with patient.agent(url=relay.url) as agent:
        witness = patient.witness()
        assert snag.caught.wait(30)
        wait_until(lambda: patient.task(witness.task).run_count == 1)
        agent.kill()
        snag.loosen()
        agent.start()
        witness.ends_once(starts=1)


def test_what_a_killed_daemon_had_claimed_is_carried_out_though_its_worker_takes_nothing_more(
    patient: Faulty, relay: Relay
) -> None:
    snag = relay.hold_answers(b"POST /api/v1/claims")
    with patient.agent(url=relay.url) as agent:
        witness = patient.witness()
        assert snag.caught.wait(30)
        wait_until(lambda: patient.task(witness.task).run_count == 1)
        agent.kill()
        snag.loosen()
        patient.client.pause_worker(agent.name)
        agent.start()
        witness.ends_once(starts=1)


def test_a_claim_that_the_next_daemon_cannot_journal_does_not_end_its_claiming(
    hasty: Faulty, relay: Relay
) -> None:
    snag = relay.hold_answers(b"POST /api/v1/claims")
    with hasty.agent(url=relay.url) as agent:
        witness = hasty.witness()
        assert snag.caught.wait(30)
        wait_until(lambda: hasty.task(witness.task).run_count == 1)
        agent.kill()
        snag.loosen()
        (folder,) = agent.cache.glob("agents/*/*/runs")
        (folder / f"{witness.task.id}.1").touch()  # in the place of the run's own folder
        agent.start()
        witness.ends_once(runs=2, starts=1)


def test_a_daemon_killed_before_it_confirms_carries_its_claim_out(patient: Faulty, relay: Relay) -> None:
    with patient.agent(url=relay.url) as agent:
        wait_until(lambda: patient.client.workers())
        snag = relay.hold(b"POST /api/v1/beats", b"/start HTTP")
        witness = patient.witness()
        wait_until(lambda: agent.runs and (agent.runs[0] / "run.json").exists())
        agent.kill()
        snag.loosen()
        agent.start()
        witness.ends_once(starts=1)


def test_a_claim_that_nobody_confirms_goes_back_to_its_place(hasty: Faulty, relay: Relay) -> None:
    witness = hasty.witness()
    snag = relay.hold_answers(b"POST /api/v1/claims")

    with hasty.agent(url=relay.url, name="killed") as killed:
        assert snag.caught.wait(30)
        wait_until(lambda: hasty.task(witness.task).run_count == 1)
        killed.kill()
    with hasty.agent(name="other"):
        witness.ends_once(runs=2, starts=1)

    assert hasty.runs(witness.task)[0].outcome.reason is Reason.UNCONFIRMED  # type: ignore[union-attr]


def pip_of(index: PackageIndex) -> dict[str, str]:
    return {"PIP_INDEX_URL": index.url, "PIP_CONFIG_FILE": os.devnull}


def test_a_daemon_killed_while_it_provisions_begins_again(patient: Faulty, tmp_path: Path) -> None:
    wanted = Environment(requirements=RequirementsKind.PACKAGES, packages=("alpha",))
    with package_index(tmp_path / "wheels") as index:
        index.add("alpha")
        index.stuck.set()
        witness = patient.witness(environment=wanted)
        with patient.agent(variables=pip_of(index)) as agent:
            wait_until(lambda: index.requests, what="a request to the index")
            agent.restart()
            wait_until(lambda: "carrying on" in agent.log)
            index.stuck.clear()
            witness.ends_once(starts=1)


def test_a_daemon_killed_in_the_middle_of_a_build_leaves_nothing_that_is_used(
    patient: Faulty, tmp_path: Path
) -> None:
    """Its packages lie there and are being compiled: nothing but the marker is absent."""
    wanted = Environment(requirements=RequirementsKind.PACKAGES, packages=("alpha",))
    with package_index(tmp_path / "wheels") as index:
        make_wheel(index.folder, "alpha", files={"alpha/slow.py": "x = [\n" + "f(1, 2, 3),\n" * 200_000 + "]\n"})
        witness = patient.witness(environment=wanted)
        with patient.agent(variables=pip_of(index)) as agent:
            wait_until(lambda: list(agent.cache.glob("environments/*/modules")), what="a build under way")
            agent.kill()
            assert not list(agent.cache.glob("environments/*/ready.json"))
            agent.start()
            run = witness.ends_once(starts=1)
            compiled = list(
                agent.cache.glob("environments/*/venv/lib/*/site-packages/alpha/__pycache__/slow.*.pyc")
            )

    assert run.environment_reused is False
    assert len(compiled) == 1


def test_a_daemon_killed_before_it_hears_that_it_may_start_starts_once(
    patient: Faulty, relay: Relay, tmp_path: Path
) -> None:
    """The next one prepares the run again, and says so in the log, before the command's own output."""
    wanted = Environment(requirements=RequirementsKind.PACKAGES, packages=("alpha",))
    snag = relay.hold_answers(b"/start HTTP")
    with (
        package_index(tmp_path / "wheels") as index,
        patient.agent(url=relay.url, variables=pip_of(index)) as agent,
    ):
        index.add("alpha")
        witness = patient.witness(environment=wanted)
        assert snag.caught.wait(60)
        wait_until(lambda: patient.run(witness.task).started_at is not None)
        agent.kill()
        snag.loosen()
        agent.start()
        witness.ends_once(starts=1)


def test_a_daemon_killed_between_start_and_spawn_starts_once(patient: Faulty) -> None:
    """Kills it at moments all over the time between the server's word and the command's first line."""
    with patient.agent() as agent:
        for milliseconds in (0, 3, 6, 10, 20, 40):
            witness = patient.witness(lines=3, pause=0.01)
            wait_until(lambda w=witness: patient.task(w.task).run is not None)
            wait_until(lambda w=witness: patient.run(w.task).started_at is not None)
            becomes_true(lambda: False, seconds=milliseconds / 1000)
            agent.restart()
            witness.ends_once(starts=1)


def test_an_end_that_no_server_heard_is_reported_by_the_next_daemon(patient: Faulty) -> None:
    witness = patient.witness()

    with patient.agent() as agent:
        witness.wait_for_start()
        patient.server.kill()
        witness.let_go()
        wait_until(lambda: "outcome" in (agent.runs[0] / "progress.json").read_text() and not agent.keepers())
        agent.kill()
        patient.server.start()
        agent.start()
        witness.ends_once(starts=1)
