"""`python -m taskyard.cli`, for machines whose PATH does not lead here."""

from __future__ import annotations

import sys

from taskyard.cli import main

if __name__ == "__main__":
    sys.exit(main())
