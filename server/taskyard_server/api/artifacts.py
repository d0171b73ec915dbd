"""Artifacts of runs: sent by their agent in parts, read by those who may read the task."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from taskyard.wire import (
    PART_BYTES,
    MissingParts,
    MissingRequest,
    NewArtifacts,
    Run,
    RunArtifacts,
    RunOutputs,
)

from taskyard_server.api import body as bodies
from taskyard_server.api.blobs import RAW, RAW_ANSWER, RAW_BODY, Digest
from taskyard_server.api.problems import problem
from taskyard_server.api.route import MIB, allow, errors, new_router
from taskyard_server.api.runs import ReadableRun
from taskyard_server.api.services import InActor, InServices
from taskyard_server.auth import Right

router = new_router("artifacts")

ControlToken = Annotated[str, Header()]
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})?", re.ASCII)
RANGE_ANSWER: dict[int | str, dict[str, Any]] = {
    **RAW_ANSWER,
    206: {"description": "The bytes of `Range`.", "content": RAW_ANSWER[200]["content"]},
}


@router.post("/artifacts/missing", responses=errors(404, 409))
@allow(Right.REPORT, body_limit=MIB, repeatable=False)
async def find_missing_parts(
    body: MissingRequest, services: InServices, actor: InActor, taskyard_control_token: ControlToken
) -> MissingParts:
    """Which parts must be sent before the run can name them. What other accounts have sent counts as missing."""
    return await services.artifacts.missing(body, taskyard_control_token, actor)


@router.put(
    "/artifacts/parts/{sha256}",
    status_code=204,
    response_class=Response,
    responses=errors(409),
    openapi_extra={"requestBody": RAW_BODY},
)
@allow(Right.REPORT, repeatable=False)
async def upload_part(
    sha256: Digest,
    request: Request,
    services: InServices,
    actor: InActor,
    run: Annotated[str, Query(description="The run that will name it")],
    taskyard_control_token: ControlToken,
) -> None:
    """Keeps one part, of 64 MiB at most; a repeat is harmless. Bytes with another digest are refused."""
    chunks = bodies.chunks(request, PART_BYTES)
    await services.artifacts.put(sha256, chunks, run, taskyard_control_token, actor)


@router.post("/runs/{run_id}/artifacts", responses=errors(409))
@allow(Right.REPORT, body_limit=4 * MIB, repeatable=False)
async def attach_artifacts(
    run_id: str, body: NewArtifacts, services: InServices, actor: InActor, taskyard_control_token: ControlToken
) -> RunArtifacts:
    """Names what was sent; a repeat is harmless. 409 `conflict`: a part is missing, send it and ask again."""
    return await services.artifacts.attach(run_id, body, taskyard_control_token, actor)


@router.post("/runs/{run_id}/outputs", responses=errors(409))
@allow(Right.REPORT, body_limit=MIB, repeatable=False)
async def report_outputs(
    run_id: str, body: RunOutputs, services: InServices, actor: InActor, taskyard_control_token: ControlToken
) -> Run:
    """How far the outputs of a run that has ended have come, and what of them is not kept."""
    return await services.artifacts.report(run_id, body, taskyard_control_token, actor)


@router.get("/runs/{run_id}/artifacts")
@allow(Right.READ)
async def list_artifacts(run_id: ReadableRun, services: InServices) -> RunArtifacts:
    """What the run keeps, by name; `outputs` says whether more is on its way."""
    return await services.artifacts.of_run(await services.runs.get(run_id))


@router.get(
    "/runs/{run_id}/artifacts/content",
    response_class=StreamingResponse,
    responses={**RANGE_ANSWER, **errors(416, 422)},
)
@allow(Right.READ)
async def download_artifact(
    run_id: ReadableRun,
    services: InServices,
    name: str,
    file: str | None = None,
    range: Annotated[str | None, Header()] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Response:
    """The bytes of one file of an artifact. One range may be asked for; `ETag` is the file's SHA-256."""
    content = await services.artifacts.content(run_id, name, file)
    size, tag = content.file.size, f'"{content.file.sha256}"'
    begin, end = _stretch(range or "", size) if if_range in (None, tag) else (0, size)
    if begin >= end and size:
        return problem(416, "invalid", f"the file has {size} bytes", {"Content-Range": f"bytes */{size}"})
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": _attachment(content.file.path),
        "Content-Length": str(end - begin),
    }
    if (begin, end) != (0, size):
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
    status = 206 if "Content-Range" in headers else 200
    return StreamingResponse(content.stretch(begin, end), status, media_type=RAW, headers=headers)


def _stretch(wanted: str, size: int) -> tuple[int, int]:
    """Begin and end of what a `Range` asks for; all of it for a form that is not known, which HTTP allows."""
    found = _RANGE.fullmatch(wanted)
    if found is None or not size:
        return 0, size
    return int(found[1]), min(size, int(found[2]) + 1 if found[2] else size)


def _attachment(path: str) -> str:
    return f"attachment; filename*=UTF-8''{quote(path.rpartition('/')[2], safe='')}"
