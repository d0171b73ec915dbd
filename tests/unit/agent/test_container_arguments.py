"""The allow-list of container arguments: what is read, what is refused, and that nothing slips through."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taskyard.wire import Reason
from taskyard_agent.containers import arguments
from taskyard_agent.containers.images import NAME
from taskyard_agent.errors import RunFailed

FOR_TASKS = {
    "environment", "mem_limit", "memswap_limit", "mem_reservation", "shm_size", "nano_cpus", "cpuset_cpus",
    "cpu_shares", "ulimits", "working_dir", "platform", "tmpfs", "labels", "hostname", "extra_hosts", "init",
    "read_only", "stop_signal", "network_mode",
}  # fmt: skip
REFUSED = (
    "--privileged", "--volume=/:/host", "-v=/:/host", "--device=/dev/mem", "--pid=host", "--ipc=host",
    "--network=host", "--net=container:x", "--cap-add=ALL", "--security-opt=seccomp=unconfined", "--user=0",
    "--userns=host", "--uts=host", "--cgroup-parent=/", "--runtime=other", "--pids-limit=-1", "--gpus=all",
    "--mount=type=bind,src=/,dst=/host", "--volumes-from=x", "--init=false", "--memory-swap=-1", "--publish=80:80",
    "--label=taskyard.run=x", "--label=TASKYARD.task=x", "--entrypoint=sh", "--name=x", "--no-such", "word", "-it",
    "--ulimit=rtprio=99", "--ulimit=nice=40", "--env-file=/etc/shadow", "--priv",
    "--workdir=../x", "--workdir=/a/../../b", "--tmpfs=/x:exec;rm", "--env=A", "--memory=much", "--cpus=0",
)  # fmt: skip


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (("--env=A=b=c", "-e", "C=", "-eD=1"), {"environment": {"A": "b=c", "C": "", "D": "1"}}),
        (("-m", "512m", "--memory-swap=1g"), {"mem_limit": 512 << 20, "memswap_limit": 1 << 30}),
        (("--shm-size=8G",), {"shm_size": 8 << 30}),
        (("--cpus", "1.5", "--cpuset-cpus=0-2,4"), {"nano_cpus": 1_500_000_000, "cpuset_cpus": "0-2,4"}),
        (("--workdir=/work", "--platform=linux/amd64"), {"working_dir": "/work", "platform": "linux/amd64"}),
        (("--tmpfs", "/fast:size=1g", "--tmpfs=/more"), {"tmpfs": {"/fast": "size=1g", "/more": ""}}),
        (("-l", "team=vision", "--hostname=box"), {"labels": {"team": "vision"}, "hostname": "box"}),
        (("--read-only", "--init", "--network=none"), {"read_only": True, "init": True, "network_mode": "none"}),
        (("--add-host=db:10.0.0.1",), {"extra_hosts": {"db": "10.0.0.1"}}),
    ],
)
def test_arguments_on_the_list_become_the_engines(given_: tuple[str, ...], expected: dict[str, object]) -> None:
    assert arguments.tasks(given_) == expected


def test_limits_are_read_and_collected() -> None:
    read = arguments.tasks(("--ulimit=nofile=10:20", "--ulimit", "core=0"))

    assert [dict(limit) for limit in read["ulimits"]] == [
        {"Name": "nofile", "Soft": 10, "Hard": 20},
        {"Name": "core", "Soft": 0, "Hard": 0},
    ]


@pytest.mark.parametrize("argument", REFUSED)
def test_what_is_not_on_the_list_is_refused_by_name(argument: str) -> None:
    with pytest.raises(RunFailed) as refusal:
        arguments.tasks((argument,))

    assert refusal.value.reason is Reason.CONTAINER
    assert not refusal.value.infrastructure
    assert argument.partition("=")[0] in str(refusal.value)


def test_an_argument_without_its_value_says_so() -> None:
    with pytest.raises(RunFailed, match="--memory needs a value"):
        arguments.tasks(("--memory",))


def test_the_operators_leave_adds_one_name_alone() -> None:
    assert arguments.tasks(("--volume=/data:/data:ro",), allowed=("volume",)) == {"volumes": ["/data:/data:ro"]}

    with pytest.raises(RunFailed):
        arguments.tasks(("--privileged",), allowed=("volume",))


def test_the_operators_own_arguments_are_not_limited() -> None:
    read = arguments.operators("--network host --ipc=host -v '/my data:/data' --cap-add SYS_PTRACE --privileged")

    assert read == {
        "network_mode": "host",
        "ipc_mode": "host",
        "volumes": ["/my data:/data"],
        "cap_add": ["SYS_PTRACE"],
        "privileged": True,
    }


def test_a_tasks_arguments_win_over_the_operators_and_lists_are_joined() -> None:
    joined = arguments.merge(
        {"shm_size": 1, "environment": {"A": "1"}}, {"shm_size": 2, "environment": {"B": "2"}}
    )

    assert joined == {"shm_size": 2, "environment": {"A": "1", "B": "2"}}


def test_what_the_operator_confines_no_task_widens() -> None:
    operators = arguments.operators("--network isolated --read-only --memory 1g --env A=1")

    joined = arguments.together(operators, ("--network=bridge", "--read-only=false", "--memory=64g", "--env=B=2"))

    assert joined == {**operators, "environment": {"A": "1", "B": "2"}}


def test_the_operators_leave_lets_a_task_change_what_the_operator_has_set() -> None:
    operators = arguments.operators("--shm-size 1g --cpus 2")

    joined = arguments.together(operators, ("--shm-size=2g", "--cpus=64"), allowed=("shm-size",))

    assert joined == {"shm_size": 2 << 30, "nano_cpus": 2_000_000_000}


FOR_EVERYBODY = (
    "add-host", "cpu-shares", "cpus", "cpuset-cpus", "env", "hostname", "init", "label", "memory",
    "memory-reservation", "memory-swap", "network", "platform", "read-only", "shm-size", "stop-signal", "tmpfs",
    "ulimit", "workdir",
)  # fmt: skip
"""Each touches the task's own container alone, with the values that are let through."""


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs Docker's command line, not its engine")
def test_every_argument_of_dockers_is_on_the_list_or_refused() -> None:
    told = subprocess.run(["docker", "run", "--help"], capture_output=True, text=True, check=True).stdout
    names = re.findall(r"^ {2,6}(?:(-\w), )?(--[\w-]+)", told, re.MULTILINE)
    values = ("", "true", "host", "1", "/", "/:/host", "a=b", "ALL", "container:other", "no-such=/x")

    through = {long for short, long in names for value in values if passes(short, long, value)}

    assert len(names) > 90
    assert through <= {f"--{name}" for name in FOR_EVERYBODY}


