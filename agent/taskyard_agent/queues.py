"""Which queues an agent serves: they exist, or are created, before the first claim."""

from __future__ import annotations

import difflib
import re
import shlex
import unicodedata
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from taskyard.client import Client
from taskyard.errors import Refused
from taskyard.wire import DEFAULT_QUEUES, GpuRange, NewQueue, Queue, QueueKind, Token

from .config import AgentSettings
from .errors import SettingsError

NO_GPU = GpuRange(least=0, most=0)
"""What a task of a services queue is given."""
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class ServedQueue:
    """One queue that the agent serves. It is claimed from by its id, which a new name leaves as it is."""

    id: str
    name: str
    """What it is called at the agent's start."""
    gpus: GpuRange | None = None
    """For each task of it; None where the queue does not decide that."""


def order_from_server(client: Client, settings: AgentSettings) -> tuple[ServedQueue, ...]:
    """The queues in the order given. Raises SettingsError naming one that does not exist or is not the token's."""
    token = client.whoami()
    known = _by_id_and_name(client)
    wanted = settings.queues or _of_token(token, known) or _default(settings)
    missing = [ref for ref in wanted if _normalised(ref) not in known]
    if missing:
        if not settings.create_queue:
            raise SettingsError(_absent(missing[0], sorted({queue.name for queue in known.values()})))
        for ref in missing:
            _create(client, ref)
        known = _by_id_and_name(client)
    served = [_served(known[_normalised(ref)], settings.queue_gpus.get(ref)) for ref in wanted]
    _check_rights(served, token)
    return tuple({queue.id: queue for queue in served}.values())


def _by_id_and_name(client: Client) -> dict[str, Queue]:
    queues = client.queues()
    return {**{queue.name: queue for queue in queues}, **{queue.id: queue for queue in queues}}


def _normalised(ref: str) -> str:
    """As the server keeps names."""
    return unicodedata.normalize("NFC", ref).strip()


def _served(queue: Queue, given: GpuRange | None) -> ServedQueue:
    services = NO_GPU if queue.kind is QueueKind.SERVICES else None
    return ServedQueue(id=queue.id, name=queue.name, gpus=given or services)


def _of_token(token: Token, known: Container[str]) -> Sequence[str]:
    """The token's own, but for those that were deleted, which it shows by their ids. Raises SettingsError where
    none is left."""
    left = [queue for queue in token.queues if queue in known or not _ID.fullmatch(queue)]
    if token.queues and not left:
        raise SettingsError(
            "the queues that this agent's token is for were deleted; join again with a code of "
            "`taskyard invite agent --queue QUEUE`"
        )
    return left


def _default(settings: AgentSettings) -> Sequence[str]:
    tasks, services = DEFAULT_QUEUES
    return (services,) if settings.services_mode else (tasks,)


def _check_rights(served: Iterable[ServedQueue], token: Token) -> None:
    """The server would refuse every claim of an agent that asks for a queue beyond its token's."""
    foreign = [queue.name for queue in served if token.queues and queue.name not in token.queues]
    if foreign:
        invite = f"taskyard invite agent --queue {' '.join(map(shlex.quote, (*token.queues, *foreign)))}"
        raise SettingsError(
            f"this agent's token is for {', '.join(map(repr, token.queues))}, not for "
            f"{', '.join(map(repr, foreign))}: serve its own, or join again with a code of `{invite}`"
        )


def _create(client: Client, name: str) -> None:
    try:
        client.create_queue(NewQueue(name=name))
    except Refused as error:
        if error.word != "conflict":  # another agent was faster
            raise SettingsError(f"queue {name!r} cannot be created: {error}") from error


def _absent(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3) or known[:5]
    there = f"; there is {', '.join(map(repr, near))}" if near else ""
    create = f"taskyard queue create {shlex.quote(name)}"
    dynamic = "; to give GPUs by queue, add --dynamic-gpus" if re.search(r"=\d+(-\d+)?$", name) else ""
    return f"no queue {name!r}{there}; create it with `{create}`, or add --create-queue{dynamic}"
