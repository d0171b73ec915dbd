"""GPUs: which there are, which are chosen, who holds them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from taskyard.wire import Gpu
from taskyard_agent import gpus, means
from taskyard_agent.batch import BatchJob
from taskyard_agent.config import DAEMON_SETTINGS, read_settings
from taskyard_agent.errors import RunFailed, SettingsError

from tests.support import nvml

FOUR = tuple(Gpu(index=index, uuid=nvml.uuid(index), name=f"Fake GPU {index}") for index in range(4))
ASK = """
import dataclasses, json
from taskyard_agent import gpus
print(json.dumps([{**dataclasses.asdict(gpu), **gpus.measure(gpu)} for gpu in gpus.devices()]))
"""

needs_compiler = pytest.mark.skipif(nvml.compiler() is None, reason="builds a fake driver with a C compiler")


def seen_with(variables: dict[str, str]) -> list[dict]:
    """What a process with these variables sees of the machine's GPUs."""
    command = [sys.executable, "-c", ASK]
    answer = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


@needs_compiler
def test_every_gpu_is_described_and_measured(tmp_path):
    one, two = seen_with(nvml.install(tmp_path, gpus=2))

    assert one["uuid"] == nvml.uuid(0)
    assert two == {
        "index": 1,
        "uuid": nvml.uuid(1),
        "name": "Fake GPU 1",
        "memory_bytes": 80 << 30,
        "gpu_percent": 20.0,
        "gpu_memory_bytes": float(2 << 30),
        "gpu_celsius": 41.0,
    }


@needs_compiler
def test_a_gpu_that_fell_off_the_bus_is_left_out(tmp_path):
    seen = seen_with(nvml.install(tmp_path, gpus=3, lost=1))

    assert [gpu["index"] for gpu in seen] == [0, 2]


def test_a_machine_without_a_driver_has_no_gpus(tmp_path):
    assert seen_with({"LD_LIBRARY_PATH": str(tmp_path)}) == []


@pytest.mark.parametrize(
    ("selection", "indices"),
    [
        ("0,1", [0, 1]),
        ("3", [3]),
        ("2 0", [2, 0]),
        ("0-2", [0, 1, 2]),
        ("3,0-1", [3, 0, 1]),
        ("all", [0, 1, 2, 3]),
        (nvml.uuid(1), [1]),
        ("gpu-000000a2", [2]),
    ],
)
def test_gpus_are_chosen_by_index_or_uuid(selection, indices):
    assert [gpu.index for gpu in gpus.parse_selection(selection, FOUR)] == indices


@pytest.mark.parametrize(
    "selection", ["4", "-1", "0,0", "", ",", "GPU-ffff", "GPU-", "zero", "0;1", "2-1", "0,3-1", "2-4", "0-1,1"]
)
def test_a_selection_that_cannot_be_followed_is_refused(selection):
    with pytest.raises(SettingsError):
        gpus.parse_selection(selection, FOUR)


def test_a_gpu_that_is_gone_keeps_its_uuid():
    first, gone = gpus.described([nvml.uuid(0), "GPU-gone"], FOUR)

    assert first == FOUR[0]
    assert gone == Gpu(index=-1, uuid="GPU-gone")


def test_a_machine_without_gpus_says_so():
    with pytest.raises(SettingsError, match="nvidia-smi"):
        gpus.parse_selection("0", ())


def test_a_command_sees_its_gpus_and_no_other():
    assert gpus.variables(FOUR[1:3]) == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": f"{nvml.uuid(1)},{nvml.uuid(2)}",
        "NVIDIA_VISIBLE_DEVICES": f"{nvml.uuid(1)},{nvml.uuid(2)}",
    }
    assert gpus.variables(())["CUDA_VISIBLE_DEVICES"] == ""


def test_a_held_gpu_is_refused_and_its_holder_named(tmp_path):
    folder = tmp_path / "locks"
    held = gpus.lock(FOUR[:2], "task.1", folder=folder)

    with pytest.raises(RunFailed, match=r"task\.1") as refusal:
        gpus.lock(FOUR[1:], "task.2", folder=folder)

    assert refusal.value.infrastructure
    assert gpus.held(FOUR, folder=folder) == {nvml.uuid(0): "task.1", nvml.uuid(1): "task.1"}
    held.close()


