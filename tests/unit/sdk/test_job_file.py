"""`taskyard.toml`: what a job may say, and what no repository may hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from taskyard.errors import UsageError
from taskyard.job_file import KEYS, find, read

WHOLE = """
# comments are allowed
[jobs.train]
command = "python train.py --data 'a b'"
folder = "src"
description = "the usual one"
queue = "gpu"
gpus = 1
timeout = "12h"
exclusive = true
tags = ["first", "second"]
with = ["tensorboard"]
secrets = ["WANDB_API_KEY"]

[jobs.train.parameters]
lr = 0.1
amp = false
name = "true"
layers = [4, 5]
Model.depth = 3

[jobs.train.grid]
opt = ["adam", "a,b"]
seed = [1, 2]

[jobs.test]
command = ["pytest", "-q"]
env = {COLOUR = "red"}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    (tmp_path / "src").mkdir()
    return tmp_path


def written(root: Path, text: str) -> Path:
    file = root / "taskyard.toml"
    file.write_text(text)
    return file


def test_a_job_is_a_command_and_its_flags(root: Path) -> None:
    jobs = read(written(root, WHOLE))

    train, test = jobs["train"], jobs["test"]
    assert train.command == ("python", "train.py", "--data", "a b")
    assert train.folder == root / "src"
    assert train.settings == {"queue": "gpu"}
    assert train.secrets == ("WANDB_API_KEY",)
    assert train.flags == (
        *(
            "--description=the usual one",
            "--gpus=1",
            "--timeout=12h",
            "--exclusive",
            "--tag=first",
            "--tag=second",
        ),
        *("--with=tensorboard", "--secret=WANDB_API_KEY", "--set=lr=0.1", "--set=amp=false", '--set=name="true"'),
        *(
            "--set=layers=[4, 5]",
            "--set=Model/depth=3",
            '--grid=opt=adam,"a,b"',
            "--grid=seed=1,2",
            "--name=train",
        ),
    )
    assert (test.command, test.flags) == (("pytest", "-q"), ("--env=COLOUR=red", "--name=test"))


def test_the_nearest_file_counts_up_to_the_root_of_the_repository(root: Path) -> None:
    outside = written(root.parent, "")
    assert find(root / "src") is None

    inner = written(root, "")

    assert find(root / "src") == inner
    assert find(root.parent) == outside


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[jobs.a]\ncommand = 'x'\ngpu = 1", 3, "jobs.a.gpu: there is no such key; did you mean gpus?"),
        ("[jobs.a]\ncommand = 'x'\nserver = 'https://x'", 3, "a job names no server"),
        ("\nserver = 'https://x'", 2, "a job names no server"),
        ("[jobs.a]\ncommand = 'x'\ntoken = 'ty'", 3, "a repository holds no token"),
        ("[jobs.a]\ncommand = 'x'\nprofile = 'lab'", 3, "a job names no server"),
        ("[jobs.a]\ncommand = 'x'\n[jobs.a.env]\nA = 'b'\nHF_TOKEN = 'x'", 5, 'write secrets = \\["HF_TOKEN"\\]'),
        ("[jobs.a]\ncommand = 'x'\nenv = {API_KEY = 'x'}", 3, "a repository holds no secret"),
        ("[jobs.a]\ncommand = 'x'\nsecrets = ['A=b']", 3, "give names of variables alone"),
        ("[jobs.a]\ncommand = 'x --key sk-0123456789012345678901'", 2, "looks like a token or a password"),
        ("[jobs.a]\ncommand = 'x'\nparameters.url = 'https://me:pass@host/x'", 3, "looks like a token"),
        ("[jobs.a]\ncommand = 'x'\nrequirements = '../../etc/passwd'", 3, "must be a path below"),
        ("[jobs.a]\ncommand = 'x'\nsetup_script = '/etc/passwd'", 3, "must be a path below"),
        ("[jobs.a]\ncommand = 'x'\nfolder = '..'", 3, "must be a path below"),
        ("[jobs.a]\ngpus = 1", 1, "say what to run"),
        ("[jobs.a]\ncommand = 'x'\ntags = 'one'", 3, "write a list of texts"),
        ("[jobs.a]\ncommand = 'x'\ngrid = {lr = 0.1}", 3, "write its values as a list"),
        ('[jobs.a]\ncommand = "x \'y"', 2, "quote it as a shell"),
        ("[jobs.a]\ncommand = 'x'\nexclusive = 'yes'", 3, "write true or false"),
        ("[jobs.'a b']\ncommand = 'x'", 1, "a job's name is letters"),
        ("[job.a]\ncommand = 'x'", 1, "did you mean jobs?"),
    ],
)
def test_what_may_not_stand_there_is_refused_with_its_line(root: Path, text: str, line: int, words: str) -> None:
    file = written(root, text)

    with pytest.raises(UsageError, match=words) as refused:
        read(file)

    assert str(refused.value).startswith(f"{file}:{line}: ")


@pytest.mark.parametrize("content", [b"[jobs.a", b"\xff\xfe", b"jobs = 3", b"a = " + b"[" * 5000])
def test_what_cannot_be_read_is_one_sentence(root: Path, content: bytes) -> None:
    (root / "taskyard.toml").write_bytes(content)

    with pytest.raises(UsageError, match=r"taskyard\.toml"):
        read(root / "taskyard.toml")


def test_every_key_is_a_flag_of_run() -> None:
    from taskyard.cli.app import parse

    helped = parse(["run", "--", "x"])
    names = {
        "with": "with_packages",
        "tags": "tag",
        "packages": "package",
        "secrets": "secret",
        "parameters": "set",
    }
    names |= {"resources": "resource", "command": "rest", "outputs": "output", "folder": "job"}
    settings = {"queue", "project", "python", "manager", "give_up_after"}  # off the namespace unless given

    assert [key for key in KEYS if key not in settings and not hasattr(helped, names.get(key, key))] == []
