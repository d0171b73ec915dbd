"""What the server must never hold, because a task could then use it against others."""

from __future__ import annotations

import ast
from pathlib import Path

import taskyard_server

FORBIDDEN = {
    "pickle",
    "marshal",
    "shelve",
    "httpx",
    "requests",
    "aiohttp",
    "urllib.request",
    "http.client",
    "subprocess",
}
"""Ways to run what somebody sent, and to open a connection that somebody named."""


def test_the_server_neither_unpickles_nor_calls_out() -> None:
    files = list(Path(taskyard_server.__path__[0]).rglob("*.py"))

    imported = {name for file in files for name in imports(file)}

    assert "fastapi" in imported
    assert imported & FORBIDDEN == set()


def imports(file: Path) -> set[str]:
    """The modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
