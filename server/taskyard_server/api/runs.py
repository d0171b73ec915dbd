"""Runs: what their agent reports, and their logs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from fastapi import Depends, Header, Query, Request, Response
from sse_starlette import EventSourceResponse
from taskyard.wire import FinishRequest, LogPosition, Run, Series, StartRequest

from taskyard_server.api import body
from taskyard_server.api.blobs import RAW, RAW_ANSWER, RAW_BODY
from taskyard_server.api.measurements import InTimeRange
from taskyard_server.api.rates import Places
from taskyard_server.api.route import MIB, allow, errors, new_router
from taskyard_server.api.services import Call, InActor, InCall, InServices, Services
from taskyard_server.auth import Right
from taskyard_server.errors import ServerError, Unauthorised
from taskyard_server.runs import LogSlice

router = new_router("runs")

MOST_LOG_BYTES = 8 * MIB
"""Of one append or one read."""
STREAM_CHECK_SECONDS = 1.0
"""How often a quiet stream looks whether its reader may still read."""
PING_SECONDS = 15
LARGEST_OFFSET = 2**53
Offset = Annotated[int, Query(ge=0, le=LARGEST_OFFSET)]

LOG_HEADERS = {
    "Taskyard-Log-Offset": {
        "description": "Where in the log the bytes begin",
        "schema": {"type": "integer"},
    },
    "Taskyard-Log-Length": {"description": "Bytes that the server holds", "schema": {"type": "integer"}},
    "Taskyard-Log-Complete": {"description": "Whether nothing can follow", "schema": {"enum": ["true", "false"]}},
}
LOG_ANSWER: dict[int | str, dict[str, Any]] = {200: {**RAW_ANSWER[200], "headers": LOG_HEADERS}}
EVENT = {
    "type": "object",
    "description": "One event of the stream; `data` is JSON.",
    "properties": {"event": {"enum": ["log", "end"]}, "id": {"type": "string"}, "data": {"type": "string"}},
}
STREAM_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events `log` (a LogChunk; the id is the next offset) and, at the end, `end` (the Run).",
        "content": {"text/event-stream": {"schema": EVENT}},
    }
}


async def _readable(run_id: str, services: InServices, actor: InActor) -> str:
    """The run's id, where the caller may see it. Raises Forbidden, NotFound."""
    await services.tasks.require_readable_run(run_id, actor)
    return run_id


ReadableRun = Annotated[str, Depends(_readable)]


@router.post("/runs/{run_id}/logs", responses=errors(409), openapi_extra={"requestBody": RAW_BODY})
@allow(Right.REPORT, repeatable=False)
async def append_log(
    run_id: str,
    request: Request,
    services: InServices,
    actor: InActor,
    offset: Offset,
    taskyard_control_token: Annotated[str, Header()],
) -> LogPosition:
    """Appends raw bytes that begin at `offset`; answers what is held now, so resending is harmless."""
    data = await body.read(request, MOST_LOG_BYTES)
    return await services.runs.append_log(run_id, taskyard_control_token, offset, data, actor)


@router.post("/runs/{run_id}/start", responses=errors(409))
@allow(Right.REPORT, body_limit=4 * MIB, repeatable=False)
async def start_run(run_id: str, body: StartRequest, services: InServices, actor: InActor) -> Run:
    """The last word before user code starts; 409 `stale` means that it must not."""
    return await services.runs.start(run_id, body, actor)


@router.post("/runs/{run_id}/finish", responses=errors(409))
@allow(Right.REPORT, body_limit=4 * MIB, repeatable=False)
async def finish_run(run_id: str, body: FinishRequest, services: InServices, actor: InActor) -> Run:
    """Ends the run; the log may still be completed up to `log_bytes`. A repeat is harmless."""
    return await services.runs.finish(run_id, body, actor)


@router.get("/runs/{run_id}")
@allow(Right.READ)
async def read_run(run_id: ReadableRun, services: InServices) -> Run:
    """One attempt at a task."""
    return await services.runs.get(run_id)


@router.get("/runs/{run_id}/metrics", responses=errors(422))
@allow(Right.READ)
async def read_run_metrics(run_id: ReadableRun, wanted: InTimeRange, services: InServices) -> list[Series]:
    """What was measured of the run, downsampled: of all its time, where no other is asked for."""
    return await services.metrics.of_run(await services.runs.get(run_id), wanted)


@router.get("/runs/{run_id}/logs", response_class=Response, responses={**LOG_ANSWER, **errors(422)})
@allow(Right.READ)
async def read_log(
    run_id: ReadableRun,
    services: InServices,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=0, le=MOST_LOG_BYTES)] = MIB,
    tail_lines: Annotated[int | None, Query(ge=0, le=1_000_000)] = None,
) -> Response:
    """Raw bytes from `offset`, or the last `tail_lines` lines."""
    if tail_lines is None:
        part = await services.runs.read_log(run_id, offset, limit)
    else:
        part = await services.runs.tail_log(run_id, tail_lines)
    return Response(part.data, headers=_log_headers(part), media_type=RAW)


@router.get("/runs/{run_id}/logs/stream", response_class=Response, responses={**STREAM_ANSWER, **errors(422)})
@allow(Right.READ)
async def stream_log(
    run_id: ReadableRun,
    request: Request,
    services: InServices,
    call: InCall,
    offset: Offset = 0,
    last_event_id: Annotated[int | None, Header(ge=0, le=LARGEST_OFFSET)] = None,
) -> Response:
    """Follows the log until it is complete; `Last-Event-ID` resumes after the last event received."""
    await services.runs.get(run_id)
    begin = offset if last_event_id is None else last_event_id
    streams: Places = request.app.state.log_streams
    streams.require(call.actor.token)
    return EventSourceResponse(_counted(streams, _events(run_id, begin, services, call), call), ping=PING_SECONDS)


async def _counted(streams: Places, events: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
    with streams.taken(call.actor.token):
        async for event in events:
            yield event


async def _events(run_id: str, offset: int, services: Services, call: Call) -> AsyncIterator[bytes]:
    """Ends without a last event where the log cannot be read any more: asked again, the server says why."""
    with services.log_feeds.follow(run_id) as feed, contextlib.suppress(ServerError):
        while not services.stopping.is_set() and await _still_admitted(services, call):
            news = feed.news
            piece = await feed.piece(offset)
            if piece.event:
                offset = piece.end
                yield piece.event
                if piece.last:
                    return
            else:
                with anyio.move_on_after(STREAM_CHECK_SECONDS):
                    await news.wait()


async def _still_admitted(services: Services, call: Call) -> bool:
    try:
        await services.authenticator.actor(call.secret)
    except Unauthorised:
        return False
    return True


def _log_headers(part: LogSlice) -> dict[str, str]:
    return {
        "Taskyard-Log-Offset": str(part.offset),
        "Taskyard-Log-Length": str(part.length),
        "Taskyard-Log-Complete": "true" if part.complete else "false",
    }
