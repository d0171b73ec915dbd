"""One suite for every manager that builds environments, and what they promise to a run."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from taskyard.wire import Manager, Reason, RequirementsKind
from taskyard_agent.environments import (
    EnvironmentRequest,
    cache,
    pip,
    uv,
)
from taskyard_agent.environments.downloads import downloads_of
from taskyard_agent.environments.indexes import PYTORCH_INDEX
from taskyard_agent.environments.interpreters import probe
from taskyard_agent.environments.torch_builds import build_for_this_machine
from taskyard_agent.errors import RunFailed, RunStopped

from tests.support.environments import Bench, bench_for, operator_variables, run
from tests.support.waiting import becomes_true
from tests.support.wheels import PackageIndex, make_wheel, package_index, sha256


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PackageIndex]:
    with package_index(tmp_path / "wheels") as served:
        served.add("alpha", "1.0")
        served.add("alpha", "2.0", requires=["beta"])
        served.add("beta", "1.0")
        yield served


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """virtualenv's own cache, shared because unpacking its pip takes longer than most tests."""
    return tmp_path_factory.mktemp("seeds")


@pytest.fixture(params=[Manager.UV, pytest.param(Manager.PIP, marks=pytest.mark.thorough)])
def bench(request: pytest.FixtureRequest, tmp_path: Path, index: PackageIndex, seeds: Path) -> Iterator[Bench]:
    (tmp_path / "agent" / "downloads").mkdir(parents=True)
    (tmp_path / "agent" / "downloads" / "virtualenv").symlink_to(seeds)
    with bench_for(request.param, tmp_path, index.url) as ready:
        yield ready


at_every_change = pytest.mark.parametrize("bench", [Manager.UV, Manager.PIP], indirect=True)
"""For the few cases that `make test` tries with pip, too."""


@pytest.fixture
def pip_bench(tmp_path: Path, index: PackageIndex) -> Iterator[Bench]:
    with bench_for(Manager.PIP, tmp_path, index.url) as ready:
        yield ready


@pytest.fixture
def uv_bench(tmp_path: Path, index: PackageIndex) -> Iterator[Bench]:
    with bench_for(Manager.UV, tmp_path, index.url) as ready:
        yield ready


# --- Building and reusing --------------------------------------------------------------------------------


def test_packages_and_what_they_need_are_installed(bench: Bench) -> None:
    ready = bench.provision("alpha==2.0")

    assert {"alpha==2.0", "beta==1.0"} <= set(ready.packages)
    assert run(ready, "python", "-c", "import alpha, beta; print(alpha.version)") == "2.0"
    assert ready.version == run(ready, "python", "-c", "import platform; print(platform.python_version())")


@at_every_change
def test_second_run_installs_nothing(bench: Bench, index: PackageIndex) -> None:
    first = bench.provision("alpha")
    index.requests.clear()
    bench.log.clear()

    second = bench.provision("alpha")

    assert (first.reused, second.reused) == (False, True)
    assert second.key == first.key
    assert second.packages == first.packages
    assert index.requests == []
    assert bench.log == ["using the packages that the task lists"]


def test_other_requirements_make_another_environment(bench: Bench) -> None:
    assert bench.provision("alpha==1.0").key != bench.provision("alpha==2.0").key


def test_environment_without_requirements_is_empty_but_runs(bench: Bench) -> None:
    ready = bench.provision()

    assert run(ready, "python", "-c", "import sys; print(sys.prefix)") == str(ready.python.parent.parent)


def test_environment_is_read_only_compiled_and_shares_no_file_with_the_download_cache(bench: Bench) -> None:
    ready = bench.provision("alpha")

    folder = bench.settings.root / "environments" / ready.key / "venv"
    files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    assert all(file.stat().st_nlink == 1 for file in files)
    assert not any(file.stat().st_mode & 0o222 for file in files)
    assert list(folder.rglob("alpha/__pycache__/*.pyc"))


def test_build_that_fails_leaves_nothing_behind(bench: Bench) -> None:
    with pytest.raises(RunFailed):
        bench.provision("alpha==9.9")

    assert [path.suffix for path in (bench.settings.root / "environments").iterdir()].count("") == 0


