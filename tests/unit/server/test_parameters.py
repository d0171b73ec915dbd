"""Parameters in the server's records: typed values beside their texts, and what is too large to start with."""

from __future__ import annotations

from typing import Any

import pytest
from taskyard.wire import CloneRequest, Command, NewTask, TaskChanges, TaskSpec, typed_parameters
from taskyard_server.errors import Invalid, TooLarge

from tests.support.services import ADA, Services, spec

TYPED = {"cache": False, "layers": [4, 5], "lr": 0.1, "depth": 3, "seed": None, "name": "a b"}
LINE = Command(target="train.py", args=("--no-cache",), written=True, typed=("--cache",), interface={"v": 1})


async def created(services: Services, **fields: Any) -> TaskSpec:
    return (await services.tasks.create(NewTask(spec=spec(**fields)), ADA)).spec


async def test_typed_parameters_are_kept_beside_a_text_for_each(services: Services) -> None:
    made = await created(services, values={"Args": TYPED})

    assert made.values == {"Args": TYPED}
    assert typed_parameters(made) == {"Args": TYPED}
    assert made.parameters["Args"] == {
        "cache": "false", "layers": "[4, 5]", "lr": "0.1", "depth": "3", "seed": "null", "name": "a b",
    }  # fmt: skip


async def test_a_text_from_an_older_client_takes_the_typed_value_away(services: Services) -> None:
    task = await services.tasks.create(NewTask(spec=spec(values={"Args": {"lr": 0.1, "depth": 3}})), ADA)

    changed = await services.tasks.change(task.id, TaskChanges(parameters={"Args": {"lr": "0.5"}}), ADA)

    assert changed.spec.values == {"Args": {"depth": 3}}
    assert typed_parameters(changed.spec) == {"Args": {"lr": "0.5", "depth": 3}}


async def test_typed_changes_are_merged_and_leave_the_line_to_be_written(services: Services) -> None:
    made = await created(services, command=LINE, parameters={"Args": {"cache": "false"}})
    task = await services.tasks.create(NewTask(spec=made), ADA)

    changed = await services.tasks.change(task.id, TaskChanges(values={"Args": {"cache": True}}), ADA)

    assert (changed.spec.parameters, changed.spec.values) == (
        {"Args": {"cache": "true"}},
        {"Args": {"cache": True}},
    )
    assert (changed.spec.command.written, changed.spec.command.args) == (False, ("--no-cache",))


async def test_a_written_line_replaces_the_parameters_that_mirror_it(services: Services) -> None:
    parameters = {"Args": {"amp": "true", "lr": "1"}, "Model": {"depth": "3"}}
    task = await services.tasks.create(NewTask(spec=spec(parameters=parameters)), ADA)

    changes = TaskChanges(command=LINE, parameters={"Args": {"lr": "2"}}, values={"Args": {"amp": False}})
    clone = await services.tasks.clone(task.id, CloneRequest(changes=changes), ADA)

    assert clone.spec.command == LINE
    assert typed_parameters(clone.spec) == {"Args": {"lr": "2", "amp": False}, "Model": {"depth": "3"}}


WRONG: dict[str, dict[str, Any]] = {
    "an object": {"values": {"Args": {"x": {"a": 1}}}},
    "not a number": {"values": {"Args": {"x": float("nan")}}},
    "a value without a section": {"values": {"x": 1}},
    "lists without end": {"values": {"Args": {"x": [[[[[1]]]]]}}},
    "an argument of 128 KiB": {"command": Command(target="a.py", args=("x" * (128 << 10),))},
    "an argument of 128 KiB in few characters": {"command": Command(target="a.py", args=("é" * (64 << 10),))},
    "a variable of 128 KiB": {"env": {"A": "x" * ((128 << 10) - 2)}},
    "a parameter of 128 KiB for the command line": {"parameters": {"Args": {"x": "x" * (128 << 10)}}},
    "a mebibyte of arguments": {"command": Command(target="a.py", args=("x" * 1024,) * 1020)},
    "arguments and variables together": {
        "command": Command(target="a.py", args=("x" * 1024,) * 600),
        "env": {f"A{n}": "x" * 1024 for n in range(500)},
    },
}  # fmt: skip


@pytest.mark.parametrize("fields", WRONG.values(), ids=WRONG)
async def test_what_no_program_can_be_given_is_refused_at_once(services: Services, fields: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await created(services, **fields)


async def test_a_secret_of_128_kib_is_refused(services: Services) -> None:
    with pytest.raises(Invalid, match="put it into a file"):
        await services.tasks.create(NewTask(spec=spec(), secret_values={"KEY": "x" * (128 << 10)}), ADA)


async def test_what_was_read_of_a_script_is_bounded(services: Services) -> None:
    with pytest.raises(TooLarge):
        await created(services, command=Command(target="a.py", interface={"x": "y" * (64 << 10)}))


async def test_large_parameters_that_are_no_arguments_are_taken(services: Services) -> None:
    made = await created(services, values={"Model": {"x": "y" * (140 << 10)}}, env={"A": "x" * 100_000})

    assert len(made.parameters["Model"]["x"]) == 140 << 10
