"""What names of commits and branches may look like before they are given to git."""

from __future__ import annotations

import re

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
BRANCH_REFUSED = re.compile(r"^-|\.\.|@\{|^@$|//|/$|\.$|[\x00-\x20\x7f~^:?*\[\\]|(?:^|/)\.|\.lock(?:/|$)|^/")
"""The rules of `git check-ref-format --branch`."""