def test_runs_that_need_the_same_environment_at_once_build_it_once(bench: Bench) -> None:
    threads = [threading.Thread(target=bench.provision, args=["alpha"]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(ready.reused for ready in bench.ready) == [False, True, True]


def test_on_a_low_disk_downloads_go_but_not_the_environment_that_was_built_of_them(uv_bench: Bench) -> None:
    uv_bench.settings = dataclasses.replace(uv_bench.settings, min_free_bytes=1 << 60)

    ready = uv_bench.provision("beta")

    assert not (uv_bench.settings.root / "downloads" / "uv").exists()
    assert run(ready, "python", "-c", "import beta; print('there')") == "there"


def test_half_built_environment_of_a_killed_agent_is_never_used(bench: Bench) -> None:
    key = bench.provision("alpha").key
    bench.ready.pop().release()
    folder = bench.settings.root / "environments" / key
    (folder / cache.MARKER).unlink()
    cache.wipe(folder / "venv" / "lib")

    ready = bench.provision("alpha")

    assert not ready.reused
    assert run(ready, "python", "-c", "import alpha; print(alpha.version)") == "2.0"


def test_file_whose_size_and_time_were_kept_is_found_by_its_recorded_hash(bench: Bench) -> None:
    ready = bench.provision("alpha==1.0")
    (file,) = (bench.settings.root / "environments" / ready.key).rglob("alpha/__init__.py")
    whole = cache.verify(bench.settings)
    times = file.stat()
    file.chmod(0o644)
    file.write_text(file.read_text().replace("version", "visionr"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    (verdict,) = cache.verify(bench.settings)

    assert [one.problems for one in whole] == [()]
    assert verdict.problems == ("not what their packages recorded: alpha/__init__.py",)


# --- The overlay -----------------------------------------------------------------------------------------


def test_console_scripts_run_with_the_interpreter_of_the_run(bench: Bench) -> None:
    ready = bench.provision("alpha")

    assert run(ready, "alpha") == str(ready.python.parent.parent)


def test_what_a_task_installs_stays_in_its_own_overlay(bench: Bench, index: PackageIndex) -> None:
    ready, other = bench.provision("alpha==1.0"), bench.provision("alpha==1.0")

    variables = {"PIP_INDEX_URL": index.url, "PIP_CONFIG_FILE": os.devnull}
    run(ready, "pip", "install", "alpha==2.0", variables=variables)

    program = "import alpha; print(alpha.version)"
    assert run(ready, "python", "-c", program) == "2.0"
    assert run(other, "python", "-c", program) == "1.0"


def test_sdk_is_lent_without_shadowing_the_packages_of_the_task(bench: Bench, index: PackageIndex) -> None:
    make_wheel(index.folder, "httpx", "0.0.1")

    ready = bench.provision("httpx==0.0.1")

    assert run(ready, "python", "-c", "import taskyard, httpx; print(httpx.version)") == "0.0.1"
    with pytest.raises(subprocess.CalledProcessError):
        run(ready, "python", "-c", "import psutil")


def test_environment_in_use_outlives_its_release_as_long_as_another_process_holds_it(bench: Bench) -> None:
    ready = bench.provision("alpha")
    assert ready.lock_fd is not None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[ready.lock_fd]):
        ready.release()

        assert cache.prune(bench.settings, everything=True) == ()
    assert [gone.key for gone in cache.prune(bench.settings, everything=True)] == [ready.key]


# --- Requirement files -----------------------------------------------------------------------------------


@at_every_change
def test_requirement_file_is_followed_through_includes_constraints_markers_and_hashes(
    bench: Bench, index: PackageIndex
) -> None:
    gamma = index.add("gamma", "3.0")
    (bench.tree / "more").mkdir()
    (bench.tree / "more" / "base.txt").write_text(
        "beta ; python_version > '3.0'\nabsent ; python_version < '3.0'\n"
    )
    (bench.tree / "more" / "limits.txt").write_text("alpha<2\n")

    ready = bench.from_file(
        "requirements.txt", "# ours\n-r more/base.txt\n--constraint=more/limits.txt\nalpha \\\n  >=1\n"
    )
    hashed = bench.from_file("hashed.txt", f"gamma==3.0 \\\n  --hash=sha256:{sha256(gamma)}\n")

    assert {"alpha==1.0", "beta==1.0"} <= set(ready.packages)
    assert "gamma==3.0" in hashed.packages


def test_changed_file_that_is_only_included_makes_another_environment(bench: Bench) -> None:
    (bench.tree / "limits.txt").write_text("alpha<2\n")
    first = bench.from_file("requirements.txt", "-c limits.txt\nalpha\n")
    (bench.tree / "limits.txt").write_text("alpha<3\n")

    second = bench.from_file("requirements.txt", "-c limits.txt\nalpha\n")

    assert (first.key, "alpha==1.0") != (second.key, "alpha==2.0")
    assert "alpha==2.0" in second.packages


def test_wrong_hash_is_refused(bench: Bench) -> None:
    with pytest.raises(RunFailed, match=r"(?i)hash") as caught:
        bench.from_file("requirements.txt", f"beta==1.0 --hash=sha256:{'0' * 64}\n")

    assert caught.value.reason is Reason.ENVIRONMENT


def test_wheel_in_the_tree_is_installed_and_its_content_decides(bench: Bench) -> None:
    (bench.tree / "dist").mkdir()
    make_wheel(bench.tree / "dist", "local", "1.0")
    first = bench.from_file("requirements.txt", "./dist/local-1.0-py3-none-any.whl\n")
    make_wheel(bench.tree / "dist", "local", "1.0", files={"local/more.py": "x = 1\n"})

    second = bench.from_file("requirements.txt", "./dist/local-1.0-py3-none-any.whl\n")

    assert "local==1.0" in first.packages
    assert first.key != second.key


def test_project_in_the_tree_is_used_from_there_with_its_needs_installed(bench: Bench) -> None:
    (bench.tree / "src" / "mine").mkdir(parents=True)
    (bench.tree / "src" / "mine" / "__init__.py").write_text("def main():\n    print(__file__)\n")
    (bench.tree / "pyproject.toml").write_text(PROJECT)

    ready = bench.from_file("requirements.txt", "-e .[more]\n")

    assert {"alpha==1.0", "beta==1.0"} <= set(ready.packages)
    assert run(ready, "mine") == str(bench.tree / "src" / "mine" / "__init__.py")
    assert run(ready, "python", "-c", "from importlib.metadata import version; print(version('mine'))") == "0.3"


PROJECT = """
[project]
name = "mine"
version = "0.3"
dependencies = ["alpha==1.0"]
scripts = {mine = "mine:main"}
optional-dependencies = {more = ["beta"]}
[build-system]
requires = ["hatchling"]
"""


def test_script_block_and_project_file_are_followed(bench: Bench) -> None:
    script = bench.from_file("train.py", '# /// script\n# dependencies = ["alpha<2"]\n# ///\nimport alpha\n')
    project = bench.from_file("pyproject.toml", PROJECT)

    assert "alpha==1.0" in script.packages
    assert "alpha==1.0" in project.packages
    assert "beta==1.0" not in project.packages


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("alpha=>1", r"requirements.txt:2: 'alpha=>1' is no requirement"),
        ("--global-option=x", r"requirements.txt:2: the option '--global-option=x' is not followed"),
        ("--trusted-host evil.example", r"txt:2: the option '--trusted-host' is not followed"),
        ("--extra-index-url https://evil.example/simple", r"https://evil.example/simple, .*--allow-index"),
        ("-i https://u:secret@evil.example/simple", r"names the package index https://evil.example/simple"),
        ("--find-links https://evil.example/", r"--allow-index"),
        ("-r ../../etc/passwd", r"outside the task's code"),
        ("-r https://evil.example/more.txt", r"put that file into the repository"),
        ("alpha @ http://evil.example/a.whl", r"addresses begin with https"),
        ("alpha @ git+ext::sh", r"addresses begin with https"),
        ("alpha @ https://host/${UV_INDEX}", r"variables are not filled in"),
        ("./missing.whl", r"there is no ./missing.whl"),
        ("-e ../outside", r"outside the task's code"),
    ],
)
def test_line_that_may_not_be_followed_is_named(uv_bench: Bench, line: str, words: str) -> None:
    with pytest.raises(RunFailed, match=words) as caught:
        uv_bench.from_file("requirements.txt", f"beta\n{line}\n")

    assert caught.value.reason is Reason.ENVIRONMENT
    assert not caught.value.infrastructure
    assert "secret" not in str(caught.value)


# --- Indexes ---------------------------------------------------------------------------------------------


def test_index_that_the_operator_allows_may_be_named(bench: Bench, tmp_path: Path) -> None:
    with package_index(tmp_path / "other") as other:
        other.add("delta", "4.0")
        bench.settings = dataclasses.replace(bench.settings, allowed_indexes=(other.url,))

        ready = bench.from_file("requirements.txt", f"--extra-index-url {other.url}\ndelta\n")

    assert "delta==4.0" in ready.packages


def test_private_index_of_pip_configuration_is_used_and_its_password_never_shown(
    bench: Bench, index: PackageIndex, tmp_path: Path
) -> None:
    index.password = "hunter22"
    address = index.url.replace("http://", "http://reader:hunter22@")
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {address}\n")
    variables = {**operator_variables(""), "PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
    bench.settings = dataclasses.replace(bench.settings, variables=variables)

    ready = bench.provision("alpha")
    with pytest.raises(RunFailed) as caught:
        bench.provision("nothing-of-that-name")

    assert "alpha==2.0" in ready.packages
    assert "hunter22" not in "\n".join([*bench.log, str(caught.value)])


def test_failing_installation_shows_the_words_of_the_resolver(bench: Bench) -> None:
    with pytest.raises(RunFailed, match=r"9\.9") as caught:
        bench.provision("alpha==9.9")

    assert caught.value.reason is Reason.ENVIRONMENT
    assert not caught.value.infrastructure
    assert any("9.9" in line for line in bench.log)


@at_every_change
def test_failing_installation_names_the_line_at_fault(bench: Bench) -> None:
    with pytest.raises(RunFailed, match=r"(?s)^requirements\.txt:3: alpha==9\.9\n.*ended with") as caught:
        bench.from_file("requirements.txt", "beta\n# theirs\nalpha==9.9\n")

    assert "requirements.txt:1" not in str(caught.value)


def test_lines_that_contradict_each_other_are_named_both(bench: Bench, index: PackageIndex) -> None:
    index.add("gamma", "1.0", requires=["alpha<2"])

    with pytest.raises(RunFailed, match=r"requirements\.txt:2: gamma") as caught:
        bench.from_file("requirements.txt", "alpha>=2\ngamma\nbeta\n")

    assert "requirements.txt:1: alpha>=2" in str(caught.value)
    assert "requirements.txt:3" not in str(caught.value)


BUILT = """
[project]
name = "mine"
version = "1"
dynamic = ["dependencies", "optional-dependencies"]
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import zipfile
from pathlib import Path
METADATA = "Metadata-Version: 2.1\\nName: mine\\nVersion: 1\\nRequires-Dist: alpha==1.0\\n" \\
    "Provides-Extra: more\\nRequires-Dist: beta; extra == 'more'\\n"

def prepare_metadata_for_build_wheel(folder, settings=None):
    info = Path(folder, "mine-1.dist-info")
    info.mkdir()
    info.joinpath("METADATA").write_text(METADATA)
    return info.name

def build_wheel(folder, settings=None, metadata=None):
    wheel = Path(folder, "mine-1-py3-none-any.whl")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mine.py", Path("mine.py").read_text())
        archive.writestr("mine-1.dist-info/METADATA", METADATA)
        words = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        archive.writestr("mine-1.dist-info/WHEEL", words)
        archive.writestr("mine-1.dist-info/RECORD", "")
    return wheel.name
"""


def test_project_whose_needs_only_a_build_tells_is_asked_by_uv(uv_bench: Bench, index: PackageIndex) -> None:
    (uv_bench.tree / "pyproject.toml").write_text(BUILT)
    (uv_bench.tree / "backend.py").write_text(BACKEND)
    (uv_bench.tree / "mine.py").write_text("import alpha, beta\nprint(alpha.version)\n")

    ready = uv_bench.from_file("requirements.txt", "-e .[more]\n")

    assert ready.packages == ("alpha==1.0", "beta==1.0", "mine==1")
    assert run(ready, "python", "-m", "mine") == "1.0"


def test_pip_says_who_can_ask_a_build_for_its_needs(tmp_path: Path, index: PackageIndex) -> None:
    with bench_for(Manager.PIP, tmp_path, index.url) as bench:
        (bench.tree / "setup.py").write_text(
            "from setuptools import setup\nsetup(name='mine', install_requires=open('needs').read().split())\n"
        )

        with pytest.raises(RunFailed, match="use `--manager uv`"):
            bench.from_file("requirements.txt", "-e .\n")


def test_index_that_nobody_answers_for_is_the_fault_of_the_machine(bench: Bench) -> None:
    variables = operator_variables("http://127.0.0.1:9/simple", UV_HTTP_RETRIES="0", PIP_RETRIES="1")
    bench.settings = dataclasses.replace(bench.settings, variables=variables)

    with pytest.raises(RunFailed) as caught:
        bench.provision("alpha")

    assert caught.value.reason is Reason.PACKAGE_INDEX
    assert caught.value.infrastructure


def test_cancel_ends_a_running_installation(bench: Bench, index: PackageIndex) -> None:
    index.stuck.set()
    cancelled = threading.Event()
    ended: list[BaseException] = []
    thread = threading.Thread(target=_provision_until, args=[bench, cancelled, ended])
    thread.start()
    assert becomes_true(lambda: bool(index.requests), seconds=60)

    cancelled.set()

    assert becomes_true(lambda: not thread.is_alive(), seconds=5)
    assert isinstance(ended[0], RunStopped)


def _provision_until(bench: Bench, cancelled: threading.Event, ended: list[BaseException]) -> None:
    try:
        bench.provision("alpha", cancelled=cancelled)
    except RunStopped as stopped:
        ended.append(stopped)


def test_token_of_the_agent_is_hidden_from_what_builds_the_environment(bench: Bench) -> None:
    from taskyard_agent.environments.installer import visible_variables

    seen = visible_variables({"TASKYARD_TOKEN": "t", "AWS_SECRET": "s", "PATH": "/bin", "HTTPS_PROXY": "p"})

    assert seen == {"PATH": "/bin", "HTTPS_PROXY": "p"}


# --- Lock files and uv's own -----------------------------------------------------------------------------


def test_lock_is_installed_exactly_without_the_project(uv_bench: Bench, index: PackageIndex) -> None:
    _lock(uv_bench, index, PROJECT)
    index.add("alpha", "1.0.1")

    ready = uv_bench.provision(requirements=RequirementsKind.UV_LOCK, path="uv.lock")

    assert [name for name in ready.packages if name.startswith(("alpha", "mine"))] == ["alpha==1.0"]


def test_lock_that_names_a_foreign_index_is_refused(uv_bench: Bench, index: PackageIndex) -> None:
    _lock(uv_bench, index, PROJECT)
    lock = uv_bench.tree / "uv.lock"
    lock.write_text(lock.read_text().replace(index.url, "https://evil.example/simple"))

    with pytest.raises(RunFailed, match=r"uv.lock names the package index https://evil.example/simple"):
        uv_bench.provision(requirements=RequirementsKind.UV_LOCK, path="uv.lock")


def test_pylock_is_installed_exactly(uv_bench: Bench, index: PackageIndex) -> None:
    wheel = index.folder / "alpha-1.0-py3-none-any.whl"
    text = f"""lock-version = "1.0"
created-by = "tests"
[[packages]]
name = "alpha"
version = "1.0"
wheels = [{{name = "{wheel.name}", path = "{wheel.name}", hashes = {{sha256 = "{sha256(wheel)}"}}}}]
"""
    (uv_bench.tree / wheel.name).write_bytes(wheel.read_bytes())

    ready = uv_bench.from_file("pylock.toml", text)

    assert ready.packages == ("alpha==1.0",)


def test_settings_of_uv_in_the_project_cannot_add_an_index(uv_bench: Bench, index: PackageIndex) -> None:
    text = PROJECT + '[[tool.uv.index]]\nurl = "https://evil.example/simple"\n'

    with pytest.raises(RunFailed, match="--allow-index"):
        uv_bench.from_file("pyproject.toml", text)


def test_recorded_local_labels_are_removed_and_written_ones_kept(uv_bench: Bench) -> None:
    recorded = uv_bench.provision(requirements=RequirementsKind.IMPORTS, packages=("alpha==1.0+cu126",))

    assert "alpha==1.0" in recorded.packages
    with pytest.raises(RunFailed, match=r"1.0\+cu126"):
        uv_bench.provision("alpha==1.0+cu126")


def test_folders_of_the_code_are_looked_into_after_all_that_is_installed(uv_bench: Bench) -> None:
    for name in ("alpha", "ours"):
        (uv_bench.tree / "libs" / name).mkdir(parents=True)
        (uv_bench.tree / "libs" / name / "__init__.py").write_text("version = 'of the tree'\n")

    ready = uv_bench.provision("alpha==1.0", import_from=("libs", "."))

    assert (
        run(ready, "python", "-c", "import alpha, ours; print(alpha.version, ours.version)") == "1.0 of the tree"
    )
    with pytest.raises(RunFailed, match="outside the task's code"):
        uv_bench.provision("alpha==1.0", import_from=("../elsewhere",))


def test_requirements_of_a_windows_shell_are_read(uv_bench: Bench) -> None:
    (uv_bench.tree / "requirements.txt").write_bytes("\ufeffalpha==1.0\r\n".encode("utf-16-le"))

    ready = uv_bench.provision(requirements=RequirementsKind.REQUIREMENTS_TXT, path="requirements.txt")

    assert ready.packages == ("alpha==1.0",)


def test_pip_says_what_builds_a_lock(tmp_path: Path, index: PackageIndex) -> None:
    with bench_for(Manager.PIP, tmp_path, index.url) as bench:
        with pytest.raises(RunFailed, match="--manager uv"):
            bench.from_file("uv.lock", "version = 1\n")


def _lock(bench: Bench, index: PackageIndex, project: str) -> None:
    (bench.tree / "pyproject.toml").write_text(project)
    uv = str(Path(sys.executable).with_name("uv"))
    options = ["--no-config", "--default-index", index.url, "--cache-dir", str(bench.tree.parent / "locking")]
    subprocess.run([uv, "lock", "-q", *options], cwd=bench.tree, check=True, env={"PATH": os.environ["PATH"]})


# --- The interpreter's own environment -------------------------------------------------------------------


def test_inherited_environment_is_the_agents_own_under_an_overlay(tmp_path: Path) -> None:
    with bench_for(Manager.INHERIT, tmp_path, "http://127.0.0.1:9/simple") as bench:
        ready = bench.provision("alpha")

        program = "import sys, psutil, taskyard; print(sys.prefix)"
        assert run(ready, "python", "-c", program) == str(ready.python.parent.parent)
        assert "not installed" in bench.log[0]
        assert any(name.startswith("psutil==") for name in ready.packages)


def test_interpreter_that_was_fetched_stays_while_a_run_uses_it_as_it_is(tmp_path: Path) -> None:
    with bench_for(Manager.INHERIT, tmp_path, "http://127.0.0.1:9/simple") as bench:
        home = Path(probe(Path(sys.executable), bench.settings).home).resolve()
        bench.settings.root.mkdir(exist_ok=True)
        (bench.settings.root / "pythons").symlink_to(home.parent)  # as if uv had brought it

        ready = bench.provision()

        with downloads_of(bench.settings)._exclusively("pythons/any") as free:
            assert not free
        ready.release()
        with downloads_of(bench.settings)._exclusively("pythons/any") as free:
            assert free


Probe = Callable[[], None]


TORCH_BUILDS = pytest.mark.parametrize(
    ("lines", "asked", "gpus", "backend"),
    [
        (("torch",), "auto", 0, "cpu"),
        (("torch",), "auto", 1, build_for_this_machine() or "auto"),
        (("torch",), "cu126", 0, "cu126"),
        (("torch==2.6.0+cu124", "numpy"), "auto", 0, "cu124"),
        ((f"--extra-index-url {PYTORCH_INDEX}/cu121", "torch"), "auto", 1, "cu121"),
        ((f"--extra-index-url {PYTORCH_INDEX}/cu121", "torch"), "cpu", 1, "cpu"),
        (("torch==2.6.0+cu124",), "none", 1, None),
    ],
)


@TORCH_BUILDS
def test_build_of_pytorch_follows_the_requirement_else_the_machine(
    uv_bench: Bench, lines: tuple[str, ...], asked: str, gpus: int, backend: str | None
) -> None:
    request = _for_torch(uv_bench, lines, asked, gpus)

    recipe = uv.resolve(request, probe(Path(sys.executable), uv_bench.settings), uv_bench.settings)

    assert recipe.torch_backend == backend


@TORCH_BUILDS
def test_pip_looks_for_the_same_build_of_pytorch_in_its_index(
    pip_bench: Bench, lines: tuple[str, ...], asked: str, gpus: int, backend: str | None
) -> None:
    request = _for_torch(pip_bench, lines, asked, gpus)

    recipe = pip.resolve(request, probe(Path(sys.executable), pip_bench.settings), pip_bench.settings)

    wanted = f"{PYTORCH_INDEX}/{backend}"
    assert recipe.indexes.extra[-1:] == ((wanted,) if backend not in (None, "auto") else ())


@pytest.mark.parametrize(("asked", "extra"), [("auto", ()), ("cpu", (f"{PYTORCH_INDEX}/cpu",))])
def test_pip_asks_the_index_of_pytorch_only_where_something_names_it(
    pip_bench: Bench, asked: str, extra: tuple[str, ...]
) -> None:
    request = _for_torch(pip_bench, ("alpha",), asked, 0)

    recipe = pip.resolve(request, probe(Path(sys.executable), pip_bench.settings), pip_bench.settings)

    assert recipe.indexes.extra == extra


def test_a_lock_stands_against_a_build_of_pytorch_and_the_log_says_so(
    uv_bench: Bench, index: PackageIndex
) -> None:
    _lock(uv_bench, index, '[project]\nname = "mine"\nversion = "1"\ndependencies = ["alpha"]\n')
    request = uv_bench.request(requirements=RequirementsKind.UV_LOCK, path="uv.lock")
    request = dataclasses.replace(
        request, environment=dataclasses.replace(request.environment, torch_backend="cu126")
    )

    recipe = uv.resolve(request, probe(Path(sys.executable), uv_bench.settings), uv_bench.settings)

    assert recipe.torch_backend is None
    assert recipe.remarks[-1].startswith("--torch-backend cu126 changes nothing: uv.lock says which build")


def _for_torch(bench: Bench, lines: tuple[str, ...], asked: str, gpus: int) -> EnvironmentRequest:
    (bench.tree / "requirements.txt").write_text("\n".join(lines))
    request = bench.request(requirements=RequirementsKind.REQUIREMENTS_TXT, path="requirements.txt")
    environment = dataclasses.replace(request.environment, torch_backend=asked)
    return dataclasses.replace(request, environment=environment, gpus=gpus)


def test_safe_index_strategy_holds_once_a_private_index_takes_part(uv_bench: Bench) -> None:
    public = dataclasses.replace(uv_bench.settings, variables={"PIP_CONFIG_FILE": os.devnull})
    interpreter = probe(Path(sys.executable), public)

    recipes = [uv.resolve(uv_bench.request(), interpreter, settings) for settings in (public, uv_bench.settings)]

    assert [recipe.index_strategy for recipe in recipes] == ["unsafe-best-match", "first-index"]
