"""Tokens and invitations: who is let in, by whom, for how long."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from taskyard.wire import Invitation, IssuedToken, LoginRequest, NewToken, Token, TokenKind

from taskyard_server.auth import Actor, Authenticator, digest, draw_secret
from taskyard_server.errors import Conflict, Forbidden, Invalid, NotFound, StartRefused, Unauthorised
from taskyard_server.names import normalised
from taskyard_server.queue_names import find_queue, known_queues, named, queue_names
from taskyard_server.store.base import Store, TokenRecord

logger = logging.getLogger(__name__)

CODE_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O, U, so that a code survives being read aloud."""
CODE_GROUPS, CODE_GROUP_LETTERS = 3, 4
"""60 random bits."""
INVITATION_SECONDS = 600.0
LONGEST_LIFE_SECONDS = 100 * 365 * 86_400.0
LONGEST_NAME = 200
MOST_QUEUES = 1000


class Accounts:
    """Issues, lists and revokes tokens; exchanges invitations for them."""

    def __init__(self, store: Store, authenticator: Authenticator, clock: Callable[[], float]) -> None:
        self._store = store
        self._authenticator = authenticator
        self._clock = clock

    async def whoami(self, actor: Actor) -> Token:
        """The caller's own token."""
        if actor.kind is TokenKind.RUN:
            return Token(id=actor.token, kind=actor.kind, name=actor.name, created_at=0.0)
        return await self._shown(await self._record(actor.token))

    async def list(self, actor: Actor) -> list[Token]:
        """Newest first, with the codes that are still good: all for an administrator, else the caller's own."""
        records, names = await self._store.tokens(), await queue_names(self._store)
        return [_shown(one, names) for one in records if _manages(actor, one) and not self._is_stale_code(one)]

    async def issue(self, new: NewToken, actor: Actor) -> IssuedToken:
        """Makes a token. A user's is for the same account, and does not outlive the one that made it.

        Raises Invalid, Forbidden, NotFound for a queue that neither exists nor may be created by the agent.
        """
        _check(new)
        _may_hand_out(actor, new)
        new = await self._with_queue_ids(new, actor)
        limit, own = await self._limit_for(actor), _serves_own_queues(new, actor)
        return await self._add(new, owner=_owner_for(actor), limit=limit, own_queues=own)

    async def revoke(self, token_id: str, actor: Actor) -> Token:
        """Ends the life of a token, or of a code that nobody has used.

        Raises NotFound for another account's, Conflict for the last administrator's.
        """

        def revoked(record: TokenRecord, every: Sequence[TokenRecord]) -> TokenRecord:
            if not _manages(actor, record) or self._is_stale_code(record):
                raise NotFound(f"there is no token {token_id}; `taskyard token list` shows yours")
            last_way_in = not any(self._administers(other) for other in every if other.id != token_id)
            if last_way_in and self._administers(record):
                raise Conflict("this is the last administrator's token: issue another one first")
            return replace(record, revoked=True)

        record = await self._store.update_token_among(token_id, revoked)
        self._authenticator.forget()
        logger.info("revoked token %s", token_id, extra={"action": "token_revoked", "token": token_id})
        return await self._shown(record)

    async def invite(self, new: NewToken, actor: Actor) -> Invitation:
        """Makes a single-use code, valid for ten minutes, exchanged for such a token. Raises as `issue`."""
        _check(new)
        _may_hand_out(actor, new)
        new = await self._with_queue_ids(new, actor)
        await self._forget_stale_invitations()
        code, now = _draw_code(), self._clock()
        record = TokenRecord(
            id=uuid.uuid4().hex,
            hash=_code_digest(code),
            kind=new.kind,
            name=new.name,
            owner=_owner_for(actor) or "",
            created_at=now,
            expires_at=now + INVITATION_SECONDS,
            token_expires_at=await self._limit_for(actor),
            invitation=True,
            queues=new.queues,
            create_queues=new.create_queues,
            own_queues=_serves_own_queues(new, actor),
        )
        await self._store.add_token(record)
        return Invitation(id=record.id, code=code, kind=new.kind, expires_at=now + INVITATION_SECONDS)

    async def login(self, request: LoginRequest) -> IssuedToken:
        """Exchanges a code for a token; of two callers with one code, one gets it."""
        _check_name(request.name)
        invitation = await self._store.token_by_hash(_code_digest(request.code))
        if invitation is None or not invitation.invitation:
            raise _wrong_code()
        try:
            await self._store.update_token(invitation.id, self._used)
        except NotFound as error:
            raise _wrong_code() from error  # somebody else used it just now
        new = NewToken(
            kind=invitation.kind,
            name=invitation.name or request.name,
            queues=invitation.queues,
            create_queues=invitation.create_queues,
        )
        issued = await self._add(
            new,
            owner=invitation.owner or None,
            limit=invitation.token_expires_at,
            own_queues=invitation.own_queues,
        )
        await self._store.delete_token(invitation.id)
        return issued

    async def ensure_administrator(self, file: Path, *, anew: bool = False) -> bool:
        """Where nobody administers the store yet, or `anew`, writes an administrator's token to `file` (0600).

        A new file is durable before the token is valid, and takes its name afterwards: a crash at any moment
        leaves a way in. Raises StartRefused where an empty store would replace the token file of another.
        """
        arriving = file.with_name(f"{file.name}.new")
        known = await self._store.tokens()
        _finish_earlier(arriving, file, {record.hash for record in known})
        if not anew and any(self._administers(record) for record in known):
            return False
        if not known:
            _refuse_other_stores(file)
        secret = draw_secret(TokenKind.ADMINISTRATOR)
        write_private(arriving, secret + "\n")
        await self._add(NewToken(kind=TokenKind.ADMINISTRATOR, name="administrator"), secret=secret)
        os.replace(arriving, file)
        return True

    def _administers(self, record: TokenRecord) -> bool:
        alive = record.expires_at is None or record.expires_at > self._clock()
        return record.kind is TokenKind.ADMINISTRATOR and alive and not (record.revoked or record.invitation)

    async def _add(
        self,
        new: NewToken,
        *,
        owner: str | None = None,
        limit: float | None = None,
        secret: str | None = None,
        own_queues: bool = False,
    ) -> IssuedToken:
        secret = secret or draw_secret(new.kind)
        token_id, now = uuid.uuid4().hex, self._clock()
        wanted = None if new.expires_in_seconds is None else now + new.expires_in_seconds
        record = TokenRecord(
            id=token_id,
            hash=digest(secret),
            kind=new.kind,
            name=new.name or str(new.kind),
            owner=owner or token_id,
            created_at=now,
            expires_at=min((at for at in (wanted, limit) if at is not None), default=None),
            queues=new.queues,
            create_queues=new.create_queues,
            own_queues=own_queues,
        )
        await self._store.add_token(record)
        logger.info("issued %s token %s", new.kind, token_id, extra={"action": "token_issued", "token": token_id})
        return IssuedToken(token=await self._shown(record), secret=secret)

    async def _with_queue_ids(self, new: NewToken, actor: Actor) -> NewToken:
        known = await known_queues(self._store, new.queues)
        foreign = [queue.name for queue in known.values() if queue.owner != actor.owner]
        if foreign and _serves_own_queues(new, actor):
            names = " ".join(map(shlex.quote, foreign))
            raise Forbidden(
                f"a user's agent serves queues that the user created, not {', '.join(foreign)}: create one"
                f" (taskyard queue create NAME), or ask an administrator (taskyard invite agent --queue {names})"
            )
        missing = [ref for ref in new.queues if ref not in known]
        if missing and not new.create_queues:
            await find_queue(self._store, missing[0])  # says which are near
        queues = (known[ref].id if ref in known else normalised(ref) for ref in new.queues)
        return replace(new, queues=tuple(dict.fromkeys(queues)))

    async def _shown(self, record: TokenRecord) -> Token:
        return _shown(record, await queue_names(self._store))

    async def _record(self, token_id: str) -> TokenRecord:
        return await self._store.update_token(token_id, lambda record: record)

    async def _limit_for(self, actor: Actor) -> float | None:
        return (await self._record(actor.token)).expires_at

    async def _forget_stale_invitations(self) -> None:
        for record in await self._store.tokens():
            if self._is_stale_code(record):
                try:
                    await self._store.delete_token(record.id)
                except NotFound:
                    pass  # another invitation made at the same time dropped it

    def _is_stale_code(self, record: TokenRecord) -> bool:
        return record.invitation and record.expires_at is not None and record.expires_at <= self._clock()

    def _used(self, record: TokenRecord) -> TokenRecord:
        if record.revoked or self._is_stale_code(record):
            raise _wrong_code()
        return replace(record, revoked=True)


