"""The records as JSON bytes, the same for every store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from taskyard_server.errors import Invalid
from taskyard_server.schemas import adapter
from taskyard_server.store.artifacts import ArtifactRecord
from taskyard_server.store.base import QueueRecord, RestRecord, TaskRecord, TokenRecord, WorkerRecord

R = TypeVar("R", TaskRecord, QueueRecord, WorkerRecord, TokenRecord, RestRecord, ArtifactRecord)


class Codec(Generic[R]):
    """One kind of record. The fields named in `apart` are left out of the bytes: the store keeps them beside
    them, where it can change them without a decoder, and hands them back when it decodes."""

    def __init__(self, kind: type[R], *, apart: frozenset[str] = frozenset()) -> None:
        self._adapter: TypeAdapter[R] = adapter(kind)
        self._apart = set(apart)

    def encode(self, record: R) -> bytes:
        """Raises Invalid for text that is not Unicode, such as half of a surrogate pair."""
        try:
            return self._adapter.dump_json(record, exclude=self._apart)
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            raise Invalid(f"{record_name(record)} holds text that is not valid Unicode: {error}") from error

    def decode(self, body: bytes, **apart: Any) -> R:
        """Unknown fields are ignored, missing ones get their default, so an older record stays readable."""
        record = self._adapter.validate_json(body)
        return replace(record, **apart) if apart else record


def record_name(record: object) -> str:
    """`TaskRecord` → `task`."""
    return type(record).__name__.removesuffix("Record").lower()


TASKS = Codec(TaskRecord, apart=frozenset({"rank", "due_at"}))
QUEUES = Codec(QueueRecord)
WORKERS = Codec(WorkerRecord)
TOKENS = Codec(TokenRecord)
RESTS = Codec(RestRecord)
ARTIFACTS = Codec(ArtifactRecord)
