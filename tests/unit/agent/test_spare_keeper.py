"""A keeper waits for the next run, and no run waits for a keeper."""

from __future__ import annotations

from contextlib import closing

from taskyard_agent.spare_keeper import SpareKeeper


def test_each_run_takes_a_keeper_of_its_own() -> None:
    with closing(SpareKeeper()) as keepers:
        keepers.prepare()
        with keepers.take() as first, keepers.take() as second:
            assert first is not second
            assert first.waits
            assert second.waits


def test_a_spare_keeper_that_has_ended_is_replaced() -> None:
    with closing(SpareKeeper()) as keepers:
        keepers.prepare()
        spare = keepers.take()
        spare.give(b"no record", ())
        keepers._spare = spare

        with keepers.take() as fresh:
            assert fresh is not spare
            assert fresh.waits


def test_nothing_is_prepared_once_closed() -> None:
    keepers = SpareKeeper()
    keepers.close()

    keepers.prepare()

    assert keepers._spare is None
