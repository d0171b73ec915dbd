"""Compiles an environment's modules; what another one has compiled of the same source is copied instead."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from taskyard_agent.environments.installer import Installer
from taskyard_agent.environments.interpreters import Interpreter

_COMPILE = """\
import os, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
with open(sys.argv[1], encoding="utf-8", errors="surrogateescape") as listing:
    paths = listing.read().split("\\0")
workers = min(len(os.sched_getaffinity(0)), len(paths))
for number in range(workers):
    if os.fork() == 0:
        for path in paths[number::workers]:
            try:
                py_compile.compile(path, doraise=True, invalidation_mode=mode)
            except Exception:
                pass  # templates, and tests of wrong syntax: what is no Python is not compiled
        os._exit(0)
for number in range(workers):
    os.wait()
"""
"""Times do not matter to what it writes, so that it may be copied: nobody changes the source afterwards."""


def copy_compiled(site: Path, others: Sequence[Path], interpreter: Interpreter) -> list[Path]:
    """Copies what `others`, site-packages of the same interpreter, have compiled; returns the modules left.

    Only the same source has the same bytecode: it is compared itself, because a package's record may lie. What
    bytecode a package brought may lie, too, and is removed.
    """
    others = list(others)
    return [module for module in _modules(site) if not _copy_one(module, site, others, _tag(interpreter))]


def compile_modules(modules: Sequence[Path], interpreter: Interpreter, folder: Path, installer: Installer) -> None:
    """Compiles modules on all processors; no installed code takes part, for site-packages stay out."""
    if not modules:
        return
    listing = folder / "modules"
    listing.write_bytes(b"\0".join(os.fsencode(module) for module in modules))
    command: list[str | Path] = [interpreter.home, "-I", "-S", "-W", "ignore", "-c", _COMPILE, listing]
    installer.run(command, cwd=folder, quiet=True)
    listing.unlink()


def _modules(site: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(site):
        for name in names:
            if name.endswith(".py"):
                yield Path(folder, name)


def _copy_one(module: Path, site: Path, others: list[Path], tag: str) -> bool:
    source, target = module.read_bytes(), _compiled(module, tag)
    target.unlink(missing_ok=True)
    for place, other in enumerate(others):
        twin = other / module.relative_to(site)
        try:
            if twin.stat().st_size != len(source) or twin.read_bytes() != source:
                continue
            compiled = _compiled(twin, tag).read_bytes()
        except OSError:
            continue
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(compiled)
        others.insert(0, others.pop(place))  # it most likely has the next module, too
        return True
    return False


def _compiled(module: Path, tag: str) -> Path:
    """https://peps.python.org/pep-3147/#proposal."""
    return module.parent / "__pycache__" / f"{module.stem}.{tag}.pyc"


def _tag(interpreter: Interpreter) -> str:
    """As every CPython has it; where another interpreter differs, nothing is found and all is compiled."""
    return f"{interpreter.implementation}-{''.join(interpreter.minor.split('.'))}"
