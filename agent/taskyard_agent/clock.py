"""The server's time, as far as this machine can tell it."""

from __future__ import annotations

import time


class ServerClock:
    """Local time corrected by what the server's answers say; every time on the wire is the server's."""

    def __init__(self) -> None:
        self._offset_seconds = 0.0

    def now(self) -> float:
        """Seconds since the epoch on the server's clock."""
        return time.time() + self._offset_seconds

    def learn(self, server_time: float, sent_at: float, received_at: float) -> None:
        """Takes the middle of a request's way as the moment at which the server read its clock."""
        self._offset_seconds = server_time - (sent_at + received_at) / 2

    @property
    def offset_seconds(self) -> float:
        """Server minus local."""
        return self._offset_seconds
