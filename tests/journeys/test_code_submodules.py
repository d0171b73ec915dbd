"""Submodules: fetched at the recorded commit where others can, sent as files where they cannot."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from taskyard.snapshot import capture
from taskyard.wire import Code
from taskyard_agent.errors import RunFailed

from tests.support.checkouts import Machine
from tests.support.repositories import Repository, contents

ALLOW = ("-c", "protocol.file.allow=always")


@pytest.fixture
def library(tmp_path: Path) -> Repository:
    made = Repository.create(tmp_path / "work" / "library", {"lib.py": "1"})
    made.publish(tmp_path / "hosted" / "library.git")
    return made


@pytest.fixture
def project(tmp_path: Path, library: Repository) -> Repository:
    """A clone whose submodule has a relative address, as on one hosting service."""
    made = Repository.create(tmp_path / "work" / "project", {"main.py": "1"})
    made.publish(tmp_path / "hosted" / "project.git")
    made.git(*ALLOW, "submodule", "--quiet", "add", "../library.git", "libs/library")
    made.commit()
    made.git("push", "-q", "origin", "main")
    return made


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine.at(tmp_path / "agent")


def of(project: Repository, **changes: object) -> Code:
    """Code given through the API: a repository and a commit."""
    url = project.git("remote", "get-url", "origin").strip()
    return dataclasses.replace(Code(repository=url, commit=project.head), **changes)  # type: ignore[arg-type]


def test_a_submodule_is_checked_out_at_its_recorded_commit(project: Repository, machine: Machine) -> None:
    tree = machine.prepare(of(project))

    assert contents(tree.root) == contents(project.root)
    assert Repository(tree.root / "libs/library").git("log", "--format=%s").strip() == "change"


def test_a_submodule_within_a_submodule_is_checked_out(
    tmp_path: Path, library: Repository, machine: Machine
) -> None:
    inner = Repository.create(tmp_path / "work" / "inner", {"inner.py": "1"})
    inner.publish(tmp_path / "hosted" / "inner.git")
    library.git(*ALLOW, "submodule", "--quiet", "add", "../inner.git", "inner")
    library.commit()
    library.git("push", "-q", "origin", "main")
    project = Repository.create(tmp_path / "work" / "outer", {"main.py": "1"})
    project.publish(tmp_path / "hosted" / "outer.git")
    project.git(*ALLOW, "submodule", "--quiet", "add", "../library.git", "library")
    project.commit()
    project.git("push", "-q", "origin", "main")

    tree = machine.prepare(of(project))

    assert (tree.root / "library/inner/inner.py").read_text() == "1"


def test_a_reused_tree_holds_nothing_of_a_submodule_that_is_gone(project: Repository, machine: Machine) -> None:
    machine.prepare(of(project)).release()
    project.git("rm", "-q", "-f", "libs/library")
    project.commit()
    project.git("push", "-q", "origin", "main")

    tree = machine.prepare(of(project))

    assert set(contents(tree.root)) == {"main.py", ".gitmodules"}


def test_a_reused_tree_has_clean_submodules(project: Repository, machine: Machine) -> None:
    tree = machine.prepare(of(project))
    (tree.root / "libs/library/lib.py").write_text("changed by a task")
    (tree.root / "libs/library/left-behind").write_text("1")
    tree.release()

    tree = machine.prepare(of(project))

    assert contents(tree.root) == contents(project.root)


def test_a_link_in_the_place_of_a_submodule_harms_nothing_outside(
    project: Repository, machine: Machine, tmp_path: Path
) -> None:
    outside = Repository.create(tmp_path / "precious" / "library", {"mine.py": "1"})
    tree = machine.prepare(of(project))
    shutil.rmtree(tree.root / "libs")
    (tree.root / "libs").symlink_to(outside.root.parent)
    tree.release()

    tree = machine.prepare(of(project))

    assert contents(tree.root) == contents(project.root)
    assert outside.head
    assert (outside.root / "mine.py").read_text() == "1"


def test_a_submodule_with_uncommitted_changes_is_sent_as_files(project: Repository, machine: Machine) -> None:
    Repository(project.root / "libs/library").write({"lib.py": "changed", "new.py": "new", ".env": "SECRET=1"})

    with capture(project.root) as snapshot:
        tree = machine.prepare_snapshot(snapshot)

    assert snapshot.summary.left_out == ("libs/library/.env",)
    assert contents(tree.root) == {
        name: content for name, content in contents(project.root).items() if not name.endswith(".env")
    }


def test_shipping_sends_submodules_as_files(project: Repository, tmp_path: Path) -> None:
    with capture(project.root, ship_code=True) as snapshot:
        tree = Machine.at(tmp_path / "agent", allow_file=False).prepare_snapshot(snapshot)

    assert contents(tree.root) == contents(project.root)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://elsewhere.example.org/library.git", "another host"),
        ("ext::sh -c touch% /tmp/ran", "not the address of a repository"),
        ("-u./payload", "disallowed submodule url"),
        ("https://user:secret@elsewhere.example.org/x.git", "another host"),
    ],
)
def test_submodules_from_elsewhere_are_refused(
    project: Repository, machine: Machine, url: str, words: str
) -> None:
    project.git("config", "-f", ".gitmodules", "submodule.libs/library.url", url)
    project.commit()
    project.git("push", "-q", "origin", "main")

    with pytest.raises(RunFailed, match=words) as failed:
        machine.prepare(of(project))

    assert not failed.value.infrastructure
    assert "secret" not in str(failed.value)


def test_a_submodule_from_a_path_needs_the_operators_leave(project: Repository, tmp_path: Path) -> None:
    machine = Machine.at(tmp_path / "agent", allow_file=False)

    with pytest.raises(RunFailed, match="--allow-file-repositories"):
        machine.prepare(of(project))


def test_a_submodule_that_was_never_checked_out_is_left_empty(
    project: Repository, tmp_path: Path, machine: Machine
) -> None:
    url = project.git("remote", "get-url", "origin").strip()
    fresh = Repository.clone(url, tmp_path / "work" / "fresh")
    fresh.git("config", "-f", ".gitmodules", "submodule.libs/library.url", "https://no-such-host.invalid/x.git")
    fresh.write({"main.py": "changed"})

    with capture(fresh.root) as snapshot:
        tree = machine.prepare(dataclasses.replace(of(fresh), empty_submodules=snapshot.code.empty_submodules))

    assert snapshot.code.empty_submodules == ("libs/library",)
    assert list((tree.root / "libs/library").iterdir()) == []
    assert any("libs/library is left empty" in line for line in machine.lines)


def test_a_submodule_within_one_is_left_empty_where_it_is_empty_here(
    tmp_path: Path, library: Repository, machine: Machine
) -> None:
    inner = Repository.create(tmp_path / "work" / "inner", {"inner.py": "1"})
    inner.publish(tmp_path / "hosted" / "inner.git")
    library.git(*ALLOW, "submodule", "--quiet", "add", "../inner.git", "inner")
    library.commit()
    library.git("push", "-q", "origin", "main")
    project = Repository.create(tmp_path / "work" / "outer", {"main.py": "1"})
    project.publish(tmp_path / "hosted" / "project.git")
    project.git(*ALLOW, "submodule", "--quiet", "add", "../library.git", "library")
    project.commit()
    project.git("push", "-q", "origin", "main")

    with capture(project.root) as snapshot:
        empty = snapshot.code.empty_submodules
        tree = machine.prepare(dataclasses.replace(of(project), empty_submodules=empty))

    assert empty == ("library/inner",)
    assert (tree.root / "library/lib.py").exists()
    assert not (tree.root / "library/inner/inner.py").exists()
