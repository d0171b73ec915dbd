"""Tokens and invitations on a real store, with a clock that the test moves."""

from __future__ import annotations

import asyncio
import stat
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from taskyard.wire import IssuedToken, LoginRequest, NewToken, TokenKind
from taskyard_server.accounts import Accounts
from taskyard_server.auth import CACHE_SECONDS, RIGHTS, Actor, Authenticator, Right, digest, draw_secret
from taskyard_server.errors import Conflict, Forbidden, Invalid, NotFound, Unauthorised
from taskyard_server.store.base import QueueRecord, TokenRecord
from taskyard_server.store.sqlite import SqliteStore

USER = NewToken(kind=TokenKind.USER, name="ada")


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Door:
    clock: Clock
    authenticator: Authenticator
    accounts: Accounts
    root: Actor

    async def user(self, name: str) -> Actor:
        issued = await self.accounts.issue(NewToken(kind=TokenKind.USER, name=name), self.root)
        return await self.authenticator.actor(issued.secret)


def everything_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("control.db*"))


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    store = SqliteStore(tmp_path / "control.db")
    await store.open()
    clock = Clock()
    authenticator = Authenticator(store, clock, clock)
    accounts = Accounts(store, authenticator, clock)
    await accounts.ensure_administrator(tmp_path / "admin-token")
    root = await authenticator.actor((tmp_path / "admin-token").read_text().strip())
    yield Door(clock, authenticator, accounts, root)
    await store.close()


async def test_first_start_leaves_a_private_token_and_the_next_leaves_it(door: Door, tmp_path: Path) -> None:
    file = tmp_path / "admin-token"
    before = file.read_text()

    created = await door.accounts.ensure_administrator(file)

    assert not created
    assert file.read_text() == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_token_names_its_kind_and_is_kept_as_a_hash_alone(door: Door, tmp_path: Path) -> None:
    issued = await door.accounts.issue(USER, door.root)

    assert issued.secret.startswith("ty_user_")
    kept = everything_below(tmp_path)
    assert issued.token.id.encode() in kept
    assert issued.secret.encode() not in kept


async def test_expired_token_is_refused(door: Door) -> None:
    new = NewToken(kind=TokenKind.USER, expires_in_seconds=60.0)
    issued = await door.accounts.issue(new, door.root)
    await door.authenticator.actor(issued.secret)

    door.clock.now += 61.0

    with pytest.raises(Unauthorised, match="expired"):
        await door.authenticator.actor(issued.secret)


async def test_revocation_on_another_server_is_noticed_when_the_memory_ends(door: Door) -> None:
    issued = await door.accounts.issue(USER, door.root)
    await door.authenticator.actor(issued.secret)
    elsewhere = Accounts(door.accounts._store, Authenticator(door.accounts._store, door.clock), door.clock)

    await elsewhere.revoke(issued.token.id, door.root)
    door.clock.now += CACHE_SECONDS

    with pytest.raises(Unauthorised, match="revoked"):
        await door.authenticator.actor(issued.secret)


async def test_code_is_good_once_for_however_many_ask_at_once(door: Door) -> None:
    invitation = await door.accounts.invite(USER, door.root)
    request = LoginRequest(code=invitation.code)

    answers = await asyncio.gather(*(door.accounts.login(request) for _ in range(5)), return_exceptions=True)

    issued = [answer for answer in answers if isinstance(answer, IssuedToken)]
    assert len(issued) == 1
    assert (await door.authenticator.actor(issued[0].secret)).name == "ada"
    assert all(isinstance(answer, Unauthorised) for answer in answers if answer not in issued)


async def test_code_is_listed_and_revoked_as_a_token_is(door: Door) -> None:
    ada, bob = await door.user("ada"), await door.user("bob")
    invitation = await door.accounts.invite(NewToken(kind=TokenKind.AGENT, name="rack"), ada)

    listed = [token for token in await door.accounts.list(ada) if token.invitation]
    with pytest.raises(NotFound):
        await door.accounts.revoke(invitation.id, bob)
    revoked = await door.accounts.revoke(invitation.id, ada)

    assert [(token.id, token.kind, token.name) for token in listed] == [(invitation.id, TokenKind.AGENT, "rack")]
    assert revoked.revoked
    with pytest.raises(Unauthorised):
        await door.accounts.login(LoginRequest(code=invitation.code))


