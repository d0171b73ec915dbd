"""How far something long is: on a terminal in one line, else in some."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from taskyard.asking import size_in_words

QUIET_SECONDS = 1.0
"""What takes no longer needs no progress."""
SHOWN_SECONDS = 0.5
LINES_SECONDS = 10.0
"""Between two lines where there is no terminal."""


class Progress:
    """Says how many bytes are done once it takes longer than a moment."""

    def __init__(self, verb: str, *, in_words: Callable[[int], str] = size_in_words) -> None:
        """`verb` is such as `copied`; `in_words` writes a size."""
        self._verb = verb
        self._in_words = in_words
        self._began = time.monotonic()
        self._said_at = float("-inf")
        self._done = 0
        self._open = False

    def __call__(self, done: int, total: int) -> None:
        """So many bytes are done of so many."""
        self._done = done
        now = time.monotonic()
        pause = SHOWN_SECONDS if sys.stderr.isatty() else LINES_SECONDS
        if now - self._began < QUIET_SECONDS or now - self._said_at < pause:
            return
        self._said_at = now
        sizes = f"{self._in_words(done)} of {self._in_words(total)}"
        text = f"{self._verb} {sizes} ({100 * done // max(total, 1)} %)"
        self._open = sys.stderr.isatty()
        print(
            f"\r{text}\033[K" if self._open else text, end="" if self._open else "\n", file=sys.stderr, flush=True
        )

    def advance(self, count: int, total: int) -> None:
        """So many bytes more, or fewer where they are fetched again."""
        self(max(0, self._done + count), total)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._open:
            print(file=sys.stderr)
