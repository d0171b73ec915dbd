"""Parts of containers that need no engine: requests for GPUs and memory, the engine's frames, its socket."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskyard.wire import Container, Gpu, OutcomeKind, Reason, TaskSpec
from taskyard_agent import endings
from taskyard_agent.containers import Containers, ContainerSettings, arguments
from taskyard_agent.containers.attach import Frames, exit_code
from taskyard_agent.containers.box import Box
from taskyard_agent.containers.engine import Engine, find_socket
from taskyard_agent.containers.images import NAME, Image
from taskyard_agent.containers.kept import REPOSITORY, Uses
from taskyard_agent.containers.prepared import SetUp
from taskyard_agent.containers.records import Ended, Inside
from taskyard_agent.containers.workshop import Workshop, looked_into
from taskyard_agent.errors import RunFailed, SettingsError
from taskyard_agent.held import Cause, ExitRecord

IMAGE = Image(name="image:1", id="sha256:1", digest="image@sha256:1", architecture="amd64")
ENGINE = Engine(socket=Path("/none"), agent="agent")


def options(given_options: dict[str, Any] | None = None, **command: Any) -> dict[str, Any]:
    """What the engine is asked for a run's container."""
    shop = Workshop(engine=ENGINE, image=IMAGE, task="t", run="t.1", bundle=None, options={})
    box = Box(
        engine=ENGINE, image=IMAGE, digest="d", task="t", run="t.1", options=given_options or {}, workshop=shop
    )
    wanted: dict[str, Any] = {
        "run_dir": Path("/run"), "argv": ("true",), "work": Path("/tree"), "variables": {}, "reads": (),
        "writes": (), "gpus": (), "memory_bytes": None, "grace_seconds": 10.0,
    }  # fmt: skip
    return box.options_of(Inside(**{**wanted, **command}))


def test_an_agent_without_docker_refuses_a_task_that_reached_it_all_the_same() -> None:
    containers = Containers(settings=ContainerSettings())

    with pytest.raises(RunFailed, match="agent daemon --docker"):
        containers.wanted(TaskSpec(container=Container(image="a")))

    assert containers.wanted(TaskSpec()) is None


def test_gpus_are_asked_for_by_id() -> None:
    gpus = (
        Gpu(index=2, uuid="GPU-b", name="x", memory_bytes=1),
        Gpu(index=3, uuid="GPU-c", name="x", memory_bytes=1),
    )

    (request,) = options(gpus=gpus)["device_requests"]

    assert request["DeviceIDs"] == ["GPU-b", "GPU-c"]
    assert request["Capabilities"] == [["gpu"]]


def test_without_gpus_none_are_asked_for() -> None:
    assert "device_requests" not in options()


def test_a_run_gets_the_memory_it_was_given_and_no_swap_beside_it() -> None:
    made = options(memory_bytes=1 << 30)

    assert (made["mem_limit"], made["memswap_limit"]) == (1 << 30, 1 << 30)


def test_a_task_may_ask_for_less_memory_than_its_run_is_given_but_not_for_more() -> None:
    assert options({"mem_limit": 1 << 20}, memory_bytes=1 << 30)["mem_limit"] == 1 << 20
    assert options({"mem_limit": 1 << 40}, memory_bytes=1 << 30)["mem_limit"] == 1 << 30


def test_swap_beside_the_memory_of_a_run_is_not_for_the_task_to_have() -> None:
    assert options({"memswap_limit": 1 << 40}, memory_bytes=1 << 30)["memswap_limit"] == 1 << 30


def test_a_set_up_is_root_and_gets_no_folder_device_or_right_of_the_machine(tmp_path: Path) -> None:
    operators = arguments.operators(
        "-v /data:/data --device /dev/kvm --privileged --cap-add ALL --pid host --ipc host --network isolated "
        "--security-opt seccomp=unconfined --group-add docker --env SECRET=x --pids-limit 9"
    )
    set_up = SetUp(
        engine=ENGINE, image=IMAGE, wanted=Container(setup_script="id"), task="t", run="t.1", uses=Uses(tmp_path),
        bundle=None, options=operators, proxies={}, log=print, cancelled=threading.Event(),
    )  # fmt: skip

    made = set_up._options(tmp_path)

    assert (made["user"], made["network_mode"], made["pids_limit"]) == ("0:0", "isolated", 9)
    assert made["security_opt"] == ["no-new-privileges"]
    assert [(mount["Target"], mount["ReadOnly"]) for mount in made["mounts"]] == [("/run/taskyard/setup.sh", True)]
    assert not {"volumes", "devices", "privileged", "cap_add", "pid_mode", "ipc_mode", "group_add"} & made.keys()


def test_no_registry_can_give_an_image_that_poses_as_one_of_a_set_up() -> None:
    host, _, _ = REPOSITORY.partition("/")

    assert host.endswith(".invalid")  # RFC 6761: never resolved
    assert NAME.fullmatch(f"{REPOSITORY}:{'0' * 32}")


def test_labels_user_and_protection_hold_by_default() -> None:
    made = options({"labels": {"team": "vision"}, "security_opt": ["seccomp=x"]})

    assert made["labels"] == {
        "team": "vision",
        "taskyard.task": "t",
        "taskyard.run": "t.1",
        "taskyard.agent": "agent",
    }
    assert made["security_opt"] == ["no-new-privileges", "seccomp=x"]
    assert made["user"] == f"{os.getuid()}:{os.getgid()}"
    assert made["pids_limit"] == 4096


