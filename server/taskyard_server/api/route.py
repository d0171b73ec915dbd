"""A route that knows who may call it: admits the caller, bounds the body, answers repeats once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from taskyard.wire import API_PREFIX, IDEMPOTENCY_HEADER, Problem

from taskyard_server import idempotency
from taskyard_server.api import body, bulk
from taskyard_server.api.services import Call, Services, services_of
from taskyard_server.auth import Right, require
from taskyard_server.connections import SCOPE_KEY
from taskyard_server.errors import Unauthorised, UnknownToken
from taskyard_server.schemas import adapter

KIB, MIB = 1 << 10, 1 << 20
MUTATING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_PROBLEM = {"application/json": {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}}
"""Named, not given as a model: FastAPI would build one for each error of each route, at every start."""
_LONG_BYTES = 256 * KIB
_GIVEN = frozenset({"body", "services", "actor", "request"})
"""Arguments that need no resolving."""

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Handler = Callable[[Request], Coroutine[Any, Any, Response]]

_MEANINGS = {
    400: "The address is malformed.",
    401: "No token, or one that is unknown, expired or revoked.",
    403: "The token does not give this right.",
    404: "There is no such thing.",
    409: "The state does not allow it.",
    413: "Over a limit.",
    416: "The file has no such range.",
    422: "The request cannot mean anything.",
    429: "Too many requests; `Retry-After` says when to come back.",
    503: "The store or the disk cannot take it just now; a repeat is right.",
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a route asks of a request before its function is called."""

    right: Right | None
    """None: anybody may call it."""
    body_limit: int = 0
    """Most bytes of a JSON body; 0: the route takes none, or reads it itself."""
    repeatable: bool = True
    """Whether an idempotency key is honoured; some routes are idempotent by themselves."""
    secret: bool = False
    """Whether the answer holds a secret, which is never stored."""
    bulk: str = ""
    """The field of the body that is a long list; see `bulk`."""


def allow(
    right: Right | None, *, body_limit: int = 0, repeatable: bool = True, secret: bool = False, bulk: str = ""
) -> Callable[[Endpoint], Endpoint]:
    """Declares who may call the endpoint below it."""
    access = Access(right=right, body_limit=body_limit, repeatable=repeatable, secret=secret, bulk=bulk)

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.__dict__["access"] = access
        return endpoint

    return declare


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a route declares its own errors, beside those that every route of its kind has."""
    return {status: {"description": _MEANINGS[status], "content": _PROBLEM} for status in statuses}


def new_router(noun: str) -> APIRouter:
    """A router of the API; an operation's id is its function's name."""
    return APIRouter(
        prefix=API_PREFIX,
        route_class=Route,
        tags=[noun],
        generate_unique_id_function=lambda route: route.name,
    )


class Route(APIRoute):
    """Every route of the API."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self.access: Access = endpoint.__dict__["access"]
        common = _common_errors(self.access, path, options.get("methods") or ())
        options["responses"] = {**errors(*common), **(options.get("responses") or {})}
        if self.access.right is not None:
            options["openapi_extra"] = {"security": [{"token": []}], **(options.get("openapi_extra") or {})}
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Handler:
        """The endpoint's handler behind the checks of its access."""
        handle = _direct(self) or super().get_route_handler()
        access = self.access

        async def admitted(request: Request) -> Response:
            services = services_of(request)
            call = None if access.right is None else await admit(request, services, access.right)
            mutating = request.method in MUTATING
            if not (mutating and (access.body_limit or access.repeatable)):
                return await handle(request)
            content = await body.read(request, max(access.body_limit, KIB))
            checked = _CheckedRequest(request, content, parsed=not access.bulk)
            key = request.headers.get(IDEMPOTENCY_HEADER)
            if key is None or not access.repeatable:
                return await handle(checked)
            owner = call.actor.token if call else await _digest(content)
            return await _once(services, access, f"{owner}:{key}", checked, handle)

        return admitted


class _CheckedRequest(Request):
    """A request whose body is read and, where there is one, parsed."""

    def __init__(self, request: Request, content: bytes, *, parsed: bool) -> None:
        super().__init__(request.scope, request.receive)
        self.content = content
        self.content_type = request.headers.get("content-type", "")
        self.document = body.parse(content, self.content_type) if content and parsed else None

    async def body(self) -> bytes:
        return self.content

    async def json(self) -> Any:
        return self.document


