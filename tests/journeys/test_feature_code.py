"""The task sees the submitter's tree byte for byte, whatever was not committed, pushed or tracked: C14."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agents import AgentProcess
from tests.support.person import Person
from tests.support.repositories import Repository, contents
from tests.support.servers import ServerProcess

LIST = """
import hashlib, json, os
found = {}
for base, folders, names in os.walk("."):
    folders[:] = [name for name in folders if name not in (".git", "__pycache__")]
    for name in names:
        path = os.path.join(base, name)
        if name != ".git":
            found[os.path.relpath(path)] = hashlib.sha256(open(path, "rb").read()).hexdigest()
print("TREE", json.dumps(found))
"""
BINARY = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as server, AgentProcess(server):
        yield server


@pytest.fixture
def person(tmp_path: Path, server: ServerProcess) -> Person:
    return Person(tmp_path / "person", TASKYARD_MANAGER="inherit").log_in(server)


def seen_by_task(person: Person, folder: Path) -> dict[str, str]:
    """What `list.py` finds where the agent runs it: path → digest."""
    done = person.types("run", "--wait", "--yes", "--", "python", "list.py", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("TREE ")]
    return dict(json.loads(line.removeprefix("TREE ")))


def digests(folder: Path) -> dict[str, str]:
    return {path: hashlib.sha256(data).hexdigest() for path, (_, data) in contents(folder).items()}


def test_a_dirty_checkout_arrives_byte_for_byte(person: Person, tmp_path: Path) -> None:
    library = Repository.create(tmp_path / "library", {"code.py": "first = 1\n"})
    library_url = library.publish(tmp_path / "library.git")
    files = {"list.py": LIST, "gone.txt": "x", "old name.txt": "same\n" * 20, "image.bin": "text yet\n"}
    project = Repository.create(tmp_path / "project", files)
    project.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", library_url, "libs/library")
    project.commit()
    project.publish(tmp_path / "project.git")
    project.commit({"unpushed.txt": "committed here alone\n"})
    (project.root / "gone.txt").unlink()
    project.git("mv", "old name.txt", "new näme.txt")
    project.write({"image.bin": BINARY, "untracked/ü.bin": BINARY[::-1], "crlf.txt": b"a\r\nb\r\n"})

    seen = seen_by_task(person, project.root)

    assert seen == digests(project.root)
    assert "gone.txt" not in seen
    assert "libs/library/code.py" in seen


def test_the_working_folder_is_the_submitters(person: Person, tmp_path: Path) -> None:
    project = Repository.create(tmp_path / "project", {"deep/er/list.py": LIST, "deep/er/here.txt": "1"})

    seen = seen_by_task(person, project.root / "deep" / "er")

    assert set(seen) == {"list.py", "here.txt"}


def test_a_folder_without_git_arrives_byte_for_byte(person: Person, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    (folder / "data").mkdir(parents=True)
    (folder / "list.py").write_text(LIST)
    (folder / "data" / "image.bin").write_bytes(BINARY)

    seen = seen_by_task(person, folder)

    assert seen == digests(folder)
