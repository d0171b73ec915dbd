"""What every answer of the server carries, the one of its own mistake too."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest
from taskyard.wire import API_PREFIX, MARK_HEADER
from taskyard_server.app import create_app
from taskyard_server.config import ServerConfig


async def test_a_mistake_of_the_server_is_answered_as_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(ServerConfig(data=tmp_path, store=f"sqlite://{tmp_path}/control.db"))

    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://server{API_PREFIX}") as client,
    ):
        token = (tmp_path / "admin-token").read_text(encoding="ascii").strip()
        app.state.services.queues.list = None  # calling it fails as no route expects
        answer = await client.get("/queues", headers={"Authorization": f"Bearer {token}"})
        well = await client.get("/health")

    assert (answer.status_code, answer.json()["error"]) == (500, "internal")
    assert answer.headers[MARK_HEADER] == well.headers[MARK_HEADER]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        f"GET {API_PREFIX}/queues failed"
    ]
