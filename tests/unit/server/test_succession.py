"""An agent whose token was renewed goes on with its runs; no other agent does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from taskyard.wire import OutcomeKind, TokenKind
from taskyard_server.auth import Actor, actor_of
from taskyard_server.errors import Conflict, Forbidden, Stale
from taskyard_server.store.base import TokenRecord

from tests.support.services import FakeAgent, Services


async def token(services: Services, id: str, **fields: Any) -> TokenRecord:
    record = TokenRecord(
        id=id, hash=id, kind=TokenKind.AGENT, name="host", owner=id, created_at=0.0, expires_at=None
    )
    record = replace(record, **fields)
    await services.stores.store.add_token(record)
    return record


class Renewed(FakeAgent):
    """An agent that speaks with another token than before."""

    record: TokenRecord

    @property
    def actor(self) -> Actor:
        return actor_of(self.record, self.services.clock())


def speaking_with(agent: FakeAgent, record: TokenRecord) -> Renewed:
    renewed = Renewed(agent.services, agent.name, held=agent.held)
    renewed.record = record
    return renewed


FOLLOWS = {
    "the same account": ({"owner": "ada"}, {"owner": "ada"}),
    "its forerunner was revoked": ({"revoked": True}, {}),
    "its forerunner has expired": ({"expires_at": 1.0}, {}),
}
STRANGERS = {
    "another machine of the account": ({"owner": "ada"}, {"owner": "ada", "name": "other"}),
    "another account, while the first is good": ({}, {}),
    "a user's agent, after the first was revoked": ({"revoked": True}, {"own_queues": True}),
    "a person": ({"owner": "ada"}, {"owner": "ada", "kind": TokenKind.USER}),
}


@pytest.mark.parametrize("case", FOLLOWS)
async def test_a_renewed_token_of_the_same_agent_keeps_its_runs(services: Services, case: str) -> None:
    before, after = FOLLOWS[case]
    await token(services, "agent-token", **before)
    await services.enqueue()
    agent = services.agent("w", token="agent-token")
    request = agent.request()
    run = (await agent.claim(request_id=request.request_id)).run
    assert run is not None

    renewed = speaking_with(agent, await token(services, "new", **after))
    again = await renewed.claim(request_id=request.request_id)
    await renewed.beat()
    await renewed.start(run)
    await renewed.log(run, 0, b"line\n")
    ended = await renewed.finish(run, log_bytes=5)

    assert again.run is not None
    assert again.run.id == run.id
    assert ended.outcome is not None
    assert ended.outcome.kind is OutcomeKind.COMPLETED


@pytest.mark.parametrize("case", STRANGERS)
async def test_another_agent_has_no_right_to_a_run_though_it_knew_the_control_token(
    services: Services, case: str
) -> None:
    before, after = STRANGERS[case]
    await token(services, "agent-token", **before)
    await services.enqueue()
    agent = services.agent("w", token="agent-token")
    request = agent.request()
    run = (await agent.claim(request_id=request.request_id)).run
    assert run is not None

    stranger = speaking_with(agent, await token(services, "new", **after))

    assert [directive.stale for directive in (await stranger.beat()).runs] == [True]
    with pytest.raises(Forbidden):
        await stranger.start(run)
    with pytest.raises(Forbidden):
        await stranger.finish(run)
    with pytest.raises(Stale):
        await stranger.log(run, 0, b"line\n")
    with pytest.raises((Conflict, Forbidden)):
        await stranger.claim(request_id=request.request_id)


async def test_a_renewed_token_alone_opens_no_run(services: Services) -> None:
    await token(services, "agent-token", owner="ada")
    await services.enqueue()
    agent = services.agent("w", token="agent-token")
    run = await agent.take()
    renewed = speaking_with(agent, await token(services, "new", owner="ada"))
    renewed.held = {run.id: "a guess"}

    with pytest.raises(Stale):
        await renewed.start(run)
    with pytest.raises(Stale):
        await renewed.log(run, 0, b"line\n")