def test_a_refusal_leaves_nothing_locked(tmp_path):
    held = gpus.lock(FOUR[3:], "task.1", folder=tmp_path)
    with pytest.raises(RunFailed):
        gpus.lock(FOUR, "task.2", folder=tmp_path)

    assert list(gpus.held(FOUR, folder=tmp_path)) == [nvml.uuid(3)]
    held.close()


def test_the_next_holder_learns_who_was_there_before(tmp_path):
    gpus.lock(FOUR[:1], "task.1", folder=tmp_path).close()

    after = gpus.lock(FOUR[:2], "task.2", folder=tmp_path)

    assert after.left_by == ("task.1",)
    after.close()


def test_a_gpu_stays_held_while_a_keeper_has_a_copy_of_its_lock(tmp_path):
    lock = gpus.lock(FOUR[:1], "task.1", folder=tmp_path)
    keeper = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=lock.fds)
    lock.close()

    assert gpus.held(FOUR, folder=tmp_path) == {nvml.uuid(0): "task.1"}

    keeper.communicate()

    assert gpus.held(FOUR, folder=tmp_path) == {}


def test_a_planted_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "locks"
    folder.mkdir()
    (folder / f"{nvml.uuid(0)}.lock").symlink_to(victim)

    with pytest.raises(OSError, match="symbolic link"):
        gpus.lock(FOUR[:1], "task.1", folder=folder)

    assert victim.read_text() == "precious"


def test_a_shared_gpu_is_locked_by_every_run_that_shares_it_and_by_no_other(tmp_path):
    sharing = [gpus.lock(FOUR[:1], run, shared=True, folder=tmp_path) for run in ("task.1", "task.2")]

    with pytest.raises(RunFailed, match=r"task\.1 and task\.2"):
        gpus.lock(FOUR[:1], "task.3", folder=tmp_path)

    assert gpus.held(FOUR, folder=tmp_path) == {nvml.uuid(0): "task.1 task.2"}
    assert [lock.left_by for lock in sharing] == [(), ()]
    for lock in sharing:
        lock.close()


def test_a_whole_gpu_is_not_shared(tmp_path):
    whole = gpus.lock(FOUR[:1], "task.1", folder=tmp_path)

    with pytest.raises(RunFailed, match=r"task\.1"):
        gpus.lock(FOUR[:1], "task.2", shared=True, folder=tmp_path)

    whole.close()


def test_who_shared_a_gpu_is_swept_once_nobody_does(tmp_path):
    first, second = (gpus.lock(FOUR[:1], run, shared=True, folder=tmp_path) for run in ("task.1", "task.2"))
    first.close()
    beside = gpus.lock(FOUR[:1], "task.3", shared=True, folder=tmp_path)
    second.close()
    beside.close()

    after = gpus.lock(FOUR[:1], "task.4", shared=True, folder=tmp_path)

    assert beside.left_by == ()
    assert after.left_by == ("task.1", "task.2", "task.3")
    after.close()


def test_a_folder_of_locks_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "locks").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(RunFailed, match="cannot be used"):
        gpus.lock(FOUR[:1], "task.1", folder=tmp_path / "locks")

    assert not list((tmp_path / "elsewhere").iterdir())


def test_whoever_comes_first_shares_the_locks_with_everybody(tmp_path):
    gpus.lock(FOUR[:1], "agent", folder=tmp_path / "locks/agents").close()

    modes = [stat.S_IMODE(place.stat().st_mode) for place in (tmp_path / "locks", tmp_path / "locks/agents")]

    assert modes == [0o1777, 0o1777]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root takes the locks from others")
