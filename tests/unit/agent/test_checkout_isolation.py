"""What a task leaves in its tree: nothing of it runs, nothing of it stays, nothing of it reaches the mirror."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from taskyard.wire import Code
from taskyard_agent.checkout.git import Git

from tests.support.checkouts import Machine
from tests.support.repositories import Repository, contents, run

Plant = Callable[[Path, str], None]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.create(tmp_path / "code", {"train.py": "1\n", "src/model.py": "1\n", ".gitignore": "*.log"})
    made.publish(tmp_path / "bare")
    return made


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine.at(tmp_path / "agent")


def code_of(repository: Repository) -> Code:
    return Code(repository=repository.git("remote", "get-url", "origin").strip(), commit=repository.head)


def next_commit(repository: Repository) -> None:
    repository.commit({"train.py": "2\n", "src/model.py": "2\n", "src/new.py": "2\n"})
    repository.git("push", "-q", "origin", "main")


def plant_fsmonitor(tree: Path, payload: str) -> None:
    run("config", "core.fsmonitor", payload, cwd=tree)


def plant_hooks(tree: Path, payload: str) -> None:
    for name in ("post-checkout", "post-index-change", "reference-transaction", "pre-commit", "post-merge"):
        hook = tree / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\n{payload}\n")
        hook.chmod(0o755)


def plant_hooks_path(tree: Path, payload: str) -> None:
    plant_hooks(tree, payload)
    run("config", "core.hooksPath", str(tree / ".git" / "hooks"), cwd=tree)


def plant_filter(tree: Path, payload: str) -> None:
    (tree / ".gitattributes").write_text("* filter=evil diff=evil merge=evil\n")
    (tree / "src" / ".gitattributes").write_text("* filter=evil\n")
    for part in ("clean", "smudge", "process"):
        run("config", f"filter.evil.{part}", payload, cwd=tree)


def plant_include(tree: Path, payload: str) -> None:
    (tree / ".git" / "evil").write_text(f'[core]\n\tfsmonitor = "{payload}"\n')
    run("config", "include.path", "evil", cwd=tree)
    run("config", "includeIf.gitdir:/.path", str(tree / ".git" / "evil"), cwd=tree)


def plant_programs(tree: Path, payload: str) -> None:
    for name in (
        "core.sshCommand",
        "core.gitProxy",
        "core.pager",
        "core.editor",
        "core.askPass",
        "uploadpack.packObjectsHook",
    ):
        run("config", name, payload, cwd=tree)
    run("config", "credential.helper", f"!{payload}", cwd=tree)


def plant_git_file(tree: Path, payload: str) -> None:
    shutil.move(tree / ".git", tree / "moved")
    run("config", "-f", "moved/config", "core.fsmonitor", payload, cwd=tree)
    (tree / ".git").write_text("gitdir: moved\n")


def plant_git_link(tree: Path, payload: str) -> None:
    shutil.move(tree / ".git", tree / "moved")
    run("config", "-f", "moved/config", "core.fsmonitor", payload, cwd=tree)
    (tree / ".git").symlink_to("moved")


def plant_inner_repository(tree: Path, payload: str) -> None:
    inner = Repository.create(tree / "src" / "inner", {"a": "1"})
    inner.git("config", "core.fsmonitor", payload)
    plant_hooks(inner.root, payload)


def plant_bare_repository(tree: Path, payload: str) -> None:
    run("init", "-q", "--bare", "src", cwd=tree)
    run("config", "-f", "src/config", "core.fsmonitor", payload, cwd=tree)


def plant_alternates(tree: Path, payload: str) -> None:
    (tree / ".git/objects/info/alternates").write_text("/nonexistent/objects\n")
    (tree / ".git/HEAD").write_text("ref: refs/heads/../../../../evil\n")


PLANTS = [value for name, value in sorted(globals().items()) if name.startswith("plant_")]


@pytest.mark.parametrize("plant", PLANTS, ids=[plant.__name__ for plant in PLANTS])
def test_nothing_that_a_task_configured_runs(
    repository: Repository, machine: Machine, tmp_path: Path, plant: Plant
) -> None:
    payload = tmp_path / "payload"
    payload.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 0\n")
    payload.chmod(0o755)
    tree = machine.prepare(code_of(repository))
    plant(tree.root, str(payload))
    (tmp_path / "ran").unlink(missing_ok=True)
    tree.release()
    next_commit(repository)

    tree = machine.prepare(code_of(repository))

    assert not (tmp_path / "ran").exists()
    assert contents(tree.root) == contents(repository.root)


def test_attributes_in_the_code_itself_run_nothing(
    repository: Repository, machine: Machine, tmp_path: Path
) -> None:
    """The repository names a filter; only the operator's word would configure it."""
    repository.commit({".gitattributes": "* filter=lfs working-tree-encoding=UTF-8\n"})
    repository.git("push", "-q", "origin", "main")

    tree = machine.prepare(code_of(repository))

    assert contents(tree.root) == contents(repository.root)


def leave_ignored(tree: Path) -> None:
    Repository(tree).write({"cache.log": "1", "src/deep/x.log": "1", "ignored/.gitignore": "*"})


