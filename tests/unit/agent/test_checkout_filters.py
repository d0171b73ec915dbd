"""Git LFS runs during the checkout where the operator allows it, and no other filter ever does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from taskyard.wire import Code

from tests.support.checkouts import Machine
from tests.support.repositories import Repository

STAND_IN = f"""#!{sys.executable}
'''Speaks the protocol of git's long-running filters, as git-lfs does; content arrives in capitals.'''
import sys
read, write = sys.stdin.buffer.read, sys.stdout.buffer.write

def packets():
    while (size := int(read(4) or b"0", 16)) > 4:
        yield read(size - 4)

def send(*items):
    for item in items:
        write(b"%04x" % (len(item) + 4) + item)
    write(b"0000")
    sys.stdout.flush()

list(packets()), send(b"git-filter-server\\n", b"version=2\\n")
list(packets()), send(b"capability=smudge\\n")
while list(packets()):
    content = b"".join(packets())
    send(b"status=success\\n"), send(content.upper()), send()
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    files = {
        ".gitattributes": "*.bin filter=lfs\n*.txt filter=other\n",
        "model.bin": "weights",
        "notes.txt": "notes",
    }
    made = Repository.create(tmp_path / "code", files)
    made.publish(tmp_path / "bare")
    return made


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    program = tmp_path / "bin" / "git-lfs"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize(("allowed", "content"), [(True, "WEIGHTS"), (False, "weights")])
def test_lfs_runs_only_with_the_operators_word(
    repository: Repository, tmp_path: Path, environ: dict[str, str], allowed: bool, content: str
) -> None:
    machine = Machine.at(tmp_path / "agent", allow_filters=allowed, environ=environ)
    url = repository.git("remote", "get-url", "origin").strip()

    tree = machine.prepare(Code(repository=url, commit=repository.head))

    assert (tree.root / "model.bin").read_text() == content
    assert (tree.root / "notes.txt").read_text() == "notes"
