"""Capturing a repository: what goes along, and that nothing of the person's changes."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from taskyard.errors import UsageError
from taskyard.snapshot import Snapshot, capture

from tests.support.repositories import Repository, run

URL = "https://git.example.org/team/code.git"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.create(
        tmp_path / "code", {"train.py": "print(1)\n", "old.txt": "some lines\n" * 20, "b/c": ""}
    )
    made.publish(tmp_path / "bare", URL)
    return made


def files_of(snapshot: Snapshot) -> dict[str, str]:
    """Path → mode of everything in the snapshot's pack, read as a stranger would: from a whole pack."""
    assert snapshot.code.pack is not None
    target = snapshot.scratch / "read.git"
    run("init", "-q", "--bare", str(target), cwd=snapshot.scratch)
    pack = snapshot.blobs[snapshot.code.pack.blob]
    subprocess.run(["git", "unpack-objects", "-q"], cwd=target, input=pack.read_bytes(), check=True)
    listed = run("ls-tree", "-r", "-z", snapshot.code.pack.commit, cwd=target).split("\0")
    return {line.partition("\t")[2]: line.split(" ")[0] for line in listed if line}


def fingerprint(root: Path) -> dict[str, tuple[int, str]]:
    """Every file's modification time and digest, those of `.git` included."""
    found = {}
    for base, _, names in os.walk(root):
        for name in names:
            path = Path(base) / name
            # Git refreshes the time of an object that it would have written again; that keeps it from gc.
            time = 0 if ".git/objects" in base else path.stat().st_mtime_ns
            found[str(path.relative_to(root))] = (time, hashlib.sha256(path.read_bytes()).hexdigest())
    return found


def test_changed_new_deleted_and_renamed_files_are_counted(repository: Repository) -> None:
    repository.write({"train.py": "print(2)\n", "new.bin": b"\0\1\2"})
    (repository.root / "b/c").unlink()
    (repository.root / "old.txt").rename(repository.root / "renamed.txt")

    with capture(repository.root) as snapshot:
        summary = snapshot.summary

    assert (summary.new, summary.modified, summary.deleted, summary.renamed) == (1, 1, 1, 1)
    assert [file.path for file in summary.untracked] == ["renamed.txt", "new.bin"]
    assert summary.repository == URL
    assert summary.commit == repository.head


def test_the_repository_stays_as_it_is_byte_for_byte(repository: Repository) -> None:
    repository.write({"train.py": "changed", "staged.txt": "staged", "new.txt": "new"})
    repository.git("add", "staged.txt")
    os.utime(repository.root / "b/c")
    before = fingerprint(repository.root)

    with capture(repository.root):
        pass

    assert fingerprint(repository.root) == before


def test_the_same_content_makes_the_same_snapshot(repository: Repository) -> None:
    repository.write({"train.py": "changed", "new.txt": "new"})

    with capture(repository.root) as first, capture(repository.root) as second:
        pass

    assert first.code == second.code


def test_the_readable_diff_names_binary_files_and_renames(repository: Repository) -> None:
    repository.write({"train.py": "print(2)\n", "data.bin": b"\0\1\2"})
    (repository.root / "old.txt").rename(repository.root / "renamed.txt")

    with capture(repository.root) as snapshot:
        diff = snapshot.code.diff

    assert "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-print(1)\n+print(2)\n" in diff
    assert "Binary files /dev/null and b/data.bin differ" in diff
    assert "rename from old.txt\nrename to renamed.txt" in diff


def test_the_readable_diff_is_cut_at_256_kib(repository: Repository) -> None:
    repository.write({"train.py": "".join(f"line {number} é\n" for number in range(50_000))})

    with capture(repository.root) as snapshot:
        diff = snapshot.code.diff

    assert len(diff.encode()) <= 256 * 1024
    assert diff.endswith("[cut here: the whole change is in the snapshot]\n")


def test_a_thin_pack_holds_only_the_change(repository: Repository) -> None:
    repository.commit({"weights.bin": os.urandom(200_000).hex()})
    repository.git("update-ref", "refs/remotes/origin/main", "HEAD")
    repository.write({"train.py": "changed"})

    with capture(repository.root) as thin, capture(repository.root, ship_code=True) as whole:
        assert thin.code.pack is not None
        assert whole.code.pack is not None

    assert thin.code.pack.needs == (repository.head,)
    assert thin.code.pack.size < 1000
    assert whole.code.pack.needs == ()
    assert whole.code.pack.size > 100_000


@pytest.mark.parametrize(
    "url", ["/srv/code.git", "file:///srv/code.git", "../code.git", "C:\\code.git", "http://h/x"]
)
def test_code_is_sent_whole_when_others_cannot_reach_the_remote(repository: Repository, url: str) -> None:
    repository.git("remote", "set-url", "origin", url)

    with capture(repository.root) as snapshot:
        files = files_of(snapshot)

    assert snapshot.code.repository is None
    assert snapshot.summary.whole
    assert set(files) == {"train.py", "old.txt", "b/c"}


