"""What an `agent execute` that was killed left running: nobody carries it on, so it is ended and given back."""

from __future__ import annotations

import logging
import threading
import time

from taskyard.client import Client

from . import executes
from .allotment import Means
from .assembly import agent_on
from .config import AgentSettings
from .journal import Journal
from .part_settings import executes_folder
from .worker import Worker

logger = logging.getLogger(__name__)

LOGS_SECONDS = 10.0
LOOK_SECONDS = 0.02


def giving_back(settings: AgentSettings, client: Client) -> threading.Thread:
    """The same in a thread of its own, which has begun: a grace period may be longer than any lease."""
    thread = threading.Thread(target=give_back, args=(settings, client), name="giving-back", daemon=True)
    thread.start()
    return thread


def give_back(settings: AgentSettings, client: Client) -> None:
    """Ends what killed executes of this machine left, each with its grace period, and reports it to the server."""
    for journal in executes.abandoned(executes_folder(settings)):
        try:
            _give_back(journal, settings, client)
        except Exception:
            # The edge of the loop: what cannot be ended keeps no agent from starting; the next one tries again.
            logger.exception("%s is left as it is", journal.folder, extra={"action": "execute_not_given_back"})
        finally:
            executes.leave(journal)


def _give_back(journal: Journal, settings: AgentSettings, client: Client) -> None:
    worker = Worker(journal.folder.name, Means(), ())
    with agent_on(journal, worker, (), settings, client) as parts:
        parts.leftovers.give_back()
        parts.services.uploads.wait(LOGS_SECONDS)
        deadline = time.monotonic() + LOGS_SECONDS
        while journal.runs() and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
