"""Code of the repository in a run's environment: each run imports what was shipped with it, never another's."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from taskyard.wire import Manager, RequirementsKind
from taskyard_agent.environments import ReadyEnvironment, provision
from taskyard_agent.environments.indexes import IndexPolicy
from taskyard_agent.environments.projects import Reading
from taskyard_agent.environments.requirements import read_requirements_file
from taskyard_agent.errors import RunFailed

from tests.support.environments import Bench, bench_for, run
from tests.support.wheels import PackageIndex, make_wheel, package_index, setuptools_wheel

ROOT = '[project]\nname = "study"\nversion = "1"\ndependencies = ["near", "alpha"]\n'
NEAR = (
    '[project]\nname = "near"\nversion = "1"\ndependencies = ["beta"]\n[build-system]\nrequires = ["hatchling"]\n'
    + ('build-backend = "hatchling.build"\n')
)
SETUP = "from setuptools import setup\nNEEDS = ['beta']\nsetup(name='near', version='1', install_requires=NEEDS)\n"
SETUP_CFG = "[metadata]\nname = near\nversion = 1\n[options]\ninstall_requires =\n    beta\n"
POETRY = '[tool.poetry]\nname = "study"\nversion = "1"\npackage-mode = false\n[tool.poetry.dependencies]\n' + (
    'python = "*"\nalpha = "*"\nnear = { path = "near" }\n'
)
SCRIPT = (
    '# /// script\n# dependencies = ["near", "alpha"]\n# [tool.uv.sources]\n# near = { path = "near" }\n# ///\n'
)
SHAPES: dict[str, tuple[str, Mapping[str, str]]] = {
    "a workspace member": (
        "pyproject.toml",
        {
            "pyproject.toml": ROOT
            + '[tool.uv.workspace]\nmembers = ["near"]\n[tool.uv.sources]\nnear = { workspace = true }\n',
            "near/pyproject.toml": NEAR,
        },
    ),
    "a member from a member": (
        "apps/one/pyproject.toml",
        {
            "pyproject.toml": '[tool.uv.workspace]\nmembers = ["near", "apps/*"]\n[tool.uv.sources]\n'
            "near = { workspace = true }\n",
            "apps/one/pyproject.toml": ROOT,
            "near/pyproject.toml": NEAR,
        },
    ),
    "a path beside an index": (
        "pyproject.toml",
        {
            "pyproject.toml": ROOT
            + '[tool.uv.sources]\nnear = { path = "near", editable = true }\nalpha = { index = "apart" }\n'
            '[[tool.uv.index]]\nname = "apart"\nurl = "@INDEX@"\nexplicit = true\n',
            "near/pyproject.toml": NEAR,
        },
    ),
    "-e": ("requirements.txt", {"requirements.txt": "-e ./near\nalpha\n", "near/pyproject.toml": NEAR}),
    "a folder": ("requirements.txt", {"requirements.txt": "near/\nalpha\n", "near/pyproject.toml": NEAR}),
    "setup.py": ("requirements.txt", {"requirements.txt": "./near\nalpha\n", "near/setup.py": SETUP}),
    "setup.cfg": ("requirements.txt", {"requirements.txt": "./near\nalpha\n", "near/setup.cfg": SETUP_CFG}),
    "poetry": ("pyproject.toml", {"pyproject.toml": POETRY, "near/pyproject.toml": NEAR}),
    "a script": ("train.py", {"train.py": SCRIPT, "near/pyproject.toml": NEAR}),
}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PackageIndex]:
    with package_index(tmp_path / "wheels") as served:
        served.add("alpha", "1.0", requires=["near"])
        served.add("beta", "1.0")
        served.add("beta", "2.0")
        served.add("near", "9.0", requires=["beta<2"])
        yield served


@pytest.fixture
def bench(tmp_path: Path, index: PackageIndex) -> Iterator[Bench]:
    with bench_for(Manager.UV, tmp_path, index.url) as ready:
        yield ready


def shipped(bench: Bench, name: str, files: Mapping[str, str]) -> Bench:
    """Returns the bench with a tree of its own, as another task's would be."""
    tree = bench.tree.parent / "trees" / name
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    return dataclasses.replace(bench, tree=tree)


