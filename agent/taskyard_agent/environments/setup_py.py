"""Reads setup.py without running it, and setup.cfg: what setuptools would make of them, where that is certain."""

from __future__ import annotations

import ast
import configparser
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskyard_agent.environments.request import failed
from taskyard_agent.environments.task_files import text_of

UNKNOWN = object()
"""What only running the file would tell."""
_SECTION = re.compile(r"^\s*(?P<key>[^=]+?)\s*=\s*(?P<value>.+?)\s*$")


@dataclass(frozen=True, kw_only=True)
class SetupArguments:
    """The arguments of `setup()`: those of setup.py, and beneath them what setup.cfg says."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """By their names in setup.py; UNKNOWN for what is computed."""
    complete: bool = True
    """Whether no further argument can hide in a `**settings` or behind a call that was not found."""

    def known(self, name: str, default: Any = None) -> Any:
        """Returns an argument, `default` where it is absent or computed."""
        value = self.values.get(name, default)
        return default if value is UNKNOWN else value

    def is_known(self, *names: str) -> bool:
        """Whether all these are absent, or written out."""
        return self.complete and not any(self.values.get(name) is UNKNOWN for name in names)


def read_setup(folder: Path, where: str) -> SetupArguments:
    """Reads setup.py and setup.cfg of a folder, either of which may be absent. Raises RunFailed naming `where`."""
    config, script = folder / "setup.cfg", folder / "setup.py"
    for file in (config, script):
        if not file.resolve().is_relative_to(folder.resolve()):
            raise failed(f"{where}: {file.name} is a link to a file outside the project")
    configured = _of_config(text_of(config, where), folder, where) if config.is_file() else {}
    if not script.is_file():
        return SetupArguments(values=configured)
    arguments, complete = _of_script(text_of(script, where))
    return SetupArguments(values={**configured, **arguments}, complete=complete)


# --- setup.py --------------------------------------------------------------------------------------------


def _of_script(text: str) -> tuple[dict[str, Any], bool]:
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError):
        return {}, False
    calls = [node for node in ast.walk(module) if isinstance(node, ast.Call) and _name_of(node.func) == "setup"]
    if len(calls) != 1:
        return {}, False
    constants = _constants(module)
    found = {word.arg: _value(word.value, constants) for word in calls[0].keywords if word.arg}
    return found, not calls[0].args and all(word.arg for word in calls[0].keywords)


def _name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _constants(module: ast.Module) -> dict[str, Any]:
    """Names that get one literal, and are read once: nothing between can have changed them."""
    uses = Counter(node.id for node in ast.walk(module) if isinstance(node, ast.Name))
    found: dict[str, Any] = {}
    for node in module.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if uses[name] == 2:
                found[name] = _value(node.value, {})
    return found


def _value(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return constants.get(node.id, UNKNOWN)
    if isinstance(node, ast.Call) and _name_of(node.func) in ("find_packages", "find_namespace_packages"):
        return _where(node)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return UNKNOWN


def _where(call: ast.Call) -> Any:
    """`find_packages("src", exclude=…)` → `{"find": "src"}`."""
    given = [*call.args[:1], *(word.value for word in call.keywords if word.arg == "where")]
    folder = _value(given[0], {}) if given else "."
    return {"find": folder} if isinstance(folder, str) else UNKNOWN


# --- setup.cfg -------------------------------------------------------------------------------------------


def _of_config(text: str, folder: Path, where: str) -> dict[str, Any]:
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise failed(f"{where}: setup.cfg cannot be read: {str(error).splitlines()[0]}") from error
    table = {section: dict(parser.items(section)) for section in parser.sections()}
    metadata, options = table.get("metadata", {}), table.get("options", {})
    values: dict[str, Any] = {
        "name": metadata.get("name"),
        "version": _plain(metadata.get("version")),
        "python_requires": options.get("python_requires"),
        "install_requires": _lines(options.get("install_requires"), folder),
        "package_dir": _pairs(options.get("package_dir")),
        "cmdclass": options.get("cmdclass"),
        "extras_require": {
            extra: _lines(lines, folder) for extra, lines in table.get("options.extras_require", {}).items()
        },
        "entry_points": {group: _listed(lines) for group, lines in table.get("options.entry_points", {}).items()},
    }
    if "where" in table.get("options.packages.find", {}):
        values["packages"] = {"find": _listed(table["options.packages.find"]["where"])[0]}
    return {name: value for name, value in values.items() if value not in (None, {}, [])}


def _plain(version: str | None) -> str | None:
    """`attr: pkg.version` and `file: VERSION` are left to the builder."""
    return None if version is None or version.startswith(("attr:", "file:")) else version


def _lines(value: str | None, folder: Path) -> Any:
    """A list, or the files of `file: requirements.txt`, as setuptools reads them."""
    if value is None or not value.strip().startswith("file:"):
        return _listed(value)
    return lines_of_files(re.split(r"[,\n]", value.strip().removeprefix("file:")), folder)


def lines_of_files(names: Iterable[str], folder: Path) -> Any:
    """Returns the requirements in files that a project names; UNKNOWN where one cannot be read."""
    lines: list[str] = []
    for name in filter(None, (name.strip() for name in names)):
        file = (folder / name).resolve()
        if not file.is_file() or not file.is_relative_to(folder.resolve()):
            return UNKNOWN
        text = text_of(file, name)
        lines += [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    return lines


def _listed(value: str | None) -> list[str]:
    return [
        line.strip() for line in (value or "").splitlines() if line.strip() and not line.strip().startswith("#")
    ]


def _pairs(value: str | None) -> dict[str, str]:
    found = (
        _SECTION.match(line) or re.match(r"^\s*(?P<key>)=\s*(?P<value>.+?)\s*$", line) for line in _listed(value)
    )
    return {match["key"]: match["value"] for match in found if match}
