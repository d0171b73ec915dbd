"""Terminals in runs: passed on between a person and the run's agent, in the memory of one server.

Both ask this server, which calls neither. What is typed and shown is kept until the other side has it, and nowhere
else: no log and no store ever holds it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

import anyio
from taskyard.wire import (
    NewTerminal,
    TaskState,
    Terminal,
    TerminalInput,
    TerminalKeys,
    TerminalKind,
    TerminalOutput,
    TerminalPosition,
    TerminalScreen,
)

from taskyard_server import lifecycle
from taskyard_server.auth import Actor
from taskyard_server.channel import Channel
from taskyard_server.claims import Claims
from taskyard_server.errors import Conflict, Forbidden, Invalid, NotFound, Stale, TooMany, Unavailable
from taskyard_server.run_logs import hash_of
from taskyard_server.store.base import RunRecord, Store, TaskRecord
from taskyard_server.succession import Succession

logger = logging.getLogger(__name__)

WAIT_SECONDS = 20.0
"""The longest that a question waits for its answer."""
ATTACH_SECONDS = 15.0
"""In this time the agent must have come for a new terminal."""
SILENT_SECONDS = 45.0
"""A side that asks nothing for this long has gone."""
KEPT_SECONDS = 60.0
"""After its end, for the person to see how it ended."""
MOST_OF_ONE = 16
MOST = 500
MOST_SIDE = 10_000
"""Rows or columns."""
MOST_COMMAND_BYTES = 64 << 10
LOOK_SECONDS = 1.0


@dataclass(eq=False, kw_only=True)
class Relay:
    """One open terminal."""

    order: Terminal
    task: str
    actor: Actor
    """The person."""
    run: RunRecord
    opened_at: float
    person_at: float
    """When it was last heard, on the steady clock; so for the agent."""
    agent_at: float
    keys: Channel = field(default_factory=Channel)
    screen: Channel = field(default_factory=Channel)
    size: tuple[int, int]
    size_sent: tuple[int, int]
    attached: bool = False
    closed: bool = False
    end: TerminalScreen | None = None
    ended_at: float = 0.0

    def close(self) -> None:
        """The person has gone."""
        self.closed = True
        self.keys.ring()

    def finish(self, end: TerminalScreen, at: float) -> None:
        """Nothing more is shown."""
        if self.end is None:
            self.end, self.ended_at = end, at
            self.screen.ring()
            self.close()


class Terminals:
    """Opens terminals and passes on what is typed and shown."""

    def __init__(
        self, store: Store, claims: Claims, clock: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        self._store = store
        self._claims = claims
        self._clock = clock
        self._monotonic = monotonic
        self._succession = Succession(store, clock)
        self._relays: dict[str, Relay] = {}

    # --- A person's side

    async def open(self, task_id: str, new: NewTerminal, actor: Actor) -> Terminal:
        """Raises NotFound, Invalid, Forbidden for a task of another account, Conflict where none can be opened."""
        record = await self._store.task(task_id)
        if record.owner != actor.owner:
            raise Forbidden(f"task {task_id} is another account's: its owner alone may open a terminal in it")
        _check(new)
        entry = await self._require_open(record)
        self._require_place(actor)
        order = Terminal(
            id=uuid.uuid4().hex,
            run=entry.run.id,
            kind=new.kind,
            command=new.command,
            rows=new.rows,
            columns=new.columns,
            term=new.term,
        )
        await self._tell(record.id, entry, actor, "terminal_opened", str(new.kind))
        now, size = self._monotonic(), (new.rows, new.columns)
        self._relays[order.id] = Relay(
            order=order,
            task=record.id,
            actor=actor,
            run=entry,
            opened_at=now,
            person_at=now,
            agent_at=now,
            size=size,
            size_sent=size,
        )
        logger.info(
            "%s opened a terminal in run %s",
            actor.name,
            entry.run.id,
            extra={"action": "terminal_opened", "run": entry.run.id, "by": actor.name},
        )
        self._claims.summon(entry.run.worker)
        return order

    async def _require_open(self, record: TaskRecord) -> RunRecord:
        if record.state is not TaskState.RUNNING:
            raise Conflict(f"task {record.id} is {record.state}: a terminal can be opened while it is running")
        entry = record.runs[-1]
        if not (await self._store.worker(entry.run.worker)).worker.shell:
            raise Conflict(
                f"the agent of worker {entry.run.worker} allows no terminals: its operator starts it with"
                " --allow-shell where tasks' owners may have them"
            )
        return entry

    def _require_place(self, actor: Actor) -> None:
        open_now = [relay for relay in self._relays.values() if relay.end is None]
        if len(open_now) >= MOST or sum(relay.actor.token == actor.token for relay in open_now) >= MOST_OF_ONE:
            raise TooMany("too many terminals are open at the same time: end some")

    async def type(self, terminal_id: str, keys: TerminalKeys, actor: Actor) -> TerminalPosition:
        """Takes what was typed, and the size of the window. Raises NotFound, Invalid."""
        relay = self._of_person(terminal_id, actor)
        data = _decoded(keys.data)
        _check_size(keys.rows, keys.columns)
        if (keys.rows, keys.columns) != relay.size:
            relay.size = (keys.rows, keys.columns)
            relay.keys.ring()
        offset = await relay.keys.append(keys.offset, data, WAIT_SECONDS, give_up=lambda: relay.closed)
        if keys.closed:
            relay.close()
        relay.person_at = self._monotonic()
        return TerminalPosition(offset=offset)

    async def look(self, terminal_id: str, offset: int, actor: Actor) -> TerminalScreen:
        """Waits for what is shown from the offset on. Raises NotFound."""
        relay = self._of_person(terminal_id, actor)
        begin, data = await relay.screen.read(offset, WAIT_SECONDS, wake=lambda: relay.end is not None)
        relay.person_at = self._monotonic()
        shown = TerminalScreen(offset=begin, data=base64.b64encode(data).decode())
        if relay.end is None or begin + len(data) < relay.screen.end:
            return shown
        return replace(shown, ended=True, exit_code=relay.end.exit_code, message=relay.end.message)

    def _of_person(self, terminal_id: str, actor: Actor) -> Relay:
        relay = self._relays.get(terminal_id)
        if relay is None or relay.actor.token != actor.token:
            raise NotFound("no such terminal of yours is at this server: it has ended, or another server has it")
        relay.person_at = self._monotonic()
        return relay

    # --- The agent's side

    async def show(self, terminal_id: str, output: TerminalOutput, actor: Actor) -> TerminalPosition:
        """Takes what the terminal shows; waits while the person has not read what was before it.

        Raises Stale for a terminal that is gone or another agent's.
        """
        relay = await self._of_agent(terminal_id, output.control_token, actor)
        screen, data = output.screen, _decoded(output.screen.data)
        offset = await relay.screen.append(screen.offset, data, WAIT_SECONDS, give_up=lambda: relay.closed)
        relay.agent_at = self._monotonic()
        whole = offset >= screen.offset + len(data) or relay.closed
        if screen.ended and whole:
            end = replace(screen, data="", message=screen.message[: lifecycle.MAX_DETAIL])
            await self._finish(relay, end)
        return TerminalPosition(offset=max(offset, screen.offset + len(data)) if relay.closed else offset)

    async def await_keys(self, terminal_id: str, asked: TerminalInput, actor: Actor) -> TerminalKeys:
        """Waits for what is typed from the offset on, another size, or the person's leaving. Raises as `show`."""
        relay = await self._of_agent(terminal_id, asked.control_token, actor)
        relay.attached = True
        seconds = min(max(0.0, asked.wait_seconds), WAIT_SECONDS)
        begin, data = await relay.keys.read(
            asked.offset, seconds, wake=lambda: relay.closed or relay.size != relay.size_sent
        )
        relay.agent_at, relay.size_sent = self._monotonic(), relay.size
        return TerminalKeys(
            offset=begin,
            data=base64.b64encode(data).decode(),
            rows=relay.size[0],
            columns=relay.size[1],
            closed=relay.closed and begin + len(data) == relay.keys.end,
        )

    async def _of_agent(self, terminal_id: str, control_token: str, actor: Actor) -> Relay:
        relay = self._relays.get(terminal_id)
        mine = (
            relay is not None
            and relay.run.control_hash == hash_of(control_token)
            and await self._succession.is_same_agent(actor, relay.run.agent)
        )
        if relay is None or not mine:
            raise Stale("there is no such terminal of this agent's: end what it started")
        relay.agent_at = self._monotonic()
        return relay

    def of_run(self, run_id: str) -> tuple[Terminal, ...]:
        """Those that the run's agent has not come for yet."""
        return tuple(
            relay.order
            for relay in self._relays.values()
            if relay.order.run == run_id and not relay.attached and relay.end is None
        )

    # --- Ends

    async def watch(self) -> None:
        """Ends terminals of which a side has gone; never ends by itself."""
        while True:
            await anyio.sleep(LOOK_SECONDS)
            await self.look_after(self._monotonic())

    async def look_after(self, now: float) -> None:
        """Looks once at all of them."""
        for relay in list(self._relays.values()):
            if relay.end is not None:
                if now - relay.ended_at > KEPT_SECONDS:
                    self._relays.pop(relay.order.id, None)
            elif problem := _problem(relay, now):
                await self._finish(relay, TerminalScreen(ended=True, message=problem))
            elif now - relay.person_at > SILENT_SECONDS:
                relay.close()

    async def run_ended(self, run_id: str) -> None:
        """Its terminals have ended with it; the agent says so, too, where it has come for them."""
        for relay in list(self._relays.values()):
            if relay.order.run == run_id and not relay.attached:
                await self._finish(relay, TerminalScreen(ended=True, message="the run has ended"))

    def close(self) -> None:
        """Answers everything that waits: the server is stopping."""
        for relay in self._relays.values():
            relay.finish(TerminalScreen(ended=True, message="the server was stopped"), self._monotonic())

    async def _finish(self, relay: Relay, end: TerminalScreen) -> None:
        if relay.end is not None:
            return
        now = self._monotonic()
        relay.finish(end, now)
        how = end.message if end.exit_code is None else f"exit code {end.exit_code}"
        detail = f"{relay.order.kind}, after {now - relay.opened_at:.0f} s: {how}"
        logger.info(
            "the terminal of %s in run %s ended: %s",
            relay.actor.name,
            relay.order.run,
            how,
            extra={"action": "terminal_ended", "run": relay.order.run, "by": relay.actor.name},
        )
        with contextlib.suppress(NotFound):
            try:
                await self._tell(relay.task, relay.run, relay.actor, "terminal_ended", detail)
            except Unavailable as error:
                logger.warning("a terminal's end is not in the story: %s", error, extra={"action": "story_failed"})

    async def _tell(self, task_id: str, entry: RunRecord, actor: Actor, kind: str, detail: str) -> None:
        line = partial(
            lifecycle.tell, kind=kind, run=entry.run.number, by=actor.name, detail=detail, now=self._clock()
        )
        await self._store.update(task_id, line)


def _problem(relay: Relay, now: float) -> str:
    if not relay.attached and now - relay.opened_at > ATTACH_SECONDS:
        return (
            f"the agent did not come for it within {ATTACH_SECONDS:.0f} s: it is away, or speaks to another server"
            " of this store (a terminal needs both at one server)"
        )
    if relay.attached and now - relay.agent_at > SILENT_SECONDS:
        return "the agent has fallen silent"
    return ""


def _check(new: NewTerminal) -> None:
    _check_size(new.rows, new.columns)
    words: Iterable[str] = (*new.command, new.term)
    if any("\0" in word for word in words):
        raise Invalid("a command cannot hold NUL characters")
    if sum(len(word.encode(errors="replace")) for word in words) > MOST_COMMAND_BYTES:
        raise Invalid(f"the command is longer than {MOST_COMMAND_BYTES} bytes")
    if new.kind is TerminalKind.SIGNALS and new.command:
        raise Invalid("a terminal for signals takes no command")


def _check_size(rows: int, columns: int) -> None:
    if not (0 < rows <= MOST_SIDE and 0 < columns <= MOST_SIDE):
        raise Invalid(f"a terminal has 1 to {MOST_SIDE} rows and columns")


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("data is base64") from error
