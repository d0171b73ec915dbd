"""Draws Python projects from a seed, and asks each one's own tool what it installs in a copy of the checkout."""

from __future__ import annotations

import ast
import json
import os
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from tests.support.repositories import Repository
from tests.support.wheels import PackageIndex, make_sdist, make_wheel, setuptools_wheel, sha256

BACKEND = '''
"""Copies the modules of a project into a wheel, or points at them, as flit does; reads what the tests write."""
import json, re, zipfile
from pathlib import Path

def _value(name, text, default):
    found = re.search(rf"(?m)^{name} = (.*)$", text)
    return json.loads(found[1]) if found else default

def _metadata():
    text = Path("pyproject.toml").read_text()
    project = text.partition("[project]")[2].partition("\\n[")[0]
    name, version = _value("name", project, ""), _value("version", project, "")
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {line}" for line in _value("dependencies", project, [])]
    optional = text.partition("[project.optional-dependencies]")[2].partition("\\n[")[0]
    for extra, needs in re.findall(r"(?m)^(\\w+) = (.*)$", optional):
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {need} ; extra == "{extra}"' for need in json.loads(needs)]
    return name, version, "\\n".join(lines) + "\\n"

def _write(folder, members):
    name, version, text = _metadata()
    info = f"{name}-{version}.dist-info"
    members = {**members, f"{info}/METADATA": text,
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"}
    members[f"{info}/RECORD"] = "".join(f"{member},,\\n" for member in members)
    wheel = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder, wheel), "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return wheel

def _source():
    return Path("src") if Path("src").is_dir() else Path(".")

def build_wheel(folder, settings=None, metadata=None):
    files = [file for file in _source().rglob("*.py") if file.name not in ("made_backend.py", "setup.py")]
    members = {str(file.relative_to(_source())): file.read_text() for file in files}
    if Path("number.txt").is_file():
        members[f"{_metadata()[0]}/made.py"] = "number = " + Path("number.txt").read_text()
    return _write(folder, members)

def build_editable(folder, settings=None, metadata=None):
    return _write(folder, {f"__{_metadata()[0]}.pth": str(_source().resolve()) + "\\n"})

def prepare_metadata_for_build_wheel(folder, settings=None):
    name, version, text = _metadata()
    info = Path(folder, f"{name}-{version}.dist-info")
    info.mkdir()
    info.joinpath("METADATA").write_text(text)
    return info.name

prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel

def get_requires_for_build_wheel(settings=None):
    return []

get_requires_for_build_editable = get_requires_for_build_wheel
'''
PURE = '[build-system]\nrequires = ["flit_core"]\nbuild-backend = "flit_core.buildapi"\n'
BUILT = '[build-system]\nrequires = []\nbuild-backend = "made_backend"\nbackend-path = ["."]\n'
SETUPTOOLS = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
VERSIONS = ("1.0", "2.0", "3.0")
NEEDS = {
    "pa": (),
    "pb": ("pa<3",),
    "pc": ("pa", "pd ; extra == 'more'"),
    "pd": ("pe",),
    "pe": (),
    "pf": ("near", "pe<3"),
}
"""What the packages of the index need, whatever their version; `near` is the projects' own, and a stranger's."""


@dataclass(frozen=True, kw_only=True)
class Universe:
    """Where the drawn projects' packages come from."""

    index: PackageIndex
    apart: PackageIndex
    """Has other versions of what it has."""
    repository: str
    """Address of a repository with the package `pg` in its folder `pkg`."""
    backends: Path
    """A folder with the modules of the build backends."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A project, with `@CODE@` where its code says which version of the tree it is."""

    words: str
    """What was drawn, for people."""
    files: Mapping[str, str]
    script: str
    """What runs, relative to the root."""
    tool: str
    """`uv`, `pip`, `poetry` or `uv script`."""
    path: str
    """The file that says what is needed."""
    local: tuple[str, ...]
    """Modules of the repository that the script imports."""
    member: str = ""
    locked: str = ""
    """`uv` or `poetry`: the lock that is made before, at the oldest versions that fit."""
    roots: tuple[str, ...] = field(default=())
    """Requirements of the main project and of what it takes from the tree, for the writer of Poetry's lock."""

    def ship(self, tree: Path, code: str) -> Path:
        """Writes the project as one state of the repository."""
        for name, text in self.files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text.replace("@CODE@", code))
        return tree


