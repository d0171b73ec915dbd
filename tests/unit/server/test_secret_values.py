"""Whose secret values a task keeps when another account touches it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from taskyard.wire import (
    Code,
    Command,
    Container,
    Environment,
    MoveRequest,
    MoveTo,
    NewTask,
    Policy,
    Resources,
    StopRequest,
    Task,
    TaskChanges,
    TaskState,
)
from taskyard_server.auth import Actor
from taskyard_server.store.base import TaskRecord

from tests.support.services import ADA, BOB, FAILED, Services, spec

HARMLESS: dict[str, Any] = {"name": "renamed", "description": "what it is for", "tags": ("x",)}
"""What no code sees: the values stay."""
TELLING: dict[str, Any] = {
    "project": "another",
    "code": Code(working_dir="elsewhere"),
    "command": Command(target="print_secrets.py"),
    "environment": Environment(packages=("evil==1.0",)),
    "container": Container(image="evil:1"),
    "resources": Resources(worker="bobs-machine"),
    "policy": Policy(retries=1),
    "parameters": {"Args": {"dump": "1"}},
    "values": {"Args": {"dump": True}},
    "env": {"PYTHONPATH": "evil"},
    "secret_values": {"OTHER": "bobs"},
    "outputs": ("**",),
}


async def adas(services: Services, queue: str | None = None) -> Task:
    new = NewTask(spec=spec(), queue=queue, secret_values={"WANDB_KEY": "adas secret"})
    return await services.tasks.create(new, ADA)


async def kept(services: Services, task: Task) -> TaskRecord:
    return await services.stores.store.task(task.id)


def test_every_change_is_judged() -> None:
    known = {field.name for field in fields(TaskChanges)}

    assert known <= set(HARMLESS) | set(TELLING), (
        "say what a new field does to secrets: here, and in tasks.py if harmless"
    )


@pytest.mark.parametrize("name", HARMLESS)
async def test_what_no_code_sees_keeps_the_secrets(services: Services, name: str) -> None:
    task = await adas(services)

    changed = await services.tasks.change(task.id, TaskChanges(**{name: HARMLESS[name]}), BOB)

    assert changed.dropped_secrets == ()
    assert (await kept(services, task)).secret_values == {"WANDB_KEY": "adas secret"}


@pytest.mark.parametrize("name", TELLING)
async def test_any_other_edit_by_another_account_drops_the_secrets(services: Services, name: str) -> None:
    task = await adas(services)

    changed = await services.tasks.change(task.id, TaskChanges(**{name: TELLING[name]}), BOB)

    record = await kept(services, task)
    assert changed.dropped_secrets == ("WANDB_KEY",)
    assert "adas secret" not in record.secret_values.values()
    assert "WANDB_KEY" not in record.spec.secrets
    assert "WANDB_KEY" in next(event.detail for event in record.events if event.kind == "secrets_dropped")


@pytest.mark.parametrize("name", [*HARMLESS, *TELLING])
async def test_the_owner_edits_without_losing_a_secret(services: Services, name: str) -> None:
    task = await adas(services)

    await services.tasks.change(task.id, TaskChanges(**{name: {**HARMLESS, **TELLING}[name]}), ADA)

    assert (await kept(services, task)).secret_values["WANDB_KEY"] == "adas secret"


async def test_another_account_gives_its_own_value_for_a_secret(services: Services) -> None:
    task = await adas(services)
    changes = TaskChanges(command=Command(target="other.py"), secret_values={"WANDB_KEY": "bobs"})

    changed = await services.tasks.change(task.id, changes, BOB)

    assert changed.dropped_secrets == ()
    assert (await kept(services, task)).secret_values == {"WANDB_KEY": "bobs"}


@pytest.mark.parametrize(("actor", "values"), [(ADA, {"WANDB_KEY": "adas secret"}), (BOB, {})])
async def test_who_enqueues_decides_what_the_run_is_given(
    services: Services, actor: Actor, values: dict[str, str]
) -> None:
    task = await adas(services)

    enqueued = await services.tasks.enqueue(task.id, "default", actor)

    assert enqueued.state is TaskState.QUEUED
    assert set(enqueued.dropped_secrets) == {"WANDB_KEY"} - set(values)
    assert (await kept(services, task)).secret_values == values


async def test_moving_retrying_and_putting_back_by_another_account_keep_the_secrets(services: Services) -> None:
    task = await adas(services, "default")

    await services.tasks.move(task.id, MoveRequest(to=MoveTo.FIRST), BOB)
    agent = services.agent()
    await agent.finish(await agent.take_and_start(), FAILED)
    await services.tasks.retry(task.id, BOB)
    await services.tasks.stop(task.id, StopRequest(requeue=True), BOB)

    assert (await kept(services, task)).secret_values == {"WANDB_KEY": "adas secret"}


async def test_a_task_taken_out_by_another_account_loses_its_secrets_in_the_next_queue(services: Services) -> None:
    task = await adas(services, "default")

    await services.tasks.dequeue(task.id, BOB)
    await services.tasks.enqueue(task.id, "default", BOB)

    assert (await kept(services, task)).secret_values == {}