def leave_read_only_folder(tree: Path) -> None:
    Repository(tree).write({"locked/a/b": "1"})
    (tree / "locked" / "a").chmod(0o500)
    (tree / "locked").chmod(0o000)


def leave_unreadable_files(tree: Path) -> None:
    (tree / "train.py").chmod(0o000)
    (tree / "src").chmod(0o500)


def leave_special_files(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    os.mkfifo(tree / "src" / "pipe")


def leave_link_in_place_of_a_folder(tree: Path) -> None:
    shutil.rmtree(tree / "src")
    (tree / "src").symlink_to(tree.parents[4] / "precious")


def leave_folder_in_place_of_a_file(tree: Path) -> None:
    (tree / "train.py").unlink()
    Repository(tree).write({"train.py/x": "1"})


def leave_same_time_and_size(tree: Path) -> None:
    file = tree / "train.py"
    before = file.stat()
    file.write_text("9\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def leave_staged_changes(tree: Path) -> None:
    Repository(tree).write({"staged.py": "1"})
    run("add", "-A", cwd=tree)
    run("commit", "-q", "-m", "the task's own", cwd=tree)


def leave_hidden_changes(tree: Path) -> None:
    run("update-index", "--assume-unchanged", "train.py", cwd=tree)
    (tree / "train.py").write_text("hidden")


def leave_no_git(tree: Path) -> None:
    shutil.rmtree(tree / ".git")


def leave_nothing(tree: Path) -> None:
    shutil.rmtree(tree)


def leave_link_in_place_of_the_tree(tree: Path) -> None:
    precious = tree.parents[4] / "precious"
    shutil.rmtree(tree)
    tree.symlink_to(precious)


LEAVINGS = [value for name, value in sorted(globals().items()) if name.startswith("leave_")]


@pytest.mark.parametrize("leave", LEAVINGS, ids=[leave.__name__ for leave in LEAVINGS])
def test_a_reused_tree_is_like_a_new_one(
    repository: Repository, machine: Machine, tmp_path: Path, leave: Callable[[Path], None]
) -> None:
    precious = Repository.create(tmp_path / "precious", {"mine.txt": "1", "src.txt": "1"})
    tree = machine.prepare(code_of(repository))
    leave(tree.root)
    tree.release()

    tree = machine.prepare(code_of(repository))

    assert contents(tree.root) == contents(repository.root)
    assert set(contents(precious.root)) == {"mine.txt", "src.txt"}
    assert precious.head
    assert (tree.root / ".git").is_dir()


def test_permissions_that_a_task_changed_are_restored(repository: Repository, machine: Machine) -> None:
    tree = machine.prepare(code_of(repository))
    before = permissions(tree.root)
    (tree.root / "train.py").chmod(0o000)  # within the second of its checkout, which git does not notice
    (tree.root / "src/model.py").chmod(0o4666)
    tree.release()

    tree = machine.prepare(code_of(repository))

    assert permissions(tree.root) == before


def permissions(root: Path) -> dict[str, int]:
    return {name: (root / name).stat().st_mode for name in ("train.py", "src/model.py", ".gitignore")}


def test_what_a_task_does_with_git_never_reaches_the_mirror(repository: Repository, machine: Machine) -> None:
    tree = machine.prepare(code_of(repository))
    before = fingerprint(tree.reads[0])

    task = Repository(tree.root)
    task.commit({"own.py": "1"})
    task.git("repack", "-a", "-d", "-q")
    task.git("gc", "--prune=now", "-q")
    task.git("config", "core.bare", "true")

    assert fingerprint(tree.reads[0]) == before


def test_tags_are_there_for_tools_that_make_versions_of_them(repository: Repository, machine: Machine) -> None:
    repository.git("tag", "-a", "v1.2", "-m", "release")
    repository.git("push", "-q", "origin", "v1.2")
    next_commit(repository)

    tree = machine.prepare(code_of(repository))

    assert run("describe", "--tags", cwd=tree.root).startswith("v1.2-1-g")


def test_the_agents_own_git_settings_do_not_reach_the_tree(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.gitconfig").write_text("[core]\n\tautocrlf = true\n[core]\n\tsymlinks = false\n")
    machine = Machine.at(tmp_path / "agent", environ={**os.environ, "HOME": str(tmp_path / "home")})
    (repository.root / "link").symlink_to("train.py")
    next_commit(repository)

    tree = machine.prepare(code_of(repository))

    assert contents(tree.root) == contents(repository.root)


def fingerprint(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_git_sees_no_token_of_the_agent_nor_programs_from_its_variables(tmp_path: Path) -> None:
    told = {
        "TASKYARD_TOKEN": "ty_agent_x",
        "GIT_EXTERNAL_DIFF": "/x",
        "SSH_ASKPASS": "/x",
        "PATH": os.environ["PATH"],
    }
    config = {"alias.variables": "!env"}
    git = Git(git_dir=tmp_path, environ=told, cancelled=threading.Event(), config=config)

    seen = git.line("variables")

    assert "PATH=" in seen
    assert [name for name in ("TASKYARD_", "GIT_EXTERNAL_DIFF", "SSH_ASKPASS") if name in seen] == []
