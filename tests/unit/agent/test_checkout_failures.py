"""Code that cannot be checked out: whose fault it is, and what the person is told to do."""

from __future__ import annotations

import dataclasses
import io
import socket
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest
from taskyard.errors import NotFound, Unavailable
from taskyard.snapshot import capture
from taskyard.snapshot.pack import digest
from taskyard.wire import Code, Pack, Phase, Reason
from taskyard_agent.checkout.failure import GitFailed
from taskyard_agent.errors import RunFailed, RunStopped

from tests.support.checkouts import Machine
from tests.support.repositories import Repository

GONE = "0123456789" * 4


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.create(tmp_path / "code", {"train.py": "one\ntwo\nthree\n"})
    made.publish(tmp_path / "bare")
    return made


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine.at(tmp_path / "agent")


def code_of(repository: Repository, **changes: object) -> Code:
    url = repository.git("remote", "get-url", "origin").strip()
    return dataclasses.replace(Code(repository=url, commit=repository.head), **changes)  # type: ignore[arg-type]


def test_a_commit_that_is_gone_is_the_tasks_failure_with_advice(repository: Repository, machine: Machine) -> None:
    with pytest.raises(RunFailed, match=GONE) as failed:
        machine.prepare(code_of(repository, commit=GONE))

    assert failed.value.phase is Phase.CHECKOUT
    assert failed.value.reason is Reason.CHECKOUT
    assert not failed.value.infrastructure
    assert "--ship-code" in str(failed.value)


def test_a_branch_without_a_commit_is_followed(repository: Repository, machine: Machine) -> None:
    machine.prepare(code_of(repository, commit=None, branch="main")).release()
    head = repository.commit({"train.py": "newer"})
    repository.git("push", "-q", "origin", "main")

    tree = machine.prepare(code_of(repository, commit=None, branch="main"))

    assert Repository(tree.root).head == head


def test_a_branch_that_is_gone_is_the_tasks_failure(repository: Repository, machine: Machine) -> None:
    with pytest.raises(RunFailed, match="has no branch absent"):
        machine.prepare(code_of(repository, commit=None, branch="absent"))


@pytest.mark.parametrize(
    "url",
    [
        *("ext::sh -c id", "EXT::sh -c id", "fd::7", "-oProxyCommand=id", "--upload-pack=id", "", " https://h/x"),
        *(
            "http://h/x",
            "HTTP://h/x",
            "git://h/x",
            "ftp://h/x",
            "Ext+ssh://h/x",
            "https:///x",
            "https://h",
            "https://h/",
        ),
        *("ssh://-oProxyCommand=id/x", "ssh://h\n/x", "https://h/\x00", "-u@h:x", "ssh://-u@h/x", "h:-x", "h::x"),
        *("https://h/x?y=1", "https://h/x#y", "https://h:port/x", "../relative", "file://host/x", "file://"),
    ],
)
def test_addresses_off_the_allow_list_are_refused(machine: Machine, url: str) -> None:
    with pytest.raises(RunFailed, match="What to do") as failed:
        machine.prepare(Code(repository=url, commit=GONE))

    assert not failed.value.infrastructure
    assert not machine.settings.folder.exists()


@pytest.mark.parametrize(
    "url", ["/srv/code.git", "file:///srv/code.git", "FILE:///srv/code.git", "file://localhost/srv"]
)
def test_paths_need_the_operators_leave(tmp_path: Path, url: str) -> None:
    machine = Machine.at(tmp_path / "agent", allow_file=False)

    with pytest.raises(RunFailed, match="--allow-file-repositories"):
        machine.prepare(Code(repository=url, commit=GONE))


@pytest.mark.parametrize("commit", ["main", "HEAD", "--all", "0123", GONE.upper() + "A", GONE + "\n", "-" * 40])
def test_only_full_commit_ids_are_taken(repository: Repository, machine: Machine, commit: str) -> None:
    with pytest.raises(RunFailed, match="not a commit"):
        machine.prepare(code_of(repository, commit=commit))


@pytest.mark.parametrize(
    "branch", ["-b", "a..b", "a b", "a~1", "/a", "a/", "a.lock", ".a", "a/.b", "@", "a@{1}", "", "a\n"]
)
def test_only_proper_branch_names_are_taken(repository: Repository, machine: Machine, branch: str) -> None:
    with pytest.raises(RunFailed, match="not a branch"):
        machine.prepare(code_of(repository, branch=branch))