def _direct(route: Route) -> Handler | None:
    """Calls an endpoint that takes a record and parts of the path, and answers with a record.

    FastAPI would resolve the same arguments in three times the time, which is most of a beat. None where the
    endpoint takes more than that: then FastAPI resolves it.
    """
    endpoint, path_parts = route.endpoint, set(route.param_convertors)
    hints = get_type_hints(endpoint, include_extras=True)
    answer_type = hints.pop("return", None)
    plain = all(name in _GIVEN or (name in path_parts and hint is str) for name, hint in hints.items())
    if "body" not in hints or not plain or answer_type in (None, type(None)):
        return None
    take, give = _taker(hints["body"], route.access.bulk), _giver(answer_type)

    async def handle(request: Request) -> Response:
        available = {
            "body": await take(cast(_CheckedRequest, request)),
            "services": services_of(request),
            "actor": cast(Call, request.scope["taskyard.call"]).actor if "actor" in hints else None,
            "request": request,
            **request.path_params,
        }
        answer = await endpoint(**{name: available[name] for name in hints})
        return Response(await give(answer), media_type="application/json")

    return handle


def _taker(kind: Any, field: str) -> Callable[[_CheckedRequest], Awaitable[Any]]:
    """What makes a request's body a record."""
    takes = adapter(kind)
    items = adapter(get_args(get_type_hints(kind)[field])[0]) if field else takes

    async def take(request: _CheckedRequest) -> Any:
        if field:
            return await bulk.read(request.content, request.content_type, takes, items, field)
        return bulk.validated(takes, request.document)

    return take


def _giver(kind: Any) -> Callable[[Any], Awaitable[bytes]]:
    """What makes an answer JSON."""
    many = get_origin(kind) is list
    gives = adapter(get_args(kind)[0] if many else kind)

    async def give(answer: Any) -> bytes:
        return await bulk.write(gives, answer) if many else gives.dump_json(answer)

    return give


async def admit(request: Request, services: Services, right: Right) -> Call:
    """Finds out who calls, and requires the right. Raises Unauthorised, Forbidden, RateLimited."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthorised("this route needs the header Authorization: Bearer …; log in with `taskyard login`")
    try:
        actor = await services.authenticator.actor(secret.strip())
    except UnknownToken:
        services.recovery.note_token(secret.strip(), request.client.host if request.client else "")
        raise
    connection = request.scope.pop(SCOPE_KEY, None)
    if connection is not None:
        connection.prove()
    await request.app.state.rate_limit.take(actor.token)
    require(actor, right)
    call = Call(actor=actor, secret=secret.strip())
    request.scope["taskyard.call"] = call
    return call


async def _once(
    services: Services, access: Access, key: str, request: _CheckedRequest, handle: Handler
) -> Response:
    idempotency.check_key(key.partition(":")[2])

    async def act() -> idempotency.Reply:
        response = await handle(request)
        return idempotency.Reply(status=response.status_code, body=bytes(response.body))

    # Without the host: a repeat may come by another address of the server, such as a proxy's.
    target = f"{request.url.path}?{request.url.query}"
    reply = await services.repeats.once(
        key,
        await _digest(_request_bytes(request, target)),
        act,
        secret=access.secret,
        former_hash=lambda: hashlib.sha256(_request_bytes(request, str(request.url))).hexdigest(),
    )
    media_type = "application/json" if reply.body else None
    return Response(reply.body or None, reply.status, media_type=media_type)


def _request_bytes(request: _CheckedRequest, target: str) -> bytes:
    return b"\0".join([request.method.encode(), target.encode(), request.content])


async def _digest(content: bytes) -> str:
    """Of long content beside the event loop."""
    if len(content) < _LONG_BYTES:
        return hashlib.sha256(content).hexdigest()
    return (await asyncio.to_thread(hashlib.sha256, content)).hexdigest()


def _common_errors(access: Access, path: str, methods: Any) -> list[int]:
    mutating = bool(MUTATING & set(methods))
    return sorted(
        {400, 503}
        | ({401, 403, 429} if access.right is not None else set())
        | ({404} if "{" in path else set())
        | ({413, 422} if mutating else set())
    )