def provide(bench: Bench, path: str) -> ReadyEnvironment:
    kinds = {"pyproject.toml": RequirementsKind.PYPROJECT, "requirements.txt": RequirementsKind.REQUIREMENTS_TXT}
    kind = kinds.get(Path(path).name, RequirementsKind.SCRIPT)
    return bench.provision(requirements=kind, path=path)


def imported(ready: ReadyEnvironment, name: str = "near") -> str:
    return run(ready, "python", "-c", f"import {name}; print({name}.code)")


# --- From this run's tree --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_local_code_comes_from_the_tree_of_the_run(bench: Bench, index: PackageIndex, shape: str) -> None:
    path, given = SHAPES[shape]
    files = {name: text.replace("@INDEX@", index.url) for name, text in given.items()}
    old = shipped(bench, "old", {**files, "near/near.py": "code = 'old'\n"})
    new = shipped(bench, "new", {**files, "near/near.py": "code = 'new'\n"})

    first, second, third = provide(old, path), provide(new, path), provide(old, path)

    assert [imported(ready) for ready in (first, second, third)] == ["old", "new", "old"]
    assert first.key == second.key
    assert first.packages == ("alpha==1.0", "beta==2.0")
    shutil.rmtree(old.tree)
    assert imported(second) == "new"


def test_local_code_that_changes_under_a_running_task_is_its_own(bench: Bench) -> None:
    path, files = SHAPES["a workspace member"]
    one = shipped(bench, "one", {**files, "near/near.py": "code = 1\n"})
    ready = provide(one, path)

    (one.tree / "near" / "near.py").write_text("code = 22\n")

    assert imported(ready) == "22"


def test_pip_asks_no_index_for_a_project_of_the_tree(tmp_path: Path, index: PackageIndex) -> None:
    with bench_for(Manager.PIP, tmp_path, index.url) as bench:
        path, files = SHAPES["-e"]

        ready = provide(shipped(bench, "tree", {**files, "near/near.py": "code = 'ours'\n"}), path)

    assert imported(ready) == "ours"
    assert [name for name in ready.packages if name.startswith(("alpha", "beta", "near"))] == [
        "alpha==1.0",
        "beta==2.0",
    ]


def test_extras_that_name_their_own_project_are_not_taken_from_an_index(bench: Bench, index: PackageIndex) -> None:
    index.add("near", "10")
    text = NEAR.replace(
        "[build-system]", '[project.optional-dependencies]\nall = ["near[x]"]\nx = ["alpha"]\n[build-system]'
    )

    ready = provide(
        shipped(
            bench, "tree", {"requirements.txt": "-e .[all]\n", "pyproject.toml": text, "near.py": "code = 1\n"}
        ),
        "requirements.txt",
    )

    assert ready.packages == ("alpha==1.0", "beta==2.0")


def test_entry_points_of_every_group_are_there(bench: Bench) -> None:
    text = NEAR.replace("[build-system]", '[project.entry-points."plug.ins"]\nmine = "near:code"\n[build-system]')
    tree = shipped(bench, "tree", {"pyproject.toml": text, "near.py": "code = 'plugged'\n"})

    ready = provide(tree, "pyproject.toml")

    program = (
        "from importlib.metadata import entry_points; print([e.load() for e in entry_points(group='plug.ins')])"
    )
    assert run(ready, "python", "-c", program) == "['plugged']"


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        ('[tool.setuptools.package-dir]\n"" = "lib"\n', "lib"),
        ('[tool.setuptools.packages.find]\nwhere = ["python"]\n', "python"),
        ("", "src"),
    ],
)
def test_packages_are_imported_from_where_their_project_keeps_them(
    bench: Bench, settings: str, folder: str
) -> None:
    text = NEAR.replace("hatchling.build", "setuptools.build_meta") + settings
    tree = shipped(bench, "tree", {"pyproject.toml": text, f"{folder}/near/__init__.py": "code = 'found'\n"})

    assert imported(provide(tree, "pyproject.toml")) == "found"


