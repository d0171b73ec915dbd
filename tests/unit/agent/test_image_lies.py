"""What an image says and writes while an environment is built for it: the agent follows it nowhere."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from taskyard.wire import Environment, Reason, RequirementsKind
from taskyard_agent.environments import EnvironmentRequest, EnvironmentSettings, provision
from taskyard_agent.environments.image_python import find_in_image
from taskyard_agent.environments.installer import Installer
from taskyard_agent.environments.interpreters import probe
from taskyard_agent.environments.overlay import write_launcher
from taskyard_agent.environments.written import require_inside
from taskyard_agent.errors import RunFailed


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image whose every program prints the same, and that notes what it is given."""

    answer: dict[str, Any]
    given: list[tuple[Sequence[Path], Sequence[Path]]]
    key: str = "sha256:1"
    name: str = "hostile"
    shell: bool = True

    @contextlib.contextmanager
    def program(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        variables: Mapping[str, str],
        reads: Sequence[Path] = (),
        writes: Sequence[Path] = (),
    ) -> Iterator[list[str]]:
        self.given.append((reads, writes))
        yield [sys.executable, "-c", f"print({json.dumps(self.answer)!r})"]


@pytest.fixture
def settings(tmp_path: Path) -> EnvironmentSettings:
    return EnvironmentSettings(root=tmp_path / "agent", variables={"PATH": os.environ["PATH"]}, min_free_bytes=0)


@pytest.fixture
def honest(settings: EnvironmentSettings) -> dict[str, Any]:
    return dataclasses.asdict(probe(Path(sys.executable), settings))


def find(image: Image, settings: EnvironmentSettings) -> object:
    installer = Installer(
        log=print, cancelled=threading.Event(), downloads=settings.root / "downloads", place=image
    )
    return find_in_image(image, None, settings, installer)


def lent(**changes: str) -> dict[str, Any]:
    return {"lends": [[changes.get("name", "numpy"), changes.get("version", "1.0"), [], []]]}


def test_an_honest_answer_is_taken(settings: EnvironmentSettings, honest: dict[str, Any]) -> None:
    assert find(Image(answer={**honest, **lent()}, given=[]), settings) is not None


@pytest.mark.parametrize(
    "lie",
    [
        {"library": "/etc"}, {"library": "lib/../../../etc"}, {"home": "bin/python"}, {"version": "3.11/../x"},
        lent(name="/etc/cron.d/x"), lent(name="../x"), lent(version="1/../../x"), lent(version="1\n2"),
    ],
)  # fmt: skip
def test_an_answer_that_would_become_a_path_elsewhere_is_refused(
    settings: EnvironmentSettings, honest: dict[str, Any], lie: dict[str, Any]
) -> None:
    with pytest.raises(RunFailed, match="does not say what it is") as refusal:
        find(Image(answer={**honest, **lie}, given=[]), settings)

    assert refusal.value.reason is Reason.IMAGE


def plant_folder(prefix: Path, outside: Path) -> None:
    (prefix / "bin").symlink_to(outside)


def plant_cache(prefix: Path, outside: Path) -> None:
    (prefix / "lib/package").mkdir(parents=True)
    (prefix / "lib/package/__pycache__").symlink_to(outside)


def plant_pipe(prefix: Path, outside: Path) -> None:
    os.mkfifo(prefix / "pip")


@pytest.mark.parametrize("plant", [plant_folder, plant_cache, plant_pipe])
def test_what_leads_out_of_an_environment_is_refused(tmp_path: Path, plant: Callable[[Path, Path], None]) -> None:
    prefix, outside = tmp_path / "venv", tmp_path / "venv-of-another"
    prefix.mkdir()
    outside.mkdir()
    plant(prefix, outside)

    with pytest.raises(RunFailed, match="lead elsewhere"):
        require_inside(prefix)


def test_links_within_an_environment_and_to_programs_of_the_image_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib64").symlink_to("lib")
    (tmp_path / "python").symlink_to("/usr/bin/python3")

    require_inside(tmp_path)


def test_a_launcher_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "pip").symlink_to(tmp_path / "target")

    write_launcher(tmp_path / "pip", Path("/python"), b"")

    assert (tmp_path / "target").read_text() == "mine"


def test_an_image_writes_the_environment_itself_and_downloads_of_its_own(
    tmp_path: Path, settings: EnvironmentSettings, honest: dict[str, Any]
) -> None:
    image = Image(answer=honest, given=[])
    request = EnvironmentRequest(
        environment=Environment(requirements=RequirementsKind.PACKAGES, packages=("numpy",)),
        tree=tmp_path, work=tmp_path, script=None, gpus=0, overlay=tmp_path / "overlay", place=image,
    )  # fmt: skip

    with contextlib.suppress(RunFailed):  # it installs nothing
        provision(request, settings=settings, log=print, cancelled=threading.Event())

    writable = {path.relative_to(settings.root).parts for _, writes in image.given for path in writes}
    assert {parts for parts in writable if parts[0] == "downloads"} == {("downloads", "images", "sha256-1")}
    assert {parts[2:] for parts in writable if parts[0] == "environments"} == {("venv",)}
