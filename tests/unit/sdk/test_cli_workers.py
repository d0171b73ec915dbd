"""The table of workers."""

from __future__ import annotations

from typing import Any

import pytest
from taskyard.cli.workers import _about, _below_their_parents, _meant, _row
from taskyard.errors import UsageError
from taskyard.wire import Capacity, Gpu, GpuRange, Worker, WorkerState

GB = 1024**3


def worker(name: str, parent: str | None = None, **fields: Any) -> Worker:
    return Worker(name=name, agent="agent", host="host", state=WorkerState.BUSY, parent=parent, **fields)


def test_places_stand_indented_below_the_worker_that_they_belong_to() -> None:
    found = [worker("a:b"), worker("s:1", "s"), worker("s"), worker("s:2", "s"), worker("t:1", "gone")]

    names = [_row(one)[0] for one in _below_their_parents(found)]

    assert names == ["a:b", "s", "  s:1", "  s:2", "  t:1"]


def test_runs_that_are_not_named_are_counted() -> None:
    runs = tuple(f"{number}{'0' * 31}.1" for number in range(5))

    assert _row(worker("s", runs=runs))[4] == "00000000 10000000 +3"


def test_one_worker_says_what_is_free_as_it_is_asked_for() -> None:
    shared = worker(
        "w",
        gpus=(Gpu(index=4, uuid="GPU-4", name="A100", memory_bytes=80 * GB),),
        total=Capacity(slots=3, gpus=1, gpu_memory_bytes=(80 * GB,), memory_bytes=8 * GB, custom={"LICENSE": 2}),
        free=Capacity(slots=1, gpus=0, gpu_memory_bytes=(30 * GB,), memory_bytes=2 * GB, custom={"LICENSE": 0.5}),
        queue_gpus={"one": GpuRange(least=1, most=1), "two": GpuRange(least=1, most=2)},
    )

    about = _about(shared)

    assert ("gpu", "4: A100 80 GiB") in about
    assert [value for name, value in about if name == "free"] == [
        "1 of 3 slots",
        "0 of 1 GPUs",
        "30 GiB of GPU 4",
        "2 GiB of 8 GiB of memory",
        "0.5 of 2 LICENSE",
    ]
    assert ("gives", "one=1 two=1-2") in about


THERE = [worker("pool:1"), worker("pool:2"), worker("s"), worker("s:task", "s")]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["pool:2", "s"], ["pool:2", "s"]),
        (["pool:*"], ["pool:1", "pool:2"]),
        (["s*", "pool:[12]", "pool:1"], ["s", "pool:1", "pool:2"]),
        (["s:task"], ["s:task"]),
    ],
)
def test_workers_are_meant_by_names_and_patterns(given: list[str], meant: list[str]) -> None:
    assert _meant(given, THERE) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pool", r"no worker is called 'pool'; there is pool:1, pool:2: name them, or 'pool:\*'"),
        ("nobody", "no worker is called 'nobody'; `taskyard workers` lists them"),
        ("nobody:*", r"no worker is called 'nobody:\*'"),
    ],
)
def test_a_name_that_is_nobodys_is_refused_with_those_of_its_pool(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        _meant([text], THERE)