# --- Built -----------------------------------------------------------------------------------------------

WORKSPACE_OF = '[tool.uv.workspace]\nmembers = ["@"]\n[tool.uv.sources]\nnear = { workspace = true }\n'
BACKEND = """
import zipfile
from pathlib import Path

def build_wheel(folder, settings=None, metadata=None):
    wheel = Path(folder, "near-1-py3-none-any.whl")
    info = "near-1.dist-info"
    members = {
        "near/__init__.py": Path("near/__init__.py").read_text(),
        "near/made.py": "number = " + Path("data/number").read_text(),
        f"{info}/METADATA": "Metadata-Version: 2.1\\nName: near\\nVersion: 1\\nRequires-Dist: beta\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    members[f"{info}/RECORD"] = "".join(f"{name},,\\n" for name in members)
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return wheel.name
"""
GENERATING = {
    "pyproject.toml": NEAR.partition("requires")[0] + "requires = []\n"
    'build-backend = "backend"\nbackend-path = ["."]\n',
    "backend.py": BACKEND,
    "near/__init__.py": "from near.made import number\ncode = f'first {number}'\n",
    "data/number": "1",
}


def test_project_that_must_be_built_is_kept_by_all_its_files(bench: Bench) -> None:
    changed = {**GENERATING, "data/number": "2"}
    trees = [shipped(bench, name, files) for name, files in (("a", GENERATING), ("b", changed), ("c", GENERATING))]

    ready = [provide(tree, "pyproject.toml") for tree in trees]

    assert [imported(each) for each in ready] == ["first 1", "first 2", "first 1"]
    assert [each.reused for each in ready] == [False, False, True]
    assert ready[0].packages == ("beta==2.0", "near==1")
    assert any("its build backend lies in the repository" in line for line in bench.log)


def test_what_a_build_made_is_found_beside_the_code_too(bench: Bench) -> None:
    tree = shipped(bench, "tree", GENERATING)

    ready = provide(tree, "pyproject.toml")

    program = f"import sys; sys.path.insert(0, {str(tree.tree)!r}); import near; print(near.code, near.__file__)"
    assert run(ready, "python", "-c", program) == f"first 1 {tree.tree / 'near' / '__init__.py'}"
    assert not list(tree.tree.rglob("*.egg-info"))


def test_link_out_of_a_project_that_must_be_built_is_refused(bench: Bench) -> None:
    tree = shipped(
        bench, "tree", {"requirements.txt": "./pkg\n", **{f"pkg/{k}": v for k, v in GENERATING.items()}}
    )
    (tree.tree / "shared").write_text("3")
    (tree.tree / "pkg" / "data" / "number").unlink()
    (tree.tree / "pkg" / "data" / "number").symlink_to("../../shared")

    with pytest.raises(RunFailed, match="near must be built, and its data/number is a link to a file outside"):
        provide(tree, "requirements.txt")


def test_what_a_build_made_goes_nowhere_but_into_the_project(bench: Bench) -> None:
    outside = bench.tree.parent / "outside"
    outside.mkdir()
    tree = shipped(bench, "tree", {k: v for k, v in GENERATING.items() if not k.startswith("near/")})
    (tree.tree / "near").symlink_to(outside)
    backend = BACKEND.replace('Path("near/__init__.py").read_text()', repr(GENERATING["near/__init__.py"]))
    (tree.tree / "backend.py").write_text(backend)

    with pytest.raises(RunFailed, match="near is a link to a file outside the project"):
        provide(tree, "pyproject.toml")

    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("pattern", ["../*", "/*", "linked"])
def test_no_member_of_a_workspace_lies_outside_the_code(bench: Bench, pattern: str) -> None:
    tree = shipped(bench, "tree", {"pyproject.toml": ROOT + WORKSPACE_OF.replace("@", pattern)})
    beside = shipped(bench, "beside", {"pyproject.toml": NEAR})
    (tree.tree / "linked").symlink_to(beside.tree)

    with pytest.raises(RunFailed, match="takes near from the workspace, but no workspace in the task's code"):
        provide(tree, "pyproject.toml")


