"""Settings know their value and its origin; a token reaches its own server alone."""

from __future__ import annotations

import argparse
import os
import stat
from pathlib import Path

import pytest
from taskyard.config import (
    CONNECTION_SETTINGS,
    DEFAULT_SERVER,
    Connection,
    Credentials,
    Setting,
    add_settings,
    connection,
    find_project_file,
    is_loopback,
    resolve,
    server_address,
    server_origin,
    usual_server,
)
from taskyard.errors import UsageError

PORT = Setting(name="port", kind=int, default=8420, help="a port", shared=True)
QUEUE = Setting(name="queue", many=True, default=("default",), help="queues")
EAGER = Setting(name="eager", kind=bool, default=False, help="be eager")
SETTINGS = (PORT, QUEUE, EAGER)


def parsed(*argv: str, settings: tuple[Setting, ...] = SETTINGS) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_settings(parser, settings)
    return parser.parse_args(argv)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


LOUD = Setting(name="loud", kind=int, alone="11", metavar="N", help="how loud")


@pytest.mark.parametrize(
    ("given", "port", "origin"),
    [
        (("flag", "variable", "project", "user"), 1, "flag --port"),
        (("variable", "project", "user"), 2, "TASKYARD_PORT"),
        (("project", "user"), 3, "pyproject.toml"),
        (("user",), 4, "config.toml"),
        ((), 8420, "default"),
    ],
)
def test_the_nearest_source_wins_and_is_named(
    tmp_path: Path, given: tuple[str, ...], port: int, origin: str
) -> None:
    project = written(tmp_path / "pyproject.toml", "[tool.taskyard]\nport = 3\n")
    user = written(tmp_path / "config.toml", "port = 4\n")

    resolved = resolve(
        SETTINGS,
        parsed(*(["--port", "1"] if "flag" in given else [])),
        environ={"TASKYARD_PORT": "2"} if "variable" in given else {},
        project_file=project if "project" in given else None,
        user_file=user if "user" in given else None,
    )

    assert resolved["port"] == port
    assert resolved.origin("port").endswith(origin)


def test_many_values_come_from_one_flag_or_a_quoted_variable() -> None:
    from_flag = resolve(SETTINGS, parsed("--queue", "a", "my queue"), environ={})
    from_variable = resolve(SETTINGS, environ={"TASKYARD_QUEUE": "a 'my queue'"})

    assert from_flag["queue"] == from_variable["queue"] == ("a", "my queue")


def test_values_with_spaces_of_their_own_are_parted_by_the_separator(tmp_path: Path) -> None:
    nights = Setting(name="nights", many=True, separator=";", help="")
    user = written(tmp_path / "config.toml", 'nights = ["22-6 MON-FRI", "* SAT"]\n')

    from_variable = resolve([nights], environ={"TASKYARD_NIGHTS": "22-6 MON-FRI; * SAT"})
    from_file = resolve([nights], environ={}, user_file=user)

    assert from_variable["nights"] == from_file["nights"] == ("22-6 MON-FRI", "* SAT")
    assert [value.shown for value in from_variable] == ["22-6 MON-FRI; * SAT"]


def test_a_switch_can_be_taken_back_by_its_flag() -> None:
    environ = {"TASKYARD_EAGER": "yes"}

    assert resolve(SETTINGS, environ=environ)["eager"] is True
    assert resolve(SETTINGS, parsed("--no-eager"), environ=environ)["eager"] is False


