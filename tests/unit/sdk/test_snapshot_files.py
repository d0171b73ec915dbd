"""Which untracked files go along: limits, ignore rules, secrets, and what is included by hand."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from taskyard.errors import UsageError
from taskyard.snapshot import Limits, Snapshot, SnapshotTooLarge, capture

from tests.support.repositories import Repository


@pytest.fixture(params=["repository", "plain folder"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    """The rules are the same with git and without."""
    if request.param == "repository":
        return Repository.create(tmp_path / "code", {"tracked.py": "1"})
    made = Repository(tmp_path / "code")
    made.write({"tracked.py": "1"})
    return made


def untracked(snapshot: Snapshot) -> set[str]:
    return {file.path for file in snapshot.summary.untracked} - {"tracked.py"}


def test_ignored_files_stay_here(folder: Repository) -> None:
    folder.write({".gitignore": "*.log\n", ".taskyardignore": "/data/\n*.tmp\n"})
    folder.write({"a.log": "1", "b/c.tmp": "1", "data/x.bin": "1", "sub/data/y.bin": "1"})

    with capture(folder.root) as snapshot:
        assert untracked(snapshot) == {".gitignore", ".taskyardignore", "sub/data/y.bin"}


@pytest.mark.parametrize(
    "name",
    [
        *(".env", ".env.local", "prod.env", "server.pem", "tls/private.KEY", "id_rsa", "id_ed25519.pub"),
        *("credentials", "aws/credentials.json", "my-credentials.json", ".netrc", ".ssh/config", "secrets.yaml"),
        *(".aws/config", "client_secret_1.json", ".git-credentials", ".pypirc", "kaggle.json"),
    ],
)
def test_what_looks_like_a_secret_stays_here_and_is_named(folder: Repository, name: str) -> None:
    folder.write({name: "password"})

    with capture(folder.root) as snapshot:
        assert untracked(snapshot) == set()
        assert snapshot.summary.left_out == (name,)


@pytest.mark.parametrize(
    "name", ["environment.yml", "keys.py", "key.json", "pem.txt", "docs/secret.md", "envs/a.py"]
)
def test_what_does_not_look_like_a_secret_goes_along(folder: Repository, name: str) -> None:
    folder.write({name: "1"})

    with capture(folder.root) as snapshot:
        assert untracked(snapshot) == {name}


def test_a_secret_included_by_hand_goes_along(folder: Repository) -> None:
    folder.write({".env": "A=1", "b/.env": "B=1"})

    with capture(folder.root, include=[".env"]) as snapshot:
        assert untracked(snapshot) == {".env"}
        assert snapshot.summary.included == (".env",)
        assert snapshot.summary.left_out == ("b/.env",)


@pytest.mark.parametrize("pattern", ["data/*.csv", "data", "**/*.csv", "./data/a.csv"])
def test_ignored_files_included_by_hand_go_along(folder: Repository, pattern: str) -> None:
    folder.write({".gitignore": "data/\n", "data/a.csv": "1"})

    with capture(folder.root, include=[pattern]) as snapshot:
        assert untracked(snapshot) == {".gitignore", "data/a.csv"}
        assert snapshot.summary.included == ("data/a.csv",)


def test_patterns_are_relative_to_the_folder_that_is_captured(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "code", {"sub/tracked.py": "1", ".gitignore": "*.csv\n"})
    repository.write({"sub/a.csv": "1", "b.csv": "1"})

    with capture(repository.root / "sub", include=["*.csv", "../b.csv", "tracked.py"]) as snapshot:
        assert snapshot.summary.included == ("b.csv", "sub/a.csv")


@pytest.mark.parametrize("pattern", ["absent.txt", "*.absent", "../outside.txt", ".git/config"])
def test_a_pattern_that_names_nothing_here_is_the_callers_mistake(folder: Repository, pattern: str) -> None:
    (folder.root.parent / "outside.txt").write_text("1")

    with pytest.raises(UsageError, match="--include"):
        capture(folder.root, include=[pattern])


def test_a_file_over_the_limit_is_refused_with_the_line_that_ignores_it(folder: Repository) -> None:
    folder.write({"model.ckpt": "x" * 2000})

    with pytest.raises(SnapshotTooLarge, match=r"model\.ckpt has 2 kB") as refused:
        capture(folder.root, limits=Limits(file_bytes=1000))

    assert "echo /model.ckpt >> .taskyardignore" in str(refused.value)


def test_too_much_together_is_refused_with_the_largest_folders(folder: Repository) -> None:
    folder.write({f"my data/deep/{number}.bin": "x" * 900 for number in range(10)})
    folder.write({"notes/a.txt": "x" * 500, "notes/b.txt": "x"})

    with pytest.raises(SnapshotTooLarge) as refused:
        capture(folder.root, limits=Limits(file_bytes=1000, total_bytes=5000))

    assert "my data/deep/  9 kB in 10 files\n  notes/  501 B in 2 files" in str(refused.value)
    assert "echo '/my data/deep/' >> .taskyardignore" in str(refused.value)


def test_too_many_files_are_refused(folder: Repository) -> None:
    folder.write({f"many/{number}": "" for number in range(12)})

    with pytest.raises(SnapshotTooLarge, match=r"1[23] files"):
        capture(folder.root, limits=Limits(files=10))


def test_the_line_in_the_refusal_mends_it(folder: Repository) -> None:
    folder.write({"data/big.bin": "x" * 2000})
    (folder.root / ".taskyardignore").write_text("/data/\n")

    with capture(folder.root, limits=Limits(file_bytes=1000)) as snapshot:
        assert untracked(snapshot) == {".taskyardignore"}


def test_files_are_measured_before_they_are_read(folder: Repository) -> None:
    with (folder.root / "huge.bin").open("wb") as stream:
        stream.truncate(1 << 40)

    with pytest.raises(SnapshotTooLarge):
        capture(folder.root)


def test_tracked_files_have_no_limit(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "code", {"big.txt": "x" * 2000})
    repository.write({"big.txt": "y" * 3000})

    with capture(repository.root, limits=Limits(file_bytes=1000)) as snapshot:
        assert snapshot.summary.modified == 1


def test_the_first_upload_of_a_folder_is_told_once(folder: Repository, tmp_path: Path) -> None:
    folder.write({"new.txt": "1"})

    with capture(folder.root, memory=tmp_path / "memory") as first:
        first.uploaded()
    with capture(folder.root, memory=tmp_path / "memory") as second:
        pass

    assert first.summary.first_upload
    assert not second.summary.first_upload


def test_nothing_untracked_is_no_first_upload(tmp_path: Path) -> None:
    repository = Repository.create(tmp_path / "code", {"a": "1"})

    with capture(repository.root, memory=tmp_path / "memory") as snapshot:
        assert not snapshot.summary.first_upload


def test_an_archive_is_the_same_for_the_same_files(tmp_path: Path) -> None:
    plain = Repository(tmp_path / "plain")
    plain.write({"a.py": "1", "b/ü.txt": "2"})
    with capture(plain.root) as first:
        pass
    (plain.root / "a.py").touch()

    with capture(plain.root) as second:
        assert second.code == first.code


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "sub/../../outside"])
def test_a_link_out_of_an_archived_folder_is_refused_with_its_cure(tmp_path: Path, target: str) -> None:
    plain = Repository(tmp_path / "plain")
    plain.write({"sub/a.py": "1"})
    (plain.root / "link").symlink_to(target)

    with pytest.raises(UsageError, match=r"add /link to \.taskyardignore"):
        capture(plain.root)


def test_an_empty_folder_is_sent_for_a_command_that_needs_no_file(tmp_path: Path) -> None:
    with capture(tmp_path) as snapshot, tarfile.open(next(iter(snapshot.blobs.values()))) as sent:
        assert sent.getnames() == []


def test_a_script_that_an_empty_folder_lacks_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not among the files that are sent"):
        capture(tmp_path, script="train.py")


def test_a_repository_within_that_git_cannot_list_is_named_with_its_cure(folder: Repository) -> None:
    Repository.create(folder.root / "broken", {"a.py": "1"}).git("config", "core.bare", "true")

    with pytest.raises(UsageError, match=r"/broken: .*; leave it out here with: echo /broken/ >> \.task"):
        capture(folder.root)

    folder.write({".taskyardignore": "/broken/\n"})
    with capture(folder.root) as snapshot:
        assert untracked(snapshot) == {".taskyardignore"}
