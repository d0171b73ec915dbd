"""What travels between versions of server, agent and SDK."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from taskyard.wire import (
    BeatAnswer,
    Claim,
    Command,
    CommandKind,
    Manager,
    OnLost,
    OutcomeKind,
    Phase,
    QueueKind,
    Reason,
    Run,
    Task,
    TaskSpec,
    TaskState,
    TokenKind,
    Word,
    WorkerState,
    from_json,
    to_json,
)

RUN = Run(id="t.1", task="t", number=1, worker="w", claimed_at=1.0)
SPEC = TaskSpec(command=Command(target="train.py"))
TASK = Task(id="t", spec=SPEC, state=TaskState.PREPARING, created_at=1.0, updated_at=1.0, run=RUN)


NAMED_BY_PEOPLE = {"parameters", "values", "env", "secrets", "custom", "requires"}
"""Objects in which every name counts."""


def with_more(value: Any) -> Any:
    """The same document, as a newer version would write it: with a field more in every record."""
    if isinstance(value, list):
        return [with_more(item) for item in value]
    if not isinstance(value, dict):
        return value
    known = {name: item if name in NAMED_BY_PEOPLE else with_more(item) for name, item in value.items()}
    return {"from_the_future": [{"x": 1}], **known}


def test_what_a_newer_server_answers_is_understood_by_an_older_agent() -> None:
    claim = Claim(run=RUN, task=TASK, secrets={"API_KEY": "x"})

    understood = from_json(Claim, json.loads(json.dumps(with_more(to_json(claim)))))

    assert understood == claim


@pytest.mark.parametrize("wrong", [[], {"secrets": [1]}, {"directives": 1}, {"run": {"id": 1}}])
def test_what_has_the_wrong_shape_is_refused(wrong: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        from_json(Claim, wrong)


def test_what_an_older_server_leaves_out_has_its_default() -> None:
    assert from_json(BeatAnswer, {"server_time": 1.0, "lease_seconds": 60.0}).runs == ()


WORDS = (Phase, Reason, OutcomeKind, TaskState, WorkerState, OnLost, TokenKind, CommandKind, Manager, QueueKind)


@pytest.mark.parametrize("kind", WORDS)
def test_a_word_that_is_not_known_decodes_to_itself(kind: type[Word]) -> None:
    word = kind.decode("from_the_future")

    assert (word, str(word), to_json(word), word.known) == (*["from_the_future"] * 3, False)
    assert isinstance(word, kind)
    assert word not in tuple(kind)
    assert {word: 1}["from_the_future"] == 1


def test_a_task_with_words_of_a_newer_server_is_read_and_written_as_it_is() -> None:
    answered = to_json(TASK)
    answered["state"] = "pondering"
    answered["run"] |= {"phase": "warming", "outcome": {"kind": "postponed", "reason": "moon", "phase": "warming"}}

    task = from_json(Task, answered)

    assert (task.state, task.state.terminal, task.state.active) == ("pondering", False, False)
    assert task.run is not None
    assert (task.run.phase, task.run.outcome and task.run.outcome.reason) == ("warming", "moon")
    assert to_json(task)["run"]["outcome"]["kind"] == "postponed"
    assert pickle.loads(pickle.dumps(task)) == task == copy.deepcopy(task)


def test_what_is_no_word_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="5"):
        from_json(Run, {"id": "t.1", "task": "t", "number": 1, "worker": "w", "phase": 5})