def make_universe(folder: Path, index: PackageIndex, apart: PackageIndex) -> Universe:
    """Publishes the packages, among them one that has no wheels, and a repository."""
    for name, needs in NEEDS.items():
        for version in VERSIONS:
            if (name, version) == ("pe", "2.0"):
                make_sdist(index.folder, name, version)
            else:
                make_wheel(index.folder, name, version, requires=needs)
    for name in ("near", "study"):
        make_wheel(
            index.folder, name, "9.0", requires=["pa<2"], files={f"{name}/__init__.py": "code = 'stranger'\n"}
        )
    make_wheel(apart.folder, "pd", "2.5", requires=["pe"])
    make_wheel(apart.folder, "pe", "0.5")
    setuptools = setuptools_wheel(index.folder)
    make_wheel(index.folder, "flit_core", "3.0", files={"flit_core/buildapi.py": BACKEND})
    backends = folder / "backends"
    with zipfile.ZipFile(setuptools) as archive:
        archive.extractall(backends)
    (backends / "flit_core").mkdir()
    (backends / "flit_core" / "__init__.py").write_text("")
    (backends / "flit_core" / "buildapi.py").write_text(BACKEND)
    package = {"pkg/pyproject.toml": f'[project]\nname = "pg"\nversion = "1.0"\ndependencies = ["pa<3"]\n{BUILT}'}
    repository = Repository.create(
        folder / "pg", {**package, "pkg/made_backend.py": BACKEND, "pkg/pg/__init__.py": ""}
    )
    return Universe(index=index, apart=apart, repository=repository.root.as_uri(), backends=backends)


# --- Drawing ---------------------------------------------------------------------------------------------


def draw(seed: int, universe: Universe) -> Drawn:
    """Returns the project of a seed."""
    source = random.Random(seed)
    tool = source.choice(["uv", "uv", "uv", "pip", "pip", "poetry", "uv script"])
    return {"uv": _uv, "pip": _pip, "poetry": _poetry, "uv script": _script}[tool](source, universe)


def _near(source: random.Random, needs: Sequence[str], *, kinds: Sequence[str]) -> tuple[dict[str, str], str]:
    """Returns the files of the package `near`, and how it is made."""
    kind = source.choice(kinds)
    folder = source.choice(["", "src/"])
    code = "code = '@CODE@'\n"
    if kind == "setup.py":
        text = f"from setuptools import setup\nsetup(name='near', version='1', install_requires={list(needs)!r}"
        mapping = ", package_dir={'': 'src'}" if folder else ""
        return {"setup.py": f"{text}, packages=['near']{mapping})\n", f"{folder}near/__init__.py": code}, kind
    if kind == "setup.cfg":
        lines = "".join(f"    {need}\n" for need in needs)
        mapping = "package_dir =\n    = src\n" if folder else ""
        text = f"[metadata]\nname = near\nversion = 1\n[options]\npackages = near\n{mapping}"
        text += f"install_requires =\n{lines}"
        files = {"setup.cfg": text, "setup.py": "from setuptools import setup\nsetup()\n"}
        return {**files, f"{folder}near/__init__.py": code}, kind
    project = f'[project]\nname = "near"\nversion = "1"\ndependencies = {json.dumps(list(needs))}\n'
    project += '[project.optional-dependencies]\nmore = ["pd"]\n'
    if kind == "built":
        made = {"made_backend.py": BACKEND, "number.txt": f"{source.randrange(9)}"}
        code = "from near.made import number\ncode = '@CODE@'\n"
        return {**made, "pyproject.toml": project + BUILT, f"{folder}near/__init__.py": code}, f"built {folder}"
    return {"pyproject.toml": project + PURE, f"{folder}near/__init__.py": code}, f"pure {folder}"


