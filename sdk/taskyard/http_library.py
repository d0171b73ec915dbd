"""Imports httpx, which takes longer than anything else here, without what a client does not use of it."""

from __future__ import annotations

import sys

_ITS_COMMAND_LINE = "httpx._main"
"""Brings click, rich and pygments where those are installed. Without it httpx is whole but for its own command."""

if _ITS_COMMAND_LINE not in sys.modules and "httpx" not in sys.modules:
    sys.modules[_ITS_COMMAND_LINE] = None  # type: ignore[assignment]  # the import system's mark for "not there"
    try:
        import httpx
    finally:
        del sys.modules[_ITS_COMMAND_LINE]
else:
    import httpx

__all__ = ["httpx"]