@pytest.mark.parametrize("name", ["setup.py", "setup.cfg"])
def test_setup_file_that_is_a_link_out_of_the_code_is_refused(bench: Bench, name: str) -> None:
    tree = shipped(bench, "tree", {"requirements.txt": "./near\n", "near/near.py": ""})
    (tree.tree / "near" / "setup.py").touch()
    (tree.tree / "near" / name).unlink(missing_ok=True)
    (tree.tree / "near" / name).symlink_to("/etc/passwd")

    with pytest.raises(RunFailed, match=f"near: {name} is a link to a file outside the project"):
        provide(tree, "requirements.txt")


def test_setup_py_whose_needs_are_computed_is_asked_by_a_build_of_a_copy(
    bench: Bench, index: PackageIndex
) -> None:
    setuptools_wheel(index.folder)
    setup = "from setuptools import setup\nsetup(name='near', version='1', install_requires=NEEDS())\n"
    files = {
        "requirements.txt": "./near\n",
        "near/setup.py": "NEEDS = lambda: open('needs.list').read().split()\n" + setup,
        "near/needs.list": "beta<2\n",
        "near/near.py": "code = 1\n",
    }
    old, new = shipped(bench, "old", files), shipped(bench, "new", {**files, "near/needs.list": "beta\n"})

    packages = [provide(tree, "requirements.txt").packages for tree in (old, new)]

    assert packages == [("beta==1.0",), ("beta==2.0",)]
    assert not list(old.tree.rglob("*.egg-info"))


# --- What only uv can say --------------------------------------------------------------------------------


def test_index_of_a_source_gives_that_package_alone(bench: Bench, tmp_path: Path, index: PackageIndex) -> None:
    with package_index(tmp_path / "apart") as apart:
        apart.add("beta", "1.5")
        apart.add("gamma", "7.0")
        index.add("gamma", "1.0")
        bench.settings = dataclasses.replace(bench.settings, allowed_indexes=(apart.url,))
        text = ROOT.replace('"near", "alpha"', '"near", "gamma"') + (
            f'[tool.uv.sources]\ngamma = {{ index = "apart" }}\nnear = {{ path = "near" }}\n'
            f'[[tool.uv.index]]\nname = "apart"\nurl = "{apart.url}"\nexplicit = true\n'
        )

        ready = provide(
            shipped(bench, "tree", {"pyproject.toml": text, "near/pyproject.toml": NEAR}), "pyproject.toml"
        )

    assert ready.packages == ("beta==2.0", "gamma==7.0")


def test_source_of_poetry_gives_that_package_alone(bench: Bench, tmp_path: Path, index: PackageIndex) -> None:
    with package_index(tmp_path / "apart") as apart:
        apart.add("beta", "1.5")
        apart.add("gamma", "7.0")
        index.add("gamma", "1.0")
        bench.settings = dataclasses.replace(bench.settings, allowed_indexes=(apart.url,))
        text = POETRY.replace(
            'near = { path = "near" }', 'gamma = { version = "*", source = "apart" }\nbeta = "*"'
        )
        text += f'[[tool.poetry.source]]\nname = "apart"\nurl = "{apart.url}"\npriority = "explicit"\n'

        ready = provide(
            shipped(bench, "tree", {"pyproject.toml": text.replace('alpha = "*"\n', "")}), "pyproject.toml"
        )

    assert ready.packages == ("beta==2.0", "gamma==7.0")


@pytest.mark.parametrize("line", ["./near", "-e ./near"])
def test_project_of_the_tree_may_be_listed_among_packages(bench: Bench, line: str) -> None:
    tree = shipped(bench, "tree", {"near/pyproject.toml": NEAR, "near/near.py": "code = 'listed'\n"})

    assert imported(tree.provision(line, "alpha")) == "listed"


def test_index_that_no_table_describes_is_refused_by_name(bench: Bench) -> None:
    text = ROOT + '[tool.uv.sources]\nalpha = { index = "apart" }\n'

    with pytest.raises(RunFailed, match=r"pyproject\.toml: .* names the index 'apart', which no"):
        provide(shipped(bench, "tree", {"pyproject.toml": text}), "pyproject.toml")


