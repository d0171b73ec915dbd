"""Submissions whose answer never came: the same command again repeats them, and makes no second task."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from taskyard.wire import to_json

KEPT_SECONDS = 24 * 3600.0
"""For as long the server knows a repeat, and a person what was typed."""


def ids(drawn: str, count: int) -> list[str]:
    """Return the ids of a submission's tasks."""
    return [_digest(f"{drawn} {number}")[:32] for number in range(count)]


class Unanswered:
    """Remembers, in a file of the user's, which submissions were sent and not answered."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def drawn(self, *content: Any) -> str:
        """Return what ids are made of: for a submission that was not answered the same as at its first try."""
        kept = self._read().get(_key(content))
        return str(kept["drawn"]) if kept else uuid.uuid4().hex

    def keep(self, drawn: str, *content: Any) -> None:
        """Remember a submission of which it is not known whether the server has it."""
        self._write({**self._read(), _key(content): {"drawn": drawn, "at": time.time()}})

    def answered(self, *content: Any) -> None:
        """Forget a submission: the same one again is meant as another."""
        kept = self._read()
        if kept.pop(_key(content), None) is not None:
            self._write(kept)

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            latest = time.time() - KEPT_SECONDS
            return {str(key): dict(each) for key, each in kept.items() if latest < float(each["at"]) < time.time()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _write(self, kept: dict[str, dict[str, Any]]) -> None:
        with contextlib.suppress(OSError):  # where nothing can be written, a repeat is a submission of its own
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(dir=self._file.parent, prefix=".unanswered-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(kept, file)
            os.replace(name, self._file)


def _key(content: Iterable[Any]) -> str:
    return _digest(json.dumps(to_json(list(content)), sort_keys=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
