"""Mirrors and trees between runs, between agents of one machine, and after a crash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from taskyard.snapshot import capture
from taskyard.wire import Code
from taskyard_agent.checkout.lock import try_lock
from taskyard_agent.checkout.mirror import MANY_PACKS

from tests.support.checkouts import Machine
from tests.support.repositories import Repository, contents


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.create(tmp_path / "code", {"train.py": "1\n", "src/model.py": "1\n"})
    made.publish(tmp_path / "bare")
    return made


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine.at(tmp_path / "agent")


def code_of(repository: Repository) -> Code:
    return Code(repository=repository.git("remote", "get-url", "origin").strip(), commit=repository.head)


def test_a_commit_that_is_here_needs_no_host(repository: Repository, machine: Machine, tmp_path: Path) -> None:
    machine.prepare(code_of(repository)).release()
    shutil.rmtree(tmp_path / "bare")

    tree = machine.prepare(code_of(repository))

    assert contents(tree.root) == contents(repository.root)
    assert [line for line in machine.lines if line.startswith("fetching")] == machine.lines[:1]


def test_a_snapshot_that_is_here_is_not_downloaded_again(repository: Repository, machine: Machine) -> None:
    repository.write({"train.py": "changed"})
    with capture(repository.root) as snapshot:
        machine.prepare_snapshot(snapshot).release()

        machine.prepare_snapshot(snapshot).release()

    assert len(machine.fetched) == 1


def test_a_released_tree_is_used_again(repository: Repository, machine: Machine) -> None:
    first = machine.prepare(code_of(repository))
    first.release()
    first.release()

    assert machine.prepare(code_of(repository)).root == first.root


def test_a_tree_in_use_is_not_given_to_another_run(repository: Repository, machine: Machine) -> None:
    first = machine.prepare(code_of(repository))

    second = machine.prepare(code_of(repository))

    assert first.root != second.root
    assert contents(first.root) == contents(second.root)


def test_the_tree_that_holds_the_commit_is_preferred(repository: Repository, machine: Machine) -> None:
    old = code_of(repository)
    first = machine.prepare(old)
    repository.commit({"train.py": "2\n"})
    repository.git("push", "-q", "origin", "main")
    second = machine.prepare(code_of(repository))
    first.release()
    second.release()

    assert machine.prepare(code_of(repository)).root == second.root


def test_a_tree_stays_locked_while_a_keeper_holds_its_lock(repository: Repository, machine: Machine) -> None:
    tree = machine.prepare(code_of(repository))
    assert tree.lock_fd is not None
    keeper = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[tree.lock_fd])
    tree.release()

    during = machine.prepare(code_of(repository))
    keeper.kill()
    keeper.communicate()
    after = machine.prepare(code_of(repository))

    assert during.root != tree.root
    assert after.root == tree.root


def test_the_tree_of_an_agent_that_was_killed_is_free(repository: Repository, machine: Machine) -> None:
    script = (
        "import os, sys, threading, time\n"
        "from pathlib import Path\n"
        "from taskyard.wire import Code\n"
        "from taskyard_agent.checkout import CheckoutSettings, prepare\n"
        "settings = CheckoutSettings(folder=Path(sys.argv[1]), allow_file=True, environ=os.environ)\n"
        "code = Code(repository=sys.argv[2], commit=sys.argv[3])\n"
        "tree = prepare(code, settings=settings, fetch_blob=None, log=str, cancelled=threading.Event())\n"
        "print(tree.root, flush=True)\n"
        "time.sleep(600)\n"
    )
    code = code_of(repository)
    arguments = [str(machine.settings.folder), str(code.repository), str(code.commit)]
    other = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    root = Path(other.stdout.readline().strip())
    during = machine.prepare(code)

    other.kill()
    other.communicate()
    after = machine.prepare(code)

    assert during.root != root
    assert after.root == root


def test_only_so_many_unused_trees_are_kept(repository: Repository, tmp_path: Path) -> None:
    machine = Machine.at(tmp_path / "agent", spare_trees=1)
    trees = [machine.prepare(code_of(repository)) for _ in range(3)]

    for tree in trees:
        tree.release()

    assert sum(tree.root.exists() for tree in trees) == 1


def test_a_tree_that_a_keeper_holds_is_never_removed(repository: Repository, tmp_path: Path) -> None:
    machine = Machine.at(tmp_path / "agent", spare_trees=0)
    tree = machine.prepare(code_of(repository))
    assert tree.lock_fd is not None
    keeper = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[tree.lock_fd])

    tree.release()

    assert contents(tree.root) == contents(repository.root)
    keeper.communicate()


def test_runs_that_start_together_fetch_once(repository: Repository, machine: Machine) -> None:
    with ThreadPoolExecutor(4) as pool:
        trees = list(pool.map(lambda _: machine.prepare(code_of(repository)), range(4)))

    assert len({tree.root for tree in trees}) == 4
    assert len([line for line in machine.lines if line.startswith("fetching")]) == 1


def test_waiting_for_another_fetch_ends_with_the_run(repository: Repository, machine: Machine) -> None:
    machine.prepare(code_of(repository)).release()
    (lock,) = (machine.settings.folder / "mirrors").glob("*.lock")
    held = try_lock(lock)
    assert held is not None
    repository.commit({"train.py": "2\n"})
    ended: list[BaseException] = []
    waiting = threading.Thread(target=lambda: ended.append(failure_of(machine, code_of(repository))))

    waiting.start()
    machine.cancelled.set()
    waiting.join(timeout=30)
    os.close(held)

    assert type(ended[0]).__name__ == "RunStopped"


def test_what_a_killed_git_left_does_not_stand_in_the_way(repository: Repository, machine: Machine) -> None:
    tree = machine.prepare(code_of(repository))
    mirror, own = tree.reads[0].parent, tree.root.parent / "git"
    tree.release()
    for leftover in ("shallow.lock", "packed-refs.lock", "refs/taskyard/x.lock", "objects/pack/tmp_pack_1"):
        (mirror / leftover).write_text("")
    (own / "index.lock").write_text("")
    repository.commit({"train.py": "2\n"})
    repository.git("push", "-q", "origin", "main")

    tree = machine.prepare(code_of(repository))

    assert contents(tree.root) == contents(repository.root)
    assert not list(mirror.glob("objects/pack/tmp_*"))


def test_a_damaged_index_is_made_anew(repository: Repository, machine: Machine) -> None:
    tree = machine.prepare(code_of(repository))
    (tree.root.parent / "git" / "index").write_bytes(b"DIRC rubbish")
    tree.release()

    tree = machine.prepare(code_of(repository))

    assert contents(tree.root) == contents(repository.root)


def test_many_snapshots_are_gathered_and_none_is_lost(repository: Repository, machine: Machine) -> None:
    codes = []
    for number in range(MANY_PACKS + 3):
        repository.write({"train.py": f"version {number}\n"})
        with capture(repository.root, ship_code=True) as snapshot:
            tree = machine.prepare_snapshot(snapshot)
            codes.append(snapshot.code)
            tree.release()
    machine.blobs.clear()

    found = [machine.prepare(code) for code in codes]

    assert len(list(tree.reads[0].glob("pack/*.pack"))) <= MANY_PACKS
    assert [(tree.root / "train.py").read_text() for tree in found] == [
        f"version {number}\n" for number in range(MANY_PACKS + 3)
    ]


def test_a_commit_that_no_branch_holds_any_more_is_fetched_by_its_id(
    repository: Repository, machine: Machine
) -> None:
    forgotten = repository.commit({"train.py": "forgotten\n"})
    repository.git("push", "-q", "origin", "main")
    code = code_of(repository)
    repository.git("reset", "-q", "--hard", "HEAD~1")
    repository.git("push", "-q", "--force", "origin", "main")

    tree = machine.prepare(code)

    assert Repository(tree.root).head == forgotten


def test_a_diff_for_a_folder_without_git_is_applied(machine: Machine, tmp_path: Path) -> None:
    plain = Repository(tmp_path / "plain")
    plain.write({"train.py": "1\n"})
    patch = "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-1\n+2\n"
    with capture(plain.root) as snapshot:
        tree = machine.prepare_snapshot(snapshot, lambda code: Code(archive=code.archive, patch=patch))

    assert (tree.root / "train.py").read_text() == "2\n"


def failure_of(machine: Machine, code: Code) -> BaseException:
    try:
        machine.prepare(code)
    except Exception as error:
        return error
    return AssertionError(f"nothing failed in process {os.getpid()}")
