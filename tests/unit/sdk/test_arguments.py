"""Command lines as parameters and back, and what real argument parsers make of the result."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskyard.arguments import parse, read_command, write_back
from taskyard.errors import UsageError
from taskyard.wire import Command, CommandKind

WORDS = st.text(alphabet="abcxyz019.-_=+~/ :[]'\"é", max_size=8)
NAMES = st.from_regex(r"[a-z][a-z]{1,6}", fullmatch=True).filter(lambda name: not name.startswith("no"))
VALUES = st.from_regex(r"[a-z][a-z0-9./]{0,6}|-?[0-9]{1,3}(\.[0-9]{1,2})?", fullmatch=True)


@pytest.mark.parametrize(
    ("line", "parameters"),
    [
        ("--lr 0.1 --epochs=3", {"lr": "0.1", "epochs": "3"}),
        ("-b 8 -lr 0.1", {"b": "8", "lr": "0.1"}),
        ("--shift -0.5 --low -1e-3", {"shift": "-0.5", "low": "-1e-3"}),
        ("--amp --no-cache", {"amp": "true", "cache": "false"}),
        ("--tag a --tag b", {"tag": '["a", "b"]'}),
        ("--layers 64 32 --seed 1", {"layers": '["64", "32"]', "seed": "1"}),
        ("data.csv out --amp", {"1": "data.csv", "2": "out", "amp": "true"}),
        ("--lr 0.1 data.csv", {"lr": "0.1", "1": "data.csv"}),
        ("--amp -- --lr", {"amp": "true", "1": "--lr"}),
        ("model.lr=0.1 +seed=1 ~sched ++a/b=c", {"model.lr": "0.1", "+seed": "1", "~sched": "true", "++a/b": "c"}),
        ("-m lr=1,2", {"m": "true", "lr": "1,2"}),
        ("--name=", {"name": ""}),
        ("", {}),
    ],
)
def test_command_line_is_read_as_parameters(line: str, parameters: dict[str, str]) -> None:
    assert parse(line.split()) == parameters


@pytest.mark.parametrize(
    ("line", "changes", "expected"),
    [
        ("--lr 0.1 --epochs=3", {"lr": "0.5"}, "--lr 0.5 --epochs=3"),
        ("--lr 0.1 --epochs=3", {"epochs": "9"}, "--lr 0.1 --epochs=9"),
        ("--learning-rate 0.1", {"learning_rate": "0.5"}, "--learning-rate 0.5"),
        ("--name x", {"name": "--odd"}, "--name=--odd"),
        ("--shift 1", {"shift": "-2.5"}, "--shift -2.5"),
        ("--amp --lr 1", {"amp": "false"}, "--lr 1"),
        ("--no-cache --lr 1", {"cache": "true"}, "--lr 1"),
        ("--lr 1", {"amp": "true"}, "--lr 1 --amp"),
        ("--lr 1", {"amp": "false"}, "--lr 1 --no-amp"),
        ("--lr 1 -- rest", {"seed": "7"}, "--lr 1 --seed=7 -- rest"),
        ("--tag a --lr 1 --tag b", {"tag": '["c", "d", "e"]'}, "--lr 1 --tag c --tag d --tag e"),
        ("--layers 64 32", {"layers": "128 64 8"}, "--layers 128 64 8"),
        ("--layers 64 32", {"layers": "[128, 64]"}, "--layers 128 64"),
        ("in.csv --lr 1", {"1": "other.csv"}, "other.csv --lr 1"),
        ("lr=1 +seed=2", {"+seed": "3", "depth": "4"}, "lr=1 +seed=3 depth=4"),
        ("--config-name big lr=1", {"depth": "4"}, "--config-name big lr=1 depth=4"),
        ("lr=1", {"~sched": "true"}, "lr=1 ~sched"),
    ],
)
def test_changed_and_new_parameters_are_written_back(line: str, changes: dict[str, str], expected: str) -> None:
    args = line.split()

    written = write_back(args, {**parse(args), **changes})

    assert " ".join(written) == expected


def test_missing_parameter_is_taken_off_the_line() -> None:
    args = ["--lr", "0.1", "--amp", "data.csv"]
    parameters = parse(args)
    del parameters["lr"]

    assert write_back(args, parameters) == ("--amp", "data.csv")


def test_command_line_without_recorded_parameters_stays_as_it_is() -> None:
    assert write_back(["--lr", "0.1"], {}) == ("--lr", "0.1")


@given(st.lists(WORDS, max_size=8))
def test_unchanged_parameters_leave_any_command_line_byte_identical(args: list[str]) -> None:
    assert write_back(args, parse(args)) == tuple(args)


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=6), st.data())
def test_changing_one_value_changes_only_that(options: dict[str, str], data: st.DataObject) -> None:
    forms = {name: data.draw(st.sampled_from(["space", "equals", "override"])) for name in options}
    args = [word for name, value in options.items() for word in _spelled(name, value, forms[name])]
    changed = data.draw(st.sampled_from(sorted(options)))
    value = data.draw(VALUES)

    written = write_back(args, {**parse(args), changed: value})

    expected = {**options, changed: value}
    assert list(written) == [word for name in options for word in _spelled(name, expected[name], forms[name])]


def _spelled(name: str, value: str, form: str) -> list[str]:
    return {"space": [f"--{name}", value], "equals": [f"--{name}={value}"], "override": [f"{name}={value}"]}[form]


# --- Real parsers ----------------------------------------------------------------------------------------

ARGPARSE = """
import argparse, json
p = argparse.ArgumentParser()
p.add_argument("data", nargs="?")
p.add_argument("--learning-rate", type=float, default=1.0)
p.add_argument("-b", "--batch", type=int, default=1)
p.add_argument("--amp", action="store_true")
p.add_argument("--cache", action=argparse.BooleanOptionalAction, default=True)
p.add_argument("--tag", action="append")
p.add_argument("--layers", type=int, nargs="+")
print(json.dumps(vars(p.parse_args())))
"""
CLICK = """
import click, json
@click.command()
@click.argument("data")
@click.option("--learning-rate", type=float, default=1.0)
@click.option("--cache/--no-cache", default=True)
@click.option("--tag", multiple=True)
def main(**values):
    print(json.dumps(values))
