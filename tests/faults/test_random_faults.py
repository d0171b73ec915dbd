"""The random-fault run in its short form; `make bench` has the long one."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.faults import random_faults

TASKS = 10


@pytest.mark.slow
def test_under_random_faults_every_task_ends_exactly_once(tmp_path: Path) -> None:
    seed = int(os.environ.get("TASKYARD_TEST_SEED", random.SystemRandom().randrange(10**6)))

    report = random_faults.run(TASKS, seed, tmp_path)

    assert not report.problems, str(report)
