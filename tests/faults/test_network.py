"""The network between agent and server is cut, or breaks connections in the middle."""

from __future__ import annotations

import threading

from taskyard.wire import Policy, Reason
from taskyard_agent.keeper.processes import marked

from tests.faults.conftest import Faulty
from tests.support.agents import wait_until
from tests.support.relay import Relay


def test_a_short_cut_ends_no_healthy_run(patient: Faulty, relay: Relay) -> None:
    witness = patient.witness()

    with patient.agent(url=relay.url):
        witness.wait_for_start()
        relay.cut()
        wait_until(lambda: patient.run(witness.task).unresponsive, what="unresponsive")
        relay.mend()
        wait_until(lambda: not patient.run(witness.task).unresponsive, what="responsive")
        witness.ends_once(starts=1)


def test_a_run_given_up_without_a_successor_comes_back(hasty: Faulty, relay: Relay) -> None:
    witness = hasty.witness()

    with hasty.agent(url=relay.url):
        witness.wait_for_start()
        relay.cut()
        wait_until(lambda: hasty.run(witness.task).outcome is not None, what="verdict lost")
        relay.mend()
        wait_until(lambda: hasty.run(witness.task).outcome is None, what="revival")
        witness.ends_once(starts=1)


def test_a_run_that_ended_behind_the_cut_counts_as_it_ended(hasty: Faulty, relay: Relay) -> None:
    witness = hasty.witness()

    with hasty.agent(url=relay.url) as agent:
        witness.wait_for_start()
        relay.cut()
        witness.let_go()
        wait_until(lambda: not agent.keepers(), what="end of the command")
        wait_until(lambda: hasty.run(witness.task).outcome is not None, what="verdict lost")
        relay.mend()
        witness.ends_once(starts=1)


def test_a_run_with_a_successor_is_stopped_and_keeps_its_own_tail(hasty: Faulty, relay: Relay) -> None:
    witness = hasty.witness(policy=Policy(grace_seconds=0.5))

    with hasty.agent(url=relay.url, name="old") as old:
        witness.wait_for_start()
        first = hasty.run(witness.task)
        relay.cut()
        with hasty.agent(name="other"):
            witness.wait_for_start(2)
            relay.mend()
            wait_until(lambda: not old.runs, what="the old run's end, with its whole log at the server")
            witness.ends_once(runs=2, starts=2)

    said = witness.said(first)
    assert hasty.output(first) in (said, said[: said.rindex(b"\n", 0, -1) + 1])
    assert not marked(first.id)


def test_broken_connections_neither_lose_nor_double_anything(patient: Faulty, relay: Relay) -> None:
    witnesses = [patient.witness(lines=400, pause=0.002) for _ in range(3)]
    done = threading.Event()

    def break_connections() -> None:
        for _ in range(10):
            done.wait(0.4)
            relay.reset()

    breaker = threading.Thread(target=break_connections)
    breaker.start()
    try:
        with patient.agent(url=relay.url):
            for witness in witnesses:
                witness.ends_once(starts=1)
    finally:
        done.set()
        breaker.join()


def test_an_exclusive_run_ends_before_its_task_is_handed_out_again(hasty: Faulty, relay: Relay) -> None:
    witness = hasty.witness(policy=Policy(exclusive=True, grace_seconds=0.5))

    with hasty.agent(url=relay.url, name="old") as old:
        witness.wait_for_start()
        relay.cut()
        wait_until(lambda: not old.keepers(), what="the keeper's end")
        assert hasty.run(witness.task).outcome is None
        with hasty.agent(name="other"):
            witness.wait_for_start(2)
            witness.ends_once(runs=2, starts=2)

    assert hasty.runs(witness.task)[0].outcome.reason is Reason.LEASE  # type: ignore[union-attr]