def _finish_earlier(arriving: Path, file: Path, known: Collection[str]) -> None:
    """Keeps the token of a start that was killed while it made one, where the store has it."""
    if not arriving.exists():
        return
    if digest(arriving.read_text(encoding="utf-8").strip()) in known:
        os.replace(arriving, file)
    else:
        arriving.unlink()


def _refuse_other_stores(file: Path) -> None:
    if file.exists():
        raise StartRefused(
            f"the store is empty, but {file} is the token file of another one: restore that store, name another"
            " folder with --data, or move the file away to begin with nothing"
        )


def write_private(path: Path, text: str) -> None:
    """Durably replaces a file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _manages(actor: Actor, record: TokenRecord) -> bool:
    return actor.kind is TokenKind.ADMINISTRATOR or record.owner == actor.owner


def _owner_for(actor: Actor) -> str | None:
    """A user's tokens act for its own account; an administrator's are accounts of their own."""
    return None if actor.kind is TokenKind.ADMINISTRATOR else actor.owner


def _serves_own_queues(new: NewToken, actor: Actor) -> bool:
    """Whether the token is for a user's agent: submitters to other queues have not agreed to that machine."""
    return new.kind is TokenKind.AGENT and actor.kind is not TokenKind.ADMINISTRATOR


def _may_hand_out(actor: Actor, new: NewToken) -> None:
    if new.kind is TokenKind.ADMINISTRATOR and actor.kind is not TokenKind.ADMINISTRATOR:
        raise Forbidden("only an administrator makes administrators")
    if actor.kind is TokenKind.USER and new.create_queues and new.kind is TokenKind.USER:
        raise Invalid("create_queues is for agents: a user may create queues anyway")


