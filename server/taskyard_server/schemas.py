"""The wire's records as pydantic checks them: each schema is made once, for all that contain it."""

from __future__ import annotations

import functools
from dataclasses import is_dataclass
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema
from taskyard import wire

T = TypeVar("T")

RECORDS: list[Any] = [each for each in vars(wire).values() if is_dataclass(each)]
"""In the order of their definition: what a record contains stands before it."""


def share(record: Any) -> None:
    """Gives the record a schema, which pydantic would else make again for each place where the record stands.

    It halves the CPU time of the server's start. Text like "nan" is no number: no store can hold it, and no
    answer can say it.
    """
    record.__pydantic_config__ = ConfigDict(allow_inf_nan=False)
    schema = TypeAdapter(record).core_schema

    def shared(cls: type, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return schema

    record.__get_pydantic_core_schema__ = classmethod(shared)


for _record in RECORDS:
    share(_record)


def adapter(kind: type[T]) -> TypeAdapter[T]:
    """What makes a value of this type from JSON and back."""
    return _adapter(cast("Any", kind))


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
