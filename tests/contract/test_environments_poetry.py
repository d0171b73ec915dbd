"""Poetry's projects: locks that Poetry 1.2, 1.8 and 2.5 wrote, and dependencies without a lock."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.wire import Manager, RequirementsKind
from taskyard_agent.environments.poetry_lock import read_lock
from taskyard_agent.environments.venvs import policy_of
from taskyard_agent.errors import RunFailed

from tests.support.environments import Bench, bench_for, interpreter, run
from tests.support.repositories import Repository
from tests.support.wheels import PackageIndex, make_wheel, package_index, sha256

LOCKS = Path(__file__).parents[1] / "support" / "poetry_locks"
FORMATS = ("1.1", "2.0", "2.1")
SETTLED = {
    '[tool.poetry]\nname = "mine"\nversion = "0.3"\ndescription = ""\nauthors = []\n'
    '[tool.poetry.dependencies]\npython = "^3.10"\n[tool.poetry.extras]\nmore = []\n'
    '[tool.poetry.group.dev.dependencies]\npython = "^3.10"\n': (
        "2bbb44c0463ad76b22edda13d7e36e74460a783b04cf26d048a2bea4db0912f9"
    ),
    '[project]\nname = "mine"\nversion = "0.3"\nrequires-python = ">=3.10"\ndependencies = []\n'
    "optional-dependencies = {more = []}\n[dependency-groups]\ndev = []\n[tool.poetry]\npackage-mode = false\n": (
        "997de5227af9c60c4841a95f1f53a0eee775a4f2232945f2d1479be03942e242"
    ),
}
"""Projects, and the content hash that Poetry itself wrote for them."""
PROJECT = """
[tool.poetry]
name = "mine"
version = "0.3"
packages = [{ include = "mine", from = "lib" }]
[tool.poetry.dependencies]
python = "^3.8"
alpha = "^1.0"
near = { path = "near", develop = true }
gone = { path = "gone", markers = "sys_platform == 'win32'" }
extra = { version = "*", optional = true }
[tool.poetry.group.dev.dependencies]
devtool = "*"
[tool.poetry.scripts]
mine = "mine:main"
"""
NEAR = '[project]\nname = "near"\nversion = "1"\ndependencies = ["beta"]\n'


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PackageIndex]:
    with package_index(tmp_path / "wheels") as served:
        more = ["beta", "gamma[more] ; python_version >= '3'", "absent ; sys_platform == 'win32'"]
        served.add("alpha", "1.0")
        served.add("alpha", "2.0", requires=more)
        served.add("gamma", "1.0", requires=["delta ; extra == 'more'"])
        for name, version in (("beta", "1.0"), ("delta", "1.0"), ("delta", "4.0"), ("absent", "1.0")):
            served.add(name, version)
        served.add("devtool", "1.0")
        yield served


@pytest.fixture
def bench(tmp_path: Path, index: PackageIndex) -> Iterator[Bench]:
    with bench_for(Manager.POETRY, tmp_path, index.url) as ready:
        yield ready


def locked(bench: Bench, index: PackageIndex, format_: str = "2.1") -> Path:
    """Puts the project and its lock of one format into the tree, with the addresses and hashes of this test."""
    for name in ("pyproject.toml", f"poetry-{format_}.lock"):
        text = (LOCKS / name).read_text().replace("@INDEX@", index.url)
        text = re.sub(r"@(.+?)@", lambda found: sha256(index.folder / f"{found[1]}-py3-none-any.whl"), text)
        (bench.tree / name.replace(f"-{format_}", "")).write_text(text)
    (bench.tree / "src" / "mine").mkdir(parents=True, exist_ok=True)
    (bench.tree / "src" / "mine" / "__init__.py").write_text("where = __file__\n")
    return bench.tree / "poetry.lock"


# --- With a lock -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", FORMATS)
def test_lock_of_every_format_is_installed_exactly_without_other_groups(
    bench: Bench, index: PackageIndex, format_: str
) -> None:
    locked(bench, index, format_)
    index.add("beta", "9.0")

    ready = bench.provision(requirements=RequirementsKind.POETRY_LOCK, path="poetry.lock")

    assert ready.packages == ("alpha==2.0", "beta==1.0", "delta==4.0", "gamma==1.0")
    assert bench.log[0] == f"using poetry.lock (lock format {format_}), because the task names it"
    assert run(ready, "python", "-c", "import mine; print(mine.where)") == str(bench.tree / "src/mine/__init__.py")


def test_version_for_another_interpreter_is_taken_for_that_interpreter(bench: Bench, index: PackageIndex) -> None:
    lock = locked(bench, index)
    policy = policy_of(bench.settings)

    lines = [
        read_lock(lock, interpreter(bench.settings, version=version), tree=bench.tree, policy=policy).requirements
        for version in ("3.10.4", "3.12.1")
    ]

    assert [any("delta==1.0" in line for line in each.lines) for each in lines] == [True, False]


def test_lock_beside_the_project_file_wins(bench: Bench, index: PackageIndex) -> None:
    locked(bench, index)

    ready = bench.provision(requirements=RequirementsKind.PYPROJECT, path="pyproject.toml")

    assert "delta==4.0" in ready.packages
    assert bench.log[0].endswith("because it lies beside pyproject.toml, which the task names")


def test_uv_says_that_it_passes_over_the_lock(tmp_path: Path, index: PackageIndex) -> None:
    with bench_for(Manager.UV, tmp_path, index.url) as bench:
        locked(bench, index)
        index.add("beta", "9.0")

        ready = bench.provision(requirements=RequirementsKind.PYPROJECT, path="pyproject.toml")

    assert "beta==9.0" in ready.packages
    assert bench.log[0] == "using pyproject.toml, and not poetry.lock beside it, because the task names it"


@pytest.mark.parametrize("project", SETTLED)
@pytest.mark.parametrize("change", [False, True])
def test_stale_lock_is_known_by_its_content_hash(bench: Bench, project: str, change: bool) -> None:
    digest = SETTLED[project] if not change else "0" * 64
    (bench.tree / "pyproject.toml").write_text(project)

    bench.from_file("poetry.lock", f'package = []\n[metadata]\nlock-version = "2.1"\ncontent-hash = "{digest}"\n')

    assert any("is older than its pyproject.toml" in line for line in bench.log) is change


def test_stale_lock_that_lacks_a_dependency_is_refused_with_what_renews_it(
    bench: Bench, index: PackageIndex
) -> None:
    locked(bench, index)
    project = bench.tree / "pyproject.toml"
    project.write_text(project.read_text().replace('alpha = "^2.0"', 'alpha = "^3.0"'))

    with pytest.raises(RunFailed, match=r"poetry\.lock holds no alpha \(\^3\.0\).*run `poetry lock`"):
        bench.provision(requirements=RequirementsKind.POETRY_LOCK, path="poetry.lock")


def test_file_that_is_not_the_locked_one_is_refused(bench: Bench, index: PackageIndex) -> None:
    locked(bench, index)
    make_wheel(index.folder, "beta", "1.0", files={"beta/more.py": "x = 1\n"})

    with pytest.raises(RunFailed, match=r"(?i)hash"):
        bench.provision(requirements=RequirementsKind.POETRY_LOCK, path="poetry.lock")


def test_index_of_the_lock_must_be_one_that_the_operator_allows(bench: Bench, index: PackageIndex) -> None:
    lock = locked(bench, index)
    lock.write_text(lock.read_text().replace(index.url, "https://evil.example/simple"))

    with pytest.raises(
        RunFailed, match=r"poetry\.lock names the package index https://evil\.example.*--allow-index"
    ):
        bench.provision(requirements=RequirementsKind.POETRY_LOCK, path="poetry.lock")


def test_interpreter_that_the_project_does_not_want_is_refused(bench: Bench, index: PackageIndex) -> None:
    locked(bench, index)
    project = bench.tree / "pyproject.toml"
    project.write_text(project.read_text().replace('python = "^3.10"', 'python = "^2.7"'))

    with pytest.raises(RunFailed, match=r"pyproject\.toml wants Python >=2\.7,<3\.0; this environment has 3\."):
        bench.provision(requirements=RequirementsKind.POETRY_LOCK, path="poetry.lock")


def test_locked_paths_and_wheels_of_the_repository_are_used_from_there(bench: Bench, index: PackageIndex) -> None:
    Repository.create(bench.tree / "near", {"pyproject.toml": NEAR, "near.py": "where = __file__\n"})
    (bench.tree / "dist").mkdir()
    wheel = make_wheel(bench.tree / "dist", "boxed", "1.0")
    (bench.tree / "pyproject.toml").write_text(
        '[tool.poetry]\npackage-mode = false\n[tool.poetry.dependencies]\npython = "*"\n'
        f'near = {{ path = "near" }}\nboxed = {{ path = "dist/{wheel.name}" }}\n'
    )
    beta = sha256(index.folder / "beta-1.0-py3-none-any.whl")
    entries = f"""