# --- Patches


def test_a_diff_is_applied(repository: Repository, machine: Machine) -> None:
    repository.write({"train.py": "one\n2\nthree\n", "new.py": "new\n"})
    repository.git("add", "--intent-to-add", "new.py")

    tree = machine.prepare(code_of(repository, patch=repository.git("diff").rstrip("\n")))

    assert (tree.root / "train.py").read_text() == "one\n2\nthree\n"
    assert (tree.root / "new.py").read_text() == "new\n"
    assert Repository(tree.root).head == repository.head


def test_a_diff_that_does_not_apply_names_the_file_and_the_line(repository: Repository, machine: Machine) -> None:
    patch = "--- a/train.py\n+++ b/train.py\n@@ -1,3 +1,3 @@\n one\n-zwei\n+2\n three\n"

    with pytest.raises(RunFailed, match=r"patch failed: train\.py:1") as failed:
        machine.prepare(code_of(repository, patch=patch))

    assert "--ship-code" in str(failed.value)
    assert not failed.value.infrastructure


@pytest.mark.parametrize("path", ["../outside", "/tmp/outside", ".git/config", ".GIT/hooks/x", "link/outside"])
def test_a_diff_that_leaves_the_tree_is_refused(
    repository: Repository, machine: Machine, tmp_path: Path, path: str
) -> None:
    (repository.root / "link").symlink_to(tmp_path)
    repository.commit()
    repository.git("push", "-q", "origin", "main")
    patch = f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n"

    with pytest.raises(RunFailed, match="does not apply"):
        machine.prepare(code_of(repository, patch=patch))

    assert not (tmp_path / "outside").exists()


def test_the_next_run_finds_no_trace_of_a_diff(repository: Repository, machine: Machine) -> None:
    patch = "diff --git a/new.py b/new.py\nnew file mode 100644\n--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+x\n"
    machine.prepare(code_of(repository, patch=patch)).release()

    tree = machine.prepare(code_of(repository))

    assert not (tree.root / "new.py").exists()


# --- Working folders


@pytest.mark.parametrize("working_dir", ["..", "/etc", "sub/../..", "link", ".git", "link/deeper", "train.py"])
def test_a_working_folder_outside_the_code_is_refused(
    repository: Repository, machine: Machine, tmp_path: Path, working_dir: str
) -> None:
    (repository.root / "link").symlink_to(tmp_path)
    repository.commit()
    repository.git("push", "-q", "origin", "main")

    with pytest.raises(RunFailed, match="working folder"):
        machine.prepare(code_of(repository, working_dir=working_dir))


def test_a_failed_checkout_frees_its_tree(repository: Repository, machine: Machine) -> None:
    with pytest.raises(RunFailed):
        machine.prepare(code_of(repository, working_dir=".."))
    tree = machine.prepare(code_of(repository))

    assert tree.root.parent.name == "0"


# --- Packs and archives


def test_a_pack_that_arrives_damaged_is_the_machines_failure(repository: Repository, machine: Machine) -> None:
    repository.write({"train.py": "changed"})
    with capture(repository.root) as snapshot:
        for blob in snapshot.blobs.values():
            blob.write_bytes(blob.read_bytes()[:-1] + b"\0")

        with pytest.raises(RunFailed, match="arrived damaged") as failed:
            machine.prepare_snapshot(snapshot)

    assert failed.value.infrastructure


def test_code_that_the_server_does_not_hold_is_the_tasks_failure(machine: Machine) -> None:
    def absent(digest: str, target: Path) -> None:
        raise NotFound(404, "not_found", "there is no such blob")

    with pytest.raises(RunFailed, match="no such blob") as failed:
        machine.prepare(Code(archive="0" * 64), fetch=absent)

    assert not failed.value.infrastructure


