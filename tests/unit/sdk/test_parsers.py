"""Every parser × every kind of value × on the line already or not: the script sees the value, or it is refused.

The scripts and parsers are real, and so are the lines that they are given. See `tests/support/parsers`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from taskyard.interface import Interface
from taskyard.rewriting import Given, Unwritable, given, typed, write
from taskyard.script_options import read_interface
from taskyard.wire import as_text

SCRIPTS = Path(__file__).parents[2] / "support" / "parsers"
VALUES: tuple[Any, ...] = (
    True, False, 3, -2, 0.5, -0.25, "word", "", "a b", "it's \"so\"", "a=b", "a\nb", "größe ☃", "-x", "--yes", "5",
    "None", "true", "back\\slash\\", "a,b", "[x]", [4, 5], [-1, 2], [], ["a", "b c"], ["a,b", "-x"], None,
)  # fmt: skip
TYPED = (
    "true",
    "false",
    "True",
    "3",
    "-2",
    "0.5",
    "1e-3",
    "word",
    "null",
    "None",
    "[4, 5]",
    '["a","b"]',
    '"5"',
    "",
)


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script, its lines, and the options that are set; `sure` are those that must not be refused."""

    file: str
    lines: tuple[tuple[str, ...], ...]
    options: dict[str, str]
    """Name that is set → where its value is in what the script prints."""
    sure: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Option → values that are written on every line but the `traps`."""
    slow: bool = False
    """Whether its parser takes a tenth of a second a line, so that few lines are run for every change."""
    traps: tuple[tuple[str, ...], ...] = ()
    """More lines, on which a list would take what comes to stand after it."""


FLAGS = (True, False)
TEXTS = ("word", "", "a b", 'it\'s "so"', "a=b", "a\nb", "größe ☃", "-x", "--yes", "5", "None", "true")
NUMBERS = (3, -2, 0.5, -0.25)
TABLE = {
    script.file: script
    for script in (
        Script(
            file="argparse_options",
            lines=(
                ("d.csv",),
                (
                    "d.csv",
                    "--amp",
                    "--no-log",
                    "--no-cache",
                    "--pin",
                    "true",
                    "--trap=yes",
                    "-b",
                    "8",
                    "--lr",
                    "0.1",
                    "--name=n",
                    "--layers",
                    "64",
                    "32",
                    "--size",
                    "3",
                    "4",
                    "--tags",
                    "a",
                    "--tags=b",
                    "--folds",
                    "x",
                ),
                ("--amp", "--layers", "8", "--lr=-1", "--tags", "a", "--batch=4", "--pin=False", "--", "d.csv"),
            ),
            options={
                name: name
                for name in (
                    "amp",
                    "log",
                    "cache",
                    "pin",
                    "trap",
                    "batch_size",
                    "lr",
                    "name",
                    "layers",
                    "size",
                    "tags",
                    "folds",
                )
            },
            sure={
                "amp": FLAGS,
                "log": FLAGS,
                "cache": FLAGS,
                "pin": FLAGS,
                "trap": FLAGS,
                "batch_size": (3, -2),
                "lr": (*NUMBERS, None),
                "name": (*TEXTS, None),
                "layers": ([4, 5], [-1, 2], None),
                "size": ([4, 5],),
                "tags": (["a", "b c"], ["a,b", "-x"], None),
                "folds": (["a", "b c"], []),
            },
        ),
        Script(
            file="argparse_commands",
            lines=(("train", "d.csv"), ("--lr", "0.5", "--verbose", "train", "d.csv", "--lr", "0.7", "--amp")),
            traps=(("--only", "a", "b", "--verbose", "train", "--layers", "1", "2", "--amp", "d.csv"),),
            options={
                "lr": "lr",
                "verbose": "verbose",
                "only": "only",
                "amp": "amp",
                "layers": "layers",
                "depth": "depth",
            },
            sure={"lr": NUMBERS, "verbose": FLAGS, "amp": FLAGS},
        ),
        Script(
            file="click_options",
            lines=(
                ("d.csv",),
                (
                    "--amp",
                    "--log",
                    "--pin",
                    "false",
                    "-b",
                    "8",
                    "--lr=0.1",
                    "--name",
                    "n",
                    "--size",
                    "3",
                    "4",
                    "--tags",
                    "a",
                    "--tags",
                    "b",
                    "d.csv",
                ),
                ("--no-amp", "d.csv", "--tags", "a"),
            ),
            options={name: name for name in ("amp", "log", "pin", "batch_size", "lr", "name", "size", "tags")},
            sure={
                "amp": FLAGS,
                "log": FLAGS,
                "pin": FLAGS,
                "batch_size": (3, -2),
                "lr": (*NUMBERS, None),
                "name": TEXTS,
                "size": ([4, 5],),
                "tags": (["a", "b c"], ["a,b", "-x"], []),
            },
        ),
        Script(
            file="click_group",
            lines=(
                ("train", "d.csv"),
                (
                    "--lr",
                    "0.5",
                    "--verbose",
                    "--tags",
                    "a",
                    "train",
                    "--lr",
                    "0.7",
                    "--no-amp",
                    "d.csv",
                    "--depth=3",
                ),
            ),
            options={"lr": "lr", "verbose": "verbose", "tags": "tags", "amp": "amp", "depth": "depth"},
            sure={"verbose": FLAGS, "tags": (["a", "b c"], []), "amp": FLAGS, "depth": (3, -2, None)},
        ),
        Script(
            file="absl_flags",
            lines=(
                (),
                (
                    "--amp",
                    "--nocache",
                    "--batch_size",
                    "8",
                    "--lr=0.1",
                    "--name",
                    "n",
                    "--layers=1,2",
                    "--tags=a",
                    "--tags",
                    "b",
                    "rest",
                ),
                ("--amp=false", "rest", "more"),
            ),
            options={name: name for name in ("amp", "cache", "batch_size", "lr", "name", "layers", "tags")},
            sure={
                "amp": FLAGS,
                "cache": FLAGS,
                "batch_size": (3, -2),
                "lr": (*NUMBERS, None),
                "name": TEXTS,
                "layers": (["a", "b c"], []),
                "tags": (["a", "b c"], ["a,b", "-x"], []),
            },
        ),
        Script(
            file="fire_function",
            slow=True,
            lines=(
                ("d.csv",),
                ("--data=d.csv", "--lr=0.5", "--noamp", "--layers=[1,2]", "--name", "n"),
                ("d.csv", "0.5", "--amp", "--name=n"),
                ("--data", "d", "--amp=True", "--seed", "7"),
            ),
            options={name: name for name in ("lr", "amp", "layers", "name", "seed", "data")},
            sure={"amp": VALUES, "seed": VALUES, "name": VALUES},
        ),
        Script(
            file="jsonargparse_function",
            slow=True,
            lines=(
                (),
                (
                    "--amp",
                    "true",
                    "--batch_size=8",
                    "--lr",
                    "0.5",
                    "--name=n",
                    "--title",
                    "t",
                    "--seed",
                    "4",
                    "--layers=[1,2]",
                    '--tags=["x"]',
                ),
            ),
            options={
                name: name for name in ("amp", "batch_size", "lr", "name", "title", "seed", "layers", "tags")
            },
            sure={
                "amp": FLAGS,
                "batch_size": (3, -2),
                "lr": NUMBERS,
                "name": TEXTS,
                "title": (*TEXTS, None),
                "seed": (3, -2, None),
                "layers": ([4, 5], [-1, 2], []),
                "tags": (["a", "b c"], ["a,b", "-x"], [], None),
            },
        ),
        Script(
            file="lightning_cli",
            slow=True,
            lines=(
                ("fit",),
                (
                    "--seed_everything=1",
                    "fit",
                    "--model.lr=0.5",
                    "--model.amp",
                    "false",
                    "--model.name=n",
                    "--model.layers=[1,2]",
                    "--trainer.max_epochs",
                    "3",
                ),
            ),
            options={"model.lr": "lr", "model.amp": "amp", "model.name": "name", "model.layers": "layers"},
        ),
        Script(
            file="tyro_function",
            slow=True,
            lines=(
                (),
                (
                    "--amp",
                    "--no-cache",
                    "--batch-size",
                    "8",
                    "--lr",
                    "0.5",
                    "--name",
                    "n",
                    "--title",
                    "t",
                    "--seed",
                    "4",
                    "--layers",
                    "1",
                    "2",
                ),
                ("--no-amp", "--batch_size", "3", "--seed", "None"),
            ),
            options={
                name: name for name in ("amp", "cache", "batch_size", "lr", "name", "title", "seed", "layers")
            },
            sure={
                "amp": FLAGS,
                "cache": FLAGS,
                "batch_size": (3, -2),
                "lr": NUMBERS,
                "name": TEXTS,
                "title": (None, "a b"),
                "seed": (3, -2, None),
                "layers": ([4, 5], [-1, 2], []),
            },
        ),
        Script(
            file="tyro_class",
            slow=True,
            lines=((), ("--lr", "0.5", "--no-amp", "--name", "n", "--batch-size", "3")),
            options={name: name for name in ("lr", "amp", "name", "batch_size")},
            sure={"lr": NUMBERS, "amp": FLAGS, "name": TEXTS, "batch_size": (3, -2)},
        ),
        Script(
            file="hydra_app",
            slow=True,
            lines=(
                (),
                ("lr=0.5", "amp=true", "name=n", "layers=[1,2]", "seed=3", "model.depth=4"),
                ("--config-name", "config", "lr=0.5"),
                ("--config-name=config",),
            ),
            options={"lr": "lr", "amp": "amp", "name": "name", "layers": "layers", "seed": "seed"},
            sure={"amp": VALUES, "seed": VALUES, "name": VALUES},
        ),
        Script(
            file="nanogpt",
            lines=((), ("--lr=0.5", "--amp=False", "--name=n", "--layers=[1,2]", "--batch_size=3")),
            options={name: name for name in ("lr", "amp", "name", "layers", "batch_size", "seed")},
            sure={
                "amp": FLAGS,
                "lr": NUMBERS,
                "name": TEXTS,
                "layers": ([4, 5], [], ["a", "b c"]),
                "batch_size": (3, -2),
            },
        ),
        Script(
            file="plain_argv",
            lines=(("--name", "n", "--lr", "0.1"), ()),
            options={"name": "--name", "lr": "--lr"},
        ),
        Script(
            file="built_in_a_loop",
            lines=((), ("--lr=0.5", "--amp=True", "--name", "n", "--layers", "[1,2]", "--batch_size=3", "--log")),
            options={name: name for name in ("lr", "amp", "name", "layers", "batch_size", "seed", "log")},
            sure={"log": FLAGS},
        ),
        Script(
            file="built_from_a_class",
            lines=((), ("--lr=0.5", "--amp", "--name", "n", "--batch_size=3")),
            options={name: name for name in ("lr", "amp", "name", "batch_size")},
        ),
        Script(
            file="built_from_a_file",
            lines=((), ("--lr=0.5", "--amp", "--cache", "--layers", "8"), ("--layers", "8", "9")),
            options={"lr": "lr", "amp": "amp", "cache": "cache", "layers": "layers"},
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One value for one option of one line."""

    line: tuple[str, ...]
    option: str
    given: Given
    refused: str = ""
    args: tuple[str, ...] = ()


