"""Taskyard runs machine-learning work on machines that you own.

Importing this costs next to nothing: what it offers is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskyard._task import Task
    from taskyard.wire import TaskState

__version__ = "0.1.0"
__all__ = ["Task", "TaskState", "__version__"]

_HOMES = {"Task": "taskyard._task", "TaskState": "taskyard.wire"}
"""Public name → the module that defines it. No public name equals a submodule's."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
