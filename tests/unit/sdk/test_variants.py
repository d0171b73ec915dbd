"""Grids of parameters, and the names of variants."""

from __future__ import annotations

import pytest
from taskyard.errors import UsageError
from taskyard.variants import combinations, grid_of, in_words, name_of, names, read_grid


def test_the_last_axis_changes_fastest_and_values_are_typed_as_set_types_them() -> None:
    found = list(combinations(read_grid(["lr=0.1,0.01", "opt=adam,true"])))

    assert [{name: value.value for name, value in each.items()} for each in found] == [
        {"lr": 0.1, "opt": "adam"},
        {"lr": 0.1, "opt": True},
        {"lr": 0.01, "opt": "adam"},
        {"lr": 0.01, "opt": True},
    ]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("layers=[4,5],[8]", [[4, 5], [8]]),
        ('names="a,b",c', ["a,b", "c"]),
        ("lr = 1".replace(" ", ""), [1]),
        ("seed=1, 2", [1, 2]),
        ("--amp=True,False", ["True", "False"]),
        (r'q="say \"a,b\"",d', ['say "a,b"', "d"]),
    ],
)
def test_commas_inside_of_brackets_and_quotes_do_not_separate(text: str, values: list[object]) -> None:
    (axis,) = read_grid([text])

    assert [value.value for value in axis.values] == values


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["lr"], "write it as NAME=VALUE,VALUE"),
        (["lr="], "write it as NAME=VALUE,VALUE"),
        (["lr=1,,2"], "a value is missing"),
        (["lr=1,1"], "1 stands there twice"),
        (["lr=1", "--lr=2"], "names --lr twice"),
        (["a=" + ",".join(map(str, range(40))), "b=" + ",".join(map(str, range(40)))], "makes 1600 variants"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_refused(texts: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_grid(texts)


def test_the_number_and_the_values_are_said() -> None:
    assert in_words(read_grid(["lr=0.1,0.01", "opt=adam,sgd"])) == "4: lr 0.1 0.01 × opt adam sgd"


def test_variants_are_named_by_what_differs_and_never_alike() -> None:
    axes = grid_of({"Args/data": ["x" * 80 + "1", "x" * 80 + "2"]})

    first, second = names("train", list(combinations(axes)))

    assert first == f"train data={'x' * 39}…"
    assert second == f"{first} #2"


@pytest.mark.parametrize(
    ("base", "differs", "name"),
    [
        ("train", {"lr": "0.1"}, "train lr=0.1"),
        ("train lr=0.1", {"lr": "0.01"}, "train lr=0.01"),
        ("train lr=0.1 opt=adam", {"lr": "1"}, "train lr=1 opt=adam"),
        ("train lr=0.1", {"opt": "sgd"}, "train lr=0.1 opt=sgd"),
        ("train", {}, "train (copy)"),
        ("train (copy)", {}, "train (copy)"),
        ("train (copy)", {"lr": "1"}, "train lr=1"),
        ("", {"lr": "1"}, "lr=1"),
        ("my first run", {"note": "a b\tc"}, "my first run note=a_b_c"),
        ("train", {"--no-amp": "true"}, "train no-amp=true"),
    ],
)
def test_a_copy_is_named_by_what_differs(base: str, differs: dict[str, str], name: str) -> None:
    assert name_of(base, differs) == name


def test_no_name_is_longer_than_a_server_takes() -> None:
    assert len(name_of("train", {f"parameter{number}": "x" * 100 for number in range(20)})) == 200
