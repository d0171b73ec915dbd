"""The lifecycle as pure functions: the table, and any order of reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from taskyard.wire import (
    ClaimRequest,
    FinishRequest,
    OnLost,
    Outcome,
    OutcomeKind,
    Phase,
    PhaseTime,
    Policy,
    Reason,
    RunReport,
    StartRequest,
    TaskState,
)
from taskyard_server import lifecycle
from taskyard_server.errors import Conflict, Stale
from taskyard_server.lifecycle import MOVES, Timing
from taskyard_server.store.base import TaskRecord

from tests.support.services import CANCELLED, COMPLETED, FAILED, spec

TIMING = Timing()
TASK = "0" * 32


def draft(**fields: object) -> TaskRecord:
    return lifecycle.create(spec(**fields), task_id=TASK, owner="ada", created_by="ada", now=0.0)


def queued(**fields: object) -> TaskRecord:
    return replace(lifecycle.enqueue(draft(**fields), "q", by="ada", now=0.0), rank=b"m")


def claimed(record: TaskRecord, token: str = "t", now: float = 0.0) -> TaskRecord:
    request = ClaimRequest(
        agent="a", worker="w", boot_id="b", request_id=token, control_hash=token, report_hash="r"
    )
    return lifecycle.claim(record, request, agent="agent", now=now, timing=TIMING)


def beat(record: TaskRecord, number: int = 1, token: str = "t", now: float = 0.0, **fields: object) -> TaskRecord:
    report = RunReport(**{"id": f"{TASK}.{number}", "control_token": "", "phase": Phase.CHECKOUT, **fields})  # type: ignore[arg-type]
    return lifecycle.beat(record, report, control_hash=token, now=now, timing=TIMING)


def start(record: TaskRecord, number: int = 1, token: str = "t", now: float = 0.0) -> TaskRecord:
    run = f"{TASK}.{number}"
    return lifecycle.start(record, run, StartRequest(control_token=""), control_hash=token, now=now, timing=TIMING)


def finish(
    record: TaskRecord, outcome: Outcome = COMPLETED, number: int = 1, token: str = "t", now: float = 0.0
) -> TaskRecord:
    request = FinishRequest(control_token="", outcome=outcome, log_bytes=1)
    run = f"{TASK}.{number}"
    return lifecycle.finish(record, run, request, control_hash=token, now=now, timing=TIMING)


def stop(record: TaskRecord, requeue: bool = False) -> TaskRecord:
    return lifecycle.request_cancel(record, requeue=requeue, by="ada", now=0.0)


def in_state(state: TaskState) -> TaskRecord:
    return {
        TaskState.DRAFT: draft(),
        TaskState.WAITING: replace(queued(), state=TaskState.WAITING, due_at=9.0),
        TaskState.QUEUED: queued(),
        TaskState.PREPARING: claimed(queued()),
        TaskState.RUNNING: start(claimed(queued())),
        TaskState.COMPLETED: finish(start(claimed(queued()))),
        TaskState.FAILED: finish(start(claimed(queued())), FAILED),
        TaskState.CANCELLED: stop(queued()),
    }[state]


USER_EVENTS: dict[str, tuple[Callable[[TaskRecord], TaskRecord], set[TaskState]]] = {
    "change": (lambda r: lifecycle.change(r, spec(name="new"), {}, by="", now=1.0), {TaskState.DRAFT}),
    "enqueue": (
        lambda r: lifecycle.enqueue(r, "q", by="", now=1.0),
        {TaskState.DRAFT, TaskState.WAITING, TaskState.QUEUED},
    ),
    "dequeue": (
        lambda r: lifecycle.dequeue(r, by="", now=1.0),
        {TaskState.DRAFT, TaskState.WAITING, TaskState.QUEUED},
    ),
    "claim": (claimed, {TaskState.DRAFT, TaskState.WAITING, TaskState.QUEUED}),
    "stop": (stop, set(TaskState) - {TaskState.COMPLETED, TaskState.FAILED}),
    "retry": (
        lambda r: lifecycle.retry(r, by="", now=1.0),
        {TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED},
    ),
}


@pytest.mark.parametrize("state", list(TaskState))
@pytest.mark.parametrize("event", list(USER_EVENTS))
def test_every_event_is_legal_in_its_states_alone(event: str, state: TaskState) -> None:
    change, legal = USER_EVENTS[event]
    record = in_state(state)

    if state in legal:
        change(record)
    else:
        with pytest.raises(Conflict, match=f"is {state}"):
            change(record)


def test_an_illegal_move_says_from_where_to_where_and_what_to_do() -> None:
    with pytest.raises(Conflict, match="is completed and cannot become queued: it has ended: retry it"):
        lifecycle.enqueue(in_state(TaskState.COMPLETED), "q", by="", now=1.0)


def test_no_report_leads_out_of_a_terminal_state() -> None:
    for state in TaskState:
        if state.terminal:
            assert MOVES[state] == {TaskState.QUEUED}


def test_a_requeue_keeps_the_place_and_a_retry_does_not() -> None:
    lost = lifecycle.on_due(claimed(queued()), now=31.0, timing=TIMING)
    retried = lifecycle.retry(in_state(TaskState.FAILED), by="", now=1.0)

    assert (lost.state, lost.rank) == (TaskState.QUEUED, b"m")
    assert (retried.state, retried.rank) == (TaskState.QUEUED, None)


def test_retry_sets_all_counters_back() -> None:
    record = replace(
        in_state(TaskState.FAILED), retries_used=1, losses=2, unstarted=3, infrastructure_failures=2, avoid=("w",)
    )

    fresh = lifecycle.retry(record, by="ada", now=1.0)

    counters = (fresh.retries_used, fresh.losses, fresh.unstarted, fresh.infrastructure_failures, fresh.avoid)
    assert counters == (0, 0, 0, 0, ())
    assert fresh.shape == queued().shape


def test_a_phase_never_goes_back_and_a_finished_time_is_never_reopened() -> None:
    done = PhaseTime(phase=Phase.CHECKOUT, started_at=1.0, seconds=2.0)
    record = beat(claimed(queued()), phase=Phase.ENVIRONMENT, phases=(done,))

    late = beat(record, phase=Phase.CHECKOUT, phases=(replace(done, seconds=None),))

    run = late.runs[-1].run
    assert run.phase is Phase.ENVIRONMENT
    assert done in run.phases


def test_a_repeated_note_is_told_once() -> None:
    record = claimed(queued())

    for _ in range(3):
        record = beat(record, notes=("the disk is full",))

    assert [event.kind for event in record.events].count("note") == 1


def test_a_plain_renewal_does_not_count_as_a_change() -> None:
    record = beat(claimed(queued()), now=1.0)

    renewed = beat(record, now=11.0)

    assert renewed.updated_at == record.updated_at
    assert renewed.due_at == 11.0 + TIMING.lease_seconds


def test_a_plain_stop_outweighs_a_stop_with_requeue() -> None:
    running = in_state(TaskState.RUNNING)

    first_requeue = stop(stop(running, requeue=True))
    first_plain = stop(stop(running), requeue=True)

    assert not first_requeue.runs[-1].run.requeue_on_cancel
    assert not first_plain.runs[-1].run.requeue_on_cancel


def test_a_cancelled_run_that_is_lost_ends_its_task() -> None:
    record = stop(start(claimed(queued())))

    for now in (61.0, 400.0):
        record = lifecycle.on_due(record, now=now, timing=TIMING)

    assert record.state is TaskState.CANCELLED


def test_a_lost_run_that_never_started_is_handed_out_again_whatever_on_lost_says() -> None:
    record = beat(claimed(queued(policy=Policy(on_lost=OnLost.FAIL))))

    for now in (61.0, 400.0):
        record = lifecycle.on_due(record, now=now, timing=TIMING)

    assert (record.state, record.unstarted, record.losses) == (TaskState.QUEUED, 1, 0)


def test_a_task_without_a_queue_waits_for_one_when_it_comes_back() -> None:
    record = lifecycle.leave_queue(claimed(queued()), "q", by="ada", now=1.0)

    record = lifecycle.on_due(record, now=31.0, timing=TIMING)

    assert (record.state, record.due_at) == (TaskState.WAITING, None)
    assert lifecycle.enqueue(record, "other", by="ada", now=32.0).state is TaskState.QUEUED


PREEMPTED = Outcome(
    kind=OutcomeKind.LOST, reason=Reason.AGENT_STOPPED, exact=Reason.PREEMPTED, phase=Phase.RUNNING
)
LIMITED = Outcome(kind=OutcomeKind.FAILED, reason=Reason.TIMEOUT, exact=Reason.TIME_LIMIT, phase=Phase.RUNNING)


def test_a_preemption_is_not_charged_and_the_end_of_the_batch_jobs_time_is() -> None:
    record = queued(policy=Policy(retries=1))
    for number in range(1, 6):
        record = finish(
            start(claimed(record, f"t{number}"), number, f"t{number}"), PREEMPTED, number, f"t{number}"
        )
        assert (record.state, record.losses, record.retries_used) == (TaskState.QUEUED, 0, 0)
    assert record.events[-1].detail == "its run was preempted"
    assert record.events[-2].detail == "preempted"

    record = finish(start(claimed(record, "t6"), 6, "t6"), LIMITED, 6, "t6")

    assert (record.state, record.retries_used) == (TaskState.QUEUED, 1)
    assert [event.detail for event in record.events if event.kind == "failed"] == ["time_limit"]


def test_the_length_of_the_log_is_taken_after_a_reboot_too() -> None:
    record = lifecycle.reboot(start(claimed(queued())), f"{TASK}.1", now=1.0)

    late = finish(record, FAILED)

    assert late.state is TaskState.QUEUED
    assert late.runs[0].run.log_bytes == 1


def test_the_story_keeps_its_beginning_and_its_end() -> None:
    record = draft()

    for number in range(2000):
        record = lifecycle.tell(record, "note", detail=str(number), now=1.0)

    assert len(record.events) == 500
    assert record.events[0].kind == "created"
    assert record.events[-1].detail == "1999"


def test_what_an_agent_writes_into_the_story_is_cut() -> None:
    record = beat(claimed(queued()), notes=tuple(str(number) * 5000 for number in range(100)))

    ended = finish(record, replace(FAILED, message="x" * 50_000))

    outcome = ended.runs[-1].run.outcome
    assert [event.kind for event in ended.events].count("note") == 20
    assert max(len(event.detail) for event in ended.events) == 1000
    assert outcome is not None
    assert len(outcome.message) == 10_000


@pytest.mark.parametrize(
    ("outcome", "state"),
    [(COMPLETED, TaskState.COMPLETED), (FAILED, TaskState.FAILED), (CANCELLED, TaskState.CANCELLED)],
)
def test_any_order_of_one_run_s_reports_ends_in_the_same_state(outcome: Outcome, state: TaskState) -> None:
    reports: list[Callable[[TaskRecord], TaskRecord]] = [
        lambda r: beat(r, phase=Phase.ENVIRONMENT),
        lambda r: beat(r, phase=Phase.RUNNING),
        start,
        stop,
        lambda r: finish(r, outcome),
        lambda r: finish(r, outcome),
    ]

    ends = set()
    for order in permutations(reports):
        record = claimed(queued())
        for report in order:
            record = _or_unchanged(report, record)
        ends.add((record.state, record.runs[-1].run.outcome))

    assert ends == {(state, outcome)}


def _or_unchanged(report: Callable[[TaskRecord], TaskRecord], record: TaskRecord) -> TaskRecord:
    try:
        return report(record)
    except Conflict:
        return record


OUTCOMES = st.builds(
    Outcome,
    kind=st.sampled_from(OutcomeKind),
    reason=st.sampled_from([Reason.EXIT, Reason.DISK, Reason.KEEPER, Reason.AGENT_STOPPED, Reason.CANCELLED]),
    phase=st.sampled_from(Phase),
    infrastructure=st.booleans(),
)
POLICIES = st.builds(
    Policy,
    retries=st.integers(0, 2),
    retry_delay_seconds=st.sampled_from([0.0, 5.0]),
    on_lost=st.sampled_from(OnLost),
)


class AnyOrder(RuleBasedStateMachine):
    """Agents that report on any run of the task, in any order, while time passes and a user stops or retries."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.record = queued()
        self.before = self.record

    def apply(self, change: Callable[[TaskRecord], TaskRecord], *, by_user: bool = False) -> None:
        self.before = self.record
        self.record = _or_unchanged(change, self.record)
        assert self.record.state is self.before.state or self.record.state in _reachable(self.before.state)
        if self.before.state.terminal and not by_user:
            assert self.record.state is self.before.state
            assert [run.run.outcome for run in self.record.runs] == [run.run.outcome for run in self.before.runs]

    @rule(policy=POLICIES)
    def begin_anew(self, policy: Policy) -> None:
        if self.record.state is TaskState.QUEUED and not self.record.runs:
            self.record = queued(policy=policy)

    @rule()
    def claim(self) -> None:
        number = len(self.record.runs) + 1
        self.apply(lambda r: claimed(r, token=f"t{number}", now=self.now))

    @precondition(lambda self: self.record.runs)
    @rule(data=st.data(), phase=st.sampled_from(Phase))
    def beat(self, data: st.DataObject, phase: Phase) -> None:
        number = data.draw(st.integers(1, len(self.record.runs)))
        self.apply(lambda r: beat(r, number, f"t{number}", self.now, phase=phase))

    @precondition(lambda self: self.record.runs)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, len(self.record.runs)))
        self.apply(lambda r: start(r, number, f"t{number}", self.now))

    @precondition(lambda self: self.record.runs)
    @rule(data=st.data(), outcome=OUTCOMES)
    def finish(self, data: st.DataObject, outcome: Outcome) -> None:
        number = data.draw(st.integers(1, len(self.record.runs)))
        self.apply(lambda r: finish(r, outcome, number, f"t{number}", self.now))

    @precondition(lambda self: self.record.runs)
    @rule(data=st.data())
    def reboot(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, len(self.record.runs)))
        self.apply(lambda r: lifecycle.reboot(r, f"{TASK}.{number}", now=self.now))

    @rule(seconds=st.sampled_from([1.0, 31.0, 61.0, 250.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.apply(lambda r: lifecycle.on_due(r, now=self.now, timing=TIMING))

    @rule(requeue=st.booleans())
    def stop(self, requeue: bool) -> None:
        self.apply(lambda r: stop(r, requeue))

    @rule()
    def retry(self) -> None:
        self.apply(lambda r: lifecycle.retry(r, by="ada", now=self.now), by_user=True)

    @rule(token=st.sampled_from(["", "x", "t"]))
    @precondition(lambda self: self.record.runs)
    def guess_a_token(self, token: str) -> None:
        with pytest.raises(Stale):
            finish(self.record, COMPLETED, 1, token)

    @invariant()
    def an_active_task_has_one_living_run(self) -> None:
        living = [entry.run for entry in self.record.runs if entry.run.outcome is None]
        assert len(living) == int(self.record.state.active)
        assert not living or living[0].id == self.record.runs[-1].run.id

    @invariant()
    def something_will_happen_to_what_a_worker_holds(self) -> None:
        assert not self.record.state.active or self.record.due_at is not None
        assert not self.record.state.terminal or (self.record.due_at, self.record.rank) == (None, None)

    @invariant()
    def a_running_task_was_started(self) -> None:
        started = bool(self.record.runs) and self.record.runs[-1].run.started_at is not None
        assert self.record.state is not TaskState.RUNNING or started
        assert self.record.state is not TaskState.PREPARING or not started

    @invariant()
    def counters_stay_within_their_bounds(self) -> None:
        assert 0 <= self.record.losses <= lifecycle.MAX_LOSSES
        assert 0 <= self.record.unstarted <= lifecycle.MAX_UNSTARTED
        assert 0 <= self.record.retries_used <= self.record.spec.policy.retries


def _reachable(state: TaskState) -> set[TaskState]:
    """In one event a run may also come back and end: two or three moves of the table."""
    once = set(MOVES[state]) if not state.terminal else {TaskState.QUEUED}
    if state in (TaskState.QUEUED, TaskState.WAITING):
        return once | {after for middle in once if middle.active for after in MOVES[middle]}
    return once


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


@given(retries=st.integers(0, 70), delay=st.floats(0.001, 1e6))
def test_a_retry_never_waits_longer_than_an_hour(retries: int, delay: float) -> None:
    policy = Policy(retries=100, retry_delay_seconds=delay)
    record = replace(start(claimed(queued(policy=policy))), retries_used=retries)

    waiting = finish(record, FAILED)

    assert waiting.due_at is not None
    assert 0 < waiting.due_at <= 3600


def test_a_repeated_start_says_last_what_is_so() -> None:
    prepared_again = StartRequest(control_token="", output_offset=7)
    started = start(claimed(queued()))

    again = lifecycle.start(started, f"{TASK}.1", prepared_again, control_hash="t", now=5.0, timing=TIMING)

    assert again.runs[-1].run.output_offset == 7
    assert again.runs[-1].run.started_at == started.runs[-1].run.started_at
    assert [event.kind for event in again.events].count("started") == 1


def test_a_phase_is_told_with_the_time_at_which_it_began() -> None:
    phases = (PhaseTime(phase=Phase.CHECKOUT, started_at=3.0),)

    confirmed = beat(claimed(queued()), now=1.0, phase=Phase.CLAIMED)

    told = beat(confirmed, now=9.0, phases=phases).events[-1]

    assert (told.kind, told.at) == ("phase", 3.0)