@pytest.mark.parametrize(
    ("argv", "environ", "words"),
    [
        (("--port", "many"), {}, "--port: 'many' is not a whole number"),
        ((), {"TASKYARD_PORT": "many"}, "TASKYARD_PORT: 'many' is not a whole number"),
        ((), {"TASKYARD_EAGER": "perhaps"}, "TASKYARD_EAGER: 'perhaps' is not true or false"),
        ((), {"TASKYARD_QUEUE": "a 'b"}, "TASKYARD_QUEUE: No closing quotation"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_place(
    argv: tuple[str, ...], environ: dict[str, str], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        resolve(SETTINGS, parsed(*argv), environ=environ)


def test_a_bad_choice_names_the_good_ones() -> None:
    level = Setting(name="level", choices=("low", "high"), default="low", help="a level")

    with pytest.raises(UsageError, match="TASKYARD_LEVEL: 'mid' is not one of low, high"):
        resolve((level,), environ={"TASKYARD_LEVEL": "mid"})


@pytest.mark.parametrize(("given", "value"), [((), None), (("--loud",), 11), (("--loud", "3"), 3)])
def test_a_flag_may_stand_alone_where_it_means_something(given: tuple[str, ...], value: int | None) -> None:
    assert resolve([LOUD], parsed(*given, settings=(LOUD,)), environ={})["loud"] == value


def test_all_missing_settings_are_named_at_once() -> None:
    needed = (
        Setting(name="one", required=True, help=""),
        Setting(name="two", required=True, help=""),
    )

    with pytest.raises(UsageError, match=r"--one \(or TASKYARD_ONE\), --two \(or TASKYARD_TWO\)"):
        resolve(needed, environ={})


def test_settings_that_exclude_each_other_are_refused_with_their_origins() -> None:
    resolved = resolve(SETTINGS, parsed("--eager"), environ={"TASKYARD_PORT": "1"})

    with pytest.raises(UsageError, match=r"--port \(TASKYARD_PORT\) and --eager \(flag --eager\) exclude"):
        resolved.refuse_together("port", "eager")


def test_a_project_file_may_hold_no_token(tmp_path: Path) -> None:
    project = written(tmp_path / "pyproject.toml", '[tool.taskyard]\ntoken = "x"\n')

    with pytest.raises(UsageError, match="may not hold 'token'"):
        resolve(SETTINGS, environ={}, project_file=project)


def test_a_project_file_that_sets_what_is_not_shared_is_refused_by_name(tmp_path: Path) -> None:
    project = written(tmp_path / "pyproject.toml", "[tool.taskyard]\nport = 1\neager = true\n")

    with pytest.raises(UsageError, match=r"pyproject\.toml: \[tool\.taskyard\] may not set 'eager'.*--eager"):
        resolve(SETTINGS, environ={}, project_file=project)


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    user = written(tmp_path / "config.toml", "port = \n")

    with pytest.raises(UsageError, match=r"config\.toml cannot be read"):
        resolve(SETTINGS, environ={}, user_file=user)


def test_the_nearest_project_file_with_a_table_of_ours_counts(tmp_path: Path) -> None:
    outer = written(tmp_path / "pyproject.toml", "[tool.taskyard]\n")
    inner = tmp_path / "inner"
    inner.mkdir()
    written(inner / "pyproject.toml", "[tool.other]\n")

    assert find_project_file(inner) == outer


# --- servers


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("HTTP://Example.ORG:80/", "http://example.org"),
        ("https://example.org:443/yard/", "https://example.org/yard"),
        ("http://127.0.0.1:8420", "http://127.0.0.1:8420"),
        ("http://[::1]:8420", "http://[::1]:8420"),
    ],
)
def test_an_address_has_one_spelling(text: str, address: str) -> None:
    assert server_address(text) == address


@pytest.mark.parametrize(
    "text", ["example.org:8420", "ftp://example.org", "http://me:secret@example.org", "http://h:x"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|port"):
        server_address(text)


def test_credentials_are_keyed_by_scheme_host_and_port() -> None:
    assert server_origin("https://Example.org/yard") == server_origin("https://example.org:443")
    assert server_origin("http://example.org") != server_origin("https://example.org")


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("http://localhost:1", True),
        ("http://127.9.9.9", True),
        ("http://[::1]", True),
        ("http://127.0.0.1.example.org", False),
        ("http://10.0.0.1", False),
    ],
)
def test_loopback_is_told_from_names_that_look_like_it(server: str, expected: bool) -> None:
    assert is_loopback(server) is expected


# --- credentials


def test_a_token_is_kept_for_its_server_alone_in_a_private_file(tmp_path: Path) -> None:
    credentials = Credentials(tmp_path / "credentials.json")

    credentials.save("http://Example.org:8420", "one")
    credentials.save("http://example.org:8421", "two")

    assert credentials.token("HTTP://EXAMPLE.ORG:8420/") == "one"
    assert credentials.token("https://example.org:8420") is None
    if os.name == "posix":
        assert stat.S_IMODE(credentials.path.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["credentials.json"]


def test_a_forgotten_token_is_gone(tmp_path: Path) -> None:
    credentials = Credentials(tmp_path / "credentials.json")
    credentials.save("http://example.org", "one", default=True)

    assert credentials.forget("http://example.org")

    assert not credentials.forget("http://example.org")
    assert credentials.token("http://example.org") is None
    assert credentials.default_server is None


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_a_credentials_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    credentials = Credentials(tmp_path / "credentials.json")
    credentials.save("http://example.org", "one")
    credentials.path.chmod(0o644)

    with pytest.raises(UsageError, match="chmod 600"):
        credentials.token("http://example.org")


def test_a_damaged_credentials_file_is_named(tmp_path: Path) -> None:
    credentials = Credentials(tmp_path / "credentials.json")
    credentials.save("http://example.org", "one")
    credentials.path.write_text("[]")

    with pytest.raises(UsageError, match="damaged"):
        credentials.token("http://example.org")


# --- connection


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A user whose token for http://known.example is kept."""
    Credentials(tmp_path / "taskyard" / "credentials.json").save("http://known.example", "kept", insecure=True)
    return tmp_path


def connected(home: Path, environ: dict[str, str], *argv: str, folder: Path | None = None) -> Connection:
    namespace = parsed(*argv, settings=CONNECTION_SETTINGS)
    return connection(namespace, environ={"XDG_CONFIG_HOME": str(home), **environ}, folder=folder or home)


def test_a_kept_token_goes_to_its_server(home: Path) -> None:
    link = connected(home, {}, "--server", "http://known.example")

    assert (link.token, link.insecure) == ("kept", True)


def test_a_cloned_project_that_names_another_server_gets_no_token(home: Path) -> None:
    project = home / "project"
    project.mkdir()
    written(project / "pyproject.toml", '[tool.taskyard]\nserver = "http://evil.example"\n')

    link = connected(home, {"TASKYARD_TOKEN": "mine"}, folder=project)

    assert (link.server, link.token) == (DEFAULT_SERVER, None)
    assert "http://evil.example, to which you have not logged in" in link.passed_over
    assert f"{DEFAULT_SERVER} is used" in link.passed_over


def test_a_projects_server_counts_where_credentials_for_it_are_kept(home: Path) -> None:
    Credentials(home / "taskyard" / "credentials.json").save("http://mine.example", "other", default=True)
    written(home / "pyproject.toml", '[tool.taskyard]\nserver = "http://known.example"\n')

    link = connected(home, {})

    assert (link.server, link.token, link.passed_over) == ("http://known.example", "kept", "")


@pytest.mark.parametrize("argv", [("--server", "http://evil.example"), ()])
def test_server_that_a_person_names_needs_no_credentials(home: Path, argv: tuple[str, ...]) -> None:
    written(home / "pyproject.toml", '[tool.taskyard]\nserver = "http://evil.example"\n')
    environ = {} if argv else {"TASKYARD_SERVER": "http://evil.example"}

    link = connected(home, environ, *argv)

    assert (link.server, link.passed_over) == ("http://evil.example", "")


def test_usual_server_is_that_of_the_person(home: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(home), "TASKYARD_SERVER": "http://other.example"}

    assert usual_server(environ) == DEFAULT_SERVER
    Credentials(home / "taskyard" / "credentials.json").save("http://mine.example", "other", default=True)
    assert usual_server(environ) == "http://mine.example"


@pytest.mark.parametrize(("name", "value"), [("ca_file", '"theirs.pem"'), ("insecure", "true")])
def test_a_cloned_project_decides_neither_whom_to_trust_nor_what_is_plain(
    home: Path, name: str, value: str
) -> None:
    written(home / "pyproject.toml", f"[tool.taskyard]\n{name} = {value}\n")

    with pytest.raises(UsageError, match=f"may not set '{name}'"):
        connected(home, {}, "--server", "http://known.example")


def test_what_serves_a_machine_asks_no_project(home: Path) -> None:
    written(home / "pyproject.toml", '[tool.taskyard]\nserver = "http://evil.example"\ninsecure = true\n')
    environ = {"XDG_CONFIG_HOME": str(home)}

    link = connection(environ=environ, folder=home, in_project=False)

    assert (link.server, link.insecure) == (DEFAULT_SERVER, False)


@pytest.mark.parametrize(
    ("named", "token"), [("http://other.example", "mine"), ("http://elsewhere.example", None), ("nonsense", None)]
)
def test_a_variables_token_goes_only_to_the_server_that_a_variable_names(
    home: Path, named: str, token: str | None
) -> None:
    environ = {"TASKYARD_TOKEN": "mine", "TASKYARD_SERVER": named}

    assert connected(home, environ, "--server", "http://other.example").token == token


def test_the_server_of_the_last_login_is_the_default(home: Path) -> None:
    credentials = Credentials(home / "taskyard" / "credentials.json")
    credentials.save("http://known.example", "kept", default=True)

    assert connected(home, {}).server == "http://known.example"
    assert connected(home, {"TASKYARD_SERVER": "http://other.example"}).server == "http://other.example"


def test_a_connection_shows_no_token(home: Path) -> None:
    assert "kept" not in repr(connected(home, {}, "--server", "http://known.example"))
