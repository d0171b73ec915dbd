"""Tasks on a real store: created, read, changed, explained, by people and by runs."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from taskyard.wire import (
    CloneRequest,
    Code,
    Command,
    CommandKind,
    Environment,
    MoveRequest,
    MoveTo,
    NewTask,
    Pack,
    Policy,
    QueueChanges,
    Resources,
    StopRequest,
    Task,
    TaskChanges,
    TaskState,
    TokenKind,
    WorkerState,
)
from taskyard_server.auth import Actor
from taskyard_server.disk_space import DiskSpace
from taskyard_server.errors import Conflict, Forbidden, Invalid, NotFound, TooLarge, Unavailable
from taskyard_server.store.base import TaskFilter
from taskyard_server.tasks import Tasks

from tests.support.services import ADA, BOB, COMPLETED, DISK_FULL, FAILED, Services, spec

ID = "ab" * 16
COMMIT = "c" * 40
PATH_LIKE = "../../etc/passwd"


def new(queue: str | None = None, id: str | None = None, **fields: Any) -> NewTask:
    return NewTask(spec=spec(**fields), queue=queue, id=id)


async def page(services: Services, actor: Actor = ADA, limit: int = 100, **wanted: Any) -> list[str]:
    found = await services.tasks.list(TaskFilter(**wanted), before=None, limit=limit, actor=actor)
    return [task.spec.name for task in found.tasks]


async def bytes_of(data: bytes) -> AsyncIterator[bytes]:
    yield data


# --- Create


async def test_a_new_task_is_a_draft_of_its_creator(services: Services) -> None:
    task = await services.tasks.create(new(name="first try"), ADA)

    assert (task.state, task.created_by, task.queue) == (TaskState.DRAFT, "ada", None)
    assert len(task.id) == 32


async def test_repeating_a_creation_returns_the_same_task(services: Services) -> None:
    first = await services.tasks.create(new("default", ID), ADA)

    again = await services.tasks.create(new("default", ID), ADA)

    assert again == first


async def test_an_id_cannot_be_taken_twice(services: Services) -> None:
    await services.tasks.create(new(id=ID), ADA)

    with pytest.raises(Conflict, match="belongs to another task"):
        await services.tasks.create(new(id=ID, name="other"), ADA)
    with pytest.raises(Conflict, match="belongs to another task"):
        await services.tasks.create(new(id=ID), BOB)


async def test_many_are_created_in_order_all_or_none(services: Services) -> None:
    await services.tasks.create_many([new("default", name=name) for name in "abc"], ADA)
    with pytest.raises(Invalid):
        await services.tasks.create_many([new("default", name="d"), new("default", name="\x00")], ADA)

    entries = await services.queues.entries((await services.queues.find("default")).id, 0, 10)
    assert [entry.name for entry in entries.entries] == ["a", "b", "c"]


async def test_more_than_ten_thousand_at_once_are_refused(services: Services) -> None:
    with pytest.raises(TooLarge, match="portions"):
        await services.tasks.create_many([new()] * 10_001, ADA)


async def test_an_unknown_queue_is_refused_with_the_nearest_ones(services: Services) -> None:
    with pytest.raises(NotFound, match=r"nearest are 'default'.*taskyard queue create"):
        await services.tasks.create(new("defualt"), ADA)


async def test_code_must_be_uploaded_before_its_task(services: Services) -> None:
    data = b"a pack"
    blob = hashlib.sha256(data).hexdigest()
    code = Code(pack=Pack(commit=COMMIT, blob=blob, size=len(data)))

    with pytest.raises(Invalid, match=f"upload it to /blobs/{blob}"):
        await services.tasks.create(new(code=code), ADA)
    await services.stores.blobs.put(blob, bytes_of(data), limit=100)

    assert (await services.tasks.create(new(code=code), ADA)).spec.code == code


@pytest.mark.parametrize(
    "name", [PATH_LIKE, "名前 with spaces", "$where", "a'b\"c;--", "%2e%2e%2f", "CON", "x" * 200]
)
async def test_any_name_works_and_path_like_ones_do_no_harm(services: Services, name: str) -> None:
    task = await services.tasks.create(new(name=name, project=name, tags=(name[:100],)), ADA)

    assert (await services.task(task.id)).spec.name == name
    assert await page(services, name=name) == [name]
    assert await page(services, project=name) == [name]


async def test_names_are_compared_in_one_form_of_unicode(services: Services) -> None:
    await services.tasks.create(new(name="cafe\u0301"), ADA)

    assert (await services.tasks.resolve("caf\u00e9", ADA)).spec.name == "caf\u00e9"


WRONG: dict[str, dict[str, Any]] = {
    "control characters in a name": {"name": "a\nb"},
    "a name that is too long": {"name": "x" * 201},
    "too many tags": {"tags": tuple(str(number) for number in range(51))},
    "LD_PRELOAD": {"env": {"LD_PRELOAD": "/x.so"}},
    "PYTHONSTARTUP": {"env": {"PYTHONSTARTUP": "x.py"}},
    "GIT_*": {"env": {"GIT_SSH_COMMAND": "x"}},
    "BASH_ENV": {"env": {"BASH_ENV": "x"}},
    "LD_AUDIT": {"env": {"LD_AUDIT": "/x.so"}},
    "a function of the shell": {"env": {"BASH_FUNC_ls": "() { x; }"}},
    "the agent's own settings": {"env": {"TASKYARD_TOKEN": "x"}},
    "a secret that is the agent's own setting": {"secrets": ("TASKYARD_SERVER",)},
    "a secret that no task may set": {"secrets": ("GIT_ASKPASS",)},
    "a secret without its value": {"secrets": ("HF_TOKEN",)},
    "a variable with a strange name": {"env": {"A=B": "x"}},
    "a variable with NUL": {"env": {"A": "\0"}},
    "a variable that is no string": {"env": {"A": 1}},
    "a parameter that is no string": {"parameters": {"Args": {"lr": 0.1}}},
    "parameters without a section": {"parameters": {"lr": "0.1"}},
    "no command": {"command": Command(target="")},
    "a script outside the code": {"command": Command(target="../train.py")},
    "an absolute script": {"command": Command(target="/etc/passwd")},
    "a script that looks like an option": {"command": Command(target="-c")},
    "a script with a line feed": {"command": Command(target="a\n.py")},
    "a module that is none": {"command": Command(kind=CommandKind.MODULE, target="a.b; rm")},
    "python arguments that are none": {"command": Command(target="a.py", python_args=("x.py",))},
    "NUL in an argument": {"command": Command(target="a.py", args=("\0",))},
    "a working folder outside": {"code": Code(working_dir="a/../../b")},
    "an absolute working folder": {"code": Code(working_dir="/tmp")},
    "a requirements file outside": {"environment": Environment(path="../requirements.txt")},
    "a package that is an option": {"environment": Environment(packages=("--index-url=http://evil",))},
    "a python that is none": {"environment": Environment(python="3")},
    "a folder of modules outside the code": {"environment": Environment(import_from=("../libs",))},
    "a torch backend that is none": {"environment": Environment(torch_backend="cu126 --x")},
    "a short commit": {"code": Code(repository="https://h/r", commit="abc123")},
    "an upper-case commit": {"code": Code(repository="https://h/r", commit="C" * 40)},
    "a branch like an option": {"code": Code(repository="https://h/r", branch="--upload-pack=x")},
    "a branch with dots": {"code": Code(repository="https://h/r", branch="a..b")},
    "a repository without a commit": {"code": Code(repository="https://h/r")},
    "a pack that needs a repository": {
        "code": Code(pack=Pack(commit=COMMIT, blob="0" * 64, size=1, needs=(COMMIT,)))
    },
    "an archive beside a repository": {"code": Code(repository="https://h/r", commit=COMMIT, archive="0" * 64)},
    "a digest that is none": {"code": Code(archive="../../x")},
    "a negative number of GPUs": {"resources": Resources(gpus=-1)},
    "a negative number of retries": {"policy": Policy(retries=-1)},
    "a delay that is no number": {"policy": Policy(retry_delay_seconds=float("nan"))},
    "an endless grace": {"policy": Policy(grace_seconds=float("inf"))},
    "a limit of no time": {"policy": Policy(timeout_seconds=0)},
}


@pytest.mark.parametrize("fields", WRONG.values(), ids=WRONG)
async def test_what_cannot_be_meant_is_refused(services: Services, fields: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await services.tasks.create(new(**fields), ADA)

    assert await page(services) == []


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"])
@pytest.mark.parametrize("kind", ["env", "secrets"])
async def test_a_task_does_not_choose_its_gpus_and_is_told_how_to_ask(
    services: Services, kind: str, name: str
) -> None:
    values = {name: "7"}
    wanted = {
        "env": new(env=values),
        "secrets": NewTask(spec=spec(secrets=(name,)), secret_values=values),
    }

    with pytest.raises(Invalid, match=f"{kind}: a task may not set {name}: .* --gpus N, .* --gpus 0"):
        await services.tasks.create(wanted[kind], ADA)


URLS = {
    "https://github.com/o/r.git": True,
    "ssh://git@host:2222/o/r": True,
    "git@github.com:o/r.git": True,
    "file:///srv/r.git": True,
    "/srv/r.git": True,
    "http://host/r": False,
    "git://host/r": False,
    "ext::sh -c id": False,
    "EXT::sh -c id": False,
    "fd::17": False,
    "-uploadpack=x": False,
    "https://user:secret@host/r": False,
    "https://token@host/r": False,
    "https://host/r\n": False,
    "javascript://host/r": False,
    "": False,
}


@pytest.mark.parametrize(("url", "allowed"), URLS.items())
async def test_repositories_are_taken_by_a_positive_list(services: Services, url: str, allowed: bool) -> None:
    code = Code(repository=url, commit=COMMIT)

    if allowed:
        await services.tasks.create(new(code=code), ADA)
    else:
        with pytest.raises(Invalid):
            await services.tasks.create(new(code=code), ADA)


async def test_a_script_beside_the_working_folder_is_inside_the_code(services: Services) -> None:
    code = Code(working_dir="experiments")

    task = await services.tasks.create(new(code=code, command=Command(target="../train.py")), ADA)

    assert task.spec.command.target == "../train.py"


async def test_what_is_too_large_is_refused_with_the_limit(services: Services) -> None:
    with pytest.raises(TooLarge, match="are allowed"):
        await services.tasks.create(new(code=Code(diff="x" * 400_000)), ADA)
    with pytest.raises(TooLarge, match="are allowed"):
        await services.tasks.create(new(env={"A": "x" * 2_000_000}), ADA)


async def test_a_low_disk_refuses_new_tasks_and_enqueues_before_state_changes(
    services: Services, tmp_path: Path
) -> None:
    stores, full = services.stores, DiskSpace(tmp_path, 1 << 60)
    draft = await services.tasks.create(new(), ADA)
    running = await services.enqueue()
    tasks = Tasks(stores.store, services.claims, stores.logs, stores.blobs, services.clock, full)

    with pytest.raises(Unavailable, match="new tasks are refused"):
        await tasks.create(new("default"), ADA)
    with pytest.raises(Unavailable):
        await tasks.enqueue(draft.id, "default", ADA)

    assert (await tasks.stop(running.id, StopRequest(), ADA)).state is TaskState.CANCELLED


# --- Read


async def test_tasks_are_listed_newest_first_and_paged(services: Services) -> None:
    for name in "abcde":
        await services.tasks.create(new(name=name), ADA)
        services.clock.move(1)

    first = await services.tasks.list(TaskFilter(), before=None, limit=3, actor=ADA)
    second = await services.tasks.list(TaskFilter(), before=first.cursor, limit=3, actor=ADA)

    assert [task.spec.name for task in first.tasks] == ["e", "d", "c"]
    assert [task.spec.name for task in second.tasks] == ["b", "a"]
    assert second.cursor is None


async def test_tasks_are_filtered(services: Services) -> None:
    await services.enqueue(name="queued", project="p", tags=("x",))
    await services.tasks.create(new(name="drafted", project="q"), ADA)
    queue = await services.queues.find("default")

    assert await page(services, states=(TaskState.DRAFT,)) == ["drafted"]
    assert await page(services, queue=queue.id) == ["queued"]
    assert await page(services, project="p") == ["queued"]
    assert await page(services, tag="x") == ["queued"]
    assert await page(services, name_contains="raft") == ["drafted"]


async def test_a_task_is_found_by_id_prefix_or_name(services: Services) -> None:
    task = await services.tasks.create(new(id=ID, name="unique"), ADA)

    found = [await services.tasks.resolve(ref, ADA) for ref in (ID, ID[:6], "unique")]

    assert found == [task] * 3


async def test_an_ambiguous_name_names_the_candidates(services: Services) -> None:
    tasks = [await services.tasks.create(new(name="twin"), ADA) for _ in range(2)]

    with pytest.raises(Conflict) as refused:
        await services.tasks.resolve("twin", ADA)

    assert all(task.id[:12] in str(refused.value) for task in tasks)


async def test_what_is_not_there_is_not_found(services: Services) -> None:
    with pytest.raises(NotFound, match="taskyard ps"):
        await services.tasks.resolve("nothing", ADA)
    with pytest.raises(NotFound):
        await services.tasks.get(ID, ADA)


async def test_a_story_tells_what_happened_in_order(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    await agent.finish(await agent.take_and_start(), COMPLETED)

    story = await services.tasks.story(task.id, ADA)

    kinds = [event.kind for event in story.events]
    assert kinds == ["created", "enqueued", "claimed", "confirmed", "phase", "started", "completed"]
    assert [run.number for run in story.runs] == [1]


async def test_events_of_all_tasks_come_oldest_first(services: Services) -> None:
    first = await services.enqueue()
    services.clock.move(1)
    since = services.clock()
    second = await services.enqueue()
    services.clock.move(1)
    await services.tasks.stop(first.id, StopRequest(), ADA)

    events = await services.tasks.events(since=since, task=None, kind=None, limit=100, actor=ADA)
    stops = await services.tasks.events(since=0, task=None, kind="cancelled", limit=100, actor=ADA)

    assert [(event.task, event.event.kind) for event in events] == [
        (second.id, "created"),
        (second.id, "enqueued"),
        (first.id, "cancelled"),
    ]
    assert [event.task for event in stops] == [first.id]


async def test_no_event_is_left_out_in_silence(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskyard_server.store.tables.tasks.FEW_TASKS", 2)
    made = [(await services.enqueue()).id for _ in range(5)]

    events = await services.tasks.events(since=None, task=None, kind="created", limit=100, actor=ADA)

    assert sorted(event.task for event in events) == sorted(made)


# --- Change


async def test_a_draft_can_be_edited_and_its_parameters_are_merged(services: Services) -> None:
    task = await services.tasks.create(new(parameters={"Args": {"lr": "1", "seed": "7"}}, env={"A": "1"}), ADA)
    changes = TaskChanges(name="better", parameters={"Args": {"lr": "2"}}, env={"B": "2"})

    changed = await services.tasks.change(task.id, changes, ADA)

    assert changed.spec.name == "better"
    assert changed.spec.parameters == {"Args": {"lr": "2", "seed": "7"}}
    assert changed.spec.env == {"A": "1", "B": "2"}


async def test_a_queued_task_is_fixed(services: Services) -> None:
    task = await services.enqueue()

    with pytest.raises(Conflict, match="is queued and only a draft can be edited: dequeue it"):
        await services.tasks.change(task.id, TaskChanges(name="x"), ADA)


async def test_enqueueing_twice_is_harmless_and_elsewhere_is_refused(services: Services) -> None:
    task = await services.enqueue()

    again = await services.tasks.enqueue(task.id, "default", ADA)

    assert again.state is TaskState.QUEUED
    with pytest.raises(Conflict):
        await services.tasks.enqueue(task.id, "services", ADA)


async def test_many_are_enqueued_in_the_order_given_all_or_none(services: Services) -> None:
    tasks = [await services.tasks.create(new(), ADA) for _ in range(3)]
    order = [tasks[2].id, tasks[0].id, tasks[1].id]
    queue = await services.queues.find("default")

    with pytest.raises(NotFound):
        await services.tasks.enqueue_many(queue.id, [*order, ID], ADA)
    await services.tasks.enqueue_many(queue.id, order, ADA)

    entries = await services.queues.entries(queue.id, 0, 10)
    assert [entry.task for entry in entries.entries] == order


@pytest.mark.parametrize(
    ("request_", "order"),
    [
        (MoveRequest(to=MoveTo.FIRST), "cab"),
        (MoveRequest(to=MoveTo.UP), "acb"),
        (MoveRequest(position=0), "cab"),
        (MoveRequest(position=99), "abc"),
    ],
)
async def test_an_entry_can_be_moved(services: Services, request_: MoveRequest, order: str) -> None:
    tasks = {name: await services.enqueue(name=name) for name in "abc"}

    entry = await services.tasks.move(tasks["c"].id, request_, ADA)

    entries = await services.queues.entries((await services.queues.find("default")).id, 0, 10)
    assert "".join(entry.name for entry in entries.entries) == order
    assert entry.position == order.index("c")


@pytest.mark.parametrize(
    "request_", [MoveRequest(), MoveRequest(to=MoveTo.UP, position=1), MoveRequest(position=-1)]
)
async def test_a_move_says_where_to(services: Services, request_: MoveRequest) -> None:
    task = await services.enqueue()

    with pytest.raises(Invalid):
        await services.tasks.move(task.id, request_, ADA)


async def test_stopping_a_queued_task_cancels_it_at_once(services: Services) -> None:
    task = await services.enqueue()

    stopped = await services.tasks.stop(task.id, StopRequest(), ADA)

    assert stopped.state is TaskState.CANCELLED
    assert (await services.agent().claim()).run is None


async def test_an_ended_task_can_be_retried(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    await agent.finish_and_forget(await agent.take_and_start(), FAILED)

    retried = await services.tasks.retry(task.id, ADA)

    assert (retried.state, retried.queue) == (TaskState.QUEUED, "default")
    assert (await agent.take()).number == 2


async def test_a_clone_takes_changes_and_leaves_the_original(services: Services) -> None:
    task = await services.enqueue(name="a", parameters={"Args": {"lr": "1"}})
    changes = TaskChanges(parameters={"Args": {"lr": "2"}})

    clone = await services.tasks.clone(task.id, CloneRequest(changes=changes, queue="services"), ADA)

    assert (clone.queue, clone.spec.parameters) == ("services", {"Args": {"lr": "2"}})
    assert (await services.task(task.id)).spec.parameters == {"Args": {"lr": "1"}}


async def test_many_clones_are_made_or_none(services: Services) -> None:
    secret = NewTask(spec=spec(secrets=("HF_TOKEN",)), secret_values={"HF_TOKEN": "s"})
    task = await services.tasks.create(secret, ADA)
    names = [TaskChanges(name=name) for name in ("a", "b", "c")]
    wanted = [
        CloneRequest(id=f"{number:032x}", changes=each, queue="default") for number, each in enumerate(names)
    ]

    made = await services.tasks.clone_many(task.id, wanted, ADA)
    again = await services.tasks.clone_many(task.id, wanted, ADA)
    wrong = CloneRequest(changes=TaskChanges(environment=Environment(python="no 3.99")))
    with pytest.raises(Invalid, match="must look like"):
        await services.tasks.clone_many(task.id, [CloneRequest(), wrong], ADA)
    with pytest.raises(Invalid, match="HF_TOKEN belong to ada"):
        await services.tasks.clone_many(task.id, [CloneRequest()], BOB)

    assert [each.spec.name for each in made] == ["a", "b", "c"]
    assert [each.id for each in again] == [each.id for each in made]
    assert len((await services.tasks.list(TaskFilter(), before=None, limit=100, actor=ADA)).tasks) == 4


async def test_secrets_are_cloned_for_their_owner_alone(services: Services) -> None:
    secret = NewTask(spec=spec(secrets=("HF_TOKEN",)), secret_values={"HF_TOKEN": "s"})
    task = await services.tasks.create(secret, ADA)

    own = await services.tasks.clone(task.id, CloneRequest(queue="default"), ADA)
    with pytest.raises(Invalid, match="HF_TOKEN belong to ada"):
        await services.tasks.clone(task.id, CloneRequest(queue="default"), BOB)

    claim = await services.agent().claim()
    assert claim.task is not None
    assert (claim.task.id, claim.secrets) == (own.id, {"HF_TOKEN": "s"})


async def test_deleting_forgets_the_logs_and_refuses_what_a_worker_holds(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    await agent.log(run, 0, b"x")

    with pytest.raises(Conflict, match="stop it first"):
        await services.tasks.delete(task.id, ADA)
    await agent.finish(run)
    await services.tasks.delete(task.id, ADA)

    assert await services.stores.logs.length(run.id) == 0
    with pytest.raises(NotFound):
        await services.task(task.id)


# --- Runs as actors


async def controller(services: Services) -> Actor:
    """The token of a running task of ada's in the project `p`."""
    task = await services.enqueue(project="p")
    run = await services.agent("controller").take_and_start()
    return Actor(token=run.id, kind=TokenKind.RUN, name="ada", owner="ada", task=task.id, project="p")


