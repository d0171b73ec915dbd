"""What the server makes of terminals: who may, what is passed on, and what ends them."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace

import pytest
from taskyard.wire import (
    NewTerminal,
    Run,
    Terminal,
    TerminalInput,
    TerminalKeys,
    TerminalOutput,
    TerminalScreen,
    TokenKind,
    WorkerReport,
    WorkerState,
)
from taskyard_server import terminals as module
from taskyard_server.channel import MOST_BYTES, Channel
from taskyard_server.errors import Conflict, Forbidden, NotFound, Stale, TooMany
from taskyard_server.terminals import Terminals

from tests.support.services import ADA, BOB, FakeAgent, Services

Opened = tuple[Services, Terminals, FakeAgent, Run]


def never() -> bool:
    return False


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
async def opened(services: Services) -> Opened:
    """A run of Ada's at an agent that allows terminals."""
    terminals = Terminals(services.stores.store, services.claims, services.clock, services.clock.monotonic)
    await services.enqueue()
    agent = services.agent()
    run = await agent.take_and_start()
    report = WorkerReport(name=agent.name, state=WorkerState.BUSY, runs=(run.id,), shell=True)
    await agent.beat(workers=(report,))
    return services, terminals, agent, run


async def open_(opened: Opened) -> Terminal:
    _, terminals, _, run = opened
    return await terminals.open(run.task, NewTerminal(), ADA)


def shown(opened: Opened, **screen: object) -> TerminalOutput:
    _, _, agent, run = opened
    return TerminalOutput(control_token=agent.held[run.id], screen=TerminalScreen(**screen))  # type: ignore[arg-type]


def asked(opened: Opened, offset: int = 0) -> TerminalInput:
    _, _, agent, run = opened
    return TerminalInput(control_token=agent.held[run.id], offset=offset, wait_seconds=0.0)


async def test_bytes_arrive_once_though_they_are_sent_again() -> None:
    channel = Channel()

    assert await channel.append(0, b"abc", 0.0, give_up=never) == 3
    assert await channel.append(0, b"abc", 0.0, give_up=never) == 3
    assert await channel.append(1, b"bcde", 0.0, give_up=never) == 5
    assert await channel.append(9, b"gap", 0.0, give_up=never) == 5

    assert await channel.read(0, 0.0, wake=never) == (0, b"abcde")
    assert await channel.read(3, 0.0, wake=never) == (3, b"de")


async def test_a_writer_waits_for_its_reader() -> None:
    channel = Channel()
    await channel.append(0, bytes(MOST_BYTES), 0.0, give_up=never)

    writing = asyncio.create_task(channel.append(MOST_BYTES, b"more", 60.0, give_up=never))
    await asyncio.sleep(0)
    assert not writing.done()
    await channel.read(MOST_BYTES, 0.0, wake=lambda: True)

    assert await writing == MOST_BYTES + 4


async def test_what_is_typed_and_shown_is_passed_on_and_told_of(opened: Opened) -> None:
    services, terminals, agent, run = opened
    terminal = await open_(opened)

    assert terminals.of_run(run.id) == (terminal,)
    await terminals.type(terminal.id, TerminalKeys(data=encoded(b"ls\r"), rows=30, columns=90), ADA)
    keys = await terminals.await_keys(terminal.id, asked(opened), agent.actor)
    await terminals.show(terminal.id, shown(opened, data=encoded(b"file")), agent.actor)
    await terminals.show(terminal.id, shown(opened, offset=4, ended=True, exit_code=3), agent.actor)

    assert terminals.of_run(run.id) == ()
    assert (base64.b64decode(keys.data), keys.rows, keys.columns) == (b"ls\r", 30, 90)
    screen = await terminals.look(terminal.id, 0, ADA)
    assert (base64.b64decode(screen.data), screen.ended, screen.exit_code) == (b"file", True, 3)
    told = [(event.kind, event.by) for event in (await services.tasks.story(run.task, ADA)).events]
    assert told[-2:] == [("terminal_opened", "ada"), ("terminal_ended", "ada")]


async def test_the_owner_alone_opens_one(opened: Opened) -> None:
    _, terminals, _, run = opened
    administrator = replace(ADA, token="root", kind=TokenKind.ADMINISTRATOR, owner="root")

    for other in (BOB, administrator):
        with pytest.raises(Forbidden, match="its owner alone"):
            await terminals.open(run.task, NewTerminal(), other)


async def test_another_token_neither_types_nor_looks_nor_serves(opened: Opened) -> None:
    _, terminals, agent, _ = opened
    terminal = await open_(opened)

    with pytest.raises(NotFound):
        await terminals.look(terminal.id, 0, replace(ADA, token="another"))
    with pytest.raises(Stale):
        await terminals.await_keys(terminal.id, replace(asked(opened), control_token="guessed"), agent.actor)
    with pytest.raises(Stale):
        await terminals.await_keys(terminal.id, asked(opened), replace(agent.actor, token="another"))


async def test_an_agent_that_allows_none_is_named(services: Services) -> None:
    terminals = Terminals(services.stores.store, services.claims, services.clock, services.clock.monotonic)
    task = await services.enqueue()
    agent = services.agent()

    with pytest.raises(Conflict, match="while it is running"):
        await terminals.open(task.id, NewTerminal(), ADA)
    await agent.take_and_start()
    with pytest.raises(Conflict, match="--allow-shell"):
        await terminals.open(task.id, NewTerminal(), ADA)


async def test_an_agent_that_does_not_come_ends_it_with_the_reason(opened: Opened) -> None:
    services, terminals, _, _ = opened
    terminal = await open_(opened)

    services.clock.move(module.ATTACH_SECONDS + 1)
    await terminals.look_after(services.clock.monotonic())

    screen = await terminals.look(terminal.id, 0, ADA)
    assert screen.ended
    assert "another server of this store" in screen.message


async def test_a_person_who_is_gone_is_told_to_the_agent(opened: Opened) -> None:
    services, terminals, agent, _ = opened
    terminal = await open_(opened)
    assert not (await terminals.await_keys(terminal.id, asked(opened), agent.actor)).closed

    services.clock.move(module.SILENT_SECONDS - 1)
    await terminals.await_keys(terminal.id, asked(opened), agent.actor)
    services.clock.move(2)
    await terminals.look_after(services.clock.monotonic())

    assert (await terminals.await_keys(terminal.id, asked(opened), agent.actor)).closed


async def test_an_agent_that_falls_silent_ends_it(opened: Opened) -> None:
    services, terminals, agent, _ = opened
    terminal = await open_(opened)
    await terminals.await_keys(terminal.id, asked(opened), agent.actor)

    services.clock.move(module.SILENT_SECONDS + 1)
    await terminals.look_after(services.clock.monotonic())

    assert (await terminals.look(terminal.id, 0, ADA)).message == "the agent has fallen silent"


async def test_one_token_opens_a_bounded_number(opened: Opened) -> None:
    for _ in range(module.MOST_OF_ONE):
        await open_(opened)

    with pytest.raises(TooMany):
        await open_(opened)
