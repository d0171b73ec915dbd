"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

ON_CI = bool(os.environ.get("CI"))
KERNEL = "the kernel: "
"""How the reason of a skip begins that no installation could cure."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """On CI every component that can be installed is there: what would be skipped elsewhere, fails."""
    report = yield
    if ON_CI and report.skipped and not hasattr(report, "wasxfail") and KERNEL not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"on CI nothing is skipped: {report.longrepr}"
    return report