def cases_of(script: Script, values: Sequence[Given]) -> Iterator[Case]:
    path = SCRIPTS / f"{script.file}.py"
    interface = read_interface(path, SCRIPTS)
    for line in (*script.lines, *script.traps):
        for option in script.options:
            for value in values:
                case = {"line": line, "option": option, "given": value}
                try:
                    written = write(line, {option: value}, interface)
                except Unwritable as refusal:
                    yield Case(**case, refused=str(refusal))
                else:
                    yield Case(**case, args=written.args)


def run_all(script: Script, lines: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    command = [sys.executable, SCRIPTS / "run_all.py", SCRIPTS / f"{script.file}.py"]
    done = subprocess.run(command, input=json.dumps(lines), capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def problem_of(case: Case, script: Script, seen: dict[str, Any], before: dict[str, Any]) -> str:
    """What is wrong with what the script saw; empty where it is the value, and all else is as it was."""
    if "failed" in seen:
        return f"the script failed: {seen['failed']}"
    values, old = dict(seen["seen"]), dict(before["seen"])
    found = values.pop(script.options[case.option], "nothing")
    old.pop(script.options[case.option], None)
    if not is_meant(found, case.given):
        return f"the script saw {found!r}"
    return "" if values == old else f"another value changed: {old} became {values}"


def is_meant(found: Any, wanted: Given) -> bool:
    """The value with its type; for an option that takes texts, its text."""
    value = wanted.value
    if isinstance(found, str) and not isinstance(value, str):
        return found == (wanted.text if wanted.text is not None else as_text(value))
    if isinstance(value, list):
        return isinstance(found, list) and [str(one) for one in found] == [str(one) for one in value]
    if isinstance(found, list):
        return len(found) == 1 and (found[0] == str(value) or is_meant(found[0], wanted))
    if wanted.text is not None and isinstance(value, str) and not isinstance(found, str):
        return str(found) == value  # a word of the person's, in the script's own language: None, True, 1e-3
    return bool(found == value and isinstance(found, bool) is isinstance(value, bool))


def assert_right_or_refused(script: Script, values: Sequence[Given]) -> None:
    cases = list(cases_of(script, values))
    written = [case for case in cases if not case.refused]
    lines = list(dict.fromkeys([*script.lines, *script.traps, *(case.args for case in written)]))
    answers = dict(zip(lines, run_all(script, lines), strict=True))
    problems = [
        f"{' '.join(case.line)!r} {case.option}={case.given} -> {case.args}: {problem}"
        for case in written
        for problem in [problem_of(case, script, answers[case.args], answers[case.line])]
        if problem
    ]
    problems += [
        f"{' '.join(case.line)!r} {case.option}={case.given} names no line: {case.refused}"
        for case in cases
        if case.refused and "like --set '" not in case.refused
    ]
    problems += [
        f"{' '.join(case.line)!r} {case.option}={case.given} is refused: {case.refused}"
        for case in cases
        if case.refused
        and case.line not in script.traps
        and any(is_same(case.given.value, sure) for sure in script.sure.get(case.option, ()))
    ]
    assert not problems, f"{len(problems)} of {len(cases)}:\n" + "\n".join(problems[:40])


def is_same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


QUICK = (True, False, 3, -2, 0.5, "word", "", "a b", "-x", [4, 5], ["a", "b c"], None)


FEW = (False, 3, "a b", [4, 5])


@pytest.mark.parametrize("name", TABLE)
def test_the_script_sees_the_value_or_it_is_refused(name: str) -> None:
    script = TABLE[name]
    if script.slow:
        script = replace(script, lines=script.lines[:1], options=dict(list(script.options.items())[:4]))

    assert_right_or_refused(script, [given(value) for value in (FEW if script.slow else QUICK)])


@pytest.mark.parametrize("value", VALUES)
def test_hydra_reads_every_value_as_it_was(value: Any) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (word,) = write((), {"name": given(value)}, Interface(parser="hydra")).args

    assert plain_of(OverridesParser.create().parse_override(word).value()) == value


def plain_of(value: Any) -> Any:
    """A value of Hydra's parser without the marks of its quotes."""
    return [plain_of(item) for item in value] if isinstance(value, list) else getattr(value, "text", value)


@pytest.mark.thorough
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", TABLE)
def test_every_value_is_seen_or_refused(name: str) -> None:
    assert_right_or_refused(TABLE[name], [given(value) for value in VALUES])


@pytest.mark.thorough
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", TABLE)
def test_what_a_person_types_is_seen_or_refused(name: str) -> None:
    script = TABLE[name]

    assert_right_or_refused(replace(script, sure={}), [typed(text) for text in TYPED])
