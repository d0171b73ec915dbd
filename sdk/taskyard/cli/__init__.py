"""The command line. `agent …` is the same as `taskyard agent …`."""

from __future__ import annotations

import sys


def main() -> int:
    """The console script `taskyard`."""
    from taskyard.cli.app import execute

    return execute(sys.argv[1:])


def agent_main() -> int:
    """The console script `agent`."""
    from taskyard.cli.app import execute

    return execute(["agent", *sys.argv[1:]])
