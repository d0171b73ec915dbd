"""When a machine is too full to take more tasks."""

from __future__ import annotations

from taskyard_agent.pressure import DiskFloor, Pressure, disk_in_use, memory_in_use


class Machine:
    """Its memory and disk are as full as the test says."""

    def __init__(self) -> None:
        self.memory = self.disk = 0.1
        self.pressure = Pressure(0.8, {"memory": lambda: self.memory, "disk": lambda: self.disk})

    def reasons(self) -> dict[str, str | None]:
        return self.pressure.reasons()


def test_a_full_disk_is_told_and_an_empty_memory_is_not() -> None:
    machine = Machine()
    machine.disk = 0.83

    assert machine.reasons() == {
        "memory": None,
        "disk": "disk is 83% full: nothing is taken until it is below 75%",
    }


def test_what_was_too_full_must_fall_well_below_the_mark() -> None:
    machine = Machine()

    told = []
    for machine.memory in (0.79, 0.80, 0.78, 0.76, 0.74, 0.78, 0.81):
        told.append(machine.reasons()["memory"] is not None)

    assert told == [False, True, True, True, False, False, True]


def test_a_mark_near_nothing_can_be_fallen_below_again() -> None:
    used = iter((0.03, 0.015, 0.009))
    pressure = Pressure(0.02, {"disk": lambda: next(used)})

    assert [pressure.reasons()["disk"] is not None for _ in range(3)] == [True, True, False]


def test_below_the_least_free_space_nothing_is_taken_until_there_is_clearly_more() -> None:
    free = iter(size << 20 for size in (501, 499, 500, 624, 626, 501))
    floor = DiskFloor(500 << 20, lambda: next(free))

    told = [floor.reasons()["free disk"] for _ in range(6)]

    assert [reason is not None for reason in told] == [False, True, True, True, False, False]
    assert told[1] == "499 MiB of disk are free: nothing is taken until it is 625 MiB (--least-free-disk)"


def test_this_machine_is_neither_empty_nor_more_than_full(tmp_path) -> None:
    assert 0 < memory_in_use() <= 1
    assert 0 <= disk_in_use(tmp_path) <= 1
