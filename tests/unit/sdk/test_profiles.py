"""Profiles: which server and token are meant, and who can read them."""

from __future__ import annotations

import argparse
import os
import stat
from pathlib import Path

import pytest
from taskyard.config import Credentials, connection, usual_server
from taskyard.errors import UsageError
from taskyard.profiles import Profile, Profiles

LAB = Profile(name="lab", server="https://lab.example.org", token="of the lab")
HOME = Profile(name="home", server="https://home.example.org", token="of home")
OTHER = "https://other.example.org"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A person with two profiles, of which home is in use, and a login elsewhere."""
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    credentials = Credentials(tmp_path / "config" / "taskyard" / "credentials.json")
    credentials.save(OTHER, "of the login", default=True)
    for profile in (LAB, HOME):
        Profiles(credentials).keep(profile)
    return environ


def profiles(environ: dict[str, str]) -> Profiles:
    return Profiles(Credentials(Path(environ["XDG_CONFIG_HOME"]) / "taskyard" / "credentials.json"))


def meant(environ: dict[str, str], folder: Path, **given: str) -> tuple[str, str | None]:
    variables = {name: value for name, value in given.items() if name.isupper()}
    flags = argparse.Namespace(**{name: value for name, value in given.items() if not name.isupper()})
    where = connection(flags, environ={**environ, **variables}, folder=folder)
    return where.server, where.token


@pytest.mark.parametrize(
    ("given", "server", "token"),
    [
        ({}, HOME.server, "of home"),
        ({"profile": "lab"}, LAB.server, "of the lab"),
        ({"TASKYARD_PROFILE": "lab"}, LAB.server, "of the lab"),
        ({"profile": "home", "TASKYARD_PROFILE": "lab"}, HOME.server, "of home"),
        ({"server": OTHER}, OTHER, "of the login"),
        ({"server": OTHER, "TASKYARD_PROFILE": "lab"}, OTHER, "of the login"),
        ({"TASKYARD_SERVER": OTHER}, OTHER, "of the login"),
        (
            {"TASKYARD_SERVER": OTHER, "TASKYARD_TOKEN": "of a variable", "profile": "lab"},
            LAB.server,
            "of the lab",
        ),
        ({"TASKYARD_SERVER": LAB.server}, LAB.server, None),
    ],
)
def test_what_is_named_nearest_is_meant(
    environ: dict[str, str], tmp_path: Path, given: dict[str, str], server: str, token: str | None
) -> None:
    assert meant(environ, tmp_path, **given) == (server, token)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"server": OTHER, "profile": "lab"}, "--server and --profile name a server each"),
        ({"TASKYARD_SERVER": OTHER, "TASKYARD_PROFILE": "lab"}, "TASKYARD_SERVER and TASKYARD_PROFILE name"),
        ({"profile": "lap"}, "there is no profile 'lap'; did you mean 'lab'?"),
        ({"profile": "a b"}, "is no name of a profile"),
    ],
)
def test_what_is_ambiguous_or_unknown_is_refused(
    environ: dict[str, str], tmp_path: Path, given: dict[str, str], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        meant(environ, tmp_path, **given)


def test_without_a_profile_in_use_the_last_login_is_meant(environ: dict[str, str], tmp_path: Path) -> None:
    profiles(environ).use(None)

    assert meant(environ, tmp_path) == (OTHER, "of the login")
    assert usual_server(environ) == OTHER


def test_a_project_chooses_no_profile_and_its_server_counts_after_a_login(
    environ: dict[str, str], tmp_path: Path
) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text(f'[tool.taskyard]\nserver = "{OTHER}"\n')
    assert meant(environ, tmp_path) == (OTHER, "of the login")

    project.write_text(f'[tool.taskyard]\nserver = "{HOME.server}"\n')
    assert meant(environ, tmp_path) == (HOME.server, "of home")

    project.write_text('[tool.taskyard]\nprofile = "lab"\n')
    with pytest.raises(UsageError, match="may not set 'profile'"):
        meant(environ, tmp_path)


def test_what_serves_a_machine_follows_no_profile(environ: dict[str, str], tmp_path: Path) -> None:
    assert connection(environ=environ, folder=tmp_path, in_project=False).server == OTHER


def test_a_removed_profile_is_not_in_use_and_other_logins_stay(environ: dict[str, str], tmp_path: Path) -> None:
    kept = profiles(environ)

    kept.remove("home")

    assert (kept.current, list(kept.all())) == (None, ["lab"])
    assert meant(environ, tmp_path) == (OTHER, "of the login")


def test_tokens_are_shown_nowhere_and_readable_by_their_owner_alone(environ: dict[str, str]) -> None:
    assert "of the lab" not in repr(LAB)
    if os.name == "posix":
        assert stat.S_IMODE(profiles(environ).path.stat().st_mode) == 0o600


def test_a_damaged_profile_is_one_sentence(environ: dict[str, str], tmp_path: Path) -> None:
    file = profiles(environ).path
    file.write_text(file.read_text().replace(LAB.server, "nonsense"))

    with pytest.raises(UsageError, match="damaged at the profile 'lab'"):
        meant(environ, tmp_path, profile="lab")
