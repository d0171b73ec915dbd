"""Every route through its typed method, against a real server."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard import wire
from taskyard.client import Client
from taskyard.errors import NotFound, NotLoggedIn, Refused, Stale
from taskyard.transport import Transport
from taskyard.wire import TaskState

from tests.support.servers import ServerProcess


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as started:
        yield started


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(Transport(server.url, server.admin_token)) as opened:
        yield opened


@pytest.fixture
def agent(server: ServerProcess) -> Iterator[Client]:
    with Client(Transport(server.url, server.issue("agent", name="a"))) as opened:
        yield opened


@pytest.fixture
def queue(client: Client) -> wire.Queue:
    return client.create_queue(wire.NewQueue(name=f"queue of {uuid.uuid4().hex}"))


def new_task(name: str = "", queue: wire.Queue | None = None) -> wire.NewTask:
    return wire.NewTask(
        spec=wire.TaskSpec(name=name, command=wire.Command(target="train.py")), queue=queue.id if queue else None
    )


def claimed(agent: Client, queue: wire.Queue, control: str = "control") -> wire.Run:
    request = wire.ClaimRequest(
        agent="a",
        worker="host:cpu:0",
        boot_id="b",
        request_id=uuid.uuid4().hex,
        control_hash=hashlib.sha256(control.encode()).hexdigest(),
        report_hash=hashlib.sha256(uuid.uuid4().bytes).hexdigest(),
        queues=(queue.name,),
        wait_seconds=0.0,
    )
    run = agent.claim(request).run
    assert run is not None
    return run


def finished(log_bytes: int) -> wire.FinishRequest:
    outcome = wire.Outcome(
        kind=wire.OutcomeKind.COMPLETED, reason=wire.Reason.EXIT, phase=wire.Phase.RUNNING, exit_code=0
    )
    return wire.FinishRequest(control_token="control", outcome=outcome, log_bytes=log_bytes)


# --- getting in


def test_who_and_what_one_speaks_to(client: Client) -> None:
    assert client.info().api == "v1"
    assert client.health() == "ok"
    assert client.whoami().kind is wire.TokenKind.ADMINISTRATOR


def test_a_code_is_exchanged_for_a_token_that_can_be_revoked(client: Client) -> None:
    code = client.invite(wire.NewToken(kind=wire.TokenKind.USER)).code
    issued = client.login(wire.LoginRequest(code=code, name="ada"))
    with Client(Transport(client.server, issued.secret)) as ada:
        assert ada.whoami().name == "ada"

        client.revoke_token(issued.token.id)

        with pytest.raises(NotLoggedIn, match="taskyard login"):
            ada.whoami()
    assert any(token.id == issued.token.id and token.revoked for token in client.tokens())


def test_a_token_is_made_with_a_name(client: Client) -> None:
    issued = client.create_token(wire.NewToken(kind=wire.TokenKind.AGENT, name="box"))

    assert (issued.token.name, issued.token.kind) == ("box", wire.TokenKind.AGENT)


# --- blobs


def test_a_blob_goes_up_once_and_comes_back_checked(client: Client, tmp_path: Path) -> None:
    content = uuid.uuid4().bytes * 1000
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "up").write_bytes(content)
    assert not client.has_blob(digest)

    client.put_blob(digest, tmp_path / "up")
    client.put_blob(digest, tmp_path / "up")

    assert client.has_blob(digest)
    assert client.get_blob(digest, tmp_path / "down") == len(content)
    assert (tmp_path / "down").read_bytes() == content


# --- tasks


def test_a_task_is_made_found_changed_and_deleted(client: Client) -> None:
    name = f"a name {uuid.uuid4().hex}"
    made = client.create_task(new_task(name))

    changed = client.change_task(made.id, wire.TaskChanges(parameters={"Args": {"lr": "0.1"}}))

    assert changed.spec.parameters == {"Args": {"lr": "0.1"}}
    assert client.task(made.id) == changed
    assert client.resolve_task(name).id == client.resolve_task(made.id[:12]).id == made.id
    client.delete_task(made.id)
    with pytest.raises(NotFound):
        client.task(made.id)


def test_tasks_are_listed_by_page_and_filter(client: Client, queue: wire.Queue) -> None:
    made = client.create_tasks([new_task(f"t{number}", queue) for number in range(3)])

    first = client.tasks(states=[TaskState.QUEUED], queue=queue.id, limit=2)
    rest = client.tasks(states=[TaskState.QUEUED], queue=queue.id, before=first.cursor)

    assert {task.id for task in (*first.tasks, *rest.tasks)} == {task.id for task in made}
    assert len(first.tasks) == 2
    assert client.tasks(queue=queue.id, name="t1").tasks[0].spec.name == "t1"


def test_a_task_goes_in_and_out_of_a_queue(client: Client, queue: wire.Queue) -> None:
    task = client.create_task(new_task())

    assert client.enqueue(task.id, queue.name).state is TaskState.QUEUED
    assert client.dequeue(task.id).state is TaskState.DRAFT
    assert [each.id for each in client.enqueue_all(queue.id, [task.id])] == [task.id]
    assert client.stop_task(task.id).state is TaskState.CANCELLED
    assert client.retry_task(task.id).state is TaskState.QUEUED


def test_entries_are_in_order_and_can_be_moved(client: Client, queue: wire.Queue) -> None:
    one, two = client.create_tasks([new_task("one", queue), new_task("two", queue)])

    entry = client.move_task(two.id, wire.MoveRequest(to=wire.MoveTo.FIRST))

    assert entry.position == 0
    assert [each.task for each in client.entries(queue.id).entries] == [two.id, one.id]


def test_a_clone_has_changes_and_a_place(client: Client, queue: wire.Queue) -> None:
    task = client.create_task(new_task("first"))

    request = wire.CloneRequest(changes=wire.TaskChanges(name="second"), queue=queue.id)
    clone = client.clone_task(task.id, request)

    assert (clone.spec.name, clone.state) == ("second", TaskState.QUEUED)


def test_a_task_tells_why_it_waits_and_what_happened(client: Client, queue: wire.Queue) -> None:
    task = client.create_task(new_task("waits", queue))

    assert client.explain(task.id).position == 0
    assert [event.kind for event in client.story(task.id).events] == ["created", "enqueued"]
    assert {each.task for each in client.events(task=task.id)} == {task.id}


# --- queues, workers


def test_a_queue_is_renamed_paused_and_deleted(client: Client, queue: wire.Queue) -> None:
    name = f"später/{uuid.uuid4().hex}"

    changed = client.change_queue(queue.id, wire.QueueChanges(name=name, paused=True))

    assert changed.paused
    assert [each.id for each in client.queues(name=name)] == [queue.id]
    client.create_task(new_task(queue=queue))
    with pytest.raises(Refused):
        client.delete_queue(queue.id)
    client.delete_queue(queue.id, force=True)
    with pytest.raises(NotFound):
        client.queue(queue.id)


def test_a_worker_registers_by_beat_and_can_be_forgotten(client: Client, agent: Client) -> None:
    name = f"höst:cpu:{uuid.uuid4().hex}"
    sample = wire.Sample(subject=f"worker:{name}", name="cpu_percent", at=client.info().time, value=7.0)
    report = wire.WorkerReport(name=name, state=wire.WorkerState.STOPPED, queues=("default",))
    beat = wire.Beat(agent="a", host="höst", boot_id="b", version="0", workers=(report,), samples=(sample,))

    assert agent.beat(beat).lease_seconds > 0

    assert client.worker(name).host == "höst"
    assert any(worker.name == name for worker in client.workers())
    assert client.resume_worker(name).name == name
    assert isinstance(client.worker_metrics(name, points=5), list)
    client.delete_worker(name)
    with pytest.raises(NotFound):
        client.worker(name)


# --- runs


def test_a_run_goes_from_claim_to_end_and_its_log_is_followed(
    client: Client, agent: Client, queue: wire.Queue
) -> None:
    task = client.create_task(new_task("runs", queue))
    run = claimed(agent, queue)
    agent.start_run(run.id, wire.StartRequest(control_token="control"))
    assert agent.append_log(run.id, 0, b"one\n", control_token="control").offset == 4
    pieces = client.follow_log(run.id, offset=2)
    first = next(pieces)

    agent.append_log(run.id, 4, b"two\n", control_token="control")
    agent.finish_run(run.id, finished(8))
    *rest, last = pieces

    assert first + b"".join(rest) == b"e\ntwo\n"
    assert isinstance(last, wire.Run)
    assert last.outcome is not None
    assert client.task(task.id).state is TaskState.COMPLETED
    assert client.run(run.id).log_bytes == 8
    assert client.run_metrics(run.id) == []


def test_a_log_is_read_in_slices_and_from_its_tail(client: Client, agent: Client, queue: wire.Queue) -> None:
    client.create_task(new_task("logs", queue))
    run = claimed(agent, queue)
    agent.start_run(run.id, wire.StartRequest(control_token="control"))
    agent.append_log(run.id, 0, b"one\ntwo\n", control_token="control")

    middle = client.read_log(run.id, offset=2, limit=3)

    assert (middle.data, middle.offset, middle.length, middle.complete) == (b"e\nt", 2, 8, False)
    assert client.tail_log(run.id, 1).data == b"two\n"


def test_a_strange_control_token_is_stale(client: Client, agent: Client, queue: wire.Queue) -> None:
    client.create_task(new_task("fenced", queue))
    run = claimed(agent, queue)

    with pytest.raises(Stale):
        agent.start_run(run.id, wire.StartRequest(control_token="another"))


def test_a_followed_log_survives_the_servers_restart(tmp_path: Path) -> None:
    with ServerProcess(data=tmp_path) as server:
        client = Client(Transport(server.url, server.admin_token))
        agent = Client(Transport(server.url, server.issue("agent")))
        (queue,) = client.queues(name="default")
        client.create_task(new_task("long", queue))
        run = claimed(agent, queue)
        agent.start_run(run.id, wire.StartRequest(control_token="control"))
        agent.append_log(run.id, 0, b"one\n", control_token="control")
        seen: list[bytes | wire.Run] = []
        reader = threading.Thread(target=lambda: seen.extend(client.follow_log(run.id)))
        reader.start()

        server.restart()
        agent.append_log(run.id, 4, b"two\n", control_token="control")
        agent.finish_run(run.id, finished(8))
        reader.join(30)

        assert b"".join(piece for piece in seen if isinstance(piece, bytes)) == b"one\ntwo\n"
        client.close()
        agent.close()
