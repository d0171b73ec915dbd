"""What installers fetched: kept, used by builds, removed where the disk is low."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from taskyard_agent.environments.cache import Limits
from taskyard_agent.environments.downloads import Downloads
from taskyard_agent.errors import RunStopped

NEVER = threading.Event()
NEEDED = 100
ROOM = Limits(free_bytes=NEEDED)


@pytest.fixture
def downloads(tmp_path: Path) -> Downloads:
    """Each has 4 KiB or more; they were used last in the order in which they are made."""
    made = Downloads(tmp_path)
    for second, name in enumerate(("pip", "uv", "images/old", "images/new", "pythons/cpython-3.9")):
        place = tmp_path / name if name.startswith("pythons/") else tmp_path / "downloads" / name
        place.mkdir(parents=True)
        (place / "file").write_bytes(b"x" * 4096)
        with made.hold([name.partition("/")[0] if "pythons" in name else name], cancelled=NEVER):
            pass
        lock = tmp_path / "downloads" / ("pythons.lock" if "pythons" in name else f"{name}.lock")
        os.utime(lock, (second, second))
    return made


def names(found: object) -> list[str]:
    return [download.name for download in found]  # type: ignore[attr-defined]


def free(*answers: int) -> Callable[[Path], int]:
    """What the disk has free, each time that it is asked; the last answer stands."""
    waiting = list(answers)
    return lambda _: waiting.pop(0) if len(waiting) > 1 else waiting[0]


def low_after(downloads: Downloads, *answers: int) -> Downloads:
    return Downloads(downloads.root, free_bytes=free(*answers))


def test_all_that_was_fetched_is_listed_with_its_size_the_least_recently_used_first(downloads: Downloads) -> None:
    found = downloads.entries()

    assert names(found) == ["pip", "uv", "images/old", "images/new", "pythons/cpython-3.9"]
    assert all(download.size_bytes >= 4096 and not download.in_use for download in found)


def test_with_room_on_the_disk_nothing_goes(downloads: Downloads) -> None:
    assert low_after(downloads, NEEDED).keep_to(ROOM) == ()


def test_those_of_images_go_first_and_only_until_there_is_room(downloads: Downloads) -> None:
    gone = low_after(downloads, 0, 0, NEEDED).keep_to(ROOM)

    assert names(gone) == ["images/old"]
    assert names(downloads.entries()) == ["pip", "uv", "images/new", "pythons/cpython-3.9"]
    assert not (downloads.root / "downloads" / "images" / "old.lock").exists()


def test_a_limit_of_size_counts_all_but_interpreters_and_removes_no_more_than_it_must(
    downloads: Downloads,
) -> None:
    sizes = {download.name: download.size_bytes for download in downloads.entries()}
    limit = sum(sizes[name] for name in ("pip", "uv", "images/new"))

    assert downloads.keep_to(Limits(size_bytes=sum(sizes.values()))) == ()
    assert names(downloads.keep_to(Limits(size_bytes=limit))) == ["images/old"]
    assert names(downloads.keep_to(Limits(size_bytes=sizes["uv"]))) == ["images/new", "pip"]


def test_on_a_disk_that_stays_low_all_go_but_interpreters_and_what_a_build_uses(downloads: Downloads) -> None:
    with downloads.hold(["pip"], cancelled=NEVER):
        gone = low_after(downloads, 0).keep_to(ROOM)

    assert names(gone) == ["images/old", "images/new", "uv"]
    assert set(names(downloads.entries())) == {"pip", "pythons/cpython-3.9"}


def test_uv_keeps_what_it_would_use_again_where_that_makes_room(downloads: Downloads) -> None:
    stale = downloads.root / "downloads" / "uv" / "builds-v0" / "left"
    stale.mkdir(parents=True)

    gone = low_after(downloads, 0, 0, 0, 0, 0, NEEDED).keep_to(ROOM)

    assert names(gone) == ["images/old", "images/new", "pip"]
    assert not stale.exists()
    assert "uv" in names(downloads.entries())


def test_all_goes_but_interpreters_that_an_environment_needs(downloads: Downloads) -> None:
    other = downloads.root / "pythons" / "cpython-3.10"
    other.mkdir()

    gone = downloads.remove([downloads.root / "pythons" / "cpython-3.9" / "bin" / "python"])

    assert sorted(names(gone)) == ["images/new", "images/old", "pip", "pythons/cpython-3.10", "uv"]
    assert names(downloads.entries()) == ["pythons/cpython-3.9"]


def test_interpreters_stay_while_a_run_uses_one_as_it_is(downloads: Downloads) -> None:
    lock = downloads.hold_pythons()

    assert "pythons/cpython-3.9" not in names(downloads.remove([]))
    os.close(lock)
    assert names(downloads.remove([])) == ["pythons/cpython-3.9"]


def test_what_a_killed_agents_installer_still_uses_stays(downloads: Downloads) -> None:
    with ExitStack() as stack:
        locks = stack.enter_context(downloads.hold(["uv"], cancelled=NEVER))
        installer = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=locks, text=True
        )
    with installer:
        gone = low_after(downloads, 0).keep_to(ROOM)
        installer.communicate("\n")

    assert "uv" not in names(gone)
    assert names(low_after(downloads, 0).keep_to(ROOM)) == ["uv"]


def test_a_link_to_another_disk_is_emptied_and_stays(downloads: Downloads, tmp_path: Path) -> None:
    place, elsewhere = downloads.root / "downloads" / "uv", tmp_path / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)

    low_after(downloads, 0).keep_to(ROOM)

    assert place.is_symlink()
    assert list(elsewhere.iterdir()) == []


def test_a_build_waits_while_what_it_needs_is_removed_and_can_be_stopped(downloads: Downloads) -> None:
    stopped = threading.Event()
    stopped.set()

    with downloads._exclusively("uv"), pytest.raises(RunStopped):
        with downloads.hold(["uv"], cancelled=stopped):
            pass


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before
