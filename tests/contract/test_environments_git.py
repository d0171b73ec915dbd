"""Requirements from git: by the checkout's rules and credentials, pinned to a commit, no token for a build."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.wire import Manager, Reason
from taskyard_agent.checkout import CheckoutSettings, GitSources
from taskyard_agent.errors import RunFailed

from tests.support.environments import Bench, bench_for, run
from tests.support.git_host import GitHost, fake_ssh, serving
from tests.support.repositories import ALONE, Repository

BACKEND = """
import os, pathlib, zipfile

def build_wheel(folder, settings=None, metadata=None):
    pathlib.Path(r"SEEN").write_text(repr(dict(os.environ)))
    version = pathlib.Path("version").read_text()
    name = f"gitted-{version}-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        info = f"gitted-{version}.dist-info"
        wheel.writestr("gitted.py", f"version = {version!r}")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: gitted\\nVersion: {version}\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
LOCK = """
version = 1
requires-python = ">=3.10"

[[package]]
name = "gitted"
version = "1.0"
source = {{ git = "{url}#{commit}" }}

[[package]]
name = "study"
version = "1"
source = {{ virtual = "." }}
dependencies = [{{ name = "gitted" }}]

[package.metadata]
requires-dist = [{{ name = "gitted", git = "{url}" }}]
"""
PASSWORD = "robot:s3cret-token"


@pytest.fixture
def hosted(tmp_path: Path) -> Path:
    """A folder of bare repositories: one with a package in two versions, the first one tagged."""
    folder = tmp_path / "hosted"
    folder.mkdir()
    backend = BACKEND.replace("SEEN", str(tmp_path / "seen"))
    repository = Repository.create(
        tmp_path / "package", {"pyproject.toml": PROJECT, "backend.py": backend, "version": "1.0"}
    )
    repository.git("tag", "v1")
    repository.publish(folder / "gitted.git")
    repository.git("push", "-q", str(folder / "gitted.git"), "v1")
    return folder


@pytest.fixture
def package(tmp_path: Path, hosted: Path) -> Repository:
    """The package as its author has it."""
    return Repository(tmp_path / "package")


@pytest.fixture
def host(hosted: Path) -> Iterator[GitHost]:
    with serving(hosted, password=PASSWORD) as served:
        yield served


@pytest.fixture(params=[Manager.UV, pytest.param(Manager.PIP, marks=pytest.mark.thorough)])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with bench_for(request.param, tmp_path, "http://127.0.0.1:9/simple") as ready:
        yield ready


def with_sources(bench: Bench, **settings: object) -> Bench:
    """Lets the bench read repositories as an agent with these settings does."""
    environ = {**bench.settings.variables, **ALONE, **settings.pop("environ", {})}  # type: ignore[dict-item]
    checkout = CheckoutSettings(folder=bench.settings.root / "git", environ=environ, **settings)  # type: ignore[arg-type]
    return dataclasses.replace(
        bench, git=GitSources(settings=checkout, log=bench.log.append, cancelled=threading.Event())
    )


def push(package: Repository, hosted: Path, version: str) -> None:
    """A newer version on the branch."""
    package.commit({"version": version})
    package.git("push", "-q", str(hosted / "gitted.git"), "HEAD:main")


# --- Which commit ----------------------------------------------------------------------------------------


def test_branch_is_pinned_so_that_a_push_makes_another_environment(
    bench: Bench, hosted: Path, package: Repository
) -> None:
    bench = with_sources(bench, allow_file=True)
    line = f"gitted @ git+{(hosted / 'gitted.git').as_uri()}@main\n"
    first, head = bench.from_file("requirements.txt", line), package.head
    push(package, hosted, "2.0")

    second = bench.from_file("requirements.txt", line)

    assert (first.packages[0], second.packages[0]) == ("gitted==1.0", "gitted==2.0")
    assert any(f"main of {(hosted / 'gitted.git').as_uri()} is commit {head} now" in line for line in bench.log)
    assert first.key != second.key


@pytest.mark.parametrize("revision", [', branch = "main"', ', tag = "v1"', ""])
def test_source_of_a_project_file_is_pinned_like_a_line(
    bench: Bench, hosted: Path, package: Repository, revision: str
) -> None:
    bench = with_sources(bench, allow_file=True)
    text = project_with_sources(f'gitted = {{ git = "{(hosted / "gitted.git").as_uri()}"{revision} }}')
    first = bench.from_file("pyproject.toml", text)
    push(package, hosted, "2.0")

    second = bench.from_file("pyproject.toml", text)

    assert "gitted==1.0" in first.packages
    assert ("gitted==1.0" if "tag" in revision else "gitted==2.0") in second.packages


def test_source_in_the_tree_is_used_from_there_with_what_it_takes_from_git(bench: Bench, hosted: Path) -> None:
    bench = with_sources(bench, allow_file=True)
    library = bench.tree / "libs" / "ours"
    library.mkdir(parents=True)
    (library / "ours.py").write_text("import gitted")
    needs = project_with_sources(f'gitted = {{ git = "{(hosted / "gitted.git").as_uri()}" }}', name="ours")
    (library / "pyproject.toml").write_text(needs)

    ready = bench.from_file("pyproject.toml", project_with_sources('ours = { path = "libs/ours" }', needs="ours"))

    assert run(ready, "python", "-c", "import ours; print(ours.gitted.version, ours.__file__)") == (
        f"1.0 {library / 'ours.py'}"
    )