async def test_a_run_creates_children_in_its_project(services: Services) -> None:
    actor = await controller(services)

    child = await services.tasks.create(new("default"), actor)

    assert (child.parent, child.spec.project, child.created_by) == (actor.task, "p", "ada")
    assert (await services.tasks.stop(child.id, StopRequest(), actor)).state is TaskState.CANCELLED


async def test_a_run_cannot_leave_its_project(services: Services) -> None:
    actor = await controller(services)
    foreign = await services.enqueue(project="q")

    for attempt in (
        services.tasks.get(foreign.id, actor),
        services.tasks.stop(foreign.id, StopRequest(), actor),
        services.tasks.enqueue(foreign.id, "default", actor),
        services.tasks.explain(foreign.id, actor),
        services.tasks.create(new(project="q"), actor),
        services.tasks.list(TaskFilter(project="q"), before=None, limit=1, actor=actor),
    ):
        with pytest.raises(Forbidden):
            await attempt


async def test_a_run_lists_its_project_alone(services: Services) -> None:
    actor = await controller(services)
    await services.tasks.create(new(name="child"), actor)
    await services.enqueue(name="foreign", project="q")

    assert "foreign" not in await page(services, actor)
    with pytest.raises(NotFound):
        await services.tasks.resolve("foreign", actor)