def test_where_tasks_run_as_another_user_the_locks_are_roots_alone():
    with tempfile.TemporaryDirectory(prefix="taskyard-locks-") as place:
        os.chmod(place, 0o755)
        folder = Path(place, "locks")
        gpus.lock(FOUR[:1], "task.1", folder=folder).close()

        gpus.guard(folder)

        held = gpus.lock(FOUR[:2], "task.2", folder=folder)
        held.close()
        assert held.left_by == ("task.1",)
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.glob("*.lock")} == {0o600}
        for file in (f"{nvml.uuid(0)}.lock", "new.lock"):
            script = f"exec 9>>{folder / file}"
            refused = subprocess.run(
                ["sh", "-c", script], user="nobody", extra_groups=[], capture_output=True, check=False
            )
            assert b"ermission denied" in refused.stderr


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, [0, 1, 2, 3]),
        ("2,0", [2, 0]),
        (f"{nvml.uuid(3)},1", [3, 1]),
        ("1,9,2", [1]),
        ("1,1,2", [1]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_the_agents_own_visible_devices_are_read_as_cuda_reads_them(value, shown):
    assert [gpu.index for gpu in gpus.visible(value, FOUR)] == shown


def test_the_agents_own_visible_devices_limit_what_it_takes_and_a_line_says_so(monkeypatch, caplog):
    monkeypatch.setattr(gpus, "devices", lambda: list(FOUR))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    namespace = argparse.Namespace(server="http://127.0.0.1:9", token="t", gpus=None)
    settings = read_settings(namespace, DAEMON_SETTINGS)

    with caplog.at_level("INFO"):
        chosen = means.choose_gpus(settings)

    assert [gpu.index for gpu in chosen] == [2, 3]
    assert "CUDA_VISIBLE_DEVICES=2,3 leaves this agent 2, 3 of the machine's 4 GPUs" in caplog.text
    with pytest.raises(SettingsError, match="is not a GPU of this machine"):
        means.choose_gpus(dataclasses.replace(settings, gpus="0"))


@pytest.mark.parametrize(
    ("job", "named", "chosen"),
    [
        (BatchJob(id="7", gpus="1,2"), None, [1, 2]),
        (BatchJob(id="7", gpus=""), None, []),
        (BatchJob(id="7", gpus=""), "3", [3]),
        (BatchJob(id=""), None, [0, 1, 2, 3]),
    ],
)
def test_a_batch_job_limits_what_the_agent_takes(monkeypatch, caplog, job, named, chosen):
    monkeypatch.setattr(gpus, "devices", lambda: list(FOUR))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    namespace = argparse.Namespace(server="http://127.0.0.1:9", token="t", gpus=named)
    settings = dataclasses.replace(read_settings(namespace, DAEMON_SETTINGS), job=job)

    with caplog.at_level("INFO"):
        assert [gpu.index for gpu in means.choose_gpus(settings)] == chosen

    assert ("batch job 7: CUDA_VISIBLE_DEVICES=" in caplog.text) == (named is None and job.id == "7")


def test_what_a_batch_job_was_given_is_what_the_agent_has_to_give():
    namespace = argparse.Namespace(server="http://127.0.0.1:9", token="t", cpu_only=True)
    job = BatchJob(id="7", node="n3", cpus=4, memory_bytes=1 << 20)
    settings = dataclasses.replace(read_settings(namespace, DAEMON_SETTINGS), job=job)

    found = means.of(settings, (), ())

    assert (found.memory_bytes, found.custom) == (1 << 20, {"cpus": 4.0})
    assert means.default_name(settings, ()) == f"n3:job7:{os.getpid()}"


def test_tasks_may_read_indices_and_in_a_container_their_own_count_from_zero():
    assert gpus.variables(FOUR[2:4], by_index=True)["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert gpus.variables(FOUR[2:4], by_index=True, alone=True)["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert gpus.variables((), by_index=True)["CUDA_VISIBLE_DEVICES"] == ""


@needs_compiler
def test_a_split_gpu_is_left_out_and_named(tmp_path):
    driver = nvml.install(tmp_path, gpus=3) | {"FAKE_NVML_MIG": "1"}
    command = [sys.executable, "-c", "import logging; logging.basicConfig()\n" + ASK + "gpus.devices()"]

    seen = subprocess.run(command, env={**os.environ, **driver}, capture_output=True, text=True, check=True)

    assert [gpu["index"] for gpu in json.loads(seen.stdout)] == [0, 2]
    assert seen.stderr.count("GPU 1 is left out: it is split (MIG mode)") == 1


@pytest.mark.parametrize("words", ["MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f", "0,MIG-GPU-1/7/0"])
def test_an_instance_of_a_split_gpu_is_refused_by_name(words):
    for read in (gpus.visible, gpus.parse_selection):
        with pytest.raises(SettingsError, match="names an instance of a split GPU"):
            read(words, FOUR)