def test_lock_of_uv_takes_what_it_pins_from_the_mirror(
    tmp_path: Path, host: GitHost, package: Repository, hosted: Path
) -> None:
    (tmp_path / "token").write_text(PASSWORD)
    with bench_for(Manager.UV, tmp_path, "http://127.0.0.1:9/simple") as plain:
        bench = with_sources(plain, tokens={f"localhost:{host.port}": tmp_path / "token"}, environ=host.environ)
        url = f"{host.address}/gitted.git"
        (bench.tree / "pyproject.toml").write_text(project_with_sources(f'gitted = {{ git = "{url}" }}'))
        lock = LOCK.format(url=url, commit=package.head)
        push(package, hosted, "2.0")

        ready = bench.from_file("uv.lock", lock)

    assert "gitted==1.0" in ready.packages


def test_member_of_a_workspace_that_the_code_does_not_hold_is_refused_by_name(
    tmp_path: Path, hosted: Path
) -> None:
    with bench_for(Manager.UV, tmp_path, "http://127.0.0.1:9/simple") as plain:
        bench = with_sources(plain, allow_file=True)
        sources = f'gitted = {{ git = "{(hosted / "gitted.git").as_uri()}" }}\nother = {{ workspace = true }}'

        with pytest.raises(
            RunFailed, match=r"pyproject.toml: .* takes other from the workspace, but no workspace"
        ):
            bench.from_file("pyproject.toml", project_with_sources(sources, needs="other"))


def project_with_sources(sources: str, *, name: str = "study", needs: str = "gitted") -> str:
    project = f'[project]\nname = "{name}"\nversion = "1"\ndependencies = ["{needs}"]\n'
    return f"{project}[tool.uv.sources]\n{sources}\n"


@pytest.mark.parametrize("how", ["tag", "commit", "short", "head"])
def test_tag_and_commit_stay_what_they_are(tmp_path: Path, hosted: Path, package: Repository, how: str) -> None:
    with bench_for(Manager.UV, tmp_path, "http://127.0.0.1:9/simple") as plain:
        bench = with_sources(plain, allow_file=True)
        first = package.head
        push(package, hosted, "2.0")
        revision = {"tag": "@v1", "commit": f"@{first}", "short": f"@{first[:10]}", "head": ""}[how]

        ready = bench.from_file("requirements.txt", f"gitted @ git+{(hosted / 'gitted.git').as_uri()}{revision}\n")

    assert ready.packages == (("gitted==2.0",) if how == "head" else ("gitted==1.0",))


def test_revision_that_is_not_there_is_named_with_its_line(tmp_path: Path, hosted: Path) -> None:
    with bench_for(Manager.UV, tmp_path, "http://127.0.0.1:9/simple") as plain:
        bench = with_sources(plain, allow_file=True)
        url = (hosted / "gitted.git").as_uri()

        with pytest.raises(RunFailed, match=r"^requirements\.txt:2: gitted @ .*has no nowhere") as caught:
            bench.from_file("requirements.txt", f"# ours\ngitted @ git+{url}@nowhere\n")

    assert (caught.value.reason, caught.value.infrastructure) == (Reason.ENVIRONMENT, False)


# --- With which credentials ------------------------------------------------------------------------------


def test_token_for_the_host_is_used_and_no_build_sees_it(bench: Bench, host: GitHost, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(PASSWORD)
    bench = with_sources(bench, tokens={f"localhost:{host.port}": token}, environ=host.environ)

    ready = bench.from_file("requirements.txt", f"gitted @ git+{host.address}/gitted.git@v1\n")

    assert run(ready, "python", "-c", "import gitted; print(gitted.version)") == "1.0"
    seen = (tmp_path / "seen").read_text()
    assert "insteadOf" in seen
    assert "s3cret-token" not in seen + "".join(bench.log)


def test_key_of_the_operator_is_used_over_ssh(bench: Bench, hosted: Path, tmp_path: Path) -> None:
    ssh = fake_ssh(tmp_path / "ssh", hosted)
    bench = with_sources(bench, ssh_command=(str(ssh),), ssh_key=tmp_path / "key")

    ready = bench.from_file("requirements.txt", f"gitted @ git+ssh://git@git.example.org{hosted}/gitted.git@v1\n")

    assert ready.packages[0] == "gitted==1.0"
    assert f"-i {tmp_path / 'key'}" in Path(f"{ssh}.calls").read_text()


def test_repository_that_refuses_this_agent_is_said_so(tmp_path: Path, host: GitHost) -> None:
    with bench_for(Manager.UV, tmp_path, "http://127.0.0.1:9/simple") as plain:
        bench = with_sources(plain, environ=host.environ, ssh_command=("false",))

        with pytest.raises(RunFailed, match=r"(?s)requirements\.txt:1: gitted .*private-repositories"):
            bench.from_file("requirements.txt", f"gitted @ git+{host.address}/gitted.git\n")


def test_repository_of_this_machine_needs_the_operators_leave(tmp_path: Path, hosted: Path) -> None:
    with bench_for(Manager.UV, tmp_path, "http://127.0.0.1:9/simple") as plain:
        bench, url = with_sources(plain), (hosted / "gitted.git").as_uri()

        with pytest.raises(RunFailed, match="--allow-file-repositories"):
            bench.from_file("requirements.txt", f"gitted @ git+{url}\n")
        with pytest.raises(RunFailed, match="not taken here"):
            plain.from_file("requirements.txt", f"gitted @ git+{url}\n")
