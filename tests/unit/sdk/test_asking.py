"""What people write for sizes, times, resources and containers."""

from __future__ import annotations

from pathlib import Path

import pytest
from taskyard.asking import Asked, container, environment, in_words, resources, seconds, size, size_in_words
from taskyard.errors import UsageError
from taskyard.wire import Container, Environment, Resources

GB = 1024**3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", Resources()),
        ("none", Resources(memory_bytes=0)),
        ("8GB", Resources(memory_bytes=8 * GB)),
        ("0.5", Resources(memory_fraction=0.5)),
    ],
)
def test_memory_is_a_size_a_part_an_equal_share_or_not_limited(text: str, expected: Resources) -> None:
    assert resources(Asked(memory=text), Resources(memory_bytes=1)) == expected


def test_a_part_of_a_gpu_takes_the_place_of_whole_ones_and_the_other_way_round() -> None:
    part = resources(Asked(gpu_memory="10GB"), Resources(gpus=2))

    assert part == Resources(gpu_memory_bytes=10 * GB)
    assert resources(Asked(gpus=1), part) == Resources(gpus=1)


def test_amounts_labels_and_the_worker_are_merged() -> None:
    base = Resources(custom={"licence": 1}, requires={"arch": "a100"}, worker="here")

    found = resources(Asked(resources={"tpu": 2}, require={"disk": "ssd"}, on_worker=""), base)

    assert found == Resources(custom={"licence": 1, "tpu": 2}, requires={"arch": "a100", "disk": "ssd"})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked(gpus=1, gpu_memory="1GB"), "not both"),
        (Asked(gpus=-1), "0 or more"),
        (Asked(memory="much"), "--memory: 'much' is not a size"),
        (Asked(memory="1.5.2"), "--memory"),
        (
            Asked(memory="1.5"),
            "--memory: '1.5' is not a size; write it like 8GB or 500M, a part like 0.5, auto or none",
        ),
        (Asked(resources={"LICENSE": float("nan")}), "an amount is a number"),
        (Asked(resources={"LICENSE": float("inf")}), "an amount is a number"),
        (Asked(gpu_memory="0"), "--gpu-memory 0"),
        (Asked(resources={"licence": -1}), "--resource licence=-1"),
    ],
)
def test_what_cannot_be_given_is_refused_by_its_flag(asked: Asked, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        resources(asked, Resources())


def test_a_build_of_pytorch_is_changed_alone_and_refused_by_its_flag() -> None:
    base = Environment(python="3.11")

    assert environment(Asked(), base) == base
    assert environment(Asked(torch_backend="cu126"), base) == Environment(python="3.11", torch_backend="cu126")
    with pytest.raises(UsageError, match="--torch-backend cuda: write auto, cpu, cu126"):
        environment(Asked(torch_backend="cuda"), base)


def test_a_container_is_built_from_its_parts_and_taken_away_by_none(tmp_path: Path) -> None:
    script = tmp_path / "setup.sh"
    script.write_text("make all\n")

    found = container(Asked(image="i:1", docker_args="--shm-size 8g", setup_script=script, apt=("git",)), None)

    assert found == Container(image="i:1", args=("--shm-size", "8g"), setup_script="make all\n", apt=("git",))
    assert container(Asked(image="none"), found) is None
    assert container(Asked(), None) is None


@pytest.mark.parametrize(
    "asked",
    [
        Asked(docker_args="shm"),
        Asked(docker_args="--label 'open"),
        Asked(setup_script="not-there.sh"),
        Asked(image="none", apt=("git",)),
    ],
)
def test_what_is_no_container_is_refused(asked: Asked) -> None:
    with pytest.raises(UsageError):
        container(asked, None)


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("1D2H", 93600)]
)
def test_times_are_read_as_people_write_them(text: str, expected: float) -> None:
    assert seconds(text, "--timeout") == expected


@pytest.mark.parametrize("text", ["", "0", "0h0m", "-5", "5 parsecs", "1h30", "30m1h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--timeout"):
        seconds(text, "--timeout")


def test_a_size_is_a_power_of_1024() -> None:
    assert size("1.5K") == 1536


def test_what_is_asked_for_is_said_in_words() -> None:
    asked = Resources(gpus=2, memory_bytes=8 * GB, custom={"licence": 1}, requires={"arch": "a100"}, worker="w")

    assert in_words(asked) == "2 GPUs, 8 GiB of memory, 1 licence, arch=a100, on worker w"
    assert in_words(Resources()) == ""


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("500MB", "500 MiB"),
        ("8GB", "8 GiB"),
        ("2T", "2 TiB"),
        ("1.5K", "1.5 KiB"),
        ("9", "9 B"),
        ("1000GB", "1000 GiB"),
    ],
)
def test_a_size_is_said_as_it_was_asked_for(asked: str, said: str) -> None:
    assert size_in_words(size(asked)) == said


def test_packages_are_a_list_or_words() -> None:
    assert container(Asked(apt="git curl"), None) == container(Asked(apt=("git", "curl")), None)
