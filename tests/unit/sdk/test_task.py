"""`Task` as Python programs use it, against a real server."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard import Task, TaskState, wire
from taskyard.client import Client
from taskyard.errors import NotFound, NotLoggedIn, UsageError
from taskyard.submission import Wanted, prepare, read_command, sections
from taskyard.transport import Transport

from tests.support.servers import ServerProcess


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as started:
        yield started


@pytest.fixture(autouse=True)
def as_administrator(server: ServerProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("TASKYARD_SERVER", server.url)
    monkeypatch.setenv("TASKYARD_TOKEN", server.admin_token)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(Transport(server.url, server.admin_token)) as opened:
        yield opened


@pytest.fixture
def task(client: Client) -> Task:
    command = wire.Command(target="train.py", args=("--lr", "0.01"))
    spec = wire.TaskSpec(name=f"a task {uuid.uuid4()}", command=command, parameters={"Args": {"lr": "0.01"}})
    return Task(client.create_task(wire.NewTask(spec=spec)), client)


def test_a_task_is_found_by_id_prefix_and_name(task: Task) -> None:
    assert Task.get(task.id) == Task.get(task.id[:12]) == Task.get(task.name) == task


def test_a_login_holds_from_when_it_is_made(
    server: ServerProcess, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKYARD_TOKEN", "ty_user_of_yesterday")
    with pytest.raises(NotLoggedIn):
        Task.get(task.id)

    monkeypatch.setenv("TASKYARD_TOKEN", server.admin_token)

    assert Task.get(task.id) == task


def test_what_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound):
        Task.get("no such task")


def test_parameters_are_merged(task: Task) -> None:
    task.set_parameters({"lr": 0.1, "Model/depth": 3, "Data": {"folds": 5}})

    assert task.parameters == {"Args": {"lr": 0.1}, "Model": {"depth": 3}, "Data": {"folds": 5}}
    assert task.record.spec.parameters["Args"] == {"lr": "0.1"}  # as older readers see it
    assert task.record.spec.command.args == ("--lr", "0.1")


def test_a_task_can_be_enqueued_in_every_way_people_write_it(client: Client, task: Task) -> None:
    (queue,) = client.queues(name="default")

    for enqueue in (
        lambda: task.enqueue("default"),
        lambda: Task.enqueue(task, queue_name="default"),
        lambda: Task.enqueue(task.id, queue_id=queue.id),
        lambda: Task.enqueue(task=task, queue_name="default"),
    ):
        assert enqueue().status is TaskState.QUEUED
        assert task.dequeue().status is TaskState.DRAFT


def test_an_enqueue_without_a_task_or_a_queue_is_refused(task: Task) -> None:
    with pytest.raises(UsageError, match="name one queue"):
        task.enqueue()
    with pytest.raises(UsageError, match="name one task"):
        Task.enqueue(queue_name="default")


def test_a_clone_with_other_parameters_is_named_by_them(task: Task) -> None:
    name = task.name

    one, two = task.clone(parameters={"lr": 1}), task.clone(parameters={"Model": {"depth": 3}})

    assert (one.name, two.name, task.clone().name) == (f"{name} lr=1", f"{name} Model/depth=3", name)
    assert one.clone(parameters={"lr": 2}).name == f"{name} lr=2"


def test_variants_are_a_clone_for_each_combination(task: Task) -> None:
    made = task.variants({"lr": [0.1, 0.2], "Model/opt": ["adam"]}, name="x", queue="default", timeout="1h")

    assert [each.name for each in made] == ["x lr=0.1 Model/opt=adam", "x lr=0.2 Model/opt=adam"]
    assert [each.parameters["Args"]["lr"] for each in made] == [0.1, 0.2]
    assert {each.record.spec.policy.timeout_seconds for each in made} == {3600.0}
    with pytest.raises(UsageError, match="makes 1600 variants"):
        task.variants({"a": range(40), "b": range(40)})


def test_a_clone_differs_where_it_was_told_to(task: Task) -> None:
    clone = task.clone(name="other", parameters={"lr": 1}, tags=["again"], queue="default")

    assert (clone.name, clone.tags, clone.parameters["Args"]["lr"]) == ("other", ("again",), 1)
    assert clone.record.state is TaskState.QUEUED
    assert clone.id != task.id


def test_waiting_ends_with_the_task_or_with_patience(task: Task) -> None:
    task.enqueue("default")
    with pytest.raises(TimeoutError, match="queued"):
        task.wait(timeout=0.2)

    task.stop()

    assert task.wait(timeout=10).record.state is TaskState.CANCELLED
    assert task.outcome is None


def test_nobody_waits_for_a_draft(task: Task) -> None:
    with pytest.raises(UsageError, match="is a draft and in no queue"):
        task.wait()
    with pytest.raises(UsageError, match="is a draft and in no queue"):
        next(task.logs(follow=True))


def test_a_mistyped_queue_is_answered_before_anything_is_captured(tmp_path: Path) -> None:
    nowhere = tmp_path / "no folder to capture"

    for ask in (
        lambda: Task.list(queue="defualt"),
        lambda: Task.create("train.py", folder=nowhere, queue="defualt"),
    ):
        with pytest.raises(UsageError, match=r"did you mean 'default'.* taskyard queue create defualt"):
            ask()


def test_tasks_are_listed_newest_first(client: Client) -> None:
    project = uuid.uuid4().hex
    command = wire.Command(target="train.py")
    for name in ("one", "two", "three"):
        client.create_task(wire.NewTask(spec=wire.TaskSpec(name=name, project=project, command=command)))

    assert [task.name for task in Task.list(project=project, limit=2)] == ["three", "two"]
    assert len(Task.list(project=project, states=["draft"], limit=None)) == 3


def test_a_task_that_never_ran_has_no_log(task: Task) -> None:
    with pytest.raises(NotFound, match="0 attempts"):
        task.logs()


def test_a_deleted_task_is_gone(task: Task) -> None:
    task.delete()

    with pytest.raises(NotFound):
        task.reload()


# --- what needs no server


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, taskyard; print([m for m in ('httpx', 'git', 'rich', 'taskyard.wire') if m in sys.modules])"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "[]"


def test_the_version_is_the_distributions() -> None:
    import importlib.metadata

    import taskyard

    assert taskyard.__version__ == importlib.metadata.version("taskyard")


def test_no_public_name_is_also_a_submodules() -> None:
    import taskyard

    folder = Path(taskyard.__file__).parent

    assert not {path.stem for path in folder.iterdir()} & set(taskyard.__all__)


def test_a_name_belongs_to_the_command_line_where_it_is_written_there() -> None:
    known = {"learning-rate": "1", "model/depth": "2"}

    sorted_in = sections({"learning_rate": 3, "model/depth": 4, "Model/depth": 5, "new": True}, known)

    arguments = {name: value.value for name, value in sorted_in.arguments.items()}
    assert arguments == {"learning-rate": 3, "model/depth": 4, "new": True}
    assert sorted_in.sections == {"Model": {"depth": 5}}


@pytest.mark.parametrize(
    ("words", "kind", "target", "version"),
    [
        (["python3.11", "-u", "train.py"], "script", "train.py", "3.11"),
        (["/usr/bin/python3", "-m", "pkg"], "module", "pkg", None),
        (["-m", "pkg", "--x"], "module", "pkg", None),
        (["torchrun", "train.py"], "executable", "torchrun", None),
    ],
)
def test_commands_are_read_as_people_type_them(
    words: list[str], kind: str, target: str, version: str | None
) -> None:
    command, asked = read_command(words)

    assert (command.kind, command.target, asked) == (kind, target, version)


@pytest.mark.parametrize(("asked", "sent"), [(None, None), ("3.12", "3.12")])
def test_an_inherited_environment_has_its_own_interpreter_unless_one_is_asked_for(
    tmp_path: Path, asked: str | None, sent: str | None
) -> None:
    (tmp_path / ".python-version").write_text("3.8\n")
    (tmp_path / "train.py").write_text("")
    command = wire.Command(target="train.py")

    wanted = Wanted(command=command, folder=tmp_path, manager=wire.Manager.INHERIT, python=asked)

    with prepare(wanted) as prepared:
        assert prepared.spec.environment.python == sent
