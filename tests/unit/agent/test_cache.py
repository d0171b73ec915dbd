"""The environment cache: one build, shared use, eviction."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from taskyard_agent.environments.cache import MARKER, PREFIX, Built, Cache, Held, Limits
from taskyard_agent.environments.contents import LISTING
from taskyard_agent.errors import RunStopped

from tests.support.waiting import becomes_true

ROOT = Path(__file__).parents[3]
BUILDER = """
import sys, time
from pathlib import Path
from tests.unit.agent.test_cache import built, hold
from taskyard_agent.environments.cache import Cache

def build(folder, lock):
    print("building", flush=True)
    (folder / "venv").mkdir()
    (folder / "venv" / "half").write_text("x")
    time.sleep(float(sys.argv[2]))
    return built(folder)

hold(Cache(Path(sys.argv[1])), "k", build)
print("ready", flush=True)
"""


def built(folder: Path, size: int = 10) -> Built:
    """What a build of some size would answer."""
    prefix = folder / PREFIX
    prefix.mkdir(exist_ok=True)
    (prefix / "file").write_bytes(b"x" * size)
    return Built(
        manager="uv 1",
        python="3.11.7",
        home=sys.executable,
        prefix=str(prefix),
        library="lib",
        site_paths=(),
        packages=("a==1",),
    )


def hold(cache: Cache, key: str, build: Callable[[Path, int], Built] | None = None) -> Held:
    """Holds an environment that is built in no time."""
    work = build or (lambda folder, _: built(folder))
    return cache.hold(key, work, log=lambda _: None, cancelled=threading.Event())


@pytest.fixture
def clock() -> Iterator[float]:
    return iter(float(second) for second in range(1_000_000, 2_000_000))


@pytest.fixture
def cache(tmp_path: Path, clock: Iterator[float]) -> Cache:
    return Cache(tmp_path / "environments", clock=lambda: next(clock))


def make(cache: Cache, *keys: str, size: int = 10) -> None:
    """Builds environments that nobody uses any more."""
    for key in keys:
        os.close(hold(cache, key, lambda folder, _: built(folder, size)).lock_fd)


def test_least_recently_used_environments_go_first(cache: Cache) -> None:
    make(cache, "a", "b", "c")
    os.close(hold(cache, "a").lock_fd)

    removed = cache.prune(Limits(environments=1))

    assert [entry.key for entry in removed] == ["b", "c"]
    assert [entry.key for entry in cache.entries()] == ["a"]


def test_environment_in_use_is_never_removed(cache: Cache) -> None:
    make(cache, "a")
    held = hold(cache, "a")

    assert [entry.in_use for entry in cache.entries()] == [True]
    assert cache.prune(Limits(environments=0)) == ()
    os.close(held.lock_fd)
    assert [entry.key for entry in cache.prune(Limits(environments=0))] == ["a"]


def test_environment_that_goes_takes_its_lock_along(cache: Cache) -> None:
    make(cache, "a")

    cache.prune(Limits(environments=0))

    assert list(cache.folder.iterdir()) == []


def test_size_of_all_environments_is_limited(cache: Cache) -> None:
    make(cache, "a", "b", "c", size=1_000_000)

    cache.prune(Limits(size_bytes=2_500_000))

    assert [entry.key for entry in cache.entries()] == ["b", "c"]


def test_environments_go_until_the_disk_has_room(tmp_path: Path) -> None:
    free = iter([1, 1, 10])
    cache = Cache(tmp_path, free_bytes=lambda _: next(free))
    make(cache, "a", "b", "c")

    cache.prune(Limits(free_bytes=5))

    assert [entry.key for entry in cache.entries()] == ["c"]


def test_unfinished_builds_are_swept_but_not_those_under_way(cache: Cache) -> None:
    make(cache, "dead")
    (cache.folder / "dead" / MARKER).unlink()

    def build(folder: Path, lock: int) -> Built:
        cache.prune(Limits())
        return built(folder)

    os.close(hold(cache, "alive", build).lock_fd)
    assert sorted(path.name for path in cache.folder.iterdir() if path.is_dir()) == ["alive"]


def test_failing_build_is_wiped_and_the_next_one_starts_afresh(cache: Cache) -> None:
    def fail(folder: Path, lock: int) -> Built:
        (folder / "rest").touch()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        hold(cache, "a", fail)

    held = hold(cache, "a")
    assert not (cache.folder / "a" / "rest").exists()
    assert not held.reused
    os.close(held.lock_fd)


def test_environment_whose_interpreter_is_gone_is_built_again(cache: Cache, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.touch()
    os.close(hold(cache, "a", lambda folder, _: _with_home(folder, python)).lock_fd)
    python.unlink()

    held = hold(cache, "a")

    assert not held.reused
    os.close(held.lock_fd)


def test_two_processes_build_once(tmp_path: Path) -> None:
    first = _builder(tmp_path, seconds=0.5)
    second = _builder(tmp_path, seconds=0.5)

    outputs = [process.communicate()[0].split() for process in (first, second)]

    assert sorted(outputs) == [["building", "ready"], ["ready"]]


def test_build_that_was_killed_half_way_is_never_used(tmp_path: Path) -> None:
    process = _builder(tmp_path, seconds=60)
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()

    held = hold(Cache(tmp_path), "k")

    assert not held.reused
    assert not (tmp_path / "k" / PREFIX / "half").exists()
    os.close(held.lock_fd)


def test_waiting_for_another_build_ends_when_the_run_is_cancelled(tmp_path: Path) -> None:
    process = _builder(tmp_path, seconds=60)
    assert process.stdout is not None
    process.stdout.readline()
    cancelled, said = threading.Event(), list[str]()
    ended = list[BaseException]()

    thread = threading.Thread(target=_wait_for_build, args=[Cache(tmp_path), said, cancelled, ended])
    thread.start()
    assert becomes_true(lambda: bool(said))
    cancelled.set()
    thread.join()

    process.kill()
    process.communicate()
    assert "being built by another run" in said[0]
    assert isinstance(ended[0], RunStopped)


def _wait_for_build(cache: Cache, said: list[str], cancelled: threading.Event, ended: list[BaseException]) -> None:
    try:
        cache.hold("k", lambda folder, _: built(folder), log=said.append, cancelled=cancelled)
    except RunStopped as stopped:
        ended.append(stopped)


def _with_home(folder: Path, python: Path) -> Built:
    return dataclasses.replace(built(folder), home=str(python))


def _builder(folder: Path, *, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(folder), str(seconds)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


# --- Verifying -------------------------------------------------------------------------------------------


def test_environment_as_it_was_built_is_whole(cache: Cache) -> None:
    make(cache, "a")

    (verdict,) = cache.verify()

    assert (verdict.key, verdict.problems) == ("a", ())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda venv: (venv / "file").unlink(), "missing since it was built: file"),
        (lambda venv: (venv / "file").write_bytes(b"y" * 10), "changed since it was built: file"),
        (lambda venv: (venv / "more").touch(), "new since it was built: more"),
        (lambda venv: (venv.parent / LISTING).unlink(), "cannot be read"),
        (lambda venv: (venv.parent / MARKER).write_text("{"), "cannot be read"),
    ],
)
def test_damaged_environment_is_named_with_what_is_wrong(
    cache: Cache, damage: Callable[[Path], object], words: str
) -> None:
    make(cache, "a", "b")
    venv = cache.folder / "a" / PREFIX
    (venv / "file").chmod(0o644)

    damage(venv)

    broken, whole = cache.verify()
    assert words in "".join(broken.problems)
    assert whole.problems == ()


def test_interpreter_that_is_gone_is_told(cache: Cache, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.touch()
    os.close(hold(cache, "a", lambda folder, _: _with_home(folder, python)).lock_fd)
    python.unlink()

    assert f"its interpreter {python} is gone" in cache.verify()[0].problems


def test_repair_removes_what_is_broken_but_nothing_in_use(cache: Cache) -> None:
    make(cache, "a", "b", "c")
    for key in ("a", "b"):
        (cache.folder / key / PREFIX / "more").touch()
    held = hold(cache, "b")

    verdicts = cache.verify(repair=True)

    assert [(verdict.key, verdict.removed) for verdict in verdicts] == [("a", True), ("b", False), ("c", False)]
    assert {entry.key for entry in cache.entries()} == {"b", "c"}
    os.close(held.lock_fd)


def test_environment_that_something_was_added_to_is_not_used_again(cache: Cache) -> None:
    def build(folder: Path, _: int) -> Built:
        (folder / PREFIX / "site").mkdir(parents=True)
        return dataclasses.replace(built(folder), site_paths=(str(folder / PREFIX / "site"),))

    os.close(hold(cache, "a", build).lock_fd)
    (cache.folder / "a" / PREFIX / "site" / "more.py").touch()

    held = hold(cache, "a", build)

    assert not held.reused
    os.close(held.lock_fd)


def test_run_does_not_wait_for_another_that_uses_an_environment_which_was_changed(cache: Cache) -> None:
    def build(folder: Path, _: int) -> Built:
        (folder / PREFIX / "site").mkdir(parents=True)
        return dataclasses.replace(built(folder), site_paths=(str(folder / PREFIX / "site"),))

    first = hold(cache, "a", build)
    (cache.folder / "a" / PREFIX / "site" / "more.py").touch()
    words: list[str] = []

    second = cache.hold("a", build, log=words.append, cancelled=threading.Event())
    third = hold(cache, "a", build)
    for held in (first, second, third):
        os.close(held.lock_fd)
    fourth = hold(cache, "a", build)

    assert [Path(held.built.prefix).parent.name for held in (first, second, third, fourth)] == [
        "a",
        "a-1",
        "a-1",
        "a",
    ]
    assert (second.reused, third.reused, fourth.reused) == (False, True, False)
    assert words == ["the environment was changed, and another run still uses it; building one beside it"]
    os.close(fourth.lock_fd)
