"""A store whose verbs are timed: it does what the store behind it does."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from taskyard_server.errors import Unavailable
from taskyard_server.store.base import Store


class Note(Protocol):
    """Is called after each verb."""

    def __call__(self, verb: str, seconds: float, *, unavailable: bool) -> None:
        """Takes the seconds that the verb took, and whether the store was unavailable."""


def timed(store: Store, note: Note) -> Store:
    """Returns a store that passes everything on and notes how long each verb took."""
    return cast(Store, _Timed(store, note))


class _Timed:
    def __init__(self, store: Store, note: Note) -> None:
        self._store = store
        self._note = note

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not inspect.iscoroutinefunction(found):
            return found
        verb = self._of(name, found)
        self.__dict__[name] = verb  # looked up once: the next call finds it without asking here
        return verb

    def _of(self, name: str, act: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        note = self._note

        @functools.wraps(act)
        async def verb(*args: Any, **options: Any) -> Any:
            began, unavailable = time.perf_counter(), False
            try:
                return await act(*args, **options)
            except Unavailable:
                unavailable = True
                raise
            finally:
                note(name, time.perf_counter() - began, unavailable=unavailable)

        return verb