def test_source_whose_marker_does_not_hold_leaves_the_package_to_the_index(bench: Bench) -> None:
    text = ROOT.replace('"near", ', "") + (
        "[tool.uv.sources]\nalpha = [{ path = 'gone', marker = \"sys_platform == 'win32'\" }]\n"
    )

    ready = provide(shipped(bench, "tree", {"pyproject.toml": text}), "pyproject.toml")

    assert "alpha==1.0" in ready.packages


def test_wheel_of_the_tree_keeps_its_extras_and_marker(bench: Bench) -> None:
    line = "./boxed-1.0-py3-none-any.whl[more] ; python_version >= '3'\n"
    tree = shipped(bench, "tree", {"requirements.txt": line})
    make_wheel(tree.tree, "boxed", "1.0", requires=["beta<2 ; extra == 'more'"])

    ready = provide(tree, "requirements.txt")

    assert ready.packages == ("beta==1.0", "boxed==1.0")


# --- The lock of a workspace -----------------------------------------------------------------------------


def lock(tree: Path, index: PackageIndex) -> None:
    uv = str(Path(sys.executable).with_name("uv"))
    options = ["--no-config", "--default-index", index.url, "--cache-dir", str(tree.parent / "locking")]
    subprocess.run([uv, "lock", "-q", *options], cwd=tree, check=True, env={"PATH": os.environ["PATH"]})


MEMBERS = {
    "pyproject.toml": '[tool.uv.workspace]\nmembers = ["one", "two", "near"]\n[tool.uv.sources]\n'
    'near = { workspace = true }\nboxed = { path = "boxed-1.0-py3-none-any.whl" }\n',
    "one/pyproject.toml": ROOT.replace('"near", "alpha"', '"near", "alpha", "boxed"')
    + '[dependency-groups]\ndev = ["absent"]\nmore = ["gamma"]\n[tool.uv]\ndefault-groups = ["more"]\n',
    "two/pyproject.toml": ROOT.replace("study", "other").replace('"near", "alpha"', '"gamma"'),
    "near/pyproject.toml": NEAR,
}


def test_lock_of_a_workspace_is_installed_for_the_member_that_runs(bench: Bench, index: PackageIndex) -> None:
    for name in ("absent", "gamma"):
        index.add(name)
    tree = shipped(bench, "tree", {**MEMBERS, "near/near.py": "code = 'near'\n"})
    make_wheel(tree.tree, "boxed", "1.0")
    lock(tree.tree, index)
    index.add("beta", "3.0")

    one, two = provide(tree, "one/pyproject.toml"), provide(tree, "two/pyproject.toml")

    assert one.packages == ("alpha==1.0", "beta==2.0", "boxed==1.0", "gamma==1.0")
    assert two.packages == ("gamma==1.0",)
    assert imported(one) == "near"
    with pytest.raises(subprocess.CalledProcessError):
        imported(two)


def test_lock_that_lacks_the_member_is_refused(bench: Bench, index: PackageIndex) -> None:
    index.add("absent")
    index.add("gamma")
    tree = shipped(bench, "tree", MEMBERS)
    make_wheel(tree.tree, "boxed", "1.0")
    lock(tree.tree, index)
    (tree.tree / "two" / "pyproject.toml").rename(tree.tree / "near" / "old.toml")
    (tree.tree / "three").mkdir()
    (tree.tree / "three" / "pyproject.toml").write_text(ROOT.replace("study", "third"))
    text = (tree.tree / "pyproject.toml").read_text()
    (tree.tree / "pyproject.toml").write_text(text.replace('"two"', '"three"'))

    with pytest.raises(RunFailed, match=r"uv\.lock has no member three; run `uv lock`"):
        provide(tree, "three/pyproject.toml")


# --- Settings of uv --------------------------------------------------------------------------------------

