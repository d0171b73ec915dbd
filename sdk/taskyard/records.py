"""Frozen dataclasses whose methods are compiled when they are first needed.

`dataclasses` compiles six methods for each of the ninety records of the wire, of which a command needs some
fifteen: that took a third of the time of `taskyard ps`. Imports nothing of ours.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn

_METHODS: dict[str, dict[str, Any]] = {
    "__init__": {"init": True},
    "__repr__": {"repr": True},
    "__eq__": {"eq": True},
    "__hash__": {"eq": True},
}
"""What is made late, and the option of `dataclasses.dataclass` that makes it."""


def dataclass(*, frozen: bool, kw_only: bool) -> Any:
    """Return a decorator that does what `dataclasses.dataclass` does with both of these options."""
    if not (frozen and kw_only):
        raise TypeError("these records are frozen and take keywords alone")
    return _record


def _record(kind: Any) -> Any:
    made: Any = dataclasses.dataclass(kw_only=True, init=False, repr=False, eq=False)(kind)
    made.__dataclass_params__ = _PARAMETERS
    made.__setattr__, made.__delattr__ = _refuse_to_set, _refuse_to_delete
    for name in _METHODS:
        setattr(made, name, _Later(made, name))
    return made


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Model:
    """Has the options that every record has."""


_PARAMETERS: Any = _Model.__dataclass_params__  # type: ignore[attr-defined]


class _Later:
    """Stands for one method of a record until it is looked up."""

    def __init__(self, kind: Any, name: str) -> None:
        self._kind = kind
        self._name = name

    def __get__(self, record: Any, owner: Any = None) -> Any:
        method = _compiled(self._kind, self._name)
        setattr(self._kind, self._name, method)
        return method if record is None else method.__get__(record, owner)


def _compiled(kind: Any, name: str) -> Any:
    """Return the method of a twin that has the same fields."""
    wanted: dict[str, Any] = {"init": False, "repr": False, "eq": False} | _METHODS[name]
    own = [(each.name, each.type, _declared(each)) for each in dataclasses.fields(kind)]
    twin = dataclasses.make_dataclass(kind.__name__, own, frozen=True, kw_only=True, **wanted)
    method = twin.__dict__[name]
    method.__qualname__ = f"{kind.__qualname__}.{name}"
    return method


def _declared(own: dataclasses.Field[Any]) -> Any:
    if own.default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=own.default_factory)
    return dataclasses.field(default=own.default)


def _refuse_to_set(_record: object, name: str, _value: object) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_record: object, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
