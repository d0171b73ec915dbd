"""Tokens, invitations, and the way in."""

from __future__ import annotations

from fastapi import Request
from taskyard.wire import Invitation, IssuedToken, LoginRequest, NewToken, Token

from taskyard_server.api.route import KIB, allow, errors, new_router
from taskyard_server.api.services import InActor, InServices
from taskyard_server.auth import Right

router = new_router("tokens")


@router.get("/whoami")
@allow(Right.READ)
async def whoami(services: InServices, actor: InActor) -> Token:
    """The caller's own token."""
    return await services.accounts.whoami(actor)


@router.post("/login", responses=errors(401, 429))
@allow(None, body_limit=16 * KIB, secret=True)
async def login(body: LoginRequest, request: Request, services: InServices) -> IssuedToken:
    """Exchanges an invitation's code for a token, once."""
    address = request.client.host if request.client else ""
    await request.app.state.login_rate_limit.take(address)
    return await services.accounts.login(body)


@router.post("/invitations")
@allow(Right.INVITE, body_limit=64 * KIB, secret=True)
async def invite(body: NewToken, services: InServices, actor: InActor) -> Invitation:
    """Draws a single-use code, valid for ten minutes, for such a token."""
    return await services.accounts.invite(body, actor)


@router.get("/tokens")
@allow(Right.MANAGE_TOKENS)
async def list_tokens(services: InServices, actor: InActor) -> list[Token]:
    """Newest first; without the secrets, which are not kept."""
    return await services.accounts.list(actor)


@router.post("/tokens")
@allow(Right.MANAGE_TOKENS, body_limit=64 * KIB, secret=True)
async def issue_token(body: NewToken, services: InServices, actor: InActor) -> IssuedToken:
    """Makes a token; its secret is answered here and never again."""
    return await services.accounts.issue(body, actor)


@router.post("/tokens/{token_id}/revoke", responses=errors(409))
@allow(Right.MANAGE_TOKENS)
async def revoke_token(token_id: str, services: InServices, actor: InActor) -> Token:
    """Ends the token's life; it is refused within two seconds."""
    return await services.accounts.revoke(token_id, actor)