def test_a_remote_that_was_never_fetched_counts_as_lacking_everything(repository: Repository) -> None:
    repository.git("update-ref", "-d", "refs/remotes/origin/main")

    with capture(repository.root) as snapshot:
        files = files_of(snapshot)

    assert "train.py" in files
    assert snapshot.summary.whole


@pytest.mark.parametrize(
    ("url", "recorded"),
    [
        ("https://ada:secret@git.example.org/x.git", "https://git.example.org/x.git"),
        ("https://secret@git.example.org:8443/x.git", "https://git.example.org:8443/x.git"),
        ("ssh://git:secret@git.example.org/x.git", "ssh://git@git.example.org/x.git"),
        ("git@git.example.org:team/x.git", "git@git.example.org:team/x.git"),
        ("short:x.git", "https://git.example.org/x.git"),
    ],
)
def test_the_remote_is_recorded_as_git_resolves_it_without_credentials(
    repository: Repository, url: str, recorded: str
) -> None:
    repository.git("config", "url.https://ada:secret@git.example.org/.insteadOf", "short:")
    repository.git("remote", "set-url", "origin", url)

    with capture(repository.root) as snapshot:
        pass

    assert snapshot.code.repository == recorded
    assert "secret" not in repr(snapshot)


def test_the_branchs_own_remote_comes_before_origin(repository: Repository) -> None:
    repository.git("remote", "add", "fork", "https://git.example.org/ada/code.git")
    repository.git("config", "branch.main.remote", "fork")
    repository.git("update-ref", "refs/remotes/fork/main", "HEAD")

    with capture(repository.root) as snapshot:
        pass

    assert snapshot.code.repository == "https://git.example.org/ada/code.git"


def test_a_merge_needs_only_the_latest_commits_that_the_remote_has(repository: Repository) -> None:
    base = repository.head
    repository.git("checkout", "-q", "-b", "topic")
    repository.commit({"topic.py": "1"})
    repository.git("checkout", "-q", "main")
    pushed = repository.commit({"main.py": "1"})
    repository.git("update-ref", "refs/remotes/origin/main", "HEAD")
    repository.git("checkout", "-q", "topic")
    repository.git("merge", "-q", "--no-edit", "main")

    with capture(repository.root) as snapshot:
        pass

    assert snapshot.code.pack is not None
    assert base != pushed
    assert snapshot.code.pack.needs == (pushed,)


def test_the_working_folder_is_relative_to_the_root(repository: Repository) -> None:
    with capture(repository.root / "b") as snapshot:
        pass

    assert snapshot.root == repository.root
    assert snapshot.code.working_dir == "b"


def test_a_repository_without_commits_is_sent_whole(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "fresh")
    repository.write({"train.py": "print(1)"})

    with capture(repository.root) as snapshot:
        files = files_of(snapshot)

    assert snapshot.code.commit is None
    assert files == {"train.py": "100644"}


def test_a_detached_head_has_no_branch(repository: Repository) -> None:
    repository.git("checkout", "-q", "--detach")

    with capture(repository.root) as snapshot:
        pass

    assert snapshot.code.branch is None
    assert snapshot.code.commit == repository.head


def test_a_linked_worktree_is_captured_as_its_own(repository: Repository, tmp_path: Path) -> None:
    repository.git("worktree", "add", "-q", str(tmp_path / "linked"), "-b", "side")
    Repository(tmp_path / "linked").write({"only-here.txt": "1"})

    with capture(tmp_path / "linked", ship_code=True) as snapshot:
        files = files_of(snapshot)

    assert snapshot.code.branch == "side"
    assert "only-here.txt" in files


def test_a_conflicted_merge_is_captured_as_the_files_stand(repository: Repository) -> None:
    repository.git("checkout", "-q", "-b", "topic")
    repository.commit({"train.py": "topic"})
    repository.git("checkout", "-q", "main")
    repository.commit({"train.py": "main"})
    with pytest.raises(subprocess.CalledProcessError):
        repository.git("merge", "topic")

    with capture(repository.root) as snapshot:
        diff = snapshot.code.diff

    assert "+<<<<<<< HEAD" in diff


def test_files_of_a_repository_within_the_repository_go_along(repository: Repository) -> None:
    Repository.create(repository.root / "vendored", {"inner.py": "1"}).write({"sub/new.py": "2"})

    with capture(repository.root, ship_code=True) as snapshot:
        files = files_of(snapshot)

    assert {"vendored/inner.py", "vendored/sub/new.py"} <= set(files)


def test_a_folder_that_does_not_exist_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        capture(tmp_path / "absent")


def test_a_bare_repository_is_the_callers_mistake(tmp_path: Path) -> None:
    run("init", "-q", "--bare", "bare", cwd=tmp_path)

    with pytest.raises(UsageError, match="work tree"):
        capture(tmp_path / "bare")


def test_nothing_is_left_behind_when_capturing_fails(repository: Repository, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()

    with pytest.raises(UsageError):
        capture(repository.root, include=["no-such-file"])

    assert list((tmp_path / "scratch").iterdir()) == []


def test_closing_removes_the_temporary_files(repository: Repository) -> None:
    with capture(repository.root, ship_code=True) as snapshot:
        assert all(path.exists() for path in snapshot.blobs.values())

    assert not snapshot.scratch.exists()
