"""What an address of a store means."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from taskyard_server.errors import StartRefused
from taskyard_server.store import open_store

OPEN_WITHOUT_PYMONGO = """
import sys
from pathlib import Path
sys.modules["pymongo"] = None
from taskyard_server.errors import StartRefused
from taskyard_server.store import open_store
try:
    open_store("mongodb://localhost/taskyard", Path("."))
except StartRefused as refusal:
    print(refusal)
"""


async def test_without_an_address_everything_lies_below_the_data_folder(tmp_path: Path) -> None:
    stores = open_store("", tmp_path / "data")

    await stores.open()
    await stores.close()

    assert {"control.db", "samples.db", "logs", "blobs"} <= {path.name for path in (tmp_path / "data").iterdir()}


@pytest.mark.parametrize("name", ["control.db", "with space.db", "gr%C3%B6%C3%9Fe.db"])
async def test_the_path_of_an_address_is_where_the_database_is(tmp_path: Path, name: str) -> None:
    stores = open_store(f"sqlite://{tmp_path}/elsewhere/{name}", tmp_path / "data")

    await stores.open()
    await stores.close()

    assert (tmp_path / "elsewhere" / name.replace("%C3%B6%C3%9F", "öß")).is_file()


@pytest.mark.parametrize("url", ["postgres://host/db", "sqlite://control.db", "sqlite://", "sqlite:///"])
def test_an_address_that_means_nothing_is_refused_with_one_that_does(tmp_path: Path, url: str) -> None:
    with pytest.raises(StartRefused, match="sqlite:///"):
        open_store(url, tmp_path)


async def test_a_refusal_of_one_part_closes_the_others(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("in the way")
    with pytest.raises(StartRefused, match="blobs"):
        await open_store("", tmp_path).open()

    (tmp_path / "blobs").unlink()
    stores = open_store("", tmp_path)
    await stores.open()
    await stores.close()


def test_mongodb_without_its_extra_names_the_extra() -> None:
    found = subprocess.run(
        [sys.executable, "-c", OPEN_WITHOUT_PYMONGO], capture_output=True, text=True, check=True
    )

    assert "taskyard[mongo]" in found.stdout
