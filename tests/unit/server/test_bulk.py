"""Bulk work: parsed, checked and answered in portions, and as if it were done at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from taskyard.wire import NewTask, NewTasks, Task
from taskyard_server.api import bulk
from taskyard_server.errors import Invalid, NotFound, TooLarge
from taskyard_server.store.base import TaskFilter

from tests.support.services import ADA, Services, spec
from tests.support.turns import longest_turn

MANY = 3000
A_TURN_SECONDS = 0.15
"""Far more than a portion takes, far less than the whole."""
TAKES, ITEMS = TypeAdapter(NewTasks), TypeAdapter(NewTask)


async def read(content: bytes, content_type: str = "application/json") -> Any:
    return await bulk.read(content, content_type, TAKES, ITEMS, "tasks")


def many(queue: str | None = "default") -> list[NewTask]:
    return [NewTask(spec=spec(name=f"t{number}", tags=("a",)), queue=queue) for number in range(MANY)]


@pytest.mark.parametrize(
    "text", ['{"tasks": []}', ' {"other": [1], "tasks" : [ {"spec":{}} , {"spec":{"name":"ü"}}]}\n']
)
async def test_list_is_read_as_the_whole_document_would_be(text: str) -> None:
    assert await read(text.encode()) == TAKES.validate_python(json.loads(text))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]x",
        b'{"tasks": [',
        b'{"tasks": [{"spec": {}},]}',
        b'{"tasks": [{"spec": {}} {"spec": {}}]}',
        b'{"tasks": []} {}',
        b'{"tasks" []}',
        b"{1: []}",
        b'{"tasks": [NaN]}',
        b'{"tasks": [{"spec": {"name": "\\u0000"}}]}',
        b'{"tasks": [{"spec": {"policy": {"retries": 99999999999999999999}}}]}',
        b"\xff",
        b"[" * 100_000,
        b'{"tasks": [' + b"[" * 100_000,
    ],
)
async def test_what_is_no_json_is_invalid(content: bytes) -> None:
    with pytest.raises(Invalid):
        await read(content)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"[]", ("body",)),
        (b"{}", ("body", "tasks")),
        (b'{"tasks": 1}', ("body", "tasks")),
        (b'{"tasks": [{"spec": {}}, {"spec": {"tags": 1}}]}', ("body", "tasks", 1, "spec", "tags")),
    ],
)
async def test_what_has_another_form_is_named(content: bytes, place: tuple[Any, ...]) -> None:
    with pytest.raises(RequestValidationError) as raised:
        await read(content)

    assert raised.value.errors()[0]["loc"] == place


@given(st.lists(st.text(max_size=20)), st.sampled_from([None, 2]))
async def test_any_text_is_read_as_it_was_written(texts: list[str], indent: int | None) -> None:
    document = {"tasks": [{"spec": {"description": text}} for text in texts if "\0" not in text]}
    content = json.dumps(document, indent=indent).encode()

    assert await read(content) == TAKES.validate_python(document)


async def test_answer_is_written_as_a_list() -> None:
    gives = TypeAdapter(int)

    assert await bulk.write(gives, []) == b"[]"
    assert await bulk.write(gives, [1, 2]) == b"[1,2]"


async def test_reading_and_writing_many_tasks_leaves_the_loop_to_others() -> None:
    content = json.dumps({"tasks": [{"spec": {"name": f"t{number}"}} for number in range(MANY)]}).encode()

    found, longest = await longest_turn(read(content))
    _, longest_of_answer = await longest_turn(bulk.write(ITEMS, found.tasks * 10))

    assert len(found.tasks) == MANY
    assert max(longest, longest_of_answer) < A_TURN_SECONDS


async def test_creating_many_tasks_leaves_the_loop_to_others(services: Services) -> None:
    made, longest = await longest_turn(services.tasks.create_many(many(), ADA))

    assert [task.spec.name for task in made] == [f"t{number}" for number in range(MANY)]
    assert longest < A_TURN_SECONDS


async def test_enqueueing_many_tasks_leaves_the_loop_to_others(services: Services) -> None:
    drafts = await services.tasks.create_many(many(queue=None), ADA)
    queue = (await services.queues.find("default")).id

    made, longest = await longest_turn(services.tasks.enqueue_many(queue, [task.id for task in drafts], ADA))

    assert [task.id for task in made] == [task.id for task in drafts]
    assert longest < A_TURN_SECONDS


async def test_bulk_with_one_wrong_task_leaves_nothing(services: Services) -> None:
    wrong = [*many()[:50], NewTask(spec=spec(name="last"), queue="no-such-queue")]

    with pytest.raises(NotFound):
        await services.tasks.create_many(wrong, ADA)

    assert await services.stores.store.tasks(TaskFilter()) == []


async def test_task_is_too_large_as_a_whole_though_no_part_is(services: Services) -> None:
    sections = {f"section{number}": {"text": "x" * 1_000_000} for number in range(5)}
    sections["heavy"] = {"text": "x" * 1_040_000}

    with pytest.raises(TooLarge, match=r"heaviest part is parameters\.heavy"):
        await services.tasks.create(NewTask(spec=spec(parameters=sections)), ADA)


async def test_list_of_large_tasks_comes_in_pages(services: Services) -> None:
    large = [NewTask(spec=spec(parameters={"args": {"text": "x" * 1_000_000}})) for _ in range(6)]
    made = await services.tasks.create_many(large, ADA)

    found: list[Task] = []
    before = None
    while True:
        page = await services.tasks.list(TaskFilter(), before=before, limit=1000, actor=ADA)
        assert 0 < len(page.tasks) <= 4
        found += page.tasks
        before = page.cursor
        if before is None:
            break

    assert {task.id for task in found} == {task.id for task in made}