main()
"""
FIRE = """
import fire, json
def main(data, learning_rate=1.0, amp=False):
    print(json.dumps({"data": data, "learning_rate": learning_rate, "amp": amp}))
fire.Fire(main)
"""
HYDRA = """
import hydra, json
from omegaconf import OmegaConf
@hydra.main(version_base=None, config_path=".", config_name="config")
def main(config):
    print(json.dumps(OmegaConf.to_container(config)))
main()
"""


@pytest.fixture(scope="session")
def parsers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has click, Fire and Hydra."""
    folder = tmp_path_factory.mktemp("parsers")
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([uv, "pip", "install", "-q", "--python", python, "click", "fire", "hydra-core"], check=True)
    return python


@pytest.mark.parametrize(
    ("script", "line", "changes", "seen"),
    [
        (ARGPARSE, "d.csv --learning-rate 0.1", {"learning_rate": "0.5", "1": "e.csv"},
         {"learning_rate": 0.5, "data": "e.csv"}),
        (ARGPARSE, "-b 8 --no-cache --amp", {"b": "16", "amp": "false", "cache": "true"},
         {"batch": 16, "amp": False, "cache": True}),
        (ARGPARSE, "--tag a --tag b --layers 64 32", {"tag": '["c"]', "layers": "[8, 4, 2]"},
         {"tag": ["c"], "layers": [8, 4, 2]}),
        (ARGPARSE, "--batch=8", {"amp": "true", "cache": "false"}, {"batch": 8, "amp": True, "cache": False}),
        (CLICK, "--learning-rate=0.1 --no-cache d.csv", {"learning-rate": "0.5", "1": "e.csv"},
         {"learning_rate": 0.5, "data": "e.csv"}),
        (CLICK, "d.csv --tag a --tag b", {"tag": '["c", "d"]', "cache": "false"},
         {"tag": ["c", "d"], "cache": False}),
        (FIRE, "d.csv --learning_rate=0.1", {"learning_rate": "0.5", "amp": "true"},
         {"data": "d.csv", "learning_rate": 0.5, "amp": True}),
        (FIRE, "--data d.csv --amp", {"data": "e.csv", "amp": "false"}, {"data": "e.csv", "amp": False}),
        (HYDRA, "model.lr=0.1", {"model.lr": "0.5", "+seed": "7"}, {"model": {"lr": 0.5, "depth": 2}, "seed": 7}),
        (HYDRA, "model.lr=0.1", {"~model.depth": "true"}, {"model": {"lr": 0.1}}),
    ],
)  # fmt: skip
def test_unmodified_scripts_see_the_overrides(
    parsers: Path, tmp_path: Path, script: str, line: str, changes: dict[str, str], seen: dict[str, object]
) -> None:
    args = line.split()
    (tmp_path / "config.yaml").write_text("model: {lr: 1.0, depth: 2}\n")
    (tmp_path / "train.py").write_text(script)

    written = write_back(args, {**parse(args), **changes})

    output = subprocess.run([parsers, "train.py", *written], cwd=tmp_path, check=True, capture_output=True).stdout
    assert json.loads(output).items() >= seen.items()


# --- Commands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("python train.py --lr 0.01", Command(target="train.py", args=("--lr", "0.01"))),
        ("train.py --lr 0.01", Command(target="train.py", args=("--lr", "0.01"))),
        ("python3.11 -u -X dev a.py", Command(target="a.py", python_args=("-u", "-X", "dev"))),
        ("python -m pkg.mod x", Command(kind=CommandKind.MODULE, target="pkg.mod", args=("x",))),
        ("python -um pkg", Command(kind=CommandKind.MODULE, target="pkg", python_args=("-u",))),
        ("/usr/bin/python3 a.py", Command(target="a.py")),
        ("torchrun --nproc 2 a.py", Command(kind=CommandKind.EXECUTABLE, target="torchrun",
                                            args=("--nproc", "2", "a.py"))),
        ("python -c 'print(1)' x", Command(kind=CommandKind.EXECUTABLE, target="python",
                                           args=("-c", "print(1)", "x"))),
    ],
)  # fmt: skip
def test_command_lines_become_commands(line: str, command: Command) -> None:
    assert read_command(line) == command


@pytest.mark.parametrize(
    ("line", "hint"),
    [("", "after `--`"), ("A=1 python x.py", "--env A=1"), ("python", "script or a module"), ("python -", "file")],
)
def test_command_that_names_nothing_to_start_is_refused(line: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        read_command(line)