def test_what_builds_environments_keeps_labels_and_protection_whatever_the_operator_adds() -> None:
    operators = arguments.operators("--label team=vision --security-opt seccomp=unconfined --pids-limit 9")
    shop = Workshop(engine=ENGINE, image=IMAGE, task="t", run="t.1", bundle=None, options=operators)

    made = shop._options(["true"], Path("/tree"), {}, (), ())

    assert made["labels"] == options({"labels": {"team": "vision"}})["labels"]
    assert made["security_opt"] == ["no-new-privileges", "seccomp=unconfined"]
    assert made["pids_limit"] == 9


def test_a_container_that_is_only_looked_into_is_found_again_by_its_labels() -> None:
    assert looked_into(ENGINE, "t", "t.1", "image:1")["labels"] == options()["labels"]


def test_what_a_run_reads_is_never_writable() -> None:
    mounts = options(reads=(Path("/mirror"),), writes=(Path("/tree"),))["mounts"]

    assert {mount["Target"]: mount["ReadOnly"] for mount in mounts} == {"/mirror": True, "/tree": False}


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=8), st.data())
def test_frames_are_taken_apart_however_they_are_cut(frames: list[tuple[int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(bytes([kind, 0, 0, 0]) + len(body).to_bytes(4, "big") + body for kind, body in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    written: list[bytes] = []
    taker = Frames(written.append)

    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        taker.feed(stream[begin:end])

    assert b"".join(written) == b"".join(body for _, body in frames)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b'{"StatusCode":3}\n', 3),
        (b'1e\r\n{"StatusCode": 137, "Error": null}\r\n', 137),
        (b'{"State":{"Running":false,"ExitCode":0,"Error":""}}', 0),
        (b'{"Action":"die","Actor":{"Attributes":{"exitCode":"137","image":"a"}}}', 137),
        (b'{"Actor":{"Attributes":{"exitCode":"13', None),
        (b'{"Actor":{"Attributes":{"label":"\\"exitCode\\":\\"0\\""', None),
        (b'{"StatusCode":1', None),
        (b"", None),
    ],
)
def test_exit_codes_are_read_from_the_engines_answers(answer: bytes, code: int | None) -> None:
    assert exit_code(answer) == code


def test_the_socket_is_the_named_one_else_podmans(tmp_path: Path) -> None:
    assert find_socket({"DOCKER_HOST": "unix:///there"}) == Path("/there")
    with pytest.raises(SettingsError, match="engine on this machine"):
        find_socket({"DOCKER_HOST": "tcp://elsewhere:2375"})


def ended(**changes: Any) -> Ended:
    """A container that ended well, but for the changes."""
    return Ended(
        **{"started": True, "running": False, "exit_code": 0, "out_of_memory": False, "error": "", **changes}
    )


@pytest.mark.parametrize(
    ("error", "reason", "infrastructure"),
    [
        ('exec: "x": executable file not found in $PATH', Reason.COMMAND, False),
        ("exec /bin/sh: exec format error", Reason.IMAGE, False),
        ('could not select device driver "" with capabilities: [[gpu]]', Reason.CONTAINER, True),
        ("no space left on device", Reason.CONTAINER, True),
    ],
)
def test_a_container_that_never_started_says_why(
    tmp_path: Path, error: str, reason: Reason, infrastructure: bool
) -> None:
    record = ExitRecord(cause=Cause.EXIT, ended_at=0.0, log_bytes=0, exit_code=125)

    outcome = endings.outcome_in_container(record, ended(started=False, error=error), tmp_path / "log")

    assert (outcome.reason, outcome.infrastructure) == (reason, infrastructure)
    assert error in outcome.message


def test_an_attached_process_that_was_killed_is_a_lost_run(tmp_path: Path) -> None:
    record = ExitRecord(cause=Cause.EXIT, ended_at=0.0, log_bytes=0, signal=9)

    outcome = endings.outcome_in_container(record, ended(), tmp_path / "log")

    assert (outcome.kind, outcome.reason) == (OutcomeKind.LOST, Reason.KEEPER)


def test_a_container_that_its_engine_took_along_is_lost_by_the_machine_known_or_not(tmp_path: Path) -> None:
    record = ExitRecord(cause=Cause.EXIT, ended_at=0.0, log_bytes=0, signal=signal.SIGHUP)

    outcomes = [endings.outcome_in_container(record, known, tmp_path / "log") for known in (None, ended())]

    assert {(one.kind, one.reason, one.infrastructure) for one in outcomes} == {
        (OutcomeKind.LOST, Reason.CONTAINER, True)
    }


def test_an_exit_code_beyond_128_is_a_signal(tmp_path: Path) -> None:
    record = ExitRecord(cause=Cause.EXIT, ended_at=0.0, log_bytes=0, exit_code=139)

    outcome = endings.outcome_in_container(record, ended(exit_code=139), tmp_path / "log")

    assert (outcome.reason, outcome.signal, outcome.exit_code) == (Reason.SIGNAL, 11, None)