async def test_code_may_be_typed_carelessly(door: Door) -> None:
    invitation = await door.accounts.invite(USER, door.root)
    typed = " " + invitation.code.replace("-", " ").lower().replace("0", "o").replace("1", "l")

    issued = await door.accounts.login(LoginRequest(code=typed, name="ada's laptop"))

    assert issued.token.name == "ada"  # the inviter says whose it is


async def test_code_is_worthless_after_ten_minutes_and_no_token(door: Door) -> None:
    invitation = await door.accounts.invite(USER, door.root)
    with pytest.raises(Unauthorised):
        await door.authenticator.actor(invitation.code)

    door.clock.now += 601.0

    with pytest.raises(Unauthorised, match="ask for a new one"):
        await door.accounts.login(LoginRequest(code=invitation.code))


async def test_users_see_and_revoke_their_own_tokens_alone(door: Door) -> None:
    ada, bob = await door.user("ada"), await door.user("bob")

    second = await door.accounts.issue(NewToken(kind=TokenKind.USER, name="laptop"), ada)

    assert {token.name for token in await door.accounts.list(ada)} == {"ada", "laptop"}
    with pytest.raises(NotFound):
        await door.accounts.revoke(second.token.id, bob)
    assert (await door.accounts.revoke(second.token.id, ada)).revoked


async def test_last_administrator_keeps_the_way_in(door: Door) -> None:
    with pytest.raises(Conflict, match="issue another"):
        await door.accounts.revoke(door.root.token, door.root)

    await door.accounts.issue(NewToken(kind=TokenKind.ADMINISTRATOR), door.root)

    assert (await door.accounts.revoke(door.root.token, door.root)).revoked


async def test_token_of_a_token_does_not_outlive_it(door: Door) -> None:
    short = await door.accounts.issue(NewToken(kind=TokenKind.USER, expires_in_seconds=60.0), door.root)
    actor = await door.authenticator.actor(short.secret)

    child = await door.accounts.issue(NewToken(kind=TokenKind.USER, expires_in_seconds=3600.0), actor)

    assert child.token.expires_at == short.token.expires_at


async def queue_of(door: Door, name: str) -> QueueRecord:
    queue = QueueRecord(id="ab" * 16, name=name, description="", paused=False, created_at=0.0)
    await door.accounts._store.add_queue(queue)
    return queue


@pytest.mark.parametrize("ref", ["ab" * 16, "café", " cafe\N{COMBINING ACUTE ACCENT}"])
async def test_an_agents_token_is_for_a_queue_however_that_is_named(door: Door, ref: str) -> None:
    queue = await queue_of(door, "café")

    issued = await door.accounts.issue(NewToken(kind=TokenKind.AGENT, queues=(ref,)), door.root)

    assert issued.token.queues == ("café",)
    assert (await door.authenticator.actor(issued.secret)).may_serve(queue)


async def test_a_queue_that_does_not_exist_is_refused_with_the_nearest(door: Door) -> None:
    await queue_of(door, "single-gpu")
    new = NewToken(kind=TokenKind.AGENT, queues=("singel-gpu",))

    with pytest.raises(NotFound, match="nearest are 'single-gpu'"):
        await door.accounts.issue(new, door.root)
    with pytest.raises(NotFound, match="nearest are 'single-gpu'"):
        await door.accounts.invite(new, door.root)


async def test_an_agent_that_may_create_queues_serves_what_it_creates(door: Door) -> None:
    new = NewToken(kind=TokenKind.AGENT, queues=("later",), create_queues=True)

    issued = await door.accounts.issue(new, door.root)

    actor = await door.authenticator.actor(issued.secret)
    assert actor.may_serve(await queue_of(door, "later"))
    assert not actor.may_serve(None)


async def own_queue(door: Door, owner: Actor, name: str) -> QueueRecord:
    queue = QueueRecord(
        id=uuid.uuid4().hex, name=name, description="", paused=False, created_at=0.0, owner=owner.owner
    )
    await door.accounts._store.add_queue(queue)
    return queue


async def test_a_users_agent_is_refused_queues_that_others_created(door: Door) -> None:
    bob = await door.user("bob")
    await queue_of(door, "gpu")
    new = NewToken(kind=TokenKind.AGENT, queues=("gpu",))

    with pytest.raises(Forbidden, match=r"ask an administrator .*--queue gpu"):
        await door.accounts.issue(new, bob)
    with pytest.raises(Forbidden, match="ask an administrator"):
        await door.accounts.invite(new, bob)


