"""Agents started from a preset, on a real engine: D05."""

from __future__ import annotations

from pathlib import Path

import pytest
from taskyard.wire import TaskState
from taskyard_agent import presets

from tests.support.agents import wait_until
from tests.support.docker import IMAGE, connect, ensure_image
from tests.support.yard import Yard

LOOK = "import os; print(os.path.exists('/.dockerenv'), repr(os.environ['CUDA_VISIBLE_DEVICES']))"


def set_presets(folder: Path, text: str) -> None:
    """Writes the settings of the operator whose agent lives in the folder."""
    (folder / "config" / "taskyard").mkdir(parents=True)
    (folder / "config" / "taskyard" / "config.toml").write_text(text)


@pytest.mark.slow
def test_a_preset_is_an_agent_on_its_image_that_serves_the_queue_of_its_name(yard: Yard, tmp_path: Path) -> None:
    client = connect()
    ensure_image(client)
    client.close()
    set_presets(tmp_path, f'[presets.pytorch-cpu]\ndocker = "{IMAGE}"\n')

    with yard.agent("--preset", "pytorch-cpu", folder=tmp_path) as agent:
        wait_until(lambda: "pytorch-cpu" in {queue.name for queue in yard.client.queues()})
        task = yard.submit("python3", "-c", LOOK, queue="pytorch-cpu")
        (ended,) = yard.wait_for_end(task, seconds=120)

    assert ended.state is TaskState.COMPLETED, agent.log
    assert yard.text(task) == "True ''\n"
    assert yard.run(task).image_digest


def test_a_preset_that_is_not_there_ends_the_agent_with_those_that_are(yard: Yard) -> None:
    with yard.agent("--preset", "pytorch") as agent:
        code = agent.wait()

    assert code == 2
    assert f"no preset 'pytorch'; there is {', '.join(sorted(presets.PRESETS))}" in agent.log
