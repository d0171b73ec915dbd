"""Which queues an agent serves: they exist, or are created, before the first claim."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence

from taskyard.client import Client
from taskyard.errors import Refused
from taskyard.wire import DEFAULT_QUEUES, GpuRange, NewQueue, QueueKind

from .config import AgentSettings
from .errors import SettingsError

NO_GPU = GpuRange(least=0, most=0)
"""What a task of a services queue is given."""


def order_from_server(client: Client, settings: AgentSettings) -> dict[str, GpuRange | None]:
    """The queues' names in the order given, each with the GPUs for a task of it where the queue decides that.

    Raises SettingsError naming one that does not exist.
    """
    known = client.queues()
    names = {queue.id: queue.name for queue in known}
    wanted = settings.queues or client.whoami().queues or _default(settings)
    order = {names.get(queue, queue): settings.queue_gpus.get(queue) for queue in wanted}
    missing = [queue for queue in order if queue not in names.values()]
    if missing and not settings.create_queue:
        raise SettingsError(_absent(missing[0], sorted(names.values())))
    for queue in missing:
        _create(client, queue)
    services = {queue.name: NO_GPU for queue in known if queue.kind is QueueKind.SERVICES}
    return {queue: given or services.get(queue) for queue, given in order.items()}


def _default(settings: AgentSettings) -> Sequence[str]:
    tasks, services = DEFAULT_QUEUES
    return (services,) if settings.services_mode else (tasks,)


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