@pytest.mark.parametrize("queues", [("mine",), ()])
async def test_a_users_agent_serves_the_users_queues_alone(door: Door, queues: tuple[str, ...]) -> None:
    bob, shared = await door.user("bob"), await queue_of(door, "gpu")
    mine = await own_queue(door, bob, "mine")
    invitation = await door.accounts.invite(NewToken(kind=TokenKind.AGENT, queues=queues), bob)

    issued = await door.accounts.login(LoginRequest(code=invitation.code, name="bob's machine"))

    actor = await door.authenticator.actor(issued.secret)
    assert issued.token.own_queues
    assert [actor.may_serve(queue) for queue in (mine, shared, None)] == [True, False, False]


async def test_a_users_agent_does_not_serve_a_queue_that_another_creates_under_the_name(door: Door) -> None:
    ada, bob = await door.user("ada"), await door.user("bob")
    new = NewToken(kind=TokenKind.AGENT, queues=("later", "soon"), create_queues=True)
    issued = await door.accounts.issue(new, bob)

    adas, bobs = await own_queue(door, ada, "later"), await own_queue(door, bob, "soon")

    actor = await door.authenticator.actor(issued.secret)
    assert [actor.may_serve(queue) for queue in (adas, bobs)] == [False, True]


async def unconfined_agent(door: Door) -> str:
    """The secret of a token as a user could issue it before agents of users were confined."""
    secret = draw_secret(TokenKind.AGENT)
    record = TokenRecord(
        id="cd" * 16,
        hash=digest(secret),
        kind=TokenKind.AGENT,
        name="bob's machine",
        owner="bob",
        created_at=0.0,
        expires_at=None,
    )
    await door.accounts._store.add_token(record)
    return secret


async def test_unconfined_tokens_of_before_go_on_and_are_listed(door: Door) -> None:
    secret = await unconfined_agent(door)
    confined = await door.accounts.issue(NewToken(kind=TokenKind.AGENT), await door.user("ada"))
    issued_by_root = await door.accounts.issue(NewToken(kind=TokenKind.AGENT), door.root)

    listed = {one.id for one in await door.accounts.list(door.root) if one.unconfined}

    assert (await door.authenticator.actor(secret)).may_serve(await queue_of(door, "gpu"))
    assert listed == {"cd" * 16}
    assert {confined.token.id, issued_by_root.token.id}.isdisjoint(listed)


async def test_unconfined_tokens_of_before_end_with_one_setting(door: Door) -> None:
    secret = await unconfined_agent(door)
    store = door.accounts._store
    strict = Authenticator(store, door.clock, door.clock, refuse_unconfined=True)
    confined = await door.accounts.issue(NewToken(kind=TokenKind.AGENT), await door.user("ada"))

    with pytest.raises(Unauthorised, match="ask an administrator for a new one"):
        await strict.actor(secret)
    assert (await strict.actor(confined.secret)).own_queues


async def test_a_token_by_a_code_does_not_outlive_the_one_that_invited(door: Door) -> None:
    short = NewToken(kind=TokenKind.USER, expires_in_seconds=3600.0)
    user = await door.authenticator.actor((await door.accounts.issue(short, door.root)).secret)
    invitation = await door.accounts.invite(NewToken(kind=TokenKind.USER), user)

    issued = await door.accounts.login(LoginRequest(code=invitation.code, name="ada"))

    assert issued.token.expires_at == door.clock.now + 3600.0


async def test_users_make_no_administrators_and_nobody_makes_runs(door: Door) -> None:
    ada = await door.user("ada")

    with pytest.raises(Forbidden):
        await door.accounts.issue(NewToken(kind=TokenKind.ADMINISTRATOR), ada)
    with pytest.raises(Forbidden):
        await door.accounts.invite(NewToken(kind=TokenKind.ADMINISTRATOR), ada)
    with pytest.raises(Invalid):
        await door.accounts.issue(NewToken(kind=TokenKind.RUN), door.root)


def test_only_agents_claim_and_no_agent_changes_tasks_or_tokens() -> None:
    agents = {right for right, kinds in RIGHTS.items() if TokenKind.AGENT in kinds}

    assert agents == {Right.READ, Right.READ_TASK, Right.CREATE_QUEUES, Right.CLAIM, Right.REPORT}
    assert set(RIGHTS) == set(Right)
    assert all(RIGHTS[right] == {TokenKind.AGENT} for right in (Right.CLAIM, Right.REPORT))
