"""kill -9 of the server, and of the database under it, at every step of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Faulty
from tests.support.agents import wait_until
from tests.support.mongod import Mongod
from tests.support.relay import Relay
from tests.support.servers import PATIENT, ServerProcess


def test_a_server_killed_between_claim_and_confirmation_still_knows_the_claim(
    patient: Faulty, relay: Relay
) -> None:
    with patient.agent(url=relay.url) as agent:
        wait_until(lambda: patient.client.workers())
        snag = relay.hold(b"POST /api/v1/beats", b"/start HTTP")
        witness = patient.witness()
        wait_until(lambda: agent.runs)
        patient.server.restart()
        snag.loosen()
        witness.ends_once(starts=1)


def test_a_claim_whose_answer_dies_with_the_server_is_answered_again(patient: Faulty, relay: Relay) -> None:
    with patient.agent(url=relay.url):
        wait_until(lambda: patient.client.workers())
        snag = relay.hold_answers(b"POST /api/v1/claims")
        witness = patient.witness()
        wait_until(lambda: patient.task(witness.task).run_count == 1 or snag.caught.is_set())
        patient.server.restart()
        snag.loosen()
        witness.ends_once(starts=1)


def test_a_server_killed_while_logs_are_uploaded_has_every_byte_in_the_end(patient: Faulty) -> None:
    witness = patient.witness(lines=6000, pause=0.0005)

    with patient.agent():
        witness.wait_for_start()
        for kilobytes in (20, 60, 100):
            wait_until(lambda least=kilobytes: len(witness.said(patient.run(witness.task))) > least << 10)
            patient.server.restart()
        witness.ends_once(starts=1)


def test_a_server_killed_before_it_hears_the_end_hears_it_afterwards(patient: Faulty, relay: Relay) -> None:
    with patient.agent(url=relay.url):
        witness = patient.witness(lines=5)
        snag = relay.hold(b"/finish HTTP")
        assert snag.caught.wait(60)
        patient.server.restart()
        snag.loosen()
        witness.ends_once(starts=1)


def test_an_end_acknowledged_by_a_killed_server_stands(patient: Faulty, relay: Relay) -> None:
    with patient.agent(url=relay.url):
        witness = patient.witness(lines=5)
        snag = relay.hold_answers(b"/finish HTTP")
        assert snag.caught.wait(60)
        wait_until(lambda: patient.task(witness.task).state.terminal)
        patient.server.restart()
        snag.loosen()
        witness.ends_once(starts=1)


def test_runs_outlive_a_server_that_is_away_for_longer_than_it_waits_for_them(hasty: Faulty) -> None:
    witness = hasty.witness(lines=200)

    with hasty.agent() as agent:
        witness.wait_for_start()
        hasty.server.kill()
        wait_until(lambda: not agent.keepers(), what="end of the command")
        hasty.server.start()
        witness.ends_once(starts=1)


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[tuple[Mongod, Faulty]]:
    with Mongod() as mongod, ServerProcess(*PATIENT, store=f"{mongod.uri}/faults?replicaSet=rs0") as server:
        wait_until((server.data / "admin-token").exists)
        with Faulty(server, tmp_path / "witnesses") as yard:
            yield mongod, yard


@pytest.mark.mongo
def test_tasks_outlive_a_killed_database(mongo: tuple[Mongod, Faulty]) -> None:
    mongod, yard = mongo
    witnesses = [yard.witness(lines=lines, pause=0.02) for lines in (100, 10, 10)]

    with yard.agent():
        witnesses[0].wait_for_start()
        mongod.kill()
        mongod.start()
        for witness in witnesses:
            witness.ends_once(starts=1)


@pytest.mark.mongo
def test_a_task_that_ends_while_the_database_is_away_ends_once(mongo: tuple[Mongod, Faulty]) -> None:
    mongod, yard = mongo
    witness = yard.witness()

    with yard.agent() as agent:
        witness.wait_for_start()
        mongod.kill()
        witness.let_go()
        wait_until(lambda: not agent.keepers())
        mongod.start()
        witness.ends_once(starts=1)
