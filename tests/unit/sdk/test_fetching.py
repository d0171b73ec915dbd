"""What is fetched stays below its folder, is whole, and overwrites nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from taskyard import fetching
from taskyard.errors import TaskyardError, UsageError
from taskyard.fetching import fetch, is_there, wanted
from taskyard.wire import Artifact, ArtifactFile

DATA = b"0123456789"


def artifact(name: str = "out/a.pt", data: bytes = DATA, **fields: Any) -> Artifact:
    file = ArtifactFile(
        path=fields.pop("path", name.rpartition("/")[2]), size=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    return Artifact(run="r.1", name=name, kind="output", size=len(data), created_at=1.0, files=(file,), **fields)


class Source:
    """Stands for the server: gives what is asked for, or what it is told to."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.offsets: list[int] = []

    def read_artifact(self, run: str, name: str, file: ArtifactFile, target: BinaryIO, *, advance: Any) -> None:
        self.offsets.append(target.tell())
        target.write(self.answers.pop(0)[target.tell() :])


def bring(source: Source, folder: Path, each: Artifact) -> Path:
    (one,) = wanted([each], folder)
    fetch(source, one, folder, lambda count: None)  # type: ignore[arg-type]
    return one.target


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a//x", "./x", "..", "a\\..\\x", "a\nb", ""])
def test_a_hostile_name_is_fetched_nowhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        wanted([artifact(name)], tmp_path)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x"])
def test_a_hostile_path_in_a_manifest_is_fetched_nowhere(tmp_path: Path, path: str) -> None:
    several = artifact(path=path)
    several = Artifact(**{**vars(several), "files": (*several.files, *artifact().files)})

    with pytest.raises(UsageError):
        wanted([several], tmp_path)


@pytest.mark.parametrize("name", ["C:x", "C:/x", "x:stream", "con", "a/NUL.txt", "trailing.", "trailing "])
def test_names_that_mean_something_else_on_windows_are_refused_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        wanted([artifact(name)], tmp_path, windows=True)
    assert wanted([artifact(name)], tmp_path, windows=False)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "into"
    folder.mkdir()
    (folder / "out").symlink_to(tmp_path)

    with pytest.raises(UsageError, match="link out of"):
        bring(Source(DATA), folder, artifact())

    assert not (tmp_path / "a.pt").exists()


def test_a_planted_partial_file_is_not_written_through(tmp_path: Path) -> None:
    (one,) = wanted([artifact("a.pt")], tmp_path)
    one.partial.symlink_to(tmp_path / "victim")

    with pytest.raises(OSError, match="symbolic links"):
        fetch(Source(DATA), one, tmp_path, lambda count: None)  # type: ignore[arg-type]

    assert not (tmp_path / "victim").exists()


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = bring(Source(DATA), tmp_path, artifact())

    assert target == tmp_path / "out/a.pt"
    assert target.read_bytes() == DATA
    assert [path.name for path in target.parent.iterdir()] == ["a.pt"]


def test_what_an_earlier_attempt_left_is_gone_on_with(tmp_path: Path) -> None:
    (one,) = wanted([artifact("a.pt")], tmp_path)
    one.partial.write_bytes(DATA[:4])
    source = Source(DATA)

    fetch(source, one, tmp_path, lambda count: None)  # type: ignore[arg-type]

    assert source.offsets == [4]
    assert one.target.read_bytes() == DATA


def test_damaged_bytes_are_fetched_once_more_from_the_beginning(tmp_path: Path) -> None:
    (one,) = wanted([artifact("a.pt")], tmp_path)
    one.partial.write_bytes(b"damaged")
    source = Source(DATA, DATA)

    fetch(source, one, tmp_path, lambda count: None)  # type: ignore[arg-type]

    assert source.offsets == [7, 0]
    assert one.target.read_bytes() == DATA


def test_bytes_that_stay_damaged_are_never_given_their_name(tmp_path: Path) -> None:
    with pytest.raises(TaskyardError, match="arrived damaged"):
        bring(Source(b"x" * 10, b"y" * 10), tmp_path, artifact("a.pt"))

    assert list(tmp_path.iterdir()) == []


def test_only_the_very_same_file_counts_as_there(tmp_path: Path) -> None:
    (one,) = wanted([artifact("a.pt")], tmp_path)
    assert not is_there(one)

    one.target.write_bytes(b"x" * 10)
    assert not is_there(one)
    one.target.write_bytes(DATA)
    assert is_there(one)
    one.target.rename(tmp_path / "b.pt")
    one.target.symlink_to(tmp_path / "b.pt")
    assert not is_there(one)


def test_an_empty_file_needs_no_server(tmp_path: Path) -> None:
    assert bring(Source(), tmp_path, artifact("empty", b"")).read_bytes() == b""
    assert fetching.checked_parts("a/b") == ["a", "b"]
