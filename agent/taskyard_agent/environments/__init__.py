"""Provides the environment of a run: built once, kept in a cache, used through a thin overlay."""

from __future__ import annotations

import threading

from taskyard_agent.environments.base import EnvironmentRequest, EnvironmentSettings, Log, ReadyEnvironment

__all__ = ["EnvironmentRequest", "EnvironmentSettings", "ReadyEnvironment", "provision"]


def provision(
    request: EnvironmentRequest, *, settings: EnvironmentSettings, log: Log, cancelled: threading.Event
) -> ReadyEnvironment:
    """Returns an environment that satisfies `request`, and holds it until `release()`.

    Raises RunFailed (phase environment) when it cannot be made, RunStopped within a second of `cancelled`.
    """
    raise NotImplementedError