def _lines(source: random.Random, most: int = 3) -> list[str]:
    chosen = source.sample(["pa", "pb", "pc", "pd", "pe"], source.randint(1, most))
    endings = ["", "", "", ">=2", "<3", "==2.0"]
    return [
        f"{name}{'[more]' if name == 'pc' and source.random() < 0.5 else ''}{source.choice(endings)}"
        + source.choice(["", "", f" ; python_version {source.choice(['<', '>='])} '3'"])
        for name in chosen
    ]


def _below(folder: str, files: Mapping[str, str]) -> dict[str, str]:
    return {f"{folder}/{name}": text for name, text in files.items()}


def _sources(source: random.Random, universe: Universe, near: str) -> tuple[str, list[str]]:
    """Returns [tool.uv.sources] with its indexes, and the further requirements that they are for."""
    sources, needs, tail = [near], [], ""
    if source.random() < 0.4:
        marker = source.choice(["", ", marker = \"sys_platform == 'win32'\""])
        sources.append(f'pd = {{ index = "apart"{marker} }}')
        needs.append("pd")
        tail = f'[[tool.uv.index]]\nname = "apart"\nurl = "{universe.apart.url}"\nexplicit = true\n'
    if source.random() < 0.25:
        sources.append(f'pg = {{ git = "{universe.repository}", subdirectory = "pkg" }}')
        needs.append("pg")
    return "[tool.uv.sources]\n" + "\n".join(sources) + "\n" + tail, needs


def _uv_settings(source: random.Random) -> str:
    settings = [
        'constraint-dependencies = ["pa<3", "pe<2"]',
        'override-dependencies = ["pa==1.0"]',
        'resolution = "lowest-direct"',
        'default-groups = ["more"]',
    ]
    return "[tool.uv]\n" + "".join(f"{line}\n" for line in settings if source.random() < 0.25)


def _uv(source: random.Random, universe: Universe) -> Drawn:
    member, locked = source.random() < 0.5, source.random() < 0.5
    near, made = _near(
        source, _lines(source, 2), kinds=("pure", "pure", "built", "setup.py") if not member else ("pure", "built")
    )
    as_member = member or (made.startswith(("pure", "built")) and source.random() < 0.5)
    place = "near = { workspace = true }" if as_member else 'near = { path = "near", editable = true }'
    sources, needs = _sources(source, universe, place)
    settings = _uv_settings(source)
    extra = source.choice(["near", "near[more]"]) if made.startswith(("pure", "built")) else "near"
    needs = [*needs, *(line for line in _lines(source) if not line.startswith(tuple(needs))), extra]
    needs += ["pf"] if source.random() < 0.3 else []
    package = source.choice(["", PURE, PURE])
    layout = source.choice(["", "src/"])
    project = '[project]\nname = "study"\nversion = "1"\nrequires-python = ">=3.10"\n'
    project += f"dependencies = {json.dumps(needs)}\n"
    project += '[dependency-groups]\ndev = ["pe"]\nmore = ["pd"]\n' + package
    workspace = f'[tool.uv.workspace]\nmembers = ["near"{", " + chr(34) + "apps/*" + chr(34) if member else ""}]\n'
    groups = settings if "default-groups" in settings else "[tool.uv]\n"
    files = _below("near", near)
    if member:
        shared = settings.replace('default-groups = ["more"]\n', "")
        files |= {"pyproject.toml": shared + workspace + sources}
        groups = "[tool.uv]\n" + ('default-groups = ["more"]\n' if "default-groups" in settings else "")
        files |= {"apps/one/pyproject.toml": project + groups}
    else:
        files |= {"pyproject.toml": project + settings + sources + (workspace if as_member else "")}
    home = "apps/one/" if member else ""
    files |= {f"{home}run.py": "", f"{home}{layout}study/__init__.py": "code = '@CODE@'\n"}
    return Drawn(
        words=f"uv, {made}, needs {needs}, member {member}, workspace {as_member}, locked {locked}, {settings!r}",
        files=files,
        script=f"{home}run.py",
        tool="uv",
        path=f"{home}pyproject.toml",
        local=("near", *(["study"] if package else [])),
        member="study" if member else "",
        locked="uv" if locked else "",
    )