async def test_a_run_may_not_edit_move_retry_or_delete(services: Services) -> None:
    actor = await controller(services)
    child = await services.tasks.create(new("default"), actor)

    for attempt in (
        services.tasks.change(child.id, TaskChanges(name="x"), actor),
        services.tasks.dequeue(child.id, actor),
        services.tasks.move(child.id, MoveRequest(to=MoveTo.FIRST), actor),
        services.tasks.retry(child.id, actor),
        services.tasks.delete(child.id, actor),
    ):
        with pytest.raises(Forbidden):
            await attempt


# --- Explain


async def summary(services: Services, task: Task) -> str:
    return (await services.tasks.explain(task.id, ADA)).summary


async def test_it_says_that_no_worker_watches_the_queue(services: Services) -> None:
    task = await services.enqueue()
    await services.agent(queues=("services",)).beat()

    explanation = await services.tasks.explain(task.id, ADA)

    assert explanation.summary.startswith("no worker watches queue 'default'")
    assert explanation.workers[0].reason == "does not watch queue 'default' (it watches services)"


async def test_it_says_who_could_take_a_task_before_there_is_one(services: Services) -> None:
    await services.enqueue()
    await services.agent("watching").beat()
    await services.agent("elsewhere", queues=("services",)).beat()

    explanation = await services.tasks.explain_new(new("default", resources=Resources(gpus=2)), ADA)

    told = [(verdict.worker, verdict.fits, verdict.watches) for verdict in explanation.workers]
    assert told == [("watching", False, True), ("elsewhere", False, False)]
    assert explanation.position == 1
    assert len(await page(services)) == 1


