"""What MongoDB's driver raises never leaves the store as it is."""

from __future__ import annotations

import inspect

import pytest
from taskyard_server.store.base import Store

pytest.importorskip("pymongo")


def test_every_verb_of_the_store_translates_the_errors_of_the_driver() -> None:
    from taskyard_server.store.mongo import MongoStore

    verbs = {name for name, verb in inspect.getmembers(Store, inspect.iscoroutinefunction)} - {"open", "close"}

    assert [name for name in sorted(verbs) if not hasattr(getattr(MongoStore, name), "__wrapped__")] == []