OLD_AND_NEW = {"beta": ("1.0", "2.0"), "gamma": ("1.0", "2.0", "3.0a1")}
PLAIN = '[project]\nname = "study"\nversion = "1"\ndependencies = ["gamma"]\n'
SETTINGS = pytest.mark.parametrize(
    ("settings", "packages"),
    [
        ("", ("beta==2.0", "gamma==2.0")),
        ('constraint-dependencies = ["gamma<2", "beta<2"]', ("beta==1.0", "gamma==1.0")),
        ('override-dependencies = ["beta==1.0"]', ("beta==1.0", "gamma==2.0")),
        ('exclude-dependencies = ["beta"]', ("gamma==2.0",)),
        ('exclude-newer = "2024-06-01T00:00:00Z"', ("beta==1.0", "gamma==1.0")),
        ('resolution = "lowest"', ("beta==1.0", "gamma==1.0")),
        ('prerelease = "allow"', ("beta==2.0", "gamma==3.0a1")),
    ],
)


@SETTINGS
@pytest.mark.parametrize("script", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_settings_of_uv_decide_what_is_installed(
    bench: Bench, index: PackageIndex, settings: str, packages: tuple[str, ...], script: bool
) -> None:
    for version, year in (("1.0", 2024), ("2.0", 2025), ("3.0a1", 2025)):
        index.add("gamma", version, requires=["beta"])
        index.uploaded |= {f"{name}-{version}-py3-none-any.whl": f"{year}-01-01T00:00:00Z" for name in OLD_AND_NEW}
    block = f'dependencies = ["gamma"]\n[tool.uv]\n{settings}\n'.splitlines()
    files = {
        "pyproject.toml": f"{PLAIN}[tool.uv]\n{settings}\n",
        "train.py": "\n".join(["# /// script", *(f"# {line}" for line in block), "# ///"]),
    }

    ready = provide(shipped(bench, "tree", files), "train.py" if script else "pyproject.toml")

    assert ready.packages == packages


@pytest.mark.parametrize("member", [False, True])
def test_settings_of_a_workspace_are_its_members_too(bench: Bench, index: PackageIndex, member: bool) -> None:
    index.add("gamma")
    index.add("gamma", "2.0")
    root = '[tool.uv.workspace]\nmembers = ["one"]\n[tool.uv]\nconstraint-dependencies = ["gamma<2"]\n'
    files = {"pyproject.toml": PLAIN.replace("study", "root") + root, "one/pyproject.toml": PLAIN}

    ready = provide(shipped(bench, "tree", files), f"{'one/' * member}pyproject.toml")

    assert ready.packages == ("gamma==1.0",)


@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        ("", ""),
        ("[tool.uv]\n", "alpha"),
        ('[tool.uv]\ndefault-groups = ["more"]\n', "gamma"),
        ('[tool.uv]\ndefault-groups = "all"\n', "alpha gamma"),
    ],
)
def test_groups_that_uv_installs_unasked_are_installed(
    bench: Bench, index: PackageIndex, settings: str, groups: str
) -> None:
    index.add("alpha", "2.0")
    index.add("gamma")
    text = PLAIN.replace('"gamma"', "") + '[dependency-groups]\ndev = ["alpha"]\nmore = ["gamma"]\n' + settings

    ready = provide(shipped(bench, "tree", {"pyproject.toml": text}), "pyproject.toml")

    assert [name.partition("==")[0] for name in ready.packages] == groups.split()


def test_indexes_and_wheel_folders_of_uv_are_searched(bench: Bench, tmp_path: Path) -> None:
    with package_index(tmp_path / "apart") as apart:
        apart.add("gamma", "7.0")
        bench.settings = dataclasses.replace(bench.settings, allowed_indexes=(apart.url,))
        text = PLAIN.replace('"gamma"', '"gamma", "boxed"') + (
            f'[tool.uv]\nfind-links = ["dist"]\n[[tool.uv.index]]\nurl = "{apart.url}"\n'
        )
        tree = shipped(bench, "tree", {"pyproject.toml": text, "dist/README": ""})
        make_wheel(tree.tree / "dist", "boxed", "1.0")

        ready = provide(tree, "pyproject.toml")

    assert ready.packages == ("boxed==1.0", "gamma==7.0")


