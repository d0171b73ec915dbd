"""What `--preset` stands for, and what outranks it: D05."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
from taskyard.config import Resolved, add_settings, resolve, user_table
from taskyard.errors import UsageError
from taskyard_agent import presets
from taskyard_agent.config import DAEMON_SETTINGS, read_settings
from taskyard_agent.errors import SettingsError

NAMES = [setting.name for setting in DAEMON_SETTINGS]


def resolved(name: str, own: dict[str, Any] | None = None, **sources: Any) -> Resolved:
    table = presets.preset(name, own or {}, NAMES)
    return resolve(
        DAEMON_SETTINGS, environ=sources.pop("environ", {}), preset=table, preset_origin=name, **sources
    )


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_preset_means_an_image_devices_and_a_queue_of_its_name(name: str) -> None:
    values = resolved(name)

    assert values["docker"].startswith(name.partition("-")[0])
    assert ":" in values["docker"]
    assert (values["gpus"], values["cpu_only"]) == (("all", False) if name.endswith("gpu") else (None, True))
    assert (values["queue"], values["create_queue"]) == ((name,), True)


def test_what_is_given_besides_outranks_the_preset(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('queue = ["from the file"]\ngpus = "2"\n')
    environ = {"TASKYARD_GPUS": "0,1", "TASKYARD_QUEUE": "mine"}

    values = resolved("pytorch-gpu", environ=environ, user_file=tmp_path / "config.toml")

    assert (values["gpus"], values["queue"]) == ("0,1", ("mine",))


@pytest.mark.parametrize(
    ("argv", "gpus", "cpu_only"),
    [
        (("--preset", "pytorch-gpu", "--cpu-only"), None, True),
        (("--preset", "pytorch-cpu", "--gpus", "0"), "0", False),
        (("--preset", "pytorch-gpu", "--services-mode"), None, False),
        (("--preset", "pytorch-gpu", "--no-cpu-only"), "all", False),
    ],
)
def test_what_excludes_a_setting_of_the_preset_outranks_it(
    argv: tuple[str, ...], gpus: str | None, cpu_only: bool
) -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser, DAEMON_SETTINGS)

    read = read_settings(parser.parse_args(argv), DAEMON_SETTINGS)

    assert (read.gpus, read.cpu_only) == (gpus, cpu_only)


def test_a_preset_outranks_the_files(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('queue = ["from the file"]\n')

    values = resolved("pytorch-gpu", user_file=tmp_path / "config.toml")

    assert values["queue"] == ("pytorch-gpu",)
    assert values.origin("queue") == "pytorch-gpu"


def test_the_operators_table_changes_a_preset_and_makes_new_ones(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[presets.pytorch-gpu]\ndocker = "example.org/torch:1"\n'
        '[presets.jax]\ndocker = "jax:1"\nqueue = ["fast"]\n'
    )
    own = dict(user_table(tmp_path / "config.toml", "presets"))

    changed, new = resolved("pytorch-gpu", own), resolved("jax", own)

    assert (changed["docker"], changed["gpus"]) == ("example.org/torch:1", "all")
    assert (new["docker"], new["queue"], new["gpus"]) == ("jax:1", ("fast",), None)


@pytest.mark.parametrize(
    ("name", "own", "message"),
    [
        ("pytorch", {}, "no preset 'pytorch'; there is pytorch-cpu, pytorch-gpu, tensorflow-cpu"),
        ("own", {"own": {"dokcer": "a"}}, "[presets.own] sets 'dokcer', which is no setting of an agent"),
        ("own", {"own": "image"}, "write [presets.own] above its values"),
    ],
)
def test_a_preset_that_cannot_be_followed_is_refused(name: str, own: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        presets.preset(name, own, NAMES)

    assert message in str(refusal.value)


def test_a_value_that_cannot_be_read_names_the_preset() -> None:
    with pytest.raises(UsageError) as refusal:
        resolved("pytorch-gpu", {"pytorch-gpu": {"lifetime": "soon"}})

    assert str(refusal.value).startswith("pytorch-gpu: lifetime: 'soon' is not a time span")