def test_a_server_that_cannot_be_reached_is_waited_for(
    repository: Repository, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskyard_agent.answers.REPEAT_SECONDS", (0.0, 0.0))
    answers = [Unavailable("no route"), Unavailable("no route")]

    def fetch(digest: str, target: Path) -> None:
        if answers:
            raise answers.pop()
        target.write_bytes(snapshot.blobs[digest].read_bytes())

    with capture(repository.root, ship_code=True) as snapshot:
        tree = machine.prepare(snapshot.code, fetch=fetch)

    assert (tree.root / "train.py").exists()


def test_a_pack_of_rubbish_is_refused(machine: Machine, tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"PACK\0\0\0\2\0\0\0\1rubbish")
    machine.blobs[digest(rubbish)] = rubbish

    with pytest.raises(RunFailed, match="snapshot cannot be used"):
        machine.prepare(Code(pack=Pack(commit=GONE, blob=digest(rubbish), size=1)))


@pytest.mark.parametrize("name", [".git", "a/../../b", ".GIT/config", ".", ""])
def test_a_pack_with_an_evil_path_is_refused(
    repository: Repository, machine: Machine, tmp_path: Path, name: str
) -> None:
    """A tree object that no honest git would write."""
    blob = repository.git("rev-parse", "HEAD:train.py").strip()
    content = b"100644 " + name.encode() + b"\0" + bytes.fromhex(blob)
    write = ["git", "hash-object", "-t", "tree", "-w", "--literally", "--stdin"]
    tree = subprocess.run(
        write, input=content, cwd=repository.root, capture_output=True, check=True
    ).stdout.decode()
    commit = repository.git("commit-tree", tree.strip(), "-m", "evil").strip()
    pack = subprocess.run(
        ["git", "pack-objects", "--stdout", "-q"],
        input=f"{commit}\n{tree}{blob}\n".encode(),
        cwd=repository.root,
        capture_output=True,
        check=True,
    )
    (tmp_path / "evil").write_bytes(pack.stdout)
    machine.blobs[digest(tmp_path / "evil")] = tmp_path / "evil"

    with pytest.raises(RunFailed, match="fsck error"):
        machine.prepare(Code(pack=Pack(commit=commit, blob=digest(tmp_path / "evil"), size=1)))


def archive_of(machine: Machine, folder: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Code:
    path = folder / "evil.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    machine.blobs[digest(path)] = path
    return Code(archive=digest(path))


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


@pytest.mark.parametrize(
    "members",
    [
        [(entry("../outside"), b"x")],
        [(entry("/tmp/outside"), b"x")],
        [(entry("a/../../outside"), b"x")],
        [(entry(".git/config"), b"x")],
        [(entry("a/.GIT/hooks/x"), b"x")],
        [(entry("link", tarfile.SYMTYPE, "/etc"), b"")],
        [(entry("link", tarfile.SYMTYPE, "../.."), b"")],
        [(entry("hard", tarfile.LNKTYPE, "/etc/passwd"), b"")],
        [(entry("device", tarfile.CHRTYPE), b"")],
        [(entry("pipe", tarfile.FIFOTYPE), b"")],
        [(entry("twice"), b"1"), (entry("twice"), b"2")],
        [(entry("a", tarfile.SYMTYPE, "b"), b""), (entry("a/x"), b"1")],
    ],
    ids=lambda members: members[-1][0].name,
)
def test_archives_that_reach_further_than_their_folder_are_refused(
    machine: Machine, tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    with pytest.raises(RunFailed, match="archive is refused"):
        machine.prepare(archive_of(machine, tmp_path, *members))

    assert not (tmp_path / "outside").exists()


def test_an_archive_that_unpacks_to_a_multiple_of_itself_is_refused(machine: Machine, tmp_path: Path) -> None:
    code = archive_of(machine, tmp_path, (entry("zeros"), b"\0" * 30_000_000))

    with pytest.raises(RunFailed, match="unpacks to more than"):
        machine.prepare(code)


def test_an_archive_of_too_many_files_is_refused(tmp_path: Path) -> None:
    machine = Machine.at(tmp_path / "agent", archive_files=3)
    code = archive_of(machine, tmp_path, *((entry(str(number)), b"") for number in range(4)))

    with pytest.raises(RunFailed, match="3 files"):
        machine.prepare(code)


# --- The machine's failures, and the end of a run


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("fatal: write error: No space left on device", Reason.DISK),
        ("error: unable to create file x: Disk quota exceeded", Reason.DISK),
        ("fatal: unable to access 'https://h/': Could not resolve host: h.invalid", Reason.CHECKOUT),
        ("ssh: Could not resolve hostname github-work: Name or service not known", Reason.CHECKOUT),
        ("ssh: Could not resolve hostname h.invalid: Temporary failure in name resolution", Reason.GIT_HOST),
        ("fatal: unable to access 'https://h/': SSL certificate problem: self-signed", Reason.CHECKOUT),
        ("fatal: unable to access 'https://h/': OpenSSL SSL_connect: Connection reset by peer", Reason.GIT_HOST),
        ("ssh: connect to host h port 22: Connection timed out", Reason.GIT_HOST),
        ("fatal: unable to access 'https://h/': The requested URL returned error: 503", Reason.GIT_HOST),
        ("error: RPC failed; curl 28 Operation too slow", Reason.GIT_HOST),
        ("git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.", Reason.CHECKOUT),
        ("Host key verification failed.", Reason.CHECKOUT),
        ("fatal: repository 'https://h/x/' not found", Reason.CHECKOUT),
        ("fatal: unable to access 'https://h/x/': The requested URL returned error: 403", Reason.CHECKOUT),
    ],
)
def test_gits_words_tell_whose_failure_it_is(words: str, reason: Reason) -> None:
    failed = GitFailed(words).translated("cannot fetch", "do this", target="h")

    assert failed.reason is reason
    assert failed.target == ("h" if reason is Reason.GIT_HOST else "")
    assert failed.infrastructure is (reason is not Reason.CHECKOUT)
    assert words in str(failed)


def test_a_folder_that_cannot_be_written_is_the_machines_failure(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "agent").write_text("a file in its place")

    with pytest.raises(RunFailed) as failed:
        Machine.at(tmp_path / "agent").prepare(code_of(repository))

    assert failed.value.infrastructure
    assert failed.value.reason is Reason.DISK


def test_a_cancelled_run_ends_a_hanging_git(tmp_path: Path) -> None:
    program = tmp_path / "ssh"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    program.chmod(0o755)
    machine = Machine.at(tmp_path / "agent", ssh_command=(str(program),))
    ended: list[type[BaseException]] = []

    def prepare() -> None:
        try:
            machine.prepare(Code(repository="git@h.invalid:x/y.git", commit=GONE))
        except RunStopped as stopped:
            ended.append(type(stopped))

    thread = threading.Thread(target=prepare)
    thread.start()
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
    machine.cancelled.set()
    thread.join(timeout=30)

    assert ended == [RunStopped]
    until(lambda: not Path("/proc", (tmp_path / "pid").read_text().strip()).exists())


def test_a_host_that_takes_the_connection_and_says_nothing_is_given_up_soon(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        machine = Machine.at(tmp_path / "agent", stall_seconds=1)
        place = f"localhost:{mute.getsockname()[1]}"

        with pytest.raises(RunFailed, match="1 s in which the host said nothing") as failed:
            machine.prepare(Code(repository=f"https://{place}/x/y.git", commit=GONE))

    assert (failed.value.reason, failed.value.target) == (Reason.GIT_HOST, place)
    assert "--ship-code" in str(failed.value)


@pytest.mark.parametrize("url", ["git@github-work:me/code.git", "https://no-such-host.invalid/me/code.git"])
def test_a_host_that_does_not_exist_is_the_tasks_failure(tmp_path: Path, url: str) -> None:
    with pytest.raises(RunFailed, match="knows no host of the repository's name") as failed:
        Machine.at(tmp_path / "agent").prepare(Code(repository=url, commit=GONE))

    assert (failed.value.reason, failed.value.infrastructure) == (Reason.CHECKOUT, False)
    assert "--ship-code" in str(failed.value)


def test_a_fetch_that_takes_too_long_is_that_of_its_host(tmp_path: Path) -> None:
    program = tmp_path / "ssh"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    machine = Machine.at(tmp_path / "agent", ssh_command=(str(program),), fetch_seconds=0.2)

    with pytest.raises(RunFailed, match="gave up after") as failed:
        machine.prepare(Code(repository="ssh://ada@h.invalid/x/y.git", commit=GONE))

    assert failed.value.reason is Reason.GIT_HOST


def until(condition, seconds: float = 20.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)
