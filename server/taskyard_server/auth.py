"""Who is calling, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass

from taskyard.wire import TokenKind


@dataclass(frozen=True, kw_only=True)
class Actor:
    """The caller of a request, as its token says."""

    token: str
    """Id of the token; for a run, the run's id."""
    kind: TokenKind
    name: str
    owner: str
    """The account that it acts for; a run acts for its submitter."""
    queues: tuple[str, ...] = ()
    """For an agent: names of the queues it may claim from; empty for all."""
    create_queues: bool = False
    task: str | None = None
    """For a run: its task."""
    project: str | None = None
    """For a run: the only project that it may touch."""
