"""Bytecode: compiled once for each source, copied into every other environment that has the same module."""

from __future__ import annotations

import base64
import hashlib
import marshal
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.wire import Manager
from taskyard_agent.environments import ReadyEnvironment, cache

from tests.support.environments import Bench, bench_for, run
from tests.support.wheels import PackageIndex, make_wheel, package_index

UNCHECKED_HASH = b"\x01\x00\x00\x00"
"""https://peps.python.org/pep-0552/#specification."""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[PackageIndex]:
    with package_index(tmp_path / "wheels") as served:
        for name in ("alpha", "beta"):
            served.add(name)
        yield served


@pytest.fixture(params=[Manager.UV, pytest.param(Manager.PIP, marks=pytest.mark.thorough)])
def bench(request: pytest.FixtureRequest, tmp_path: Path, index: PackageIndex) -> Iterator[Bench]:
    with bench_for(request.param, tmp_path, index.url) as ready:
        yield ready


def test_module_is_compiled_for_all_times_of_its_source(bench: Bench) -> None:
    ready = bench.provision("alpha")

    assert compiled(bench, ready, "alpha").read_bytes()[4:8] == UNCHECKED_HASH


def test_second_environment_takes_what_the_first_has_compiled(bench: Bench) -> None:
    first = bench.provision("alpha")
    mark_compiled(bench, first, "alpha")

    second = bench.provision("alpha", "beta")

    assert run(second, "python", "-c", "import alpha, beta; print(alpha.marked, beta.version)") == "True 1.0"


def test_copied_module_knows_its_own_place(bench: Bench) -> None:
    bench.provision("alpha")

    second = bench.provision("alpha", "beta")

    words = "import alpha; print(alpha.main.__code__.co_filename)"
    assert f"/{second.key}/" in run(second, "python", "-c", words)


def test_module_of_the_same_name_with_other_source_is_compiled_anew(bench: Bench, tmp_path: Path) -> None:
    """The liar has alpha's name, version and record, but not its source."""
    mark_compiled(bench, bench.provision("alpha"), "alpha")
    liar = lying_wheel(bench.tree, b"version = '6.6'\n")

    ready = bench.from_file("requirements.txt", f"./{liar.name}\nbeta\n")

    assert (
        run(ready, "python", "-c", "import alpha; print(alpha.version, hasattr(alpha, 'marked'))") == "6.6 False"
    )


def test_bytecode_that_a_package_brings_is_not_used(bench: Bench) -> None:
    other = marshal.dumps(compile("version = 'of other source'", "alpha", "exec"))
    python = bench.provision().version.split(".")
    name = f"alpha/__pycache__/__init__.cpython-{python[0]}{python[1]}.pyc"
    magic = compiled(bench, bench.provision("beta"), "beta").read_bytes()[:4]
    wheel = make_wheel(bench.tree, "alpha")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(name, magic + UNCHECKED_HASH + bytes(8) + other)

    ready = bench.from_file("requirements.txt", f"./{wheel.name}\n")

    assert run(ready, "python", "-c", "import alpha; print(alpha.version)") == "1.0"


def test_environment_that_lends_its_bytecode_may_go_afterwards(bench: Bench) -> None:
    first = bench.provision("alpha")
    second = bench.provision("alpha", "beta")
    first.release()
    bench.ready.remove(first)

    removed = cache.prune(bench.settings, everything=True)

    assert [entry.key for entry in removed] == [first.key]
    assert run(second, "python", "-c", "import alpha; print(alpha.version)") == "1.0"


def compiled(bench: Bench, ready: ReadyEnvironment, name: str) -> Path:
    folder = bench.settings.root / "environments" / ready.key
    (found,) = folder.glob(f"venv/lib/python*/site-packages/{name}/__pycache__/__init__.*.pyc")
    return found


def mark_compiled(bench: Bench, ready: ReadyEnvironment, name: str) -> None:
    """Changes the bytecode, so that one can tell where another environment has it from."""
    file = compiled(bench, ready, name)
    source = file.parent.with_name("__init__.py").read_text() + "\nmarked = True\n"
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:16] + marshal.dumps(compile(source, name, "exec")))


def lying_wheel(folder: Path, source: bytes) -> Path:
    honest = make_wheel(folder, "alpha")
    with zipfile.ZipFile(honest) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    digest = base64.urlsafe_b64encode(hashlib.sha256(source).digest()).rstrip(b"=")
    assert digest not in members["alpha-1.0.dist-info/RECORD"]
    with zipfile.ZipFile(honest, "w") as archive:
        for name, content in {**members, "alpha/__init__.py": source}.items():
            archive.writestr(name, content)
    return honest
