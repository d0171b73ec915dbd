"""Records survive their JSON bytes, and older and newer bytes can be read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from taskyard.wire import Event, Outcome, OutcomeKind, Phase, PhaseTime, Reason, Run, TaskSpec, TaskState
from taskyard_server.errors import Invalid
from taskyard_server.store.base import RunRecord, TaskRecord
from taskyard_server.store.codec import TASKS

OUTCOME = Outcome(kind=OutcomeKind.FAILED, reason=Reason.EXIT, phase=Phase.RUNNING, exit_code=3)
RUN = Run(
    id="a.1",
    task="a",
    number=1,
    worker="host:gpu0",
    outcome=OUTCOME,
    phases=(PhaseTime(phase=Phase.CHECKOUT, started_at=1.1, seconds=0.3),),
)
TASK = TaskRecord(
    id="a",
    spec=TaskSpec(name="größer\n☃", tags=("x", "y"), parameters={"Args": {"lr": "0.1"}}),
    state=TaskState.FAILED,
    created_at=1700000000.123456,
    updated_at=1700000001.0,
    owner="o",
    rank=b"\x00\xff\xfe",
    due_at=12.5,
    runs=(RunRecord(run=RUN, agent="g", boot_id="b", request_id="r", control_hash="c", report_hash="h"),),
    events=(Event(at=1.0, kind="created"),),
    secret_values={"KEY": "value"},
)


def test_a_record_survives_its_bytes() -> None:
    assert TASKS.decode(TASKS.encode(TASK), rank=TASK.rank, due_at=TASK.due_at) == TASK


def test_rank_and_due_at_stand_beside_the_bytes() -> None:
    body = json.loads(TASKS.encode(TASK))

    assert not {"rank", "due_at"} & set(body)


def test_bytes_with_unknown_and_missing_fields_are_read() -> None:
    body = json.loads(TASKS.encode(TASK))
    body["of_a_later_version"] = 1
    del body["avoid"]

    record = TASKS.decode(json.dumps(body).encode(), rank=TASK.rank, due_at=TASK.due_at)

    assert record == TASK


def test_half_a_surrogate_pair_is_refused_as_invalid() -> None:
    with pytest.raises(Invalid, match="task holds text that is not valid Unicode"):
        TASKS.encode(replace(TASK, created_by="\ud800"))
