"""Who is calling, and what they may do."""

from __future__ import annotations

import enum
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from taskyard.wire import TokenKind

from taskyard_server.errors import Forbidden, Unauthorised, Unavailable, UnknownToken
from taskyard_server.recent import Recent
from taskyard_server.store.base import QueueRecord, Store, TaskRecord, TokenRecord

CACHE_SECONDS = 1.0
"""A revoked token is refused within this time by every server process of a store."""
CACHE_SIZE = 10_000
TOUCH_SECONDS = 60.0
LONGEST_SECRET = 512


@dataclass(frozen=True, kw_only=True)
class Actor:
    """The caller of a request, as its token says."""

    token: str
    """Id of the token; for a run, the run's id."""
    kind: TokenKind
    name: str
    owner: str
    """The account that it acts for; a run acts for its submitter."""
    queues: tuple[str, ...] = ()
    """For an agent: ids of the queues it may claim from, and names of those it may yet create; empty for all."""
    create_queues: bool = False
    own_queues: bool = False
    """For an agent: whether it may claim from queues of its account alone."""
    task: str | None = None
    """For a run: its task."""
    project: str | None = None
    """For a run: the only project that it may touch."""

    def may_serve(self, queue: QueueRecord | None) -> bool:
        """For an agent: whether it may claim tasks of the queue; None: of none."""
        if self.own_queues and (queue is None or queue.owner != self.owner):
            return False
        return not self.queues or (queue is not None and not {queue.id, queue.name}.isdisjoint(self.queues))


class Right(enum.Enum):
    """What a route asks of its caller; the value ends the sentence `this token may not …`."""

    READ = "read"
    READ_TASK = "read tasks"
    USE_TASKS = "read or change tasks"
    WRITE_BLOBS = "upload code"
    READ_EVENTS = "read the events of all tasks"
    CREATE_QUEUES = "create queues"
    CHANGE_QUEUES = "change queues"
    READ_ENTRIES = "read what stands in a queue"
    CHANGE_WORKERS = "change workers"
    CLAIM = "claim tasks: that is for agents"
    REPORT = "report on runs: that is for agents"
    INVITE = "invite anybody"
    MANAGE_TOKENS = "manage tokens"
    USE_TERMINALS = "open terminals: that is for users"
    READ_METRICS = "read the server's metrics: that is for users"
    RECOVER = "recover the store: that is for administrators"


_A, _U, _G, _R = TokenKind.ADMINISTRATOR, TokenKind.USER, TokenKind.AGENT, TokenKind.RUN

RIGHTS: dict[Right, frozenset[TokenKind]] = {
    Right.READ: frozenset({_A, _U, _G, _R}),
    Right.READ_TASK: frozenset({_A, _U, _G, _R}),
    Right.USE_TASKS: frozenset({_A, _U, _R}),
    Right.WRITE_BLOBS: frozenset({_A, _U, _R}),
    Right.READ_EVENTS: frozenset({_A, _U}),
    Right.CREATE_QUEUES: frozenset({_A, _U, _G}),
    Right.CHANGE_QUEUES: frozenset({_A, _U}),
    Right.READ_ENTRIES: frozenset({_A, _U}),
    Right.CHANGE_WORKERS: frozenset({_A, _U}),
    Right.CLAIM: frozenset({_G}),
    Right.REPORT: frozenset({_G}),
    Right.INVITE: frozenset({_A, _U}),
    Right.MANAGE_TOKENS: frozenset({_A, _U}),
    Right.USE_TERMINALS: frozenset({_A, _U}),
    Right.READ_METRICS: frozenset({_A, _U}),
    Right.RECOVER: frozenset({_A}),
}
"""The whole table. The services narrow it further: a run to its project, a user to its own tokens, an
agent to what waits in its queues."""


def require(actor: Actor, right: Right) -> None:
    """Raises Forbidden unless the actor's kind has the right; an agent creates queues only if issued so."""
    allowed = actor.kind in RIGHTS[right]
    if right is Right.CREATE_QUEUES and actor.kind is TokenKind.AGENT:
        allowed = actor.create_queues
    if not allowed:
        raise Forbidden(f"the {actor.kind} token {actor.name!r} may not {right.value}")


