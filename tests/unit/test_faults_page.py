"""docs/reference/faults.md names tests that exist, and a test in each row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs/reference/faults.md"
ROWS = [
    row.strip("| ").rpartition("|")[2].strip()
    for row in PAGE.read_text(encoding="utf-8").splitlines()
    if row.startswith("| ") and not row.startswith("| what failed")
]


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_each_row_names_tests_that_exist(row: int) -> None:
    named = re.findall(r"`([^`]+)`", ROWS[row])

    assert named
    for reference in named:
        path, _, name = reference.partition("::")
        if path.startswith("test_") and not path.endswith(".py"):  # of the file that was named before
            path, name = "", path
        file = _file(path or _last_file(row, reference))
        assert not name or re.search(rf"def {name}\(", file.read_text(encoding="utf-8")), reference


def _last_file(row: int, reference: str) -> str:
    """Return the last test file that the page names before a shortened reference such as `::test_x`."""
    before = " ".join(ROWS[: row + 1])
    before = before[: before.rindex(f"`{reference}`")]
    return re.findall(r"`([\w/]+\.py)", before)[-1]


def _file(path: str) -> Path:
    file = TESTS / path.removeprefix("tests/")
    found = [file] if file.is_file() else list(TESTS.rglob(path))
    assert len(found) == 1, path
    return found[0]