def test_pip_refuses_what_only_uv_follows(tmp_path: Path, index: PackageIndex) -> None:
    with bench_for(Manager.PIP, tmp_path, index.url) as bench:
        tree = shipped(bench, "tree", {"pyproject.toml": PLAIN + '[tool.uv]\nexclude-newer = "2024-01-01"\n'})

        with pytest.raises(RunFailed, match=r"pip does not follow exclude-newer .*use `--manager uv`"):
            provide(tree, "pyproject.toml")


# --- Lines and locks that name places --------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    ["-e near", *(pytest.param(line, marks=pytest.mark.thorough) for line in ("-e ./near", "./near", "near/"))],
)
@pytest.mark.parametrize("place", ["", "jobs", "requirements"])
def test_paths_in_a_requirements_file_are_looked_for_as_pip_does(bench: Bench, line: str, place: str) -> None:
    files = {f"{place}/near/pyproject.toml".lstrip("/"): NEAR, "requirements/run.txt": f"{line}\n", "jobs/x": ""}
    tree = shipped(bench, "tree", files)
    (tree.tree / place / "near" / "near.py").write_text("code = 'here'\n")
    request = tree.request(requirements=RequirementsKind.REQUIREMENTS_TXT, path="requirements/run.txt")

    ready = provision(
        dataclasses.replace(request, work=tree.tree / "jobs"),
        settings=tree.settings,
        log=tree.log.append,
        cancelled=threading.Event(),
    )
    tree.ready.append(ready)

    assert imported(ready) == "here"


def test_current_folder_goes_before_that_of_the_file(bench: Bench) -> None:
    files = {"near/pyproject.toml": NEAR, "near/near.py": "code = 'root'\n", "more/run.txt": "-e ./near\n"}
    beside = {"more/near/pyproject.toml": NEAR, "more/near/near.py": "code = 'beside'\n"}

    tree = shipped(bench, "tree", {**files, **beside})
    ready = tree.provision(requirements=RequirementsKind.REQUIREMENTS_TXT, path="more/run.txt")

    assert imported(ready) == "root"


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("-e git+https://host/x@v1#egg=p&subdirectory=d", "p @ git+https://host/x@v1#subdirectory=d"),
        ("git+https://host/x#subdirectory=d&egg=p", "p @ git+https://host/x#subdirectory=d"),
        ("-e git+https://host/x#egg=p[more]", "p[more] @ git+https://host/x"),
        ("p @ git+https://host/x#subdirectory=d", "p @ git+https://host/x#subdirectory=d"),
    ],
)
def test_folder_of_a_repository_is_kept(tmp_path: Path, line: str, taken: str) -> None:
    (tmp_path / "requirements.txt").write_text(f"{line}\n")
    reading = Reading(tree=tmp_path)

    read = read_requirements_file(
        tmp_path / "requirements.txt", reading=reading, policy=IndexPolicy(), work=tmp_path
    )

    assert read.lines == (taken,)


PYLOCK = 'lock-version = "1.0"\ncreated-by = "tests"\n[[packages]]\nname = "boxed"\nversion = "1.0"\n'


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ('wheels = [{ path = "../boxed-1.0-py3-none-any.whl", hashes = {} }]', "outside the task's code"),
        ('wheels = [{ path = "link.whl", hashes = {} }]', "outside the task's code"),
        ('sdist = { path = "/etc/passwd", hashes = {} }', "outside the task's code"),
        ('archive = { path = "../x.zip", hashes = {} }', "outside the task's code"),
        ('vcs = { type = "git", path = "../x", commit-id = "0" }', "from a repository by its path"),
        ('directory = { path = "../x" }', "from a folder"),
    ],
)
def test_paths_of_a_pylock_stay_in_the_tree(bench: Bench, package: str, words: str) -> None:
    tree = shipped(bench, "tree", {"pylock.toml": f"{PYLOCK}{package}\n"})
    make_wheel(tree.tree.parent, "boxed", "1.0")
    (tree.tree / "link.whl").symlink_to("../boxed-1.0-py3-none-any.whl")

    with pytest.raises(RunFailed, match=f"pylock.toml .*{words}"):
        tree.provision(requirements=RequirementsKind.PYLOCK, path="pylock.toml")
