"""Whom tasks run as, and what is given to that user and taken back."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from taskyard_agent.errors import SettingsError
from taskyard_agent.run_as import account_of, take_back

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def in_child(work) -> int:
    """Runs `work` in a process of its own; returns its exit code, 1 for an exception."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def refused_for_want_of_rights() -> int:
    if os.geteuid() == 0:
        os.setuid(pwd.getpwnam("nobody").pw_uid)
    try:
        account_of("nobody")
    except SettingsError as error:
        return 42 if "--run-as needs an agent that root started" in str(error) else 2
    return 3


def test_an_agent_without_roots_rights_is_refused() -> None:
    assert in_child(refused_for_want_of_rights) == 42


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with one of everything, and two ways out of it."""
    top = tmp_path / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "sub/file").write_text("text")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    (top / "link").symlink_to(tmp_path / "outside")
    os.link(tmp_path / "outside/secret", top / "twice")
    return top


def owner(path: Path) -> str:
    return pwd.getpwuid(path.lstat().st_uid).pw_name


@as_root
def test_what_is_given_ends_at_links_and_at_files_with_two_names(tree: Path) -> None:
    account_of("nobody").give(tree)

    given = {name: owner(tree / name) for name in ("", "sub", "sub/file", "link", "twice")}
    assert given == dict.fromkeys(("", "sub", "sub/file", "link"), "nobody") | {"twice": "root"}
    assert owner(tree.parent / "outside") == owner(tree.parent / "outside/secret") == "root"


@as_root
def test_what_is_taken_back_is_nobody_elses_to_change(tree: Path) -> None:
    account_of("nobody").give(tree)
    (tree / "sub").chmod(0o777)

    take_back(tree)

    assert {owner(path) for path in tree.rglob("*")} == {"root"}
    assert (tree / "sub").stat().st_mode & 0o777 == 0o755
    assert owner(tree.parent / "outside") == "root"


@as_root
def test_what_was_never_given_is_left_as_it_is(tree: Path) -> None:
    (tree / "sub").chmod(0o777)

    take_back(tree)

    assert (tree / "sub").stat().st_mode & 0o777 == 0o777
