"""The published API: the snapshot is current, and what it says is true of a real server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard_server.description import description

from tests.support.claimants import Claimant, enqueue
from tests.support.servers import ServerProcess

ROOT = Path(__file__).parents[2]
SNAPSHOT = ROOT / "docs" / "reference" / "openapi.json"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
AGENT_ROUTES = ("/api/v1/claims", "/api/v1/beats", "/api/v1/runs/{run_id}/start", "/api/v1/runs/{run_id}/finish")
EXAMPLES = 10
SECONDS = 500


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server:
        yield server


def test_snapshot_is_current() -> None:
    assert SNAPSHOT.read_text(encoding="utf-8") == description(), (
        "the API has changed; look at the difference, then run: "
        "python -m taskyard_server.description docs/reference/openapi.json"
    )


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
def test_description_is_true_of_what_exists(tmp_path: Path) -> None:
    with ServerProcess() as server, server.client() as root, Claimant(server, server.issue("agent")) as agent:
        task = enqueue(root)
        agent.run_one()
        queue = root.get("/queues").json()[0]["id"]
        ids = {"task_id": task, "run_id": f"{task}.1", "queue_id": queue, "name": agent.worker}
        config = tmp_path / "schemathesis.toml"
        config.write_text("[parameters]\n" + "".join(f'"path.{name}" = "{ids[name]}"\n' for name in ids))

        assert_true(server, server.admin_token, "--exclude-method", "DELETE", config=config)


@pytest.mark.thorough
def test_description_is_true_of_what_is_not_there(server: ServerProcess) -> None:
    assert_true(server, server.admin_token, "--include-path-regex", "{", "--include-method", "DELETE")


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
def test_description_is_true_for_an_agent(server: ServerProcess) -> None:
    token = server.issue("agent", create_queues=True)

    assert_true(server, token, *(flag for route in AGENT_ROUTES for flag in ("--include-path", route)))


def assert_true(server: ServerProcess, token: str, *flags: str, config: Path | None = None) -> None:
    """Sends valid and invalid requests to every operation of the description; none may contradict it."""
    tool = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert tool
    bounds = ["--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", "1"]
    command = [tool, *(["--config-file", str(config)] if config else []), "run", f"{server.api}/openapi.json"]
    options = ["--checks", CHECKS, "--no-color", *bounds, "--header", f"Authorization: Bearer {token}", *flags]

    report = subprocess.run(
        [*command, *options],
        cwd=server.data,  # the tool leaves a folder of reports
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.support.fuzzing", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert report.returncode == 0, report.stdout[-8000:] + server.log[-4000:]
