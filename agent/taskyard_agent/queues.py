"""Which queues an agent serves: they exist, or are created, before the first claim."""

from __future__ import annotations

import difflib
import shlex

from taskyard.client import Client
from taskyard.errors import Refused
from taskyard.wire import DEFAULT_QUEUES, NewQueue

from .config import AgentSettings
from .errors import SettingsError


def order_from_server(client: Client, settings: AgentSettings) -> tuple[str, ...]:
    """Returns the queues' names in the order given. Raises SettingsError naming one that does not exist."""
    known = {queue.id: queue.name for queue in client.queues()}
    wanted = settings.queues or client.whoami().queues or DEFAULT_QUEUES[:1]
    order = tuple(known.get(queue, queue) for queue in wanted)
    missing = [queue for queue in order if queue not in known.values()]
    if missing and not settings.create_queue:
        raise SettingsError(_absent(missing[0], sorted(known.values())))
    for queue in missing:
        _create(client, queue)
    return order


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
    return f"no queue {name!r}{there}; create it with `{create}`, or add --create-queue"
