"""The pages of the reference are those that the code would write."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.reference import pages


@pytest.mark.parametrize(("path", "text"), pages().items(), ids=lambda value: getattr(value, "name", ""))
def test_the_reference_lists_every_setting_as_declared(path: Path, text: str) -> None:
    assert path.read_text(encoding="utf-8") == text
