"""Parked claims over real HTTP: woken, hung up, shared between two servers, answered when the server stops."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.claimants import COMMAND, Claimant, enqueue
from tests.support.mongod import mongod
from tests.support.servers import ServerProcess
from tests.support.waiting import becomes_true

AGENTS = 8
TASKS = 1000


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server:
        yield server


@pytest.fixture
def root(server: ServerProcess) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def agent(server: ServerProcess) -> Iterator[Claimant]:
    with Claimant(server, server.issue("agent")) as claimant:
        yield claimant


def test_enqueue_wakes_a_parked_claim(root: httpx.Client, agent: Claimant) -> None:
    with agent.parked(agent.request(wait_seconds=20.0)) as claim:
        task = enqueue(root)

        answer = claim.result(10.0)

    assert answer["task"]["id"] == task
    agent.beat(answer["run"]["id"])
    agent.finish(answer["run"]["id"]).raise_for_status()


def test_claim_that_hangs_up_takes_nothing(server: ServerProcess, root: httpx.Client, agent: Claimant) -> None:
    queue = root.post("/queues", json={"name": "hang-up"}).json()["name"]
    with pytest.raises(httpx.ReadTimeout):
        agent.http.post("/claims", json=agent.request(queue, wait_seconds=20.0), timeout=0.5)
    agent.round_trip()

    task = enqueue(root, queue)

    with Claimant(server, server.issue("agent"), worker="other:cpu:0") as other:
        assert other.claim(queue, wait_seconds=5.0)["task"]["id"] == task


def test_repeated_request_is_given_the_same_run(root: httpx.Client, agent: Claimant) -> None:
    enqueue(root)
    request = agent.request()

    first = agent.http.post("/claims", json=request).json()
    again = agent.http.post("/claims", json=request).json()

    assert first["run"]["id"] == again["run"]["id"]


def test_cancel_ends_the_parked_claim_of_the_same_agent(root: httpx.Client, agent: Claimant) -> None:
    task = enqueue(root)
    run = agent.claim()["run"]["id"]
    agent.beat(run)
    request = {**agent.request(wait_seconds=20.0), "worker": None, "runs": [run]}

    with agent.parked(request) as claim:
        root.post(f"/tasks/{task}/stop", json={}).raise_for_status()
        answer = claim.result(10.0)

    assert answer["run"] is None
    assert answer["directives"] == [{"run": run, "stale": False, "cancel": True, "terminals": []}]


def test_agent_claims_from_its_own_queues_alone(server: ServerProcess, root: httpx.Client) -> None:
    root.post("/queues", json={"name": "private"}).raise_for_status()
    enqueue(root, "private")

    with Claimant(server, server.issue("agent", queues=["default"])) as bound:
        answer = bound.http.post("/claims", json=bound.request("private"))

    assert answer.status_code == 403


def test_stopping_server_answers_parked_claims() -> None:
    with ServerProcess() as server, Claimant(server, server.issue("agent")) as agent:
        with agent.parked(agent.request(wait_seconds=20.0)) as claim:
            code = server.stop()
            answer = claim.result(5.0)

    assert code == 0
    assert answer["run"] is None


@pytest.mark.mongo
@pytest.mark.slow
def test_two_servers_on_one_mongodb_hand_out_each_task_once() -> None:
    with two_servers() as (one, other), one.client() as root:
        token = one.issue("agent")
        tasks = create_many(root, TASKS)

        with ThreadPoolExecutor(AGENTS) as agents:
            servers = [(one, other)[number % 2] for number in range(AGENTS)]
            done = agents.map(lambda pair: drain(pair[1], token, f"host{pair[0]}:cpu:0"), enumerate(servers))
            ran = Counter(task for tasks_of_one in done for task in tasks_of_one)

        assert ran == Counter(tasks)
        completed = root.get("/tasks", params={"state": "completed", "limit": 1000}).json()["tasks"]
        assert len(completed) == TASKS
        assert {task["run_count"] for task in completed} == {1}


@pytest.mark.mongo
def test_enqueue_on_one_server_wakes_a_claim_parked_on_the_other() -> None:
    with two_servers() as (one, other), one.client() as root:
        with Claimant(other, one.issue("agent")) as agent:
            with agent.parked(agent.request(wait_seconds=20.0)) as claim:
                task = enqueue(root)

                answer = claim.result(15.0)

    assert answer["task"]["id"] == task


@pytest.mark.mongo
def test_token_revoked_on_one_server_stops_on_the_other_within_two_seconds() -> None:
    with two_servers() as (one, other), one.client() as root:
        issued = root.post("/tokens", json={"kind": "user"}).json()
        with other.client(issued["secret"]) as ada:
            assert ada.get("/whoami").status_code == 200

            root.post(f"/tokens/{issued['token']['id']}/revoke").raise_for_status()

            assert becomes_true(lambda: ada.get("/whoami").status_code == 401, seconds=2.0)


@contextlib.contextmanager
def two_servers() -> Iterator[tuple[ServerProcess, ServerProcess]]:
    with mongod() as uri:
        store = f"{uri}/taskyard-{threading.get_ident()}-{time.monotonic_ns()}"
        with ServerProcess(store=store) as one, ServerProcess(store=store) as other:
            yield one, other


def drain(server: ServerProcess, token: str, worker: str) -> list[str]:
    """Runs tasks until none is left."""
    with Claimant(server, token, worker) as agent:
        return list(iter(lambda: agent.run_one(wait_seconds=0.5), None))


def create_many(http: httpx.Client, number: int) -> list[str]:
    body = {
        "tasks": [{"spec": {"name": f"task {n}", "command": COMMAND}, "queue": "default"} for n in range(number)]
    }
    answer = http.post("/tasks/bulk", json=body)
    answer.raise_for_status()
    return [task["id"] for task in answer.json()]


@pytest.mark.mongo
def test_repeats_of_one_claim_at_two_servers_are_given_one_run() -> None:
    with two_servers() as (one, other), one.client() as root, ThreadPoolExecutor(2) as both:
        token = one.issue("agent")
        with Claimant(one, token) as here, Claimant(other, token) as there:
            for _ in range(10):
                create_many(root, 2)
                request = here.request()

                first, second = both.map(Claimant.send, (here, there), (request, request))

                assert first["run"]["id"] == second["run"]["id"]
        assert len(root.get("/tasks", params={"state": "preparing"}).json()["tasks"]) == 10


# --- Tasks that are asked for by name


def named(agent: Claimant, task: str, *queues: str, **more: Any) -> httpx.Response:
    body = {**agent.request(), "queues": list(queues), "task": task, "names_obstacle": True, **more}
    return agent.http.post("/claims", json=body)


def test_a_task_that_runs_or_has_ended_is_named_and_no_conflict(server: ServerProcess, root: httpx.Client) -> None:
    task = enqueue(root)
    with (
        Claimant(server, server.issue("agent")) as agent,
        Claimant(server, server.issue("agent"), "other") as other,
    ):
        run = named(agent, task).json()["run"]["id"]
        agent.beat(run)
        busy = named(other, task).json()
        old = named(other, task, names_obstacle=False)
        agent.start(run)
        agent.finish(run)
        done = named(other, task).json()
        unfit = named(other, enqueue(root, resources={"gpus": 2}))

    assert (busy["run"], busy["obstacle"]["state"]) == (None, "preparing")
    assert "worker host:cpu:0 has it" in busy["obstacle"]["detail"]
    assert not busy["obstacle"]["unresponsive"]
    assert (done["run"], done["obstacle"]["state"]) == (None, "completed")
    assert (old.status_code, unfit.status_code) == (409, 409)
    assert "needs 2 GPUs" in unfit.json()["detail"]


def test_a_task_without_a_queue_is_given_one_to_go_back_to_but_no_other_users(
    server: ServerProcess, root: httpx.Client
) -> None:
    drafts = [root.post("/tasks", json={"spec": {"command": {"target": "a.py"}}}).json()["id"] for _ in range(2)]
    with server.client(server.issue("user", name="bob")) as bob:
        bob.post("/queues", json={"name": "bobs"}).raise_for_status()
    preempted = {"kind": "lost", "reason": "agent_stopped", "exact": "preempted", "phase": "running"}
    with Claimant(server, server.issue("agent")) as agent:
        refused = named(agent, drafts[0], "bobs")
        run = named(agent, drafts[1], "default").json()["run"]["id"]
        agent.beat(run)
        agent.start(run).raise_for_status()
        body = {"control_token": agent.control_token, "outcome": preempted, "log_bytes": 0}
        agent.http.post(f"/runs/{run}/finish", json=body).raise_for_status()

    assert (refused.status_code, "another user's" in refused.json()["detail"]) == (403, True)
    assert root.get(f"/tasks/{drafts[0]}").json()["state"] == "draft"
    left = root.get(f"/tasks/{drafts[1]}").json()
    assert (left["state"], left["queue"], left["losses"]) == ("queued", "default", 0)
    assert left["run"]["outcome"]["exact"] == "preempted"


def test_a_worker_whose_job_ends_is_given_nothing_longer(server: ServerProcess, root: httpx.Client) -> None:
    queue = root.post("/queues", json={"name": "short"}).json()["name"]
    for timeout in (3600, None, 30):
        enqueue(root, queue, policy={"timeout_seconds": timeout, "grace_seconds": 0})
    now = root.get("/info").json()["time"]
    with Claimant(server, server.issue("agent")) as agent:
        ends = {"ends_at": now + 120, "takes_endless": False}
        taken = agent.send({**agent.request("short"), **ends})
        none = agent.send({**agent.request("short"), **ends})
        endless = agent.send({**agent.request("short"), **ends, "takes_endless": True})

    assert taken["task"]["spec"]["policy"]["timeout_seconds"] == 30
    assert none["run"] is None
    assert endless["task"]["spec"]["policy"]["timeout_seconds"] is None