def _check(new: NewToken) -> None:
    if new.kind is TokenKind.RUN:
        raise Invalid("a run's token is made by its claim alone; ask for administrator, user or agent")
    life = new.expires_in_seconds
    if life is not None and not 0 < life <= LONGEST_LIFE_SECONDS:
        raise Invalid("expires_in_seconds must be above zero and below a hundred years")
    if len(new.queues) > MOST_QUEUES:
        raise Invalid(f"a token names at most {MOST_QUEUES} queues; leave them out to allow all")
    for name in (new.name, *new.queues):
        _check_name(name)


def _check_name(name: str) -> None:
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise Invalid(f"a name has at most {LONGEST_NAME} printable characters")


def _draw_code() -> str:
    letters = [secrets.choice(CODE_ALPHABET) for _ in range(CODE_GROUPS * CODE_GROUP_LETTERS)]
    groups = [letters[at : at + CODE_GROUP_LETTERS] for at in range(0, len(letters), CODE_GROUP_LETTERS)]
    return "-".join("".join(group) for group in groups)


def _code_digest(code: str) -> str:
    """Typed codes may lack the dashes, be in small letters, and have O for 0, I or L for 1."""
    typed = code.upper().translate(str.maketrans("OIL", "011", "- \t\r\n"))
    return digest(f"invitation:{typed}")


def _wrong_code() -> Unauthorised:
    return Unauthorised(
        "this code is not valid: each works once and for ten minutes; ask for a new one "
        "(`taskyard invite user` or `taskyard invite agent`)"
    )


def _shown(record: TokenRecord, names: Mapping[str, str]) -> Token:
    return Token(
        id=record.id,
        kind=record.kind,
        name=record.name,
        created_at=record.created_at,
        expires_at=record.expires_at,
        revoked=record.revoked,
        last_used_at=record.last_used_at,
        queues=named(record.queues, names),
        create_queues=record.create_queues,
        invitation=record.invitation,
        own_queues=record.own_queues,
        unconfined=record.unconfined,
    )
