"""Where tasks are kept apart, a task's own `.git` shows what it needs, and nothing that others uploaded."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from taskyard.snapshot import capture
from taskyard.snapshot.pack import digest
from taskyard.wire import Code, Pack
from taskyard_agent.checkout import Tree, list_mirrors, prune_mirrors

from tests.support.checkouts import Machine
from tests.support.repositories import ALONE, Repository


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine.at(tmp_path / "agent", apart=True)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.create(tmp_path / "code", {"train.py": "one\n", "data.txt": "a\n" * 100})
    made.git("tag", "v1")
    made.publish(tmp_path / "bare")
    made.git("push", "-q", "origin", "--tags")
    return made


def submitted(machine: Machine, repository: Repository, text: str, *, whole: bool) -> tuple[Tree, str]:
    """The tree of the code with an uncommitted change, and its snapshot's commit."""
    repository.write({"train.py": text})
    if not whole:
        return thin(machine, repository)
    with capture(repository.root, ship_code=True) as snapshot:
        assert snapshot.code.pack is not None
        return machine.prepare_snapshot(snapshot), snapshot.code.pack.commit


def thin(machine: Machine, repository: Repository) -> tuple[Tree, str]:
    """The same on top of what the remote has, as from a remote that is no path."""
    repository.git("add", "--all")
    head = repository.head
    commit = repository.git("commit-tree", repository.git("write-tree").strip(), "-p", head, "-m", "mine").strip()
    pack = subprocess.run(
        ["git", "pack-objects", "--thin", "--revs", "--stdout", "-q"],
        input=f"{commit}\n^{head}\n".encode(),
        cwd=repository.root,
        capture_output=True,
        check=True,
    )
    file = repository.root.with_name(f"{commit}.pack")
    file.write_bytes(pack.stdout)
    machine.blobs[digest(file)] = file
    url = repository.git("remote", "get-url", "origin").strip()
    sent = Pack(commit=commit, blob=digest(file), size=1, needs=(head,))
    return machine.prepare(Code(repository=url, commit=head, branch="main", pack=sent)), commit


def seen(tree: Tree, *args: str) -> subprocess.CompletedProcess[str]:
    """What git says to the task."""
    environ = {"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": "/", **ALONE}
    return subprocess.run(["git", *args], cwd=tree.root, env=environ, capture_output=True, text=True, check=False)


def all_objects(tree: Tree) -> set[str]:
    listed = seen(tree, "cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
    return set(listed.stdout.split())


@pytest.mark.parametrize("whole", [True, False])
def test_another_tasks_upload_cannot_be_read(machine: Machine, repository: Repository, whole: bool) -> None:
    first, secret = submitted(machine, repository, "secret of another\n", whole=whole)
    first.release()

    second, own = submitted(machine, repository, "mine\n", whole=whole)

    assert (second.root / "train.py").read_text() == "mine\n"
    assert secret not in all_objects(second)
    assert own in all_objects(second)
    assert not any(lent.is_relative_to(machine.settings.uploads) for lent in second.reads)
    assert not list(machine.settings.uploads.glob("*")) or not whole


@pytest.mark.parametrize("whole", [True, False])
def test_git_still_says_what_a_training_script_asks(machine: Machine, repository: Repository, whole: bool) -> None:
    tree, _ = submitted(machine, repository, "changed\n", whole=whole)

    assert seen(tree, "rev-parse", "HEAD").stdout.strip() == repository.head
    assert "-one\n+changed" in seen(tree, "diff", "HEAD").stdout
    assert seen(tree, "log", "-1", "--format=%s").stdout == "change\n"
    assert seen(tree, "fsck", "--connectivity-only").returncode == 0
    assert seen(tree, "describe", "--tags").stdout.strip() == ("" if whole else "v1")


def test_a_whole_upload_reads_nothing_beside_its_tree(machine: Machine, repository: Repository) -> None:
    submitted(machine, repository, "first\n", whole=True)[0].release()

    tree, _ = submitted(machine, repository, "second\n", whole=True)

    assert tree.reads == ()
    assert (tree.root / ".git/shallow").read_text().split() == [repository.head]


def test_what_was_uploaded_is_shut_to_other_users(machine: Machine, repository: Repository) -> None:
    for whole in (True, False):
        submitted(machine, repository, "mine\n", whole=whole)[0].release()

    stores = [*machine.settings.uploads.iterdir(), machine.settings.mirrors / "shipped"]

    assert [store.stat().st_mode & 0o777 for store in stores] == [0o700, 0o700]


def test_a_tree_is_used_again_for_a_commit_and_for_an_upload(machine: Machine, repository: Repository) -> None:
    first, _ = submitted(machine, repository, "mine\n", whole=False)
    kept = (first.root / "data.txt").stat().st_ino
    first.release()
    url = repository.git("remote", "get-url", "origin").strip()

    plain = machine.prepare(Code(repository=url, commit=repository.head))

    assert (plain.root / "train.py").read_text() == "one\n"
    assert (plain.root / "data.txt").stat().st_ino == kept
    assert plain.root == first.root


def test_uploads_go_with_their_mirror(machine: Machine, repository: Repository) -> None:
    submitted(machine, repository, "mine\n", whole=False)[0].release()
    (mirror,) = list_mirrors(machine.settings)
    assert mirror.trees == 1

    prune_mirrors(machine.settings, everything=True)

    assert not list(machine.settings.uploads.iterdir())
    tree, _ = submitted(machine, repository, "mine\n", whole=False)
    assert (tree.root / "train.py").read_text() == "mine\n"
