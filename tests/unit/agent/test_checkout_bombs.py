"""Code that is small on the way and huge on the machine: the task fails, and its agent does not notice."""

from __future__ import annotations

import base64
import gzip
import hashlib
import subprocess
import tarfile
import zlib
from pathlib import Path

import pytest
from taskyard.wire import Code, Pack, Phase, Reason
from taskyard_agent.errors import RunFailed

from tests.support.checkouts import Machine
from tests.support.repositories import Repository
from tests.support.unnoticed import unnoticed

MEMORY = 96 << 20
HUGE = 200 << 20
AUTHOR = "author A <a@b.c> 0 +0000\ncommitter A <a@b.c> 0 +0000\n\n"

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured by /proc")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine.at(tmp_path / "agent", memory_bytes=MEMORY, tree_paths=10_000)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "repository", {"train.py": "print(1)\n"})


def assert_refused(machine: Machine, code: Code, names: str) -> None:
    with unnoticed(), pytest.raises(RunFailed, match=names) as failure:
        machine.prepare(code)

    assert (failure.value.phase, failure.value.reason) == (Phase.CHECKOUT, Reason.CHECKOUT)
    assert not failure.value.infrastructure


def stored(machine: Machine, file: Path) -> str:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    machine.blobs[digest] = file
    return digest


def packed(machine: Machine, repository: Repository, folder: Path, *objects: str) -> Code:
    """The code whose last object is its commit."""
    pack = subprocess.run(
        ["git", "pack-objects", "--stdout", "-q"],
        input="".join(f"{name}\n" for name in objects).encode(),
        cwd=repository.root,
        capture_output=True,
        check=True,
    )
    (folder / "bomb.pack").write_bytes(pack.stdout)
    return Code(pack=Pack(commit=objects[-1], blob=stored(machine, folder / "bomb.pack"), size=1))


def written(repository: Repository, kind: str, content: bytes) -> str:
    command = ["git", "-c", "core.compression=1", "hash-object", "-t", kind, "-w", "--literally", "--stdin"]
    done = subprocess.run(command, input=content, cwd=repository.root, capture_output=True, check=True)
    return done.stdout.decode().strip()


def tree_of(entries: int, mode: str, name: str) -> bytes:
    item = bytes.fromhex(name)
    return b"".join(b"%s %04d\0%s" % (mode.encode(), number, item) for number in range(entries))


def test_a_header_that_is_longer_than_memory(machine: Machine, tmp_path: Path) -> None:
    """tarfile reads the name of a file as a whole: 357 kB can hold one of 662 MB."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, HUGE
    with gzip.open(tmp_path / "bomb.tar.gz", "wb", compresslevel=1) as archive:
        archive.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(HUGE >> 20):
            archive.write(b"a" * (1 << 20))

    assert_refused(machine, Code(archive=stored(machine, tmp_path / "bomb.tar.gz")), "96 MiB of memory")


def test_an_archive_of_zeros(machine: Machine, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo("zeros")
        member.size = HUGE
        with open("/dev/zero", "rb") as zeros:
            archive.addfile(member, zeros)

    assert_refused(machine, Code(archive=stored(machine, tmp_path / "bomb.tar.gz")), "unpacks to more than")


def test_a_pack_with_an_object_larger_than_memory(
    machine: Machine, repository: Repository, tmp_path: Path
) -> None:
    tree = repository.git("rev-parse", "HEAD^{tree}").strip()
    commit = written(repository, "commit", f"tree {tree}\n{AUTHOR}".encode() + b"a" * HUGE)

    assert_refused(machine, packed(machine, repository, tmp_path, tree, commit), "96 MiB of memory")


@pytest.mark.parametrize(("mode", "limit"), [("40000", "10000 files and folders"), ("100644", "20 GiB")])
def test_a_tree_that_names_the_same_things_again_and_again(
    machine: Machine, repository: Repository, tmp_path: Path, mode: str, limit: str
) -> None:
    """Ten folders of ten folders of …, or 5,000 times the same file of 5 MB."""
    folders = mode == "40000"
    objects = [written(repository, "blob", b"a" * (5 if folders else 5 << 20))]
    objects.append(written(repository, "tree", tree_of(10 if folders else 5000, "100644", objects[-1])))
    for _ in range(9 if folders else 0):
        objects.append(written(repository, "tree", tree_of(10, mode, objects[-1])))
    objects.append(repository.git("commit-tree", objects[-1], "-m", "bomb").strip())

    assert_refused(machine, packed(machine, repository, tmp_path, *objects), limit)


def test_a_patch_that_makes_a_file_larger_than_memory(machine: Machine, repository: Repository) -> None:
    code = Code(repository=str(repository.root), commit=repository.head, patch=binary_patch(HUGE))

    assert_refused(machine, code, "96 MiB of memory")


def binary_patch(size: int) -> str:
    """A patch in git's format that adds so many zeros."""
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()
    lines = [data[place : place + 52] for place in range(0, len(data), 52)]
    return (
        f"diff --git a/zeros b/zeros\nnew file mode 100644\nindex {'0' * 40}..{'1' * 40}\n"
        f"GIT binary patch\nliteral {size}\n{''.join(map(patch_line, lines))}\nliteral 0\nHcmV?d00001\n\n"
    )


def patch_line(data: bytes) -> str:
    letter = chr(64 + len(data)) if len(data) <= 26 else chr(70 + len(data))
    return letter + base64.b85encode(data + bytes(-len(data) % 4)).decode() + "\n"


def test_a_lower_limit_of_the_machine_itself_is_kept(machine: Machine) -> None:
    """An agent in a container may have less than it would allow a task."""
    limited = machine.settings.limits.around(["sh", "-c", "ulimit -d"])
    within_less = ["sh", "-c", 'ulimit -d 50000; exec "$@"', "sh", *limited]

    printed = [subprocess.run(argv, capture_output=True, check=True).stdout for argv in (limited, within_less)]

    assert [int(number) for number in printed] == [MEMORY // 1024, 50000]
