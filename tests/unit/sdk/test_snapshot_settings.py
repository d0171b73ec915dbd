"""Capturing under people's own settings: none of them changes what arrives."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from taskyard.errors import UsageError
from taskyard.snapshot import capture

from tests.support.checkouts import Machine
from tests.support.repositories import Repository, contents, run

URL = "https://git.example.org/team/code.git"
CONFIG = [
    ("diff.noprefix", "true"),
    ("diff.mnemonicPrefix", "true"),
    ("color.diff", "always"),
    ("color.ui", "always"),
    ("diff.external", "false"),
    ("core.autocrlf", "input"),
    ("core.safecrlf", "true"),
    ("commit.gpgsign", "true"),
    ("core.fsmonitor", "/nonexistent/fsmonitor"),
    ("core.splitIndex", "true"),
    ("core.untrackedCache", "true"),
    ("core.quotePath", "true"),
    ("core.commentChar", "x"),
    ("i18n.commitEncoding", "latin1"),
    ("status.showUntrackedFiles", "no"),
    ("diff.renames", "false"),
    ("diff.orderFile", "/nonexistent"),
    ("submodule.recurse", "true"),
    ("core.hooksPath", "/nonexistent/hooks"),
    ("index.version", "4"),
    ("core.ignoreCase", "true"),
    ("core.abbrev", "4"),
    ("core.worktree", "."),
]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.create(tmp_path / "code", {"train.py": "print(1)\n", "lines.txt": "a\n" * 30, "gone": "x"})
    made.publish(tmp_path / "bare", URL)
    return made


@pytest.fixture
def arrived(tmp_path: Path) -> Callable[[Path], dict[str, tuple[str, bytes]]]:
    """Captures a folder, ships it whole to another machine and returns what stands there."""

    def travel(folder: Path) -> dict[str, tuple[str, bytes]]:
        with capture(folder, ship_code=True) as snapshot:
            return contents(Machine.at(tmp_path / "agent").prepare_snapshot(snapshot).root)

    return travel


Travel = Callable[[Path], dict[str, tuple[str, bytes]]]


@pytest.mark.parametrize(("name", "value"), CONFIG, ids=[name for name, _ in CONFIG])
def test_no_setting_changes_what_arrives(repository: Repository, arrived: Travel, name: str, value: str) -> None:
    repository.write({"train.py": "print(2)\r\n", "new.csv": b"a,b\r\n1,2\r\n", "ü.txt": "ü"})
    (repository.root / "gone").unlink()
    if name == "core.worktree":
        value = str(repository.root)
    repository.git("config", name, value)

    assert arrived(repository.root) == contents(repository.root)


@pytest.mark.parametrize(("name", "value"), CONFIG[:5], ids=[name for name, _ in CONFIG[:5]])
def test_no_setting_changes_the_readable_diff(repository: Repository, name: str, value: str) -> None:
    repository.write({"train.py": "print(2)\n"})
    repository.git("config", name, value)

    with capture(repository.root) as snapshot:
        diff = snapshot.code.diff

    assert diff.startswith("diff --git a/train.py b/train.py\nindex ")
    assert diff.endswith("--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-print(1)\n+print(2)\n")


def test_hooks_do_not_run(repository: Repository) -> None:
    for name in ("pre-commit", "post-index-change", "reference-transaction", "post-checkout"):
        hook = repository.root / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch '{repository.root}/hook-ran'\n")
        hook.chmod(0o755)
    repository.write({"train.py": "changed"})

    with capture(repository.root):
        pass

    assert not (repository.root / "hook-ran").exists()


def test_filters_do_not_replace_content_by_pointers(repository: Repository, arrived: Travel) -> None:
    repository.git("config", "filter.lfs.clean", "echo pointer")
    repository.git("config", "filter.lfs.process", "/nonexistent/lfs")
    repository.git("config", "filter.lfs.required", "true")
    repository.write({".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "model.bin": b"\0weights"})

    assert arrived(repository.root)["model.bin"] == ("file", b"\0weights")


@pytest.mark.parametrize("name", ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY"])
def test_variables_of_another_repository_are_not_followed(
    repository: Repository, arrived: Travel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "/nonexistent/elsewhere")
    repository.write({"train.py": "changed"})

    assert arrived(repository.root)["train.py"] == ("file", b"changed")


def test_global_settings_are_followed_for_the_remote_alone(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text('[url "git@mirror.example.org:"]\n insteadOf = https://git.example.org/\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))

    with capture(repository.root) as snapshot:
        pass

    assert snapshot.code.repository == "git@mirror.example.org:team/code.git"


def test_files_hidden_from_git_arrive_as_they_are(repository: Repository, arrived: Travel) -> None:
    repository.git("update-index", "--assume-unchanged", "train.py")
    repository.git("update-index", "--skip-worktree", "lines.txt")
    repository.write({"train.py": "assumed", "lines.txt": "skipped"})

    found = arrived(repository.root)

    assert found["train.py"] == ("file", b"assumed")
    assert found["lines.txt"] == ("file", b"skipped")


@pytest.mark.parametrize("options", [(), ("--sparse-index",)])
def test_a_sparse_checkout_sends_what_it_leaves_out(
    repository: Repository, arrived: Travel, options: tuple[str, ...]
) -> None:
    repository.commit({"in/a.py": "1", "out/b.py": "1"})
    repository.git("sparse-checkout", "set", "--cone", *options, "in")
    repository.write({"in/a.py": "2", "out/new.py": "3"})

    found = arrived(repository.root)

    assert found["in/a.py"] == ("file", b"2")
    assert found["out/b.py"] == ("file", b"1")
    assert found["out/new.py"] == ("file", b"3")


def test_a_shallow_clone_is_captured(repository: Repository, tmp_path: Path, arrived: Travel) -> None:
    for number in range(3):
        repository.commit({"train.py": str(number)})
    repository.git("push", "-q", str(tmp_path / "bare"), "HEAD:main")
    clone = Repository.clone((tmp_path / "bare").as_uri(), tmp_path / "shallow", "--depth=1")
    clone.commit({"more.py": "1"})
    clone.git("remote", "set-url", "origin", URL)

    with capture(clone.root) as snapshot:
        needs = snapshot.code.pack.needs if snapshot.code.pack else ()

    assert needs == (repository.head,)
    assert arrived(clone.root) == contents(clone.root)


def test_a_partial_clone_is_captured(repository: Repository, tmp_path: Path, arrived: Travel) -> None:
    run("config", "uploadpack.allowFilter", "true", cwd=tmp_path / "bare")
    clone = Repository.clone((tmp_path / "bare").as_uri(), tmp_path / "partial", "--filter=blob:none", "--sparse")
    clone.write({"train.py": "changed", "new.py": "1"})

    assert arrived(clone.root)["train.py"] == ("file", b"changed")


def test_objects_borrowed_from_another_repository_are_found(
    repository: Repository, tmp_path: Path, arrived: Travel
) -> None:
    clone = Repository.clone(repository.root, tmp_path / "borrowing", "--shared")
    clone.write({"train.py": "changed"})

    assert arrived(clone.root) == contents(clone.root)


def test_a_repository_of_sha256_is_captured(tmp_path: Path, arrived: Travel) -> None:
    (tmp_path / "modern").mkdir()
    run("init", "-q", "-b", "main", "--object-format=sha256", str(tmp_path / "modern"), cwd=tmp_path)
    repository = Repository(tmp_path / "modern")
    repository.commit({"train.py": "1"})
    repository.write({"train.py": "2"})

    assert arrived(repository.root) == {"train.py": ("file", b"2")}


def test_a_folder_name_that_git_would_quote_is_no_obstacle(tmp_path: Path, arrived: Travel) -> None:
    repository = Repository.create(tmp_path / 'a:b "c" ü', {"train.py": "1"})
    repository.write({"train.py": "2"})

    assert arrived(repository.root) == {"train.py": ("file", b"2")}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_repository_of_somebody_else_is_refused_with_gits_own_cure(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.delenv("SUDO_UID", raising=False)
    os.chown(repository.root, 12345, 12345)
    os.chown(repository.root / ".git", 12345, 12345)

    with pytest.raises(UsageError, match=r"safe\.directory"):
        capture(repository.root)


def test_intended_additions_go_along(repository: Repository, arrived: Travel) -> None:
    repository.write({"planned.py": "1"})
    repository.git("add", "--intent-to-add", "planned.py")

    assert arrived(repository.root)["planned.py"] == ("file", b"1")
