"""Terminals in runs: a person's side, and the agent's."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from taskyard.wire import (
    NewTerminal,
    Terminal,
    TerminalInput,
    TerminalKeys,
    TerminalOutput,
    TerminalPosition,
    TerminalScreen,
)

from taskyard_server.api.route import KIB, allow, errors, new_router
from taskyard_server.api.services import InActor, InServices
from taskyard_server.auth import Right

router = new_router("terminals")

LARGEST_OFFSET = 2**53


@router.post("/tasks/{task_id}/terminals", responses=errors(409))
@allow(Right.USE_TERMINALS, body_limit=128 * KIB)
async def open_terminal(task_id: str, body: NewTerminal, services: InServices, actor: InActor) -> Terminal:
    """Opens a terminal in the task's run, for the task's owner alone; 409 where its agent allows none."""
    return await services.terminals.open(task_id, body, actor)


@router.post("/terminals/{terminal_id}/keys")
@allow(Right.USE_TERMINALS, body_limit=128 * KIB, repeatable=False)
async def type_keys(
    terminal_id: str, body: TerminalKeys, services: InServices, actor: InActor
) -> TerminalPosition:
    """Types; a repeat is harmless. Bytes beyond the answered offset are sent again."""
    return await services.terminals.type(terminal_id, body, actor)


@router.get("/terminals/{terminal_id}/screen", responses=errors(422))
@allow(Right.USE_TERMINALS)
async def read_screen(
    terminal_id: str,
    services: InServices,
    actor: InActor,
    offset: Annotated[int, Query(ge=0, le=LARGEST_OFFSET)] = 0,
) -> TerminalScreen:
    """Waits up to 20 s for what the terminal shows from `offset` on; what lies before it has arrived."""
    return await services.terminals.look(terminal_id, offset, actor)


@router.post("/terminals/{terminal_id}/output", responses=errors(409))
@allow(Right.REPORT, body_limit=256 * KIB, repeatable=False)
async def show_output(
    terminal_id: str, body: TerminalOutput, services: InServices, actor: InActor
) -> TerminalPosition:
    """What the terminal shows; waits while the person has not read what came before. A repeat is harmless."""
    return await services.terminals.show(terminal_id, body, actor)


@router.post("/terminals/{terminal_id}/input", responses=errors(409))
@allow(Right.REPORT, body_limit=16 * KIB, repeatable=False)
async def await_keys(terminal_id: str, body: TerminalInput, services: InServices, actor: InActor) -> TerminalKeys:
    """Waits for what is typed, another size, or the end; what lies before `offset` has arrived."""
    return await services.terminals.await_keys(terminal_id, body, actor)
