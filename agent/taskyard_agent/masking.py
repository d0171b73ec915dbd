"""Masks secrets in a stream of bytes, across chunk boundaries and in the forms that programs print them in."""

from __future__ import annotations

from collections.abc import Iterable


class Masker:
    """Replaces secret values by `***`. The result does not depend on how the stream was cut into chunks."""

    def __init__(self, values: Iterable[str]) -> None:
        raise NotImplementedError

    def add(self, values: Iterable[str]) -> None:
        """Masks further values from here on."""
        raise NotImplementedError

    def feed(self, chunk: bytes) -> bytes:
        """Takes the next bytes; returns what can be written. Holds back only what may begin a secret."""
        raise NotImplementedError

    def finish(self) -> bytes:
        """Returns what was held back: the stream has ended."""
        raise NotImplementedError

    def mask_all(self, text: bytes) -> bytes:
        """Masks a whole text by itself."""
        raise NotImplementedError