def test_joined_switches_hide_nothing() -> None:
    assert not any(goes_through(words) for words in (("-itv", "/:/host"), ("-itv=/:/host",), ("-div/:/host",)))


def passes(short: str, long: str, value: str) -> bool:
    words = [
        (long,),
        (f"{long}={value}",),
        (long, value),
        *([(short, value), (f"{short}{value}",)] if short else []),
    ]
    return any(goes_through(given_) for given_ in words)


def goes_through(words: tuple[str, ...]) -> bool:
    try:
        arguments.tasks(words)
    except RunFailed:
        return False
    return True


WORDS = st.one_of(
    st.sampled_from([*arguments.BY_NAME, *arguments.SET_BY_US, *REFUSED]),
    st.builds("{}={}".format, st.sampled_from(list(arguments.BY_NAME)), st.text(max_size=12)),
    st.text(max_size=12),
)


@given(st.lists(WORDS, max_size=6))
def test_nothing_outside_the_list_ever_passes(words: list[str]) -> None:
    try:
        read = arguments.tasks(words)
    except RunFailed:
        return

    assert set(read) <= FOR_TASKS
    assert read.get("network_mode", "none") in ("none", "bridge")
    assert not any(label.lower().startswith("taskyard.") for label in read.get("labels", ()))


@pytest.mark.parametrize(
    "name",
    ["python:3.12", "host:5000/a/b@sha256:" + "0" * 64, "sha256:" + "1" * 64, "nvcr.io/nvidia/pytorch:24.03-py3"],
)
def test_names_of_images_are_known(name: str) -> None:
    assert NAME.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["", "-x", "--privileged", "Python", "a b", "a:b:c", "a;b", "../a", "a@sha256:12", "a\n"]
)
def test_what_names_no_image_is_refused(name: str) -> None:
    assert NAME.fullmatch(name) is None
