"""What an outsider, a former insider and a careless operator cannot do to a server."""

from __future__ import annotations

import secrets
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.claimants import COMMAND, Claimant, enqueue
from tests.support.servers import ServerProcess
from tests.support.waiting import becomes_true


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server:
        yield server


# --- Tokens


def test_a_claim_parked_before_its_token_was_revoked_is_given_nothing(server: ServerProcess) -> None:
    with server.client() as root, Claimant(server, server.issue("agent", name="leaver")) as agent:
        leaver = next(token for token in root.get("/tokens").json() if token["name"] == "leaver")
        with agent.parked(agent.request(wait_seconds=20.0)) as answer:
            root.post(f"/tokens/{leaver['id']}/revoke").raise_for_status()
            task = enqueue(root)

            with pytest.raises(httpx.HTTPStatusError, match="401"):
                answer.result(10.0)
        assert root.get(f"/tasks/{task}").json()["state"] == "queued"
        root.delete(f"/tasks/{task}").raise_for_status()
