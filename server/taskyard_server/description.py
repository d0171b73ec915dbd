"""Writes the API's description to a file: `python -m taskyard_server.description docs/reference/openapi.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from taskyard_server.app import create_app
from taskyard_server.config import ServerConfig


def description() -> str:
    """The OpenAPI document as it is kept in the repository."""
    return json.dumps(create_app(ServerConfig()).openapi(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(description(), encoding="utf-8")