def draw_secret(kind: TokenKind) -> str:
    """A new token's secret: `ty_<kind>_` and 256 random bits."""
    return f"ty_{kind}_{secrets.token_urlsafe(32)}"


def digest(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Authenticator:
    """Finds the actor of a secret, remembering it for a second."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
        *,
        refuse_unconfined: bool = False,
    ) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._refuse_unconfined = refuse_unconfined
        self._known: Recent[str, tuple[float, Actor]] = Recent(CACHE_SIZE)

    async def actor(self, secret: str) -> Actor:
        """Raises Unauthorised when the token is unknown, expired or revoked, or its run has ended."""
        if not 0 < len(secret) <= LONGEST_SECRET or not secret.isascii():
            raise Unauthorised("that is not a token; log in with `taskyard login`")
        hashed = digest(secret)
        until, actor = self._known.get(hashed) or (0.0, None)
        if actor is not None and self._monotonic() < until:
            return actor
        return await self._look_up(hashed)

    def forget(self) -> None:
        """Drops what is remembered, so that a revocation made here holds at once."""
        self._known.clear()

    async def _look_up(self, hashed: str) -> Actor:
        self._known.pop(hashed)
        token = await self._store.token_by_hash(hashed)
        if token is not None and hmac.compare_digest(token.hash, hashed):
            actor = actor_of(token, self._clock())
            if self._refuse_unconfined and token.unconfined:
                raise Unauthorised(
                    f"the agent's token {token.name!r} was issued by a user for queues of others, and this"
                    " server accepts it no longer; ask an administrator for a new one:"
                    " taskyard invite agent --queue QUEUE"
                )
            await self._touch(token)
        else:
            actor = _actor_of_run(await self._store.task_of_report_token(hashed), hashed)
        self._known[hashed] = (self._monotonic() + CACHE_SECONDS, actor)
        return actor

    async def _touch(self, token: TokenRecord) -> None:
        now = self._clock()
        if token.last_used_at is not None and now - token.last_used_at < TOUCH_SECONDS:
            return
        try:
            await self._store.update_token(token.id, lambda record: replace(record, last_used_at=now))
        except Unavailable:
            pass  # a full disk must not lock people out: the time of last use is a courtesy


def actor_of(token: TokenRecord, now: float) -> Actor:
    """The actor of a valid token; raises Unauthorised otherwise."""
    if token.invitation:
        raise Unauthorised("this is a code for `taskyard login` or `taskyard agent join`, not a token")
    if token.revoked:
        raise Unauthorised(f"the token {token.name!r} was revoked; log in again with `taskyard login`")
    if token.expires_at is not None and token.expires_at <= now:
        raise Unauthorised(f"the token {token.name!r} has expired; log in again with `taskyard login`")
    return Actor(
        token=token.id,
        kind=token.kind,
        name=token.name,
        owner=token.owner,
        queues=token.queues,
        create_queues=token.create_queues,
        own_queues=token.own_queues,
    )


def _actor_of_run(record: TaskRecord | None, hashed: str) -> Actor:
    """The actor of a run's report token, good while the run lives."""
    if record is None:
        raise UnknownToken("this server does not know the token; log in with `taskyard login`")
    current = record.runs[-1] if record.runs else None
    if current is None or not hmac.compare_digest(current.report_hash, hashed):
        raise Unauthorised("the run of this token has ended")
    if not record.spec.report_token:
        raise Unauthorised("this task's runs may not report: it was created with report_token off")
    if current.run.outcome is not None or not record.state.active:
        raise Unauthorised(f"the run {current.run.id} has ended, and its token with it")
    return Actor(
        token=current.run.id,
        kind=TokenKind.RUN,
        name=record.created_by,
        owner=record.owner,
        task=record.id,
        project=record.spec.project,
    )
