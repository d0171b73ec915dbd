"""Long lists in requests and answers, in portions, so that no other request waits for the whole of one.

A body such as `{"tasks": […]}` is parsed, checked and made into records item by item; so is an answer written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from taskyard_server.api import body
from taskyard_server.errors import Invalid
from taskyard_server.pace import Pace

_SPACE = re.compile(r"[ \t\n\r]*")


async def read(
    content: bytes, content_type: str, takes: TypeAdapter[Any], items: TypeAdapter[Any], field: str
) -> Any:
    """The record of a body in which `field` is a list of items. Raises Invalid, RequestValidationError."""
    body.require_json(content_type)
    try:
        document = await _Document(content.decode(), field, items).read()
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the body is not JSON: {error}") from error
    return validated(takes, document)


def validated(takes: TypeAdapter[Any], document: Any, *place: str | int) -> Any:
    """The record; raises RequestValidationError naming the field, which stands at `place` in the body."""
    try:
        return takes.validate_python(document)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *place, *one["loc"])} for one in error.errors()]
        raise RequestValidationError(found) from error


async def write(gives: TypeAdapter[Any], items: Iterable[Any]) -> bytes:
    """The items as a JSON list."""
    pace, pieces = Pace(), []
    for item in items:
        pieces.append(gives.dump_json(item))
        await pace.step()
    return b"[" + b",".join(pieces) + b"]"


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number in JSON")


class _Document:
    """A JSON object whose one list is read item by item; everything else in it is read at once."""

    def __init__(self, text: str, field: str, items: TypeAdapter[Any]) -> None:
        self._text = text
        self._field = field
        self._items = items
        self._at = 0
        self._decode = json.JSONDecoder(parse_constant=_no_number).raw_decode

    async def read(self) -> Any:
        """Raises ValueError for what is no JSON, and as `validated` for an item."""
        if self._next() != "{":
            document = self._value()
        else:
            document = await self._object()
        if self._next():
            raise ValueError(f"more follows at character {self._at}")
        return document

    async def _object(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self._take("{")
        while self._next() != "}":
            if found:
                self._take(",")
            key = self._value()
            if not isinstance(key, str):
                raise ValueError(f"a name is missing at character {self._at}")
            self._take(":")
            found[key] = await self._list() if key == self._field and self._next() == "[" else self._value()
        self._take("}")
        return found

    async def _list(self) -> tuple[Any, ...]:
        pace = Pace()
        found: list[Any] = []
        self._take("[")
        while self._next() != "]":
            if found:
                self._take(",")
            found.append(validated(self._items, self._value(), self._field, len(found)))
            await pace.step()
        self._take("]")
        return tuple(found)

    def _value(self) -> Any:
        self._next()
        begin = self._at
        try:
            value, self._at = self._decode(self._text, begin)
        except StopIteration:
            raise ValueError(f"a value is missing at character {begin}") from None
        body.refuse_unfit(value, self._text, begin, self._at)
        return value

    def _take(self, sign: str) -> None:
        if self._next() != sign:
            raise ValueError(f"{sign!r} is missing at character {self._at}")
        self._at += 1

    def _next(self) -> str:
        """The next character that is no space; empty at the end."""
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._text[self._at : self._at + 1]
