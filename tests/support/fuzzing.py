"""Hooks of schemathesis, which loads this module by its name."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def before_call(_: Any, case: Any, kwargs: Any) -> None:
    """Lets no claim park: a valid one would wait for half a minute."""
    body = case.body if case.operation.path.endswith("/claims") else None
    if isinstance(body, dict) and isinstance(body.get("wait_seconds", 25.0), (int, float)):
        body["wait_seconds"] = 0