def _script(source: random.Random, universe: Universe) -> Drawn:
    near, made = _near(source, _lines(source, 2), kinds=("pure", "built", "setup.py"))
    sources, needs = _sources(source, universe, 'near = { path = "near" }')
    needs = [*needs, *(line for line in _lines(source) if not line.startswith(tuple(needs))), "near"]
    settings = _uv_settings(source).replace('default-groups = ["more"]\n', "")
    block = f"requires-python = '>=3.10'\ndependencies = {json.dumps(needs)}\n{settings}{sources}".splitlines()
    text = "\n".join(["# /// script", *(f"# {line}" for line in block), "# ///", ""])
    return Drawn(
        words=f"script, {made}, needs {needs}, {settings!r}",
        files={**_below("near", near), "run.py": text},
        script="run.py",
        tool="uv script",
        path="run.py",
        local=("near",),
    )


def _pip(source: random.Random, universe: Universe) -> Drawn:
    near, made = _near(source, _lines(source, 2), kinds=("pure", "built", "setup.py", "setup.cfg"))
    folder = source.choice(["", "requirements/"])
    extra = source.choice(["", "[more]"]) if made.startswith(("pure", "built")) else ""
    lines = [source.choice([f"-e ./near{extra}", f"./near{extra}", f"-e near{extra}"]), *_lines(source)]
    files = {**_below("near", near), "run.py": ""}
    if source.random() < 0.4:
        lines.append("-c limits.txt")
        files[f"{folder}limits.txt"] = "pa<3\npe<2\n"
    if source.random() < 0.4:
        lines.append("-r more.txt")
        files[f"{folder}more.txt"] = "pd\n"
    if source.random() < 0.25:
        egg = source.choice(["-e git+{}#egg=pg&subdirectory=pkg", "git+{}#subdirectory=pkg&egg=pg"])
        lines.append(egg.format(universe.repository))
    if source.random() < 0.3:
        lines.append("pf")
    source.shuffle(lines)
    files[f"{folder}requirements.txt"] = "\n".join(lines) + "\n"
    return Drawn(
        words=f"pip, {made}, {lines}, in {folder or '.'}",
        files=files,
        script="run.py",
        tool="pip",
        path=f"{folder}requirements.txt",
        local=("near",),
    )


def _poetry(source: random.Random, universe: Universe) -> Drawn:
    near, made = _near(source, _lines(source, 2), kinds=("pure", "built", "setup.py"))
    bounds = {name: source.choice(["*", "<3", ">=2"]) for name in source.sample(["pa", "pb", "pd", "pe"], 2)}
    locked = source.random() < 0.5
    layout = source.choice(["", "src/"])
    table = "".join(f'{name} = "{bound}"\n' for name, bound in bounds.items())
    text = '[tool.poetry]\nname = "study"\nversion = "1"\ndescription = ""\nauthors = []\n'
    text += f'[tool.poetry.dependencies]\npython = ">=3.10"\nnear = {{ path = "near", develop = true }}\n{table}'
    text += '[tool.poetry.group.dev.dependencies]\npc = "*"\n'
    text += '[build-system]\nrequires = ["poetry-core"]\nbuild-backend = "poetry.core.masonry.api"\n'
    files = {**_below("near", near), "pyproject.toml": text, f"{layout}study/__init__.py": "code = '@CODE@'\n"}
    needs = tuple(name if bound == "*" else f"{name}{bound}" for name, bound in bounds.items())
    return Drawn(
        words=f"poetry, {made}, {bounds}, locked {locked}",
        files={**files, "run.py": "", "README.md": ""},
        script="run.py",
        tool="poetry",
        path="pyproject.toml",
        local=("near", "study"),
        locked="poetry" if locked else "",
        roots=(*needs, *_needs_of(near)),
    )


