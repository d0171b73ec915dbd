"""The table of rights over every route of the API, with real tokens of the four kinds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from taskyard_server.api.route import Route
from taskyard_server.app import create_app
from taskyard_server.config import ServerConfig

from tests.support.claimants import COMMAND, Claimant, enqueue
from tests.support.servers import ServerProcess
from tests.support.waiting import becomes_true

ANYBODY = "AUGR-"
"""A administrator, U user, G agent, R run, - without a token."""
ALLOWED = {
    "read_info": ANYBODY,
    "read_health": ANYBODY,
    "login": ANYBODY,
    "whoami": "AUGR",
    "invite": "AU",
    "list_tokens": "AU",
    "issue_token": "AU",
    "revoke_token": "AU",
    "upload_blob": "AUR",
    "download_blob": "AUGR",
    "measure_blob": "AUGR",
    "create_task": "AUR",
    "create_tasks": "AUR",
    "explain_new_task": "AUR",
    "list_tasks": "AUR",
    "resolve_task": "AUR",
    "read_task": "AUGR",
    "change_task": "AUR",
    "delete_task": "AUR",
    "enqueue_task": "AUR",
    "dequeue_task": "AUR",
    "stop_task": "AUR",
    "retry_task": "AUR",
    "clone_task": "AUR",
    "clone_task_often": "AUR",
    "move_task": "AUR",
    "explain_task": "AUR",
    "read_story": "AUR",
    "list_events": "AU",
    "list_queues": "AUGR",
    "read_queue": "AUGR",
    "create_queue": "AU",
    "change_queue": "AU",
    "delete_queue": "AU",
    "list_entries": "AU",
    "enqueue_tasks": "AUR",
    "list_workers": "AUGR",
    "read_worker": "AUGR",
    "delete_worker": "AU",
    "drain_worker": "AU",
    "pause_worker": "AU",
    "resume_worker": "AU",
    "read_worker_metrics": "AUGR",
    "read_run_metrics": "AUGR",
    "claim": "G",
    "beat": "G",
    "start_run": "G",
    "finish_run": "G",
    "append_log": "G",
    "find_missing_parts": "G",
    "upload_part": "G",
    "attach_artifacts": "G",
    "report_outputs": "G",
    "list_artifacts": "AUGR",
    "download_artifact": "AUGR",
    "read_run": "AUGR",
    "read_log": "AUGR",
    "stream_log": "AUGR",
    "open_terminal": "AU",
    "type_keys": "AU",
    "read_screen": "AU",
    "show_output": "G",
    "await_keys": "G",
    "read_recovery": "A",
    "adopt_runs": "A",
    "give_up_runs": "A",
    "resume_store": "A",
}
ROUTES = [route for route in create_app(ServerConfig()).routes if isinstance(route, Route)]


@pytest.fixture(scope="module")
def tokens() -> Iterator[tuple[ServerProcess, dict[str, str]]]:
    with ServerProcess() as server, server.client() as root:
        agent = server.issue("agent")
        with Claimant(server, agent) as claimant:
            enqueue(root, project="vision")
            claimant.beat(claimant.claim()["run"]["id"])
            user, run = server.issue("user"), claimant.report_token
            yield server, {"A": server.admin_token, "U": user, "G": agent, "R": run, "-": ""}


def test_table_names_every_route() -> None:
    assert {route.name for route in ROUTES} == set(ALLOWED)


@pytest.mark.parametrize("kind", list(ANYBODY))
def test_every_route_admits_whom_the_table_says(tokens: tuple[ServerProcess, dict[str, str]], kind: str) -> None:
    server, secrets = tokens

    with server.client(secrets[kind]) as client:
        answers = {route.name: client.request(next(iter(route.methods)), address(route)) for route in ROUTES}

    refused = 401 if kind == "-" else 403
    admitted = {name for name, answer in answers.items() if answer.status_code != refused or name == "login"}
    assert admitted == {name for name, kinds in ALLOWED.items() if kind in kinds}
    assert {answer.status_code for answer in answers.values()} <= {200, 204, 401, 403, 404, 422}


def test_agent_creates_queues_when_it_was_issued_so(tokens: tuple[ServerProcess, dict[str, str]]) -> None:
    server, _ = tokens

    with server.client(server.issue("agent", create_queues=True)) as agent:
        answer = agent.post("/queues", json={"name": "made by an agent"})

    assert answer.status_code == 200


def test_run_acts_inside_its_project_alone(tokens: tuple[ServerProcess, dict[str, str]]) -> None:
    server, secrets = tokens
    with server.client() as root:
        foreign = enqueue(root, project="speech")

    with server.client(secrets["R"]) as run:
        own = run.post("/tasks", json={"spec": {"project": "vision", "command": COMMAND}, "queue": "default"})
        other = run.get(f"/tasks/{foreign}")
        log = run.get(f"/runs/{foreign}.1/logs")

    assert own.status_code == 200
    assert own.json()["parent"]
    assert other.status_code in (403, 404)
    assert log.status_code in (403, 404)


def test_agent_reads_its_own_runs_and_its_queues_alone(tokens: tuple[ServerProcess, dict[str, str]]) -> None:
    server, _ = tokens
    with server.client() as root:
        queue = root.post("/queues", json={"name": "private"}).json()["id"]
        secrets = [server.issue("agent", queues=[name]) for name in (queue, queue, "default")]
        enqueue(root, queue)
        with Claimant(server, secrets[0]) as owner:
            run = owner.claim(queue)["run"]["id"]
            owner.beat(run)

        before = [read_all_of(server, secret, run) for secret in secrets]
        root.delete(f"/queues/{queue}", params={"force": True}).raise_for_status()

        assert before == [{200}, {200}, {403}]
        assert [read_all_of(server, secret, run) for secret in secrets] == [{200}, {403}, {403}]


def test_token_of_a_run_ends_with_it(tokens: tuple[ServerProcess, dict[str, str]]) -> None:
    server, secrets = tokens
    with server.client() as root, Claimant(server, secrets["G"], worker="host:cpu:1") as agent:
        enqueue(root)
        claimed = agent.claim()["run"]["id"]
        agent.beat(claimed)
        with server.client(agent.report_token) as run:
            assert run.get("/whoami").json()["kind"] == "run"

            agent.start(claimed)
            agent.finish(claimed).raise_for_status()

            assert becomes_true(lambda: run.get("/whoami").status_code == 401, seconds=2.0)


def test_a_user_reaches_another_users_secret_neither_by_an_edit_nor_by_an_agent(
    tokens: tuple[ServerProcess, dict[str, str]],
) -> None:
    server, _ = tokens
    mallory_token = server.issue("user", name="mallory")
    with server.client(server.issue("user", name="ada")) as ada, server.client(mallory_token) as mallory:
        body = {"spec": {"command": COMMAND}, "secret_values": {"WANDB_KEY": "adas secret"}}
        draft = ada.post("/tasks", json=body).json()["id"]

        agent = mallory.post("/tokens", json={"kind": "agent", "queues": ["default"]})
        own = mallory.post("/queues", json={"name": "mallorys"})
        edited = mallory.patch(f"/tasks/{draft}", json={"command": {"kind": "module", "target": "printer"}})
        mallory.post(f"/tasks/{draft}/enqueue", json={"queue": "mallorys"}).raise_for_status()
        machine = mallory.post("/tokens", json={"kind": "agent", "queues": ["mallorys"]}).json()["secret"]
        with Claimant(server, machine, worker="mallorys:cpu:0") as claimant:
            claimed = claimant.claim("mallorys")
            refused = claimant.http.post("/claims", json=claimant.request("default"))

    assert agent.status_code == 403
    assert own.json()["owner"] == "mallory"
    assert edited.json()["dropped_secrets"] == ["WANDB_KEY"]
    assert claimed["task"]["id"] == draft
    assert "adas secret" not in str(claimed)
    assert refused.status_code == 403


def test_a_task_is_served_by_a_users_agent_in_the_queue_that_the_user_created(
    tokens: tuple[ServerProcess, dict[str, str]],
) -> None:
    server, _ = tokens
    with server.client(server.issue("user", name="bob")) as bob, server.client() as root:
        bob.post("/queues", json={"name": "bobs"}).raise_for_status()
        machine = bob.post("/tokens", json={"kind": "agent"}).json()["secret"]
        drafted = [enqueue(client, "bobs") for client in (root, bob)]
        bobs_draft = bob.post("/tasks", json={"spec": {"command": COMMAND}}).json()["id"]
        roots_draft = root.post("/tasks", json={"spec": {"command": COMMAND}}).json()["id"]

        with Claimant(server, machine, worker="bobs:cpu:0") as claimant:
            ran = [claimant.run_one("bobs") for _ in drafted]
            own = claimant.http.post("/claims", json={**claimant.request("bobs"), "task": bobs_draft})
            foreign = claimant.http.post("/claims", json={**claimant.request("bobs"), "task": roots_draft})

    assert ran == drafted
    assert own.status_code == 200
    assert foreign.status_code == 403


def read_all_of(server: ServerProcess, secret: str, run: str) -> set[int]:
    statuses = set()
    with server.client(secret) as client:
        for part in ("", "/logs", "/logs/stream", "/metrics"):
            with client.stream("GET", f"/runs/{run}{part}") as answer:
                statuses.add(answer.status_code)
    return statuses


def address(route: Route) -> str:
    """A path that the route answers, with ids that name nothing."""
    parts = {"{sha256}": "0" * 64, "{run_id}": "0" * 32 + ".1", "{name}": "nobody"}
    path = route.path.removeprefix("/api/v1")
    for part, value in parts.items():
        path = path.replace(part, value)
    return path.replace("{task_id}", "0" * 32).replace("{queue_id}", "0" * 32).replace("{token_id}", "0" * 32)
