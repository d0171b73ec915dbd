"""Which files of a run are its outputs, and that nothing outside of its folder ever is one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.wire import ArtifactLimits
from taskyard_agent.checkout import pool
from taskyard_agent.keeper.globs import Patterns, stamp_file
from taskyard_agent.outputs import Limits, hold_tree, plan_of, planned, release_tree
from taskyard_agent.outputs.folder import Found, OutputFolder, Refused, Unfit

LIMITS = Limits(file_bytes=100, run_bytes=150, run_files=3)
OWN = (os.geteuid(),)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("out", "out/deep/a.pt", True),
        ("./out/", "out/a.pt", True),
        ("out/*", "out/deep/a.pt", True),
        ("out/*.pt", "out/a.pt", True),
        ("out/*.pt", "out/deep/a.pt", False),
        ("**/*.pt", "a.pt", True),
        ("**/*.pt", "x/y/a.pt", True),
        ("**/best/*.pt", "x/best/y/best/a.pt", True),
        ("out/**", "out/a/b", True),
        ("out/**", "output/a", False),
        (".", "anything/at/all", True),
        ("*.p?", "a.pt", True),
        ("*.p?", "a.pth", False),
        ("epoch[0-9].pt", "epoch7.pt", True),
        ("epoch[!0-9].pt", "epoch7.pt", False),
        ("a[b", "a[b", True),
        ("*a*b", "xxaxxbxxb", True),
        ("**", ".git/config", False),
        ("**", "x/__pycache__/a.pyc", False),
        ("**", ".hidden/file", True),
    ],
)
def test_patterns(pattern: str, path: str, matches: bool) -> None:
    assert Patterns([pattern]).match(path) is matches


def test_a_pattern_cannot_hold_up_the_agent() -> None:
    hostile = Patterns(["*a" * 100 + "b", "/".join(["**", "a"] * 100)])

    assert not hostile.match("a" * 255)
    assert not hostile.match("/".join("a" * 50))


# --- Files of a folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with a file of the code, after the command was started."""
    made = tmp_path / "slot/tree"
    (made / "work/out").mkdir(parents=True)
    return made


def found_in(tree: Path, *patterns: str, since: int = 0, users: tuple[int, ...] = OWN) -> dict[str, str]:
    """Name → reason why it is not kept; empty where it is."""
    folder = OutputFolder(root=tree, work=("work",), since=since, users=users)
    found = folder.find(Patterns(patterns or ["out"]))
    return {one.name: one.reason if isinstance(one, Refused) else "" for one in found}


def test_files_are_found_below_the_working_folder_alone(tree: Path) -> None:
    (tree / "work/out/deep").mkdir()
    (tree / "work/out/deep/a.pt").write_text("a")
    (tree / "work/other").write_text("b")
    (tree / "out").mkdir()
    (tree / "out/elsewhere").write_text("c")

    assert found_in(tree, "out", "../out/*") == {"out/deep/a.pt": ""}


def test_what_was_there_before_is_no_output(tree: Path) -> None:
    (tree / "work/out/old").write_text("of the code")
    since = (tree / "work/out/old").stat().st_ctime_ns + 1

    assert found_in(tree, since=since) == {}
    assert found_in(tree, since=since - 1) == {"out/old": ""}  # changed in the very moment of the start