[[package]]
name = "near"
version = "1"
files = []
[package.dependencies]
beta = "*"
[package.source]
type = "directory"
url = "near"
[[package]]
name = "boxed"
version = "1.0"
files = [{{file = "{wheel.name}", hash = "sha256:{sha256(wheel)}"}}]
[package.source]
type = "file"
url = "dist/{wheel.name}"
[[package]]
name = "beta"
version = "1.0"
files = [{{file = "beta-1.0-py3-none-any.whl", hash = "sha256:{beta}"}}]
"""

    ready = bench.from_file("poetry.lock", entries)

    assert ready.packages == ("beta==1.0", "boxed==1.0")
    assert run(ready, "python", "-c", "import near; print(near.where)") == str(bench.tree / "near" / "near.py")


# --- Without one -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("manager", [Manager.POETRY, Manager.UV])
def test_dependencies_of_poetrys_tables_are_resolved(
    tmp_path: Path, index: PackageIndex, manager: Manager
) -> None:
    with bench_for(manager, tmp_path, index.url) as bench:
        Repository.create(bench.tree / "near", {"pyproject.toml": NEAR})
        (bench.tree / "lib" / "mine").mkdir(parents=True)
        (bench.tree / "lib" / "mine" / "__init__.py").write_text("def main():\n    print('mine here')\n")

        ready = bench.from_file("pyproject.toml", PROJECT)

        assert ready.packages == ("alpha==1.0", "beta==1.0")
        assert run(ready, "mine") == "mine here"


def test_interpreter_that_a_project_without_a_lock_does_not_want_is_refused_too(bench: Bench) -> None:
    with pytest.raises(RunFailed, match=r"pyproject\.toml wants Python >=2\.7,<3\.0; this environment has 3\."):
        bench.from_file("pyproject.toml", PROJECT.replace('python = "^3.8"', 'python = "^2.7"'))


@pytest.mark.parametrize("manager", [Manager.UV, Manager.PIP])
@pytest.mark.parametrize(
    ("wanted", "said"),
    [("<3", r"wants Python <3; this environment has 3\."), ("new", "requires-python = 'new' is no range")],
)
def test_interpreter_that_requires_python_leaves_out_is_refused_by_every_manager(
    tmp_path: Path, index: PackageIndex, manager: Manager, wanted: str, said: str
) -> None:
    with bench_for(manager, tmp_path, index.url) as bench, pytest.raises(RunFailed, match=said):
        bench.from_file("pyproject.toml", f'[project]\nname = "a"\nversion = "1"\nrequires-python = "{wanted}"\n')


def test_index_of_poetrys_tables_must_be_one_that_the_operator_allows(bench: Bench) -> None:
    source = (
        '[[tool.poetry.source]]\nname = "evil"\nurl = "https://evil.example/simple"\npriority = "supplemental"\n'
    )

    with pytest.raises(RunFailed, match=r"pyproject\.toml names the package index https://evil\.example"):
        bench.from_file("pyproject.toml", "[tool.poetry]\npackage-mode = false\n" + source)


def test_tables_that_poetry_does_not_understand_are_named(bench: Bench) -> None:
    with pytest.raises(RunFailed, match=r"(?s)pyproject\.toml is not what Poetry understands: .*alpha"):
        bench.from_file("pyproject.toml", '[tool.poetry]\nname = "x"\n[tool.poetry.dependencies]\nalpha = 3\n')
