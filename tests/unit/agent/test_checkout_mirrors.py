"""Mirrors are kept within a limit: the least recently used go with their trees, never one that somebody needs."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from taskyard.wire import Code
from taskyard_agent.checkout import (
    CachedMirror,
    CheckoutSettings,
    GitSources,
    Tree,
    list_mirrors,
    prune_mirrors,
)
from taskyard_agent.checkout.mirror import use_lock

from tests.support.checkouts import Machine
from tests.support.repositories import Repository, contents, run
from tests.support.waiting import becomes_true

PRUNER = """
import os
import sys
from pathlib import Path
from taskyard_agent.checkout import CheckoutSettings, prune_mirrors

settings = CheckoutSettings(folder=Path(sys.argv[1]), environ=os.environ)
print("pruning", flush=True)
while True:
    prune_mirrors(settings, everything=True)
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine.at(tmp_path / "agent")


def test_least_recently_used_mirrors_go_first_with_their_trees(machine: Machine, tmp_path: Path) -> None:
    repositories = [make(tmp_path, name) for name in ("first", "second", "third")]
    trees = [checked_out(machine, repository) for repository in repositories]
    age(machine, "first", days=1)
    age(machine, "third", days=2)
    newest = by_name(machine)["second"].size_bytes

    removed = prune_mirrors(limited(machine, mirror_bytes=newest))

    assert [name_of(mirror) for mirror in removed] == ["third", "first"]
    assert [tree.root.exists() for tree in trees] == [False, True, False]


def test_mirrors_within_the_limit_stay(machine: Machine, tmp_path: Path) -> None:
    checked_out(machine, make(tmp_path, "small"))

    assert prune_mirrors(machine.settings) == ()


def test_mirrors_go_until_the_disk_has_room(machine: Machine, tmp_path: Path) -> None:
    checked_out(machine, make(tmp_path, "small"))

    removed = prune_mirrors(limited(machine, min_free_bytes=1 << 60))

    assert [name_of(mirror) for mirror in removed] == ["small"]


def test_fetching_makes_room_for_what_it_brought(machine: Machine, tmp_path: Path) -> None:
    checked_out(machine, make(tmp_path, "old"))
    small = Machine(limited(machine, mirror_bytes=1))

    tree = small.prepare(code_of(make(tmp_path, "new")))

    assert list(by_name(machine)) == ["new"]
    assert contents(tree.root) == contents(tmp_path / "new")


def test_mirror_whose_tree_a_run_has_stays(machine: Machine, tmp_path: Path) -> None:
    tree = machine.prepare(code_of(make(tmp_path, "used")))

    during = prune_mirrors(machine.settings, everything=True)
    shown = by_name(machine)["used"]
    tree.release()
    after = prune_mirrors(machine.settings, everything=True)

    assert (during, shown.in_use, shown.trees) == ((), True, 1)
    assert [name_of(mirror) for mirror in after] == ["used"]


def test_mirror_whose_tree_only_a_keeper_holds_stays(machine: Machine, tmp_path: Path) -> None:
    tree = machine.prepare(code_of(make(tmp_path, "kept")))
    assert tree.lock_fd is not None
    keeper = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[tree.lock_fd])
    tree.release()

    removed = prune_mirrors(machine.settings, everything=True)

    keeper.communicate()
    assert removed == ()


def test_mirror_of_a_submodule_stays_while_the_tree_around_it_is_used(machine: Machine, tmp_path: Path) -> None:
    inner, outer = make(tmp_path, "inner"), make(tmp_path, "outer")
    outer.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", inner.root.as_uri(), "sub")
    outer.commit()
    tree = machine.prepare(code_of(outer))

    during = prune_mirrors(machine.settings, everything=True)
    tree.release()
    after = prune_mirrors(machine.settings, everything=True)

    assert during == ()
    assert {name_of(mirror) for mirror in after} == {"inner", "outer"}
    assert not tree.root.exists()


def test_mirror_that_a_requirement_is_installed_from_stays(machine: Machine, tmp_path: Path) -> None:
    repository = make(tmp_path, "needed")
    source = GitSources(settings=machine.settings, log=machine.lines.append, cancelled=threading.Event())

    with source.bringing(repository.root.as_uri(), repository.head) as mirror:
        during = prune_mirrors(machine.settings, everything=True)

        assert (during, mirror.is_dir()) == ((), True)
    assert [name_of(one) for one in prune_mirrors(machine.settings, everything=True)] == ["needed"]


def test_code_comes_again_after_its_mirror_went(machine: Machine, tmp_path: Path) -> None:
    repository = make(tmp_path, "again")
    checked_out(machine, repository)
    prune_mirrors(machine.settings, everything=True)

    tree = machine.prepare(code_of(repository))

    assert contents(tree.root) == contents(repository.root)


def test_removal_that_was_cut_short_is_finished(machine: Machine, tmp_path: Path) -> None:
    checked_out(machine, make(tmp_path, "half"))
    (path,) = machine.settings.mirrors.glob("*/")
    left = path.rename(path.with_name(f".removed-{path.name}"))

    assert (list_mirrors(machine.settings), prune_mirrors(machine.settings)) == ((), ())
    assert not left.exists()


def test_checkouts_that_begin_while_another_process_prunes_are_whole(machine: Machine, tmp_path: Path) -> None:
    repository = make(tmp_path, "busy")
    pruner = subprocess.Popen(
        [sys.executable, "-c", PRUNER, str(machine.settings.folder)], stdout=subprocess.PIPE, text=True
    )
    assert pruner.stdout is not None
    assert pruner.stdout.readline() == "pruning\n"

    for _ in range(5):
        tree = machine.prepare(code_of(repository))
        assert contents(tree.root) == contents(repository.root)
        assert run("log", "--format=%H", cwd=tree.root).strip() == repository.head
        tree.release()
        assert becomes_true(lambda: not list_mirrors(machine.settings), seconds=60)

    pruner.kill()
    pruner.communicate()


def make(folder: Path, name: str) -> Repository:
    return Repository.create(folder / name, {"file.txt": name})


def code_of(repository: Repository) -> Code:
    return Code(repository=repository.root.as_uri(), commit=repository.head)


def checked_out(machine: Machine, repository: Repository) -> Tree:
    tree = machine.prepare(code_of(repository))
    tree.release()
    return tree


def limited(machine: Machine, **limits: Any) -> CheckoutSettings:
    return dataclasses.replace(machine.settings, **limits)


def by_name(machine: Machine) -> dict[str, CachedMirror]:
    return {name_of(mirror): mirror for mirror in list_mirrors(machine.settings)}


def name_of(mirror: CachedMirror) -> str:
    """Without the folder before and the digest behind."""
    return mirror.key.split("-")[-2]


def age(machine: Machine, name: str, *, days: int) -> None:
    mirror = by_name(machine)[name]
    used_at = mirror.used_at - days * 86400
    os.utime(use_lock(machine.settings.mirrors / mirror.key), (used_at, used_at))