async def test_a_task_that_could_not_be_enqueued_is_refused_before_there_is_one(services: Services) -> None:
    with pytest.raises(Invalid, match="GPU"):
        await services.tasks.explain_new(new("services", resources=Resources(gpus=1)), ADA)


async def test_it_says_that_the_queue_is_paused(services: Services) -> None:
    task = await services.enqueue()
    queue = await services.queues.find("default")
    await services.queues.change(queue.id, QueueChanges(paused=True), ADA)

    assert (
        await summary(services, task)
        == "queue 'default' is paused: resume it with `taskyard queue resume 'default'`"
    )


async def test_it_says_that_the_workers_have_too_few_gpus(services: Services) -> None:
    task = await services.enqueue(resources=Resources(gpus=2))
    await services.agent("w").beat()

    explanation = await services.tasks.explain(task.id, ADA)

    assert explanation.summary == "no worker that watches queue 'default' has 2 GPUs; the largest has 0"
    assert explanation.workers[0].reason == "needs 2 GPUs, the worker has 0"


async def test_it_says_who_is_busy_and_how_many_stand_before(services: Services) -> None:
    first, _, third = [await services.enqueue() for _ in range(3)]
    agent = services.agent()
    await agent.take_and_start()
    await agent.beat()

    explanation = await services.tasks.explain(third.id, ADA)

    assert explanation.position == 1
    assert explanation.summary == "1 stands before it in queue 'default'; the only worker that fits is busy"
    assert explanation.workers[0].reason == f"busy with {first.id[:8]}"


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (WorkerState.DRAINING, "its agent is draining: it takes nothing more"),
        (WorkerState.PAUSED, "paused: by its agent"),
    ],
)
async def test_it_says_why_a_worker_takes_nothing(services: Services, state: WorkerState, reason: str) -> None:
    task = await services.enqueue()
    await services.agent().beat(state)

    explanation = await services.tasks.explain(task.id, ADA)

    assert (explanation.workers[0].fits, explanation.workers[0].reason) == (False, reason)


async def test_it_says_that_a_worker_failed_it_before(services: Services) -> None:
    task = await services.enqueue()
    agent = services.agent()
    await agent.finish_and_forget(await agent.take(), DISK_FULL)
    await agent.beat()

    assert "it failed this task by its own fault" in await summary(services, task)


async def test_it_explains_tasks_that_stand_in_no_queue(services: Services) -> None:
    draft = await services.tasks.create(new(), ADA)
    running = await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    held = await summary(services, running)
    await agent.finish(run, FAILED)

    assert await summary(services, draft) == "it is a draft: enqueue it to run it"
    assert held == "worker host:cpu:0 has it: run 1, phase running"
    assert await summary(services, running) == "it is failed: exit 3"
