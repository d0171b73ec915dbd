"""Command lines with parameters written in, where the source says how, and where it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from taskyard.interface import NOTHING_KNOWN, Interface, stored
from taskyard.rewriting import Given, Unwritable, differences, given, typed, write
from taskyard.script_options import nearest, read_interface
from taskyard.submission import sections
from taskyard.wire import from_json

SCRIPTS = Path(__file__).parents[2] / "support" / "parsers"


def known(script: str) -> Interface:
    return read_interface(SCRIPTS / f"{script}.py", SCRIPTS)


def line(script: str, words: str, **wanted: Any) -> str:
    values = {name: given(value) for name, value in wanted.items()}
    return " ".join(write(words.split(), values, known(script) if script else NOTHING_KNOWN).args)


@pytest.mark.parametrize(
    ("script", "words", "wanted", "expected"),
    [
        ("argparse_options", "d --layers 8", {"layers": [4, 5]}, "d --layers 4 5"),
        ("argparse_options", "d", {"tags": ["a", "b"]}, "d --tags=a --tags=b"),
        ("argparse_commands", "train d", {"verbose": True}, "--verbose train d"),
        ("argparse_commands", "train d", {"lr": 0.5}, "train d --lr=0.5"),
        ("argparse_commands", "train d", {"layers": [4, 5]}, "train d --layers 4 5"),
        ("click_group", "train d", {"verbose": True, "depth": 3}, "--verbose train d --depth=3"),
        ("absl_flags", "rest", {"amp": False}, "--noamp rest"),
        ("fire_function", "d.csv 0.5", {"lr": 1, "amp": False}, "d.csv 1 --amp=False"),
        ("hydra_app", "", {"layers": [4, 5]}, "layers=[4,5]"),
        ("nanogpt", "", {"amp": False, "lr": 1}, "--amp=False --lr=1.0"),
        ("", "--layers 64 32 --lr 1", {"layers": [4, 5, 6]}, "--layers 4 5 6 --lr 1"),
        ("", "--amp False", {"amp": True}, "--amp True"),
    ],
)
def test_the_line_is_not_torn(script: str, words: str, wanted: dict[str, Any], expected: str) -> None:
    assert line(script, words, **wanted) == expected


@pytest.mark.parametrize(
    ("script", "words", "wanted"),
    [
        ("", "--amp", {"amp": False}),
        ("", "", {"lr": 1}),
        ("", "--layers 8", {"layers": [4, 5]}),
        ("argparse_commands", "train d", {"only": ["a", "b"]}),
        ("click_group", "train d --lr 1", {"lr": 2}),
        ("built_from_a_class", "--amp", {"amp": False}),
        ("plain_argv", "", {"lr": 1}),
    ],
)
def test_what_is_not_known_is_refused_with_the_line_to_type(
    script: str, words: str, wanted: dict[str, Any]
) -> None:
    with pytest.raises(Unwritable, match=r"like --set '(train )?--\w+="):
        line(script, words, **wanted)


@pytest.mark.parametrize(
    ("words", "name", "text", "expected"),
    [
        ("--amp --x", "--amp", "False", "--amp=False --x"),
        ("--amp", "--no-amp", None, "--no-amp"),
        ("--layers 8", "--layers 4 5", None, "--layers 4 5"),
        ("train d", "train --lr", "0.5", "train d --lr=0.5"),
    ],
)
def test_words_with_dashes_go_onto_the_line_as_they_are(
    words: str, name: str, text: str | None, expected: str
) -> None:
    interface = known("argparse_commands") if words.startswith("train") else NOTHING_KNOWN
    value = Given(True) if text is None else typed(text)

    assert " ".join(write(words.split(), {name: value}, interface).args) == expected


def test_a_name_that_the_script_lacks_is_refused_with_the_nearest() -> None:
    with pytest.raises(Unwritable, match="no such option; the nearest name is lr"):
        line("argparse_options", "d --lr 1", learning_rate=0.5)
    assert [nearest("learning_rate", ["lr", "layers"]), nearest("bs", ["batch_size"])] == ["lr", "batch_size"]


def test_what_was_learned_travels_as_json() -> None:
    for script in SCRIPTS.glob("*.py"):
        interface = read_interface(script, SCRIPTS)
        assert from_json(Interface, json.loads(json.dumps(stored(interface)))) == interface


def test_options_behind_a_launcher_are_those_of_its_script() -> None:
    from dataclasses import replace

    interface = replace(known("argparse_options"), script="train.py")

    written = write(
        ["--nproc", "2", "train.py", "d", "--amp"], {"amp": Given(False), "nproc": Given(4)}, interface
    )

    assert written.args == ("--nproc", "4", "train.py", "d")


def test_a_line_before_and_after_is_told_apart_word_by_word() -> None:
    assert differences(["--cache", "--lr", "1"], ["--no-cache", "--lr", "2"]) == (
        ["--no-cache", "2"],
        ["--cache", "1"],
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("True", "True"), ("3", 3), ("1e-3", 0.001), ("null", None), ("[4, 5]", [4, 5]), ('"5"', "5"),
     ("[a]", "[a]"), ("007", "007"), ("", ""), ("9" * 30, "9" * 30), ("nan", "nan"), ("word", "word")],
)  # fmt: skip
def test_what_a_person_types_is_typed_as_json_is(text: str, value: object) -> None:
    assert typed(text).value == value
    assert type(typed(text).value) is type(value)


def test_values_of_other_libraries_are_taken_as_what_they_hold() -> None:
    class Number:
        shape = ()

        def item(self) -> float:
            return 0.5

    assert given(Number()).value == 0.5
    assert given((1, 2)).value == [1, 2]
    assert given(Path("a/b")).value == "a/b"
    assert given(float("nan")).value == "nan"


def test_names_are_sorted_into_sections() -> None:
    sorted_in = sections(
        {"lr": 1, "--amp": "False", "a/b": 2, "Model/depth": 3, "Data": {"folds": 5}}, ["lr", "a/b", "amp"]
    )

    assert sorted_in.arguments == {"lr": Given(1), "--amp": Given("False"), "a/b": Given(2)}
    assert sorted_in.sections == {"Model": {"depth": 3}, "Data": {"folds": 5}}
