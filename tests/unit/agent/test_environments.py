"""Interpreters, package indexes and what a failed installation means."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from taskyard.wire import Reason
from taskyard_agent.environments.indexes import IndexPolicy, configured_indexes, mask, refusal
from taskyard_agent.environments.installer import Installer, failure_of
from taskyard_agent.environments.interpreters import find_interpreter
from taskyard_agent.environments.request import EnvironmentSettings
from taskyard_agent.environments.torch_builds import build_for
from taskyard_agent.errors import RunFailed, RunStopped

from tests.support import nvml
from tests.support.waiting import becomes_true

OWN = platform.python_version()
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def installer(tmp_path: Path, log: list[str]) -> Installer:
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    return Installer(log=log.append, cancelled=threading.Event(), downloads=tmp_path, variables=variables)


def settings(tmp_path: Path, **changes: object) -> EnvironmentSettings:
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    return EnvironmentSettings(root=tmp_path, variables=variables, **changes)  # type: ignore[arg-type]


# --- Interpreters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [None, MINOR, OWN, f"python{MINOR}", f"cpython-{OWN}"])
def test_interpreter_is_found_by_its_version(tmp_path: Path, installer: Installer, wanted: str | None) -> None:
    found = find_interpreter(wanted, settings(tmp_path), installer)

    assert found.minor == MINOR
    assert found.executable == found.home


def test_another_minor_version_is_never_taken(tmp_path: Path, installer: Installer) -> None:
    with pytest.raises(RunFailed, match=rf"Python 3\.99 is not on this machine, which has .*{OWN}") as caught:
        find_interpreter("3.99", settings(tmp_path, python_downloads="never"), installer)

    assert "--python-downloads auto" in str(caught.value)
    assert caught.value.reason is Reason.ENVIRONMENT


def test_another_patch_is_taken_where_the_exact_one_is_not_to_be_had(
    tmp_path: Path, installer: Installer, log: list[str]
) -> None:
    found = find_interpreter(f"{MINOR}.99", settings(tmp_path, python_downloads="never"), installer)

    assert found.minor == MINOR
    assert f"{MINOR}.99 is not on this machine; using {found.version}" in log[-1]


def test_mirror_that_does_not_answer_may_be_the_fault_of_the_machine(tmp_path: Path, installer: Installer) -> None:
    unreachable = settings(tmp_path, python_mirror="http://127.0.0.1:9")
    quick = dataclasses.replace(
        installer, operators=frozenset({"127.0.0.1:9"}), variables={**installer.variables, "UV_HTTP_RETRIES": "0"}
    )

    with pytest.raises(RunFailed, match="could not be fetched") as caught:
        find_interpreter("3.8", unreachable, quick)

    assert (caught.value.infrastructure, caught.value.target) == (True, "")


def test_version_that_does_not_exist_is_never_right(tmp_path: Path, installer: Installer) -> None:
    with pytest.raises(
        RunFailed, match=r"No download found(.|\n)*ask for one that exists with --python"
    ) as caught:
        find_interpreter("3.99", settings(tmp_path), installer)

    assert (caught.value.reason, caught.value.infrastructure) == (Reason.ENVIRONMENT, False)


@pytest.mark.parametrize("program", ["/bin/true", "/bin/false", "/etc/passwd"])
def test_program_that_is_no_python_is_the_tasks_mistake(
    tmp_path: Path, installer: Installer, program: str
) -> None:
    with pytest.raises(RunFailed) as caught:
        find_interpreter(program, settings(tmp_path), installer)

    assert not caught.value.infrastructure


def test_words_that_are_no_version_are_refused(tmp_path: Path, installer: Installer) -> None:
    with pytest.raises(RunFailed, match=r"--python 3\.11"):
        find_interpreter("--help", settings(tmp_path), installer)


def test_answer_of_an_interpreter_is_kept_until_its_file_changes(tmp_path: Path, installer: Installer) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho x >> {tmp_path}/starts\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)

    for _ in range(2):
        find_interpreter(str(python), settings(tmp_path), installer)
    once = (tmp_path / "starts").read_text()
    python.write_text(python.read_text() + "# newer\n")
    find_interpreter(str(python), settings(tmp_path), installer)

    assert (once, (tmp_path / "starts").read_text()) == ("x\n", "x\nx\n")


# --- Indexes ---------------------------------------------------------------------------------------------


def test_settings_of_pip_are_read_the_stronger_over_the_weaker(tmp_path: Path) -> None:
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    (tmp_path / ".config" / "pip" / "pip.conf").write_text(
        "[global]\nindex-url = https://user/simple\nextra-index-url =\n  https://a/simple\n  https://b/simple\n"
        "timeout = 7\n[install]\nfind_links = https://links/\n"
    )
    (tmp_path / "named.conf").write_text("[global]\ncert = /ca.pem\nproxy = http://proxy:1\n")
    variables = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(tmp_path / "named.conf")}

    indexes = configured_indexes({**variables, "PIP_INDEX_URL": "https://variable/simple"})

    assert indexes.default == "https://variable/simple"
    assert indexes.extra == ("https://a/simple", "https://b/simple")
    assert indexes.find_links[-1:] == ("https://links/",)
    assert (indexes.certificate, indexes.proxy, indexes.timeout) == ("/ca.pem", "http://proxy:1", "7")


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("https://pypi.org/simple", True),
        ("https://PyPI.org/simple/", True),
        ("https://download.pytorch.org/whl/cu126", True),
        ("https://data.pyg.org/whl/torch-2.6.0+cpu.html", True),
        ("https://pypi.nvidia.com", True),
        ("https://mine.example/team/simple", True),
        ("https://mine.example/other/simple", False),
        ("http://pypi.org/simple", False),
        ("https://pypi.org.evil.example/simple", False),
        ("https://pypi.org@evil.example/simple", False),
        ("https://download.pytorch.org/whl/../evil", False),
        ("https://download.pytorch.org/whl/%2e%2e/evil", False),
        ("https://download.pytorch.org/whlevil", False),
        ("https://pypi.org:8443/simple", False),
        ("file:///etc", False),
        ("../wheels", False),
    ],
)
def test_only_known_indexes_are_accepted(address: str, allowed: bool) -> None:
    policy = IndexPolicy(allowed=("https://mine.example/team",))

    assert (policy.accept(address) is not None) is allowed


def test_credentials_of_the_operator_replace_those_of_the_file() -> None:
    policy = IndexPolicy(configured=("https://robot:key@mine.example/simple",))

    accepted = policy.accept("https://${USER}:${TOKEN}@mine.example/simple")

    assert accepted == "https://robot:key@mine.example/simple"


def test_credentials_are_masked_in_whatever_is_printed() -> None:
    assert mask("at https://robot:k-3y@mine/simple and git+ssh://git@host/x") == (
        "at https://***@mine/simple and git+ssh://***@host/x"
    )
    assert "secret" not in refusal("requirements.txt line 1", "https://a:secret@evil/simple")


# --- Running installers ----------------------------------------------------------------------------------


SENDING = "error sending request for url"


@pytest.mark.parametrize(
    ("words", "reason", "infrastructure", "target"),
    [
        ("error: failed to write file: No space left on device (os error 28)", Reason.DISK, True, ""),
        ("OSError: [Errno 122] Disk quota exceeded", Reason.DISK, True, ""),
        ("error: dns error: failed to lookup", Reason.PACKAGE_INDEX, True, "the package index"),
        ("Failed to establish a new connection", Reason.PACKAGE_INDEX, True, "the package index"),
        (f"{SENDING} (https://a.org/s/)\n dns error\n Name or service not known", Reason.PACKAGE_INDEX, False, ""),
        (f"{SENDING} (https://a.org/s/)\n dns error\n Temporary failure in", Reason.PACKAGE_INDEX, True, "a.org"),
        (f"{SENDING} (http://a.org:8/s/)\n Connection refused", Reason.PACKAGE_INDEX, True, "a.org:8"),
        (f"{SENDING} (https://own.org/s/)\n Name or service not known", Reason.PACKAGE_INDEX, True, ""),
        (f"{SENDING} (https://u:p@own.org/s/)\n operation timed out", Reason.PACKAGE_INDEX, True, ""),
        ("HTTPSConnectionPool(host='a.org', port=443): Max retries exceeded", Reason.PACKAGE_INDEX, True, "a.org"),
        ("HTTP status server error (503 Gone) for url (https://a.org/x)", Reason.PACKAGE_INDEX, True, "a.org"),
        ("invalid peer certificate: UnknownIssuer for url (https://a.org/x)", Reason.PACKAGE_INDEX, False, ""),
        ("No solution found: because alpha was not found", Reason.ENVIRONMENT, False, ""),
    ],
)
def test_last_words_of_an_installer_tell_whose_fault_it_was(
    words: str, reason: Reason, infrastructure: bool, target: str
) -> None:
    failure = failure_of("uv", 1, ["Resolving", words], frozenset({"own.org"}))

    assert (failure.reason, failure.infrastructure, failure.target) == (reason, infrastructure, target)
    assert words in str(failure)


def test_pytorchs_index_that_is_out_of_reach_is_named_with_its_flag() -> None:
    words = f"{SENDING} (https://download.pytorch.org/whl/cpu/torch/)\n dns error\n Name or service not known"

    failure = failure_of("uv", 1, [words])

    assert not failure.infrastructure
    assert "--torch-backend none" in str(failure)


def test_disk_that_is_really_full_is_said_so(installer: Installer, tmp_path: Path) -> None:
    with pytest.raises(RunFailed) as caught:
        installer.run(["/bin/sh", "-c", "cat /dev/zero > /dev/full"], cwd=tmp_path)

    assert caught.value.reason is Reason.DISK


def has_ended(stat: Path) -> bool:
    """Whether the process is gone, or nothing but its entry is left."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_cancel_ends_a_program_with_all_that_it_started(installer: Installer, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    program = f"trap '' TERM; sleep 60 & echo $! > {mark}; echo begun; wait; sleep 60"
    cancelling = Installer(
        log=lambda _: installer.cancelled.set(), cancelled=installer.cancelled, downloads=tmp_path, variables={}
    )

    with pytest.raises(RunStopped):
        cancelling.run(["/bin/sh", "-c", program], cwd=tmp_path)

    stat = Path(f"/proc/{mark.read_text().strip()}/stat")
    assert becomes_true(lambda: has_ended(stat))


# --- PyTorch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "build"),
    [
        ("580.65.06", "cu130"),
        ("550.54.14", "cu129"),
        ("525.60.13", "cu129"),
        ("470.82", "cu118"),
        ("390.1", "cpu"),
    ],
)
def test_build_of_pytorch_is_the_newest_that_the_driver_runs(driver: str, build: str) -> None:
    assert build_for(driver) == build


@pytest.mark.skipif(nvml.compiler() is None, reason="needs a C compiler for the stand-in of NVIDIA's library")
def test_driver_is_asked_through_nvml(tmp_path: Path) -> None:
    words = "from taskyard_agent.environments.torch_builds import *; print(build_for_this_machine())"
    variables = {**os.environ, **nvml.install(tmp_path, 1), "FAKE_NVML_DRIVER": "580.10"}

    done = subprocess.run([sys.executable, "-c", words], env=variables, capture_output=True, text=True, check=True)

    assert done.stdout == "cu130\n"