@pytest.fixture
def planted(tree: Path, tmp_path: Path) -> Iterator[Path]:
    """All that a task might plant beside an honest file."""
    out = tree / "work/out"
    (out / "honest").write_text("x")
    (tmp_path / "secret").write_text("of another run")
    (out / "absolute").symlink_to("/etc/passwd")
    (out / "upwards").symlink_to("../../../../secret")
    (out / "neighbour").symlink_to(tmp_path / "slot/tree-of-another/x")
    (out / "proc").symlink_to("/proc/self/environ")
    (out / "inside").symlink_to(tree / "work/out/honest")
    (out / "relative").symlink_to("../out/honest")
    (out / "folder").symlink_to(".")
    (out / "dangling").symlink_to("nothing")
    (out / "loop").symlink_to("loop")
    (tree / "work/door").symlink_to(tmp_path)
    (out / "through").symlink_to("../door/secret")
    os.mkfifo(out / "pipe")
    (out / "new\nline").write_text("x")
    (out / "back\\slash").write_text("x")
    (out / os.fsdecode(b"not-utf8-\xff")).write_text("x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(out / "sock"))
        yield tree


def test_nothing_that_leads_out_of_the_folder_is_kept(planted: Path) -> None:
    found = found_in(planted)

    assert {name for name, reason in found.items() if not reason} == {"out/honest", "out/inside", "out/relative"}
    out = "it is a link that leads out of the code"
    assert {found[f"out/{name}"] for name in ("absolute", "upwards", "neighbour", "proc", "through")} == {out}
    assert found["out/pipe"] == "it is a named pipe"
    assert found["out/sock"] == "it is a socket"
    assert "folder" in found["out/folder"]
    assert "nothing" in found["out/dangling"]
    assert "too many links" in found["out/loop"]
    assert all(name.isprintable() for name in found)


def test_a_working_folder_that_became_a_link_is_not_entered(tree: Path, tmp_path: Path) -> None:
    (tree / "work").rename(tmp_path / "moved")
    (tmp_path / "moved/out/x").write_text("x")
    (tree / "work").symlink_to(tmp_path / "moved")

    assert found_in(tree) == {"work": "a link stands on the way to it"}


def test_files_of_other_users_are_named_and_left(tree: Path) -> None:
    (tree / "work/out/x").write_text("x")

    assert found_in(tree, users=(12345,)) == {"out/x": "it belongs to another user"}


@pytest.mark.parametrize("swap", ["content", "link", "pipe"])
def test_a_file_that_is_no_longer_the_one_that_was_found_is_not_opened(tree: Path, swap: str) -> None:
    file = tree / "work/out/x"
    file.write_text("x")
    folder = OutputFolder(root=tree, work=("work",), since=0, users=OWN)
    (found,) = folder.find(Patterns(["out"]))
    assert isinstance(found, Found)
    os.close(folder.open(found))

    file.unlink()
    if swap == "content":
        file.write_text("another")
    elif swap == "link":
        file.symlink_to("/etc/passwd")
    else:
        os.mkfifo(file)

    with pytest.raises(Unfit):
        folder.open(found)


# --- Limits


def test_what_is_over_a_limit_is_named_and_the_rest_kept(tree: Path, tmp_path: Path) -> None:
    for name, size in {"a": 90, "b": 101, "c": 70, "d": 10, "e": 0, "f": 1}.items():
        (tree / "work/out" / name).write_bytes(bytes(size))
    hold_tree(tmp_path, tree, tree / "work", lambda _claim: None)

    plan = planned(tmp_path, ("out", "none/*"), OWN, LIMITS)

    assert plan is not None
    assert [found.name for found in plan.files] == ["out/a", "out/d", "out/e"]
    reasons = {refused.name: refused.reason for refused in plan.skipped}
    assert reasons == {
        "out/b": "one output file may have 100 bytes",
        "out/c": "all outputs of a run may have 150 bytes together",
        "out/f": "a run may keep 3 files",
    }
    assert plan.unmatched == ("none/*",)
    assert plan.lines()[0] == "taskyard: no file that this run wrote matches --output 'none/*'"
    assert "taskyard: not kept: out/b (101 bytes): one output file may have 100 bytes" in plan.lines()
    assert plan_of(tmp_path) == plan
    assert (plan.report.files, plan.report.bytes, plan.report.skipped_files) == (3, 100, 3)


def test_only_the_first_of_very_many_refusals_are_named(tree: Path, tmp_path: Path) -> None:
    for number in range(130):
        (tree / f"work/out/{number:03}").write_bytes(bytes(101))
    hold_tree(tmp_path, tree, tree / "work", lambda _claim: None)

    plan = planned(tmp_path, ("out",), OWN, LIMITS)

    assert plan is not None
    assert plan.lines()[-1] == "taskyard: not kept: 110 more"
    assert (len(plan.report.skipped), plan.report.skipped_files) == (100, 130)


def test_the_lower_limit_counts() -> None:
    server = ArtifactLimits(file_bytes=200, run_bytes=20, run_files=2)

    assert LIMITS.within(server) == Limits(file_bytes=100, run_bytes=20, run_files=2)
    assert LIMITS.within(None) == LIMITS


# --- The tree stays


def test_a_tree_is_no_other_run_s_while_it_is_kept(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    slot = pool.acquire(tmp_path / "pool", "c0ffee")
    slot.tree.mkdir()
    hold_tree(run_dir, slot.tree, slot.tree, slot.keep)
    slot.release(spare=0)  # as when the keeper has ended, and the agent was killed

    other = pool.acquire(tmp_path / "pool", "c0ffee")
    assert other.folder != slot.folder
    assert slot.tree.exists()
    other.release(spare=4)

    release_tree(run_dir)
    again = pool.acquire(tmp_path / "pool", "c0ffee")
    assert again.folder == slot.folder
    again.release(spare=4)


def test_the_start_is_read_from_the_clock_of_the_file_system(tree: Path, tmp_path: Path) -> None:
    (tree / "work/out/before").write_text("x")
    os.utime(tree / "work/out/before")
    Path(stamp_file(str(tree))).write_text("")
    stamp = Path(stamp_file(str(tree))).stat().st_ctime_ns
    hold_tree(tmp_path, tree, tree / "work", lambda _claim: None)
    before = (tree / "work/out/before").stat().st_ctime_ns

    plan = planned(tmp_path, ("out",), OWN, LIMITS)

    assert plan is not None
    assert [found.name for found in plan.files] == (["out/before"] if before >= stamp else [])
