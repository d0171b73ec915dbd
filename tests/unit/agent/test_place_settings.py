"""How an operator says what an agent has."""

from __future__ import annotations

import pytest
from taskyard.wire import GpuRange
from taskyard_agent import config
from taskyard_agent.allotment import UNLIMITED_SLOTS
from taskyard_agent.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "slots"), [("5", 5), ("1", 1), ("true", UNLIMITED_SLOTS), ("True", UNLIMITED_SLOTS), ("false", None)]
)
def test_services_mode_is_a_number_or_a_switch(text, slots):
    assert config.services(text) == slots


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("auto", 1.0),
        ("none", 0),
        ("8GB", 8 << 30),
        ("0.5", 0.5),
        (".25", 0.25),
        ("80%", 0.8),
        ("1", 1.0),
        ("4096", 4096),
    ],
)
def test_memory_is_a_size_or_a_part_of_the_machines(text, amount):
    read = config.memory(text)

    assert read == amount
    assert isinstance(read, type(amount))


def test_amounts_are_given_singly_or_together():
    assert config.amounts("GPU=2,LICENSE=0.5") == (("GPU", 2.0), ("LICENSE", 0.5))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("one=1", ("one", GpuRange(least=1, most=1))),
        ("lr=0.1=1-2", ("lr=0.1", GpuRange(least=1, most=2))),
        ("plain", ("plain", None)),
        ("lr=0.1", ("lr=0.1", None)),
    ],
)
def test_a_queues_number_of_gpus_is_behind_its_last_equals_sign(text, read):
    assert config.queue_with_gpus(text) == read


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (config.services, "0"),
        (config.services, "many"),
        (config.memory, "lots"),
        (config.amounts, "LICENSE"),
        (config.amounts, "LICENSE=-1"),
        (config.amounts, "A=1,,B=2"),
        (config.label, "north"),
        (config.label, "=north"),
    ],
)
def test_what_cannot_be_read_is_refused_with_an_example(read, text):
    with pytest.raises(ValueError, match="is not"):
        read(text)


def test_a_range_that_runs_backwards_is_refused():
    with pytest.raises(SettingsError, match="smaller number first"):
        config.queue_with_gpus("two=2-1")


@pytest.mark.parametrize("text", ["-1", "200", "nan", "much"])
def test_what_is_no_percentage_is_refused(text):
    with pytest.raises(ValueError):
        config.percentage(text)