def _needs_of(near: Mapping[str, str]) -> list[str]:
    if "setup.py" in near:
        found = re.search(r"install_requires=(\[.*\]), packages=", near["setup.py"])
        return [] if found is None else [str(line) for line in ast.literal_eval(found[1])]
    found = re.search(r"(?m)^dependencies = (.*)$", near["pyproject.toml"])
    return [] if found is None else [str(line) for line in json.loads(found[1])]


# --- The project's own tool ------------------------------------------------------------------------------


def own_versions(drawn: Drawn, tree: Path, universe: Universe, scratch: Path) -> set[str] | None:
    """Returns what the project's own tool installs from elsewhere than the tree; None where it fails."""
    tools = Tools(universe=universe, scratch=scratch)
    found = {
        "uv": tools.sync,
        "uv script": tools.script,
        "pip": tools.pip,
        "poetry": tools.locked_by_poetry if drawn.locked else tools.of_poetry,
    }[drawn.tool](drawn, tree)
    return None if found is None else {line for line in found if not line.startswith(("near==", "study=="))}


@dataclass(frozen=True, kw_only=True)
class Tools:
    """uv and pip, as a person would run them."""

    universe: Universe
    scratch: Path

    def lock(self, drawn: Drawn, tree: Path) -> bool:
        """Makes the lock of a project that has one; returns whether it could be made."""
        if drawn.locked == "uv":
            return self._uv("lock", "--quiet", "--resolution", "lowest", cwd=tree) is not None
        if drawn.locked == "poetry":
            return self._lock_of_poetry(drawn, tree)
        return True

    def sync(self, drawn: Drawn, tree: Path) -> set[str] | None:
        options = ["--frozen"] if drawn.locked else []
        member = ["--package", drawn.member] if drawn.member else []
        place = self.scratch / "synced"
        done = self._uv("sync", "--quiet", *options, *member, cwd=tree, UV_PROJECT_ENVIRONMENT=str(place))
        return None if done is None else _installed(place)

    def script(self, drawn: Drawn, tree: Path) -> set[str] | None:
        listing = "import json, importlib.metadata as m\n"
        listing += "print(json.dumps([f'{d.name}=={d.version}' for d in m.distributions()]))\n"
        file = tree / "listing.py"
        file.write_text((tree / drawn.script).read_text() + listing)
        done = self._uv("run", "--quiet", "--script", str(file), cwd=tree)
        return None if done is None else set(json.loads(done))

    def pip(self, drawn: Drawn, tree: Path) -> set[str] | None:
        return self._report(tree, "--requirement", drawn.path)

    def of_poetry(self, drawn: Drawn, tree: Path) -> set[str] | None:
        """Poetry's own build backend says what it needs; pip resolves it."""
        return self._report(tree, ".")

    def locked_by_poetry(self, drawn: Drawn, tree: Path) -> set[str] | None:
        found = re.findall(r'(?m)^name = "(.*)"\nversion = "(.*)"$', (tree / "poetry.lock").read_text())
        return {f"{name}=={version}" for name, version in found}

    def _lock_of_poetry(self, drawn: Drawn, tree: Path) -> bool:
        """Writes what Poetry would, for the oldest versions."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        lines = self.scratch / "roots.in"
        lines.write_text("\n".join(drawn.roots) + "\n")
        options = ["--no-header", "--no-annotate", "--quiet", "--resolution", "lowest"]
        done = self._uv("pip", "compile", *options, str(lines), cwd=self.scratch)
        if done is None:
            return False
        entries = [_entry(*line.split("=="), self.universe.index) for line in done.split()]
        needs = "".join(_constraint(line) for line in _needs_of(_files_of_near(drawn)))
        near = '[[package]]\nname = "near"\nversion = "1"\nfiles = []\ndevelop = true\n'
        near += f'[package.dependencies]\n{needs}[package.source]\ntype = "directory"\nurl = "near"\n'
        (tree / "poetry.lock").write_text("".join([*entries, near]) + '[metadata]\nlock-version = "2.1"\n')
        return True

    def _report(self, tree: Path, *wanted: str) -> set[str] | None:
        report = self.scratch / "report.json"
        self.scratch.mkdir(parents=True, exist_ok=True)
        argv = [
            "install",
            "--dry-run",
            "--ignore-installed",
            "--quiet",
            "--no-build-isolation",
            "--report",
            str(report),
            "--src",
            str(self.scratch / "src"),
        ]
        variables = {"PIP_INDEX_URL": self.universe.index.url, "PYTHONPATH": str(self.universe.backends)}
        done = _run(
            [sys.executable, "-m", "pip", *argv, *wanted], tree, {**variables, "PIP_CONFIG_FILE": os.devnull}
        )
        if done is None:
            return None
        items = [item["metadata"] for item in json.loads(report.read_text())["install"]]
        return {f"{item['name']}=={item['version']}" for item in items}

    def _uv(self, *argv: str, cwd: Path, **variables: str) -> str | None:
        uv = Path(sys.executable).with_name("uv")
        own = {
            "UV_DEFAULT_INDEX": self.universe.index.url,
            "UV_CACHE_DIR": str(self.universe.backends.parent / "uv"),
        }
        return _run([str(uv), *argv], cwd, {**own, "UV_PYTHON": sys.executable, **variables})


def _run(argv: Sequence[str], cwd: Path, variables: Mapping[str, str]) -> str | None:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(argv, cwd=cwd, env={**kept, **variables}, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def _installed(venv: Path) -> set[str]:
    (site,) = venv.glob("lib/python*/site-packages")
    return {f"{found.name}=={found.version}" for found in metadata.distributions(path=[str(site)])}


def _files_of_near(drawn: Drawn) -> dict[str, str]:
    return {name.removeprefix("near/"): text for name, text in drawn.files.items() if name.startswith("near/")}


def _entry(name: str, version: str, index: PackageIndex) -> str:
    files = sorted(index.folder.glob(f"{name}-{version}[-.]*"))
    listed = ", ".join(f'{{file = "{file.name}", hash = "sha256:{sha256(file)}"}}' for file in files)
    needs = "".join(_constraint(line) for line in NEEDS[canonicalize_name(name)] if "extra" not in line)
    optional = 'pd = {version = "*", optional = true}\n' if name == "pc" else ""
    extras = '[package.extras]\nmore = ["pd"]\n' if name == "pc" else ""
    head = f'[[package]]\nname = "{name}"\nversion = "{version}"\nfiles = [{listed}]\n'
    return f"{head}[package.dependencies]\n{needs}{optional}{extras}"


def _constraint(line: str) -> str:
    text, _, marker = (part.strip() for part in line.partition(";"))
    match = re.fullmatch(r"(?P<name>\w+)(?:\[(?P<extra>\w+)\])?(?P<bound>.*)", text)
    assert match is not None
    parts = [f'version = "{match["bound"] or "*"}"']
    parts += [f'extras = ["{match["extra"]}"]'] if match["extra"] else []
    parts += [f'markers = "{marker}"'] if marker else []
    return f"{match['name']} = {{{', '.join(parts)}}}\n"
