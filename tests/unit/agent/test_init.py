"""The files of a custom worker: D05."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path
from typing import Any

import pytest
from taskyard.config import Connection
from taskyard_agent.errors import SettingsError
from taskyard_agent.scaffold import CustomWorker, write


def worker(
    server: str = "https://yard.example.org",
    *,
    insecure: bool = False,
    ca_file: Path | None = None,
    **words: Any,
) -> CustomWorker:
    link = Connection(server=server, token="sesame-open", insecure=insecure, ca_file=ca_file)
    return CustomWorker(link=link, **{"name": "torch", "queue": "gpu", "base": "example.org/base:1", **words})


def daemon_arguments(compose: str) -> list[str]:
    (line,) = re.findall(r"^ +command: (\[.*\])$", compose, flags=re.MULTILINE)
    return [str(word) for word in json.loads(line)]


def test_a_new_folder_holds_an_image_a_unit_and_what_to_do_with_them(tmp_path: Path) -> None:
    written = write(tmp_path / "new", worker(), force=False)

    assert {path.name for path in written} == {
        *("Dockerfile", ".dockerignore", ".gitignore", "README.md"),
        *("compose.yaml", "requirements.txt", "worker.service"),
    }
    assert not [path for path in written if "@{" in path.read_text() or "sesame" in path.read_text()]


def test_the_agent_is_told_its_name_its_queue_and_a_file_with_its_token(tmp_path: Path) -> None:
    write(tmp_path, worker(), force=False)

    compose = (tmp_path / "compose.yaml").read_text()
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(tmp_path / "worker.service")
    wanted = ["--server", "https://yard.example.org", "--queue", "gpu", "--name", "torch", "--token-file"]
    assert daemon_arguments(compose) == [*wanted, "/run/secrets/token"]
    assert unit["Service"]["ExecStart"].split()[-8:] == [*wanted, "%d/token"]
    assert "ARG BASE=example.org/base:1\n" in (tmp_path / "Dockerfile").read_text()
    assert "network_mode" not in compose


def test_a_server_on_this_machine_is_reached_through_its_network(tmp_path: Path) -> None:
    write(tmp_path, worker("http://127.0.0.1:8080"), force=False)

    assert "    network_mode: host" in (tmp_path / "compose.yaml").read_text()


def test_plain_http_that_was_agreed_to_is_agreed_to_by_the_agent(tmp_path: Path) -> None:
    write(tmp_path, worker("http://yard.example.org", insecure=True), force=False)

    assert daemon_arguments((tmp_path / "compose.yaml").read_text())[-1] == "--insecure"
    assert "/token --insecure\n" in (tmp_path / "worker.service").read_text()


def test_a_certificate_of_the_servers_own_goes_along(tmp_path: Path) -> None:
    authority = tmp_path / "authority.pem"
    authority.write_text("certificate")
    authority.chmod(0o600)

    written = write(tmp_path / "new", worker(ca_file=authority), force=False)

    flags = ["--ca-file", "/opt/worker/ca.pem"]
    assert tmp_path / "new" / "ca.pem" in written
    assert (tmp_path / "new" / "ca.pem").read_text() == "certificate"
    assert (tmp_path / "new" / "ca.pem").stat().st_mode & 0o777 == 0o644
    assert daemon_arguments((tmp_path / "new" / "compose.yaml").read_text())[-2:] == flags
    assert f"/token {' '.join(flags)}\n" in (tmp_path / "new" / "worker.service").read_text()
    assert "\ninstall -D --mode 0644 ca.pem /opt/worker/ca.pem\n" in (tmp_path / "new" / "README.md").read_text()


def test_a_certificate_that_cannot_be_read_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no\.pem: No such file"):
        write(tmp_path / "new", worker(ca_file=tmp_path / "no.pem"), force=False)

    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_is_overwritten_by_force_alone(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("mine")
    (tmp_path / "notes").write_text("mine too")
    with pytest.raises(SettingsError, match="is not an empty folder: name another, or overwrite"):
        write(tmp_path, worker(), force=False)
    assert (tmp_path / "Dockerfile").read_text() == "mine"

    write(tmp_path, worker(), force=True)

    assert (tmp_path / "Dockerfile").read_text() != "mine"
    assert (tmp_path / "notes").read_text() == "mine too"


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match="is not an empty folder"):
        write(tmp_path / "file", worker(), force=True)


@pytest.mark.parametrize("words", [{"name": "a b"}, {"queue": 'q"'}, {"base": "a\nUSER root"}, {"name": "--all"}])
def test_words_that_would_mean_something_in_the_files_are_refused(words: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="cannot stand in a command"):
        worker(**words)
