"""Which tokens are the same agent's: a machine that joined again goes on with the runs of its token before."""

from __future__ import annotations

from collections.abc import Callable

from taskyard.wire import TokenKind

from taskyard_server.auth import Actor
from taskyard_server.store.base import Store, TokenRecord

MOST_KNOWN = 10_000


class Succession:
    """Compares agents' tokens. It is no right by itself: a run's control token is asked for besides."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._known: set[tuple[str, str]] = set()

    async def is_same_agent(self, actor: Actor, token: str) -> bool:
        """Whether the caller is the agent with that token (id), or has a newer token of that agent's.

        Newer is one of the same name whose account is the same, or that an administrator issued after the one
        before was revoked or had expired: a user may give an agent any name.
        """
        if actor.token == token or (actor.token, token) in self._known:
            return True
        before = next((record for record in await self._store.tokens() if record.id == token), None)
        if before is None or not self._follows(actor, before):
            return False
        if len(self._known) >= MOST_KNOWN:
            self._known.pop()
        self._known.add((actor.token, token))
        return True

    def _follows(self, actor: Actor, before: TokenRecord) -> bool:
        if {actor.kind, before.kind} != {TokenKind.AGENT} or before.name != actor.name or before.invitation:
            return False
        over = before.revoked or (before.expires_at is not None and before.expires_at <= self._clock())
        return before.owner == actor.owner or (over and not actor.own_queues)
