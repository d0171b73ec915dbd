"""A day of an operator: look in, let a machine in, back up, upgrade, read the metrics, drain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from taskyard.wire import TaskState

from tests.support.agents import wait_until
from tests.support.person import Person
from tests.support.servers import ServerProcess
from tests.support.yard import Yard


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data = tmp_path_factory.mktemp("operator") / "data"
    with ServerProcess(data=data) as server:
        yield server


@pytest.fixture
def stranger(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


def metrics(server: ServerProcess, token: str) -> dict[tuple[str, ...], float]:
    """Every value by its name and the values of its labels, in the order of the labels' names."""
    answer = httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    samples = [each for family in text_string_to_metric_families(answer.text) for each in family.samples]
    return {(each.name, *(text for _, text in sorted(each.labels.items()))): each.value for each in samples}


class Loaded(HTMLParser):
    """What a page would load or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [tag] if tag in ("script", "link", "img", "iframe", "object") else []
        self.found += [name for name, _ in attrs if name.startswith("on") or name in ("src", "style")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_day_of_an_operator(server: ServerProcess, tmp_path: Path) -> None:
    """Two starts of the server, one agent, a copy: everything as a person would type it."""
    person = Person(tmp_path / "home", TASKYARD_DATA=str(server.data)).log_in(server)
    monitor = person.types("token", "create", "user", "--name", "monitor").stdout.strip()

    code = person.types("invite", "agent", "--queue", "default").stdout.strip()
    exit_code, said = person.answers("agent", "join", server.url, question="code", answer=code)
    assert exit_code == 0, said
    log = tmp_path / "agent.log"
    place = ("--cpu-only", "--local-dir", str(tmp_path / "cache"), "--name", "box", "--log-format", "json")
    agent = person.starts("agent", "daemon", *place, log=log)
    try:
        with Yard(server) as yard:
            done, failed = yard.submit("true"), yard.submit("false")
            yard.wait_for_end(done, failed)
            before = status(person)
            assert before["tasks"] == {} or set(before["tasks"].values()) == {0}
            assert before["queues"] == 2
            assert before["sizes"]["control"] > 0
            copy = person.types("server", "backup", str(tmp_path / "copy.tar"))
            assert copy.returncode == 0, copy.stderr

            running = yard.python("import time; print('at it', flush=True); time.sleep(600)")
            yard.wait_for_output(running, "at it")
            waiting = yard.submit("true", queue="services")
            server.stop()  # the upgrade: another version would start on the same data
            server.start()
            wait_until(lambda: metrics(server, monitor)["taskyard_workers", "busy"] == 1, seconds=60)
            found = metrics(server, monitor)
            assert found["taskyard_tasks", "default", "running"] == 1
            assert found["taskyard_tasks", "services", "queued"] == 1
            assert found["taskyard_queue_wait_seconds", "services"] > 0
            assert found["taskyard_store_up",] == 1

            assert person.types("worker", "drain", "box").returncode == 0
            person.types("stop", running.id)
            assert agent.wait(60) == 0
            assert yard.task(waiting).state is TaskState.QUEUED
            found = metrics(server, monitor)
            assert found["taskyard_runs_ended_total", "cancelled"] == 1
            assert found["taskyard_request_duration_seconds_count", "beat"] > 0
            assert found["taskyard_loop_lag_seconds_count",] > 0
    finally:
        agent.kill()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["component"] for line in lines if line["action"] == "agent_drains"} == {"agent box"}
    assert "[task_claimed]" in server.log


def status(person: Person) -> dict[str, object]:
    shown = person.types("server", "status", "--json")
    assert shown.returncode == 0, shown.stderr
    return dict(json.loads(shown.stdout))


def test_metrics_are_for_users_unless_they_are_public(server: ServerProcess) -> None:
    agent = server.issue("agent")

    answers = [
        httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {token}"} if token else {})
        for token in ("", agent)
    ]

    assert [answer.status_code for answer in answers] == [401, 403]
    with ServerProcess("--public-metrics") as open_to_all:
        assert "taskyard_store_up 1.0" in httpx.get(f"{open_to_all.url}/metrics").text


def test_errors_are_counted_by_their_word(server: ServerProcess, stranger: httpx.Client) -> None:
    before = metrics(server, server.admin_token).get(("taskyard_request_errors_total", "not_found"), 0)

    stranger.get("/nothing")
    stranger.get("/api/v1/nothing")

    assert metrics(server, server.admin_token)["taskyard_request_errors_total", "not_found"] == before + 2


def test_pages_for_people_load_and_run_nothing(stranger: httpx.Client) -> None:
    for path in ("/", "/docs"):
        answer = stranger.get(path)

        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/html")
        assert "script-src" not in answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "'unsafe-" not in answer.headers["Content-Security-Policy"]
        assert Loaded(answer.text).found == []


def test_the_docs_name_every_route_and_every_record(stranger: httpx.Client) -> None:
    page, described = stranger.get("/docs").text, stranger.get("/api/v1/openapi.json").json()

    for path, operations in described["paths"].items():
        assert path in page
        for operation in operations.values():
            assert f'id="{operation["operationId"]}"' in page
    for name in described["components"]["schemas"]:
        assert f'id="record-{name}"' in page


def test_anybody_learns_whether_the_server_works_and_nothing_else(stranger: httpx.Client) -> None:
    assert stranger.get("/health").json() == {"status": "ok", "store": "reachable"}
    assert stranger.head("/health").status_code == 200


def test_a_method_that_a_path_does_not_take_is_answered_with_all_that_it_takes(stranger: httpx.Client) -> None:
    answer = stranger.put("/api/v1/tasks/x")

    assert answer.status_code == 405
    assert answer.headers["Allow"] == "DELETE, GET, PATCH"
    assert answer.json()["detail"].endswith("it takes DELETE, GET, PATCH")
    assert stranger.put("/api/v1/tasks").headers["Allow"] == "GET, POST"
    assert stranger.post("/health").headers["Allow"] == "GET, HEAD"
