"""Code travels from a folder to another machine and arrives byte for byte."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from taskyard.snapshot import capture
from taskyard.wire import Code

from tests.support.checkouts import Machine
from tests.support.repositories import Repository, contents

PLACES = [
    "a",
    "a/b",
    "a/b/c",
    "d e/ü.txt",
    "-x",
    'q"uote',
    "new\nline",
    "*",
    "tab\there",
    "#",
    "!",
    ":(top)",
    "日本/語",
]
BASE = {
    "a/b": "one\n",
    "d e/ü.txt": "two\r\nlines\r\n",
    "-x": "three",
    "kept/file.txt": "kept\n" * 50,
    ":(top)": "",
}
paths = st.sampled_from(PLACES)
mutations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), paths, st.binary(max_size=40)),
        st.tuples(st.just("delete"), paths, st.just(b"")),
        st.tuples(st.just("link"), paths, st.sampled_from([b"a/b", b"../outside", b"/nowhere", "ü".encode()])),
        st.tuples(st.just("executable"), paths, st.just(b"")),
        st.tuples(st.just("stage"), paths, st.just(b"")),
        st.tuples(st.just("rename"), paths, st.just(b"moved here")),
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest.fixture(scope="module")
def origin(folder: Path) -> Repository:
    repository = Repository.create(folder / "origin", dict(BASE))
    repository.publish(folder / "bare", "https://git.example.org/team/code.git")
    return repository


@pytest.fixture(scope="module")
def machine(folder: Path) -> Machine:
    return Machine.at(folder / "agent")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=mutations)
def test_any_change_of_the_tree_arrives_byte_for_byte(
    folder: Path, origin: Repository, machine: Machine, changes: list[tuple[str, str, bytes]]
) -> None:
    repository = _copy(origin, folder)
    for kind, path, value in changes:
        _mutate(repository, kind, path, value)

    with capture(repository.root) as snapshot:
        tree = machine.prepare_snapshot(snapshot, lambda code: _at(code, folder))

    assert contents(tree.root) == contents(repository.root)
    tree.release()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=mutations)
def test_any_change_arrives_from_a_folder_that_is_shipped_whole(
    folder: Path, origin: Repository, machine: Machine, changes: list[tuple[str, str, bytes]]
) -> None:
    repository = _copy(origin, folder)
    for kind, path, value in changes:
        _mutate(repository, kind, path, value)

    with capture(repository.root, ship_code=True) as snapshot:
        tree = machine.prepare_snapshot(snapshot)

    assert contents(tree.root) == contents(repository.root)
    tree.release()


def test_a_folder_without_git_arrives(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    Repository(plain).write({"train.py": "print(1)\n", "sub/ü.bin": b"\0\1", "run.sh": "#!/bin/sh\n"})
    (plain / "run.sh").chmod(0o755)
    (plain / "link").symlink_to("sub/ü.bin")

    with capture(plain) as snapshot:
        tree = Machine.at(tmp_path / "agent").prepare_snapshot(snapshot)

    assert contents(tree.root) == contents(plain)
    tree.release()


def test_the_working_folder_arrives_even_when_it_is_empty(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "r", {"a.py": "1"})
    (repository.root / "new" / "folder").mkdir(parents=True)

    with capture(repository.root / "new" / "folder") as snapshot:
        tree = Machine.at(tmp_path / "agent").prepare_snapshot(snapshot)

    assert tree.work == tree.root / "new" / "folder"
    assert tree.work.is_dir()
    tree.release()


def test_a_clean_checkout_sends_nothing(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "r", {"a.py": "1"})
    repository.publish(tmp_path / "bare", "git@git.example.org:team/code.git")

    with capture(repository.root) as snapshot:
        pass

    assert snapshot.blobs == {}
    assert snapshot.code == Code(
        repository="git@git.example.org:team/code.git", branch="main", commit=repository.head, working_dir="."
    )


def test_commits_that_were_not_pushed_arrive_with_their_history(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "r", {"a.py": "1"})
    repository.publish(tmp_path / "bare", "https://git.example.org/team/code.git")
    pushed = repository.head
    head = repository.commit({"a.py": "2"})

    with capture(repository.root) as snapshot:
        tree = Machine.at(tmp_path / "agent").prepare_snapshot(snapshot, lambda code: _at(code, tmp_path))

    assert snapshot.code.pack is not None
    assert snapshot.code.pack.needs == (pushed,)
    assert Repository(tree.root).git("rev-list", "HEAD").split() == [head, pushed]
    tree.release()


def test_user_code_sees_the_commit_the_branch_and_the_changes(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "r", {"a.py": "1", "b.py": "1"})
    repository.commit({"a.py": "2"})
    repository.write({"b.py": "changed"})

    with capture(repository.root) as snapshot:
        tree = Machine.at(tmp_path / "agent").prepare_snapshot(snapshot)

    task = Repository(tree.root)
    assert task.head == repository.head
    assert task.git("rev-parse", "--abbrev-ref", "HEAD") == "main\n"
    assert task.git("status", "--porcelain") == "M  b.py\n"
    tree.release()


def _copy(origin: Repository, folder: Path) -> Repository:
    target = Path(tempfile.mkdtemp(dir=folder)) / "copy"
    shutil.copytree(origin.root, target, symlinks=True)
    return Repository(target)


def _at(code: Code, folder: Path) -> Code:
    return dataclasses.replace(code, repository=(folder / "bare").as_uri())


def _mutate(repository: Repository, kind: str, name: str, value: bytes) -> None:
    path = repository.root / name
    if any((repository.root / parent).is_symlink() for parent in path.relative_to(repository.root).parents):
        return
    if kind in ("write", "link"):
        _clear(repository.root, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value) if kind == "write" else path.symlink_to(os.fsdecode(value))
    elif kind == "delete":
        _clear(repository.root, path)
    elif kind == "executable" and path.is_file() and not path.is_symlink():
        path.chmod(0o755)
    elif kind == "stage" and os.path.lexists(path):
        repository.git("--literal-pathspecs", "add", "-A", "--", name)
    elif kind == "rename" and os.path.lexists(path):
        _clear(repository.root, repository.root / os.fsdecode(value))
        path.rename(repository.root / os.fsdecode(value))


def _clear(root: Path, path: Path) -> None:
    """Makes room for `path`: a file on its way, or whatever stands there, goes."""
    for parent in reversed(path.relative_to(root).parents):
        if (root / parent).is_file() or (root / parent).is_symlink():
            (root / parent).unlink()
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
