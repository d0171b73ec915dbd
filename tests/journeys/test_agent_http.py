"""What monitoring asks an agent: K09, K12."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from taskyard.wire import TaskState

from tests.support.agents import AgentProcess, wait_until
from tests.support.servers import free_port
from tests.support.yard import Yard


@pytest.fixture
def port() -> int:
    return free_port()


def health(port: int) -> httpx.Response | None:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=10)
    except httpx.TransportError:
        return None


def is_healthy(port: int) -> bool:
    answer = health(port)
    return answer is not None and answer.status_code == 200


def metrics(port: int) -> dict[tuple[str, ...], float]:
    """Every value by its name and the values of its labels, in the order of the labels' names."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        (sample.name, *(text for _, text in sorted(sample.labels.items()))): sample.value for sample in samples
    }


def test_an_agent_in_touch_with_its_server_is_healthy(yard: Yard, port: int) -> None:
    with yard.agent("--http", str(port)):
        wait_until(lambda: is_healthy(port))
        answer = health(port)

    assert answer is not None
    record = answer.json()
    assert record["status"] == "ok"
    assert record["worker"] == {"name": "tester", "state": "idle", "paused_reason": ""}
    assert record["last_beat_age_seconds"] >= 0


def test_the_metrics_count_a_known_load_exactly(yard: Yard, port: int) -> None:
    with yard.agent("--http", str(port)):
        yard.wait_for_end(*(yard.submit(command) for command in ("true", "false", "true")))
        running = yard.submit("sleep", "30")
        yard.wait_for_state(running, TaskState.RUNNING)
        wait_until(lambda: ("taskyard_cpu_percent", "worker:tester") in metrics(port))
        found = metrics(port)

    assert found["taskyard_runs_executing",] == 1
    assert found["taskyard_runs_executed_total", "completed"] == 2
    assert found["taskyard_runs_executed_total", "failed"] == 1
    assert found["taskyard_claims_total",] == 4
    assert found["taskyard_worker_state", "busy", "tester"] == 1
    assert found["taskyard_worker_state", "idle", "tester"] == 0
    assert found["taskyard_environments_total", "cache"] + found["taskyard_environments_total", "built"] == 4
    assert found["taskyard_last_beat_age_seconds",] >= 0


def test_an_agent_that_never_reached_its_server_again_says_so(yard: Yard, port: int) -> None:
    """How long it is patient is the endpoint's own test; here: the age grows once the server is gone."""
    with yard.agent("--http", str(port)):
        wait_until(lambda: is_healthy(port))
        yard.server.kill()
        wait_until(lambda: (answer := health(port)) is not None and answer.json()["last_beat_age_seconds"] > 12)


def test_a_port_that_is_taken_is_named(yard: Yard, port: int) -> None:
    with yard.agent("--http", str(port)):
        wait_until(lambda: is_healthy(port))
        with yard.agent("--http", f"127.0.0.1:{port}", name="other") as other:
            assert other.wait() == 2
            assert f"--http 127.0.0.1:{port}: Address already in use" in other.log


def test_without_the_flag_nothing_listens(yard: Yard) -> None:
    with yard.agent() as agent:
        wait_until(lambda: yard.client.workers())

        assert not listening(agent)


def listening(agent: AgentProcess) -> list[object]:
    import psutil

    assert agent.process is not None
    connections = psutil.Process(agent.process.pid).net_connections()
    return [connection for connection in connections if connection.status == psutil.CONN_LISTEN]
