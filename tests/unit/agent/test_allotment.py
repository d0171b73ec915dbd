"""What a worker's runs occupy: nothing twice, nothing beyond what there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskyard.wire import Capacity, Gpu, GpuRange, Resources
from taskyard_agent.allotment import UNLIMITED_SLOTS, Allotment, DoesNotFit, Means, Share

GB = 1 << 30
FOUR = tuple(Gpu(index=index, uuid=f"GPU-{index}", memory_bytes=80 * GB) for index in range(4))
MEANS = Means(
    devices=FOUR,
    slots=6,
    shares_gpus=True,
    memory_bytes=60 * GB,
    custom={"licence": 1.0},
    queue_gpus={"two": GpuRange(least=1, most=2)},
)

some = st.none() | st.integers(0, 5)
resources = st.builds(
    Resources,
    gpus=some,
    gpu_memory_bytes=st.none() | st.integers(1, 90 * GB),
    memory_bytes=st.none() | st.integers(0, 70 * GB),
    custom=st.dictionaries(st.sampled_from(["licence", "unheard of"]), st.sampled_from([0.1, 0.5, 1.0])),
)
queues = st.sampled_from(["one", "two"])
arrivals = st.lists(st.tuples(resources, queues, st.integers(0, 5)), max_size=30)


@given(arrivals)
def test_whatever_comes_and_goes_nothing_is_given_beyond_what_there_is(arrivals):
    allotment, held = Allotment(MEANS), {}
    for number, (wanted, queue, leaving) in enumerate(arrivals):
        try:
            held[f"run {number}"] = allotment.take(f"run {number}", wanted, queue)
        except DoesNotFit:
            for run in list(held)[:leaving]:
                del held[run]
                allotment.give_back(run)
        assert_within(MEANS, held.values())

    for run in held:
        allotment.give_back(run)
    assert allotment.free == MEANS.capacity


def assert_within(means, shares):
    """The rule itself, reckoned from the shares alone."""
    shares = list(shares)
    assert sum(share.slots for share in shares) <= means.slots
    assert sum(share.memory_bytes for share in shares) <= means.memory_bytes
    for name in {name for share in shares for name in share.custom}:
        assert sum(share.custom.get(name, 0) for share in shares) <= means.custom.get(name, 0) + 1e-9
    for gpu in means.devices:
        parts = [share.gpu_memory_bytes for share in shares if gpu.uuid in share.gpus]
        assert len(parts) <= 1 or None not in parts
        assert sum(part or 0 for part in parts) <= gpu.memory_bytes


@given(resources, queues)
def test_what_does_not_fit_leaves_no_trace(wanted, queue):
    allotment = Allotment(MEANS)
    allotment.carry("first", Share(slots=6, gpus=tuple(gpu.uuid for gpu in FOUR), memory_bytes=60 * GB))
    before = allotment.free

    with pytest.raises(DoesNotFit):
        allotment.take("second", wanted, queue)

    assert allotment.free == before


def test_what_a_run_occupied_is_freed_once():
    allotment = Allotment(MEANS)
    allotment.take("run", Resources(gpus=1))
    allotment.give_back("run")
    allotment.take("other", Resources(gpus=1))

    allotment.give_back("run")

    assert allotment.free.gpus == MEANS.capacity.gpus - 1


def test_a_task_without_a_number_of_gpus_has_the_whole_worker_to_itself():
    allotment = Allotment(MEANS)
    share = allotment.take("whole", Resources())

    with pytest.raises(DoesNotFit):
        allotment.take("beside it", Resources(gpus=0))

    assert share.gpus == tuple(gpu.uuid for gpu in FOUR)
    assert allotment.free.slots == 0


def test_without_gpus_each_task_takes_one_slot():
    allotment = Allotment(Means(slots=3))
    shares = [allotment.take(f"run {number}", Resources()) for number in range(3)]

    assert [share.slots for share in shares] == [1, 1, 1]
    assert allotment.free == Capacity(slots=0)


def test_a_task_gets_as_many_gpus_as_its_queue_gives_and_are_free():
    allotment = Allotment(MEANS)
    own_wish = allotment.take("its own wish", Resources(gpus=1), "two")
    given = [allotment.take(f"run {number}", Resources(), "two") for number in range(2)]

    assert [len(share.gpus) for share in (own_wish, *given)] == [1, 2, 1]


def test_a_part_of_a_gpu_comes_from_the_fullest_that_has_it():
    allotment = Allotment(MEANS)
    wanted = (50, 20, 20, 30)
    parts = [
        allotment.take(f"run {size}.{n}", Resources(gpu_memory_bytes=size * GB)) for n, size in enumerate(wanted)
    ]

    assert [part.gpus for part in parts] == [("GPU-0",), ("GPU-0",), ("GPU-1",), ("GPU-1",)]
    assert allotment.free.gpus == 2
    assert allotment.free.gpu_memory_bytes == (10 * GB, 30 * GB, 80 * GB, 80 * GB)


def test_a_gpu_is_shared_only_where_the_operator_allows_it():
    with pytest.raises(DoesNotFit):
        Allotment(replace(MEANS, shares_gpus=False)).take("run", Resources(gpu_memory_bytes=GB))


def test_a_run_carried_on_occupies_what_it_had_also_where_there_is_less_now():
    allotment = Allotment(replace(MEANS, devices=FOUR[:2], slots=1))
    allotment.carry("left behind", Share(slots=2, gpus=("GPU-1", "GPU-3")))

    assert (allotment.free.slots, allotment.free.gpus) == (0, 1)


# --- Memory


@pytest.mark.parametrize(
    ("wanted", "limit"),
    [
        (Resources(gpus=0), 10 * GB),
        (Resources(), 60 * GB),
        (Resources(gpus=0, memory_bytes=GB), GB),
        (Resources(gpus=0, memory_bytes=0), None),
        (Resources(gpus=0, memory_fraction=0.5), 30 * GB),
    ],
)
def test_a_task_may_hold_what_it_asks_for_else_its_slots_share(wanted, limit):
    share = Allotment(replace(MEANS, limits_memory=True)).take("run", wanted)

    assert share.memory_limit_bytes == limit
    assert share.memory_bytes == (limit or 0)


def test_where_the_operator_set_no_memory_a_task_that_asks_for_none_is_only_reckoned_with():
    share = Allotment(MEANS).take("run", Resources(gpus=0))

    assert (share.memory_bytes, share.memory_limit_bytes) == (10 * GB, None)


def test_with_any_number_of_slots_a_task_may_hold_what_is_left():
    allotment = Allotment(Means(slots=UNLIMITED_SLOTS, memory_bytes=8 * GB, limits_memory=True))
    allotment.take("asks", Resources(memory_bytes=6 * GB))

    assert allotment.take("asks for nothing", Resources()).memory_limit_bytes == 2 * GB


def test_without_a_limit_for_the_worker_a_part_is_one_of_the_machines():
    means = Means(machine_memory_bytes=100 * GB, limits_memory=True)

    assert Allotment(means).take("run", Resources(memory_fraction=0.25)).memory_limit_bytes == 25 * GB
    assert Allotment(means).take("run", Resources()).memory_limit_bytes is None
