"""Reads a script's options from its source, without running it: its parser, and how each option is declared."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from taskyard.interface import NOTHING_KNOWN, UNKNOWN, Interface, Option, plain

LARGEST_SOURCE_BYTES = 2 << 20
MOST_MODULES = 40
_FOREIGN = (
    "typer",
    "docopt",
    "simple_parsing",
    "configargparse",
    "plac",
    "cyclopts",
    "tap",
    "draccus",
    "optparse",
)
_MISSING = object()


def read_interface(script: Path, root: Path) -> Interface:
    """Return what the source of `script`, and of the project's modules that it imports, says of options.

    What cannot be known for sure is unknown: options built at run time, two parsers, a source that is no Python.
    """
    try:
        return _read(list(_sources(script, root)), script)
    except RecursionError:
        return NOTHING_KNOWN


def _read(sources: list[_Source], script: Path) -> Interface:
    if not sources:
        return NOTHING_KNOWN
    found = {name: read for name, read in _READERS.items() if any(_uses(source, name) for source in sources)}
    if any(module in source.imported for source in sources for module in _FOREIGN) or len(found) > 1:
        return NOTHING_KNOWN
    if not found:
        return _read_configurator(sources, script) or NOTHING_KNOWN
    ((_, read),) = found.items()
    return read(sources)


@dataclass(frozen=True)
class _Source:
    tree: ast.Module
    path: Path
    is_script: bool
    aliases: dict[str, str] = field(default_factory=dict)
    """Local name → the dotted name that it was imported as."""

    @property
    def imported(self) -> set[str]:
        return {name.partition(".")[0] for name in self.aliases.values()}

    def nodes(self) -> Iterator[ast.AST]:
        """Yield the nodes in their order, without what runs only where a module is itself the script."""
        yield from _walk(self.tree, skip_main=not self.is_script)

    def dotted(self, node: ast.AST) -> str:
        """Return `argparse.ArgumentParser` for the expression, whatever it was imported as."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        return ".".join([self.aliases.get(node.id, node.id), *reversed(parts)])


def _walk(node: ast.AST, *, skip_main: bool) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if skip_main and isinstance(child, ast.If) and "__main__" in ast.dump(child.test):
            continue
        yield from _walk(child, skip_main=skip_main)


def _sources(script: Path, root: Path) -> Iterator[_Source]:
    waiting, seen = [script], {script}
    while waiting and len(seen) <= MOST_MODULES:
        path = waiting.pop(0)
        try:
            if not path.is_file() or path.stat().st_size > LARGEST_SOURCE_BYTES:
                continue
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):
            if path == script:
                return
            continue
        source = _Source(tree, path, path == script)
        for node in ast.walk(tree):
            for name, dotted in _imports(node):
                source.aliases[name] = dotted
        yield source
        places = (script.parent, path.parent, root, root / "src")
        for found in _local_modules(tree, places):
            if found not in seen:
                seen.add(found)
                waiting.append(found)


def _imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (
                alias.asname or alias.name.partition(".")[0],
                alias.name if alias.asname else alias.name.partition(".")[0],
            )
    elif isinstance(node, ast.ImportFrom) and not node.level:
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _local_modules(tree: ast.Module, places: tuple[Path, ...]) -> Iterator[Path]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}".lstrip(".") for alias in node.names)]
        for name in filter(None, names):
            relative = Path(*name.split("."))
            for place in places:
                for candidate in (place / relative.with_suffix(".py"), place / relative / "__init__.py"):
                    if candidate.is_file():
                        yield candidate


_SIGNS: dict[str, tuple[str, ...]] = {
    "argparse": ("argparse.ArgumentParser",),
    "click": ("click.command", "click.group"),
    "absl": ("absl.flags.", "absl.app.run"),
    "fire": ("fire.Fire",),
    "jsonargparse": ("jsonargparse.",),
    "lightning": ("lightning.pytorch.cli.LightningCLI", "pytorch_lightning.cli.LightningCLI",
                  "pytorch_lightning.utilities.cli.LightningCLI"),
    "tyro": ("tyro.cli", "tyro.extras."),
    "hydra": ("hydra.main",),
    "transformers": ("transformers.HfArgumentParser",),
}  # fmt: skip


def _uses(source: _Source, family: str) -> bool:
    for node in source.nodes():
        if isinstance(node, (ast.Attribute, ast.Name)):
            dotted = source.dotted(node)
            if any(dotted == sign or (sign.endswith(".") and dotted.startswith(sign)) for sign in _SIGNS[family]):
                return True
    return False


# --- Parts of calls


def _literal(node: ast.AST | None) -> Any:
    if node is None:
        return _MISSING
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _MISSING


def _keywords(call: ast.Call) -> dict[str, ast.AST]:
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def _spread(call: ast.Call) -> bool:
    return any(keyword.arg is None for keyword in call.keywords) or any(
        isinstance(argument, ast.Starred) for argument in call.args
    )


def _with_default(value: Any) -> dict[str, Any]:
    known = value is not _MISSING and _is_json(value)
    return {"default": _listed(value) if known else None, "has_default": known}


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value


def _is_json(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_json, value))
    return value is None or isinstance(value, (bool, int, float, str))


_TYPES = {"int": "int", "float": "float", "str": "str", "json.loads": "json", "ast.literal_eval": "literal",
          "pathlib.Path": "str", "Path": "str", "click.INT": "int", "click.FLOAT": "float", "click.STRING": "str",
          "click.Path": "str", "click.Choice": "str"}  # fmt: skip


def _type_of(node: ast.AST | None, source: _Source, sources: list[_Source]) -> dict[str, Any]:
    """The type of an option's value, from what is given as `type`."""
    if node is None:
        return {"type": "str"}
    dotted = source.dotted(node.func if isinstance(node, ast.Call) else node)
    if dotted in _TYPES:
        return {"type": _TYPES[dotted]}
    if dotted == "bool":
        return {"type": "words", "words": ("True", "")}  # bool("false") is true, bool("") is false
    if dotted.endswith("strtobool"):
        return {"type": "words", "words": ("true", "false")}
    function = _definition(dotted.rpartition(".")[2], sources)
    words = _bool_words(function) if isinstance(function, ast.FunctionDef) else ()
    return {"type": "words", "words": words} if words else {"type": UNKNOWN}


def _definition(name: str, sources: list[_Source]) -> ast.AST | None:
    found = [
        node
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name
    ]
    return found[0] if len(found) == 1 else None


def _bool_words(function: ast.FunctionDef) -> tuple[str, ...]:
    """The words that a function such as `str2bool` reads as true and false."""
    texts = {
        node.value for node in ast.walk(function) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    lowered = any(
        isinstance(node, ast.Attribute) and node.attr in ("lower", "casefold") for node in ast.walk(function)
    )
    results = {
        node.value.value
        for node in ast.walk(function)
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant)
    }
    if not {True, False} <= results or any(isinstance(node, (ast.Not, ast.NotIn)) for node in ast.walk(function)):
        return ()
    for words in (("true", "false"), ("True", "False"), ("yes", "no"), ("1", "0")):
        if set(words) <= texts and (lowered or words != ("true", "false") or "true" in texts):
            return words
    return ()


# --- argparse


class _Argparse(ast.NodeVisitor):
    """Collects the options of argparse's parsers, level by level."""

    def __init__(self, sources: list[_Source]) -> None:
        self.sources = sources
        self.source = sources[0]
        self.root = _Level()
        self.levels: dict[str, _Level] = {}
        self.subparsers: dict[str, _Level] = {}
        self.parsers = 0

    def read(self) -> Interface:
        for source in self.sources:
            self.source = source
            for node in source.nodes():
                if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) and isinstance(
                    node.value, ast.Call
                ):
                    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                    self._made(ast.unparse(target), node.value)
                elif isinstance(node, ast.Call):
                    self._called(node)
                elif isinstance(node, ast.With) or (
                    isinstance(node, ast.ClassDef)
                    and any("ArgumentParser" in ast.unparse(base) for base in node.bases)
                ):
                    self.root.complete = False
        if self.parsers != 1:
            self.root.complete = False
        return self.root.interface("argparse")

    def _made(self, target: str, call: ast.Call) -> None:
        """A name for a parser, a group of options, a set of sub-commands or one of them."""
        name = self.source.dotted(call.func)
        if name == "argparse.ArgumentParser":
            self.levels[target] = self.root
        if not isinstance(call.func, ast.Attribute):
            return
        owner, verb = ast.unparse(call.func.value), call.func.attr
        if verb in ("add_argument_group", "add_mutually_exclusive_group") and owner in self.levels:
            self.levels[target] = self.levels[owner]
        elif verb == "add_subparsers":
            self.subparsers[target] = self.levels.get(owner, self.root)
        elif verb == "add_parser" and owner in self.subparsers:
            self.levels[target] = self._sub(call, self.subparsers[owner])

    def _sub(self, call: ast.Call, above: _Level) -> _Level:
        name = _literal(call.args[0] if call.args else None)
        level = _Level()
        others = _literal(_keywords(call).get("aliases"))
        if not isinstance(name, str) or "parents" in _keywords(call) or _spread(call):
            above.complete = level.complete = False
            above.opaque = True
        else:
            for one in (name, *(others if isinstance(others, (list, tuple)) else ())):
                above.commands[str(one)] = level
        return level

    def _called(self, call: ast.Call) -> None:
        if self.source.dotted(call.func) == "argparse.ArgumentParser":
            self.parsers += 1
            given = _keywords(call)
            if {"parents", "prefix_chars", "fromfile_prefix_chars", "argument_default"} & set(given) or _spread(
                call
            ):
                self.root.complete = False
            if "prefix_chars" in given or "argument_default" in given:
                self.root.opaque = True
        if not isinstance(call.func, ast.Attribute):
            return
        owner, verb = ast.unparse(call.func.value), call.func.attr
        if verb == "add_argument":
            level = self.levels.get(owner)
            if level is None:
                level = self.root
                if self.root.commands or self.subparsers:
                    level.complete = False
            level.add(self._option(call))
        elif verb == "set_defaults":
            self._set_defaults(self.levels.get(owner, self.root), call)
        elif verb in (
            "parse_known_args",
            "add_argparse_args",
            "add_class_arguments",
            "register",
            "parse_known_intermixed_args",
        ):
            self.root.complete = False

    def _set_defaults(self, level: _Level, call: ast.Call) -> None:
        names = set(_keywords(call))
        for dest, option in level.options.items():
            if dest in names or _spread(call):
                level.options[dest] = replace(option, has_default=False)
        level.changed_defaults |= names if not _spread(call) else {"*"}

    def _option(self, call: ast.Call) -> Option | str | None:
        """The option, the name of a positional, or None where the source does not say."""
        names = [_literal(argument) for argument in call.args]
        given = _keywords(call)
        if not names or not all(isinstance(name, str) for name in names):
            return None
        if not names[0].startswith("-"):
            remainder = ast.unparse(given["nargs"]) if "nargs" in given else ""
            if "REMAINDER" in remainder or "'...'" in remainder:
                self.root.interspersed = False
            return str(names[0]) if "nargs" not in given else f"*{names[0]}"
        long = sorted((name for name in names if name.startswith("--")), key=len, reverse=True)
        first = next((name for name in names if name.startswith("--")), names[0])
        dest = _literal(given.get("dest"))
        dest = dest if isinstance(dest, str) else first.lstrip("-").replace("-", "_")
        spelled = (*long, *(name for name in names if name not in long))
        base = Option(dest=dest, names=spelled, kind=UNKNOWN)
        if _spread(call) or ("dest" in given and _literal(given["dest"]) is _MISSING):
            return base
        return self._by_action(base, first, given)

    def _by_action(self, base: Option, first: str, given: dict[str, ast.AST]) -> Option:
        action = _literal(given.get("action"))
        default = _literal(given["default"]) if "default" in given else None
        if "action" in given and action is _MISSING:
            if self.source.dotted(given["action"]) != "argparse.BooleanOptionalAction":
                return base
            off = f"--no-{first[2:]}"
            return replace(base, kind="flag", on=first, off=off, **_with_default(default))
        if action in ("store_true", "store_false"):
            plain_default = default if "default" in given else action == "store_false"
            on, off = (first, "") if action == "store_true" else ("", first)
            return replace(base, kind="flag", on=on, off=off, **_with_default(plain_default))
        if action not in (_MISSING, "store", "append", "extend"):
            return base
        base = replace(base, **_type_of(given.get("type"), self.source, self.sources), **_with_default(default))
        nargs = _literal(given["nargs"]) if "nargs" in given else None
        if action == "append":
            return replace(base, kind="append" if nargs is None else UNKNOWN)
        if nargs in (None, "?"):
            return replace(base, kind="value" if action != "extend" else UNKNOWN)
        if nargs in ("+", "*"):
            return replace(base, kind="list", may_be_empty=nargs == "*")
        return replace(base, kind="list", count=nargs) if isinstance(nargs, int) else replace(base, kind=UNKNOWN)


@dataclass
class _Level:
    options: dict[str, Option] = field(default_factory=dict)
    positionals: list[str] = field(default_factory=list)
    commands: dict[str, _Level] = field(default_factory=dict)
    complete: bool = True
    opaque: bool = False
    """Nothing about its options can be relied on."""
    interspersed: bool = True
    changed_defaults: set[str] = field(default_factory=set)

    def add(self, option: Option | str | None) -> None:
        """Add what a declaration said; two that differ leave the option unknown."""
        if option is None:
            self.complete = False
        elif isinstance(option, str):
            self.positionals.append(option)
        else:
            key = "/".join((option.dest, *option.names)) if self._shares(option) else option.dest
            if self.changed_defaults & {option.dest, "*"}:
                option = replace(option, has_default=False)
            known = self.options.get(key)
            self.options[key] = option if known in (None, option) else replace(option, kind=UNKNOWN)

    def _shares(self, option: Option) -> bool:
        """Whether another option sets the same value: `--cache` and `--no-cache` with one `dest`."""
        known = self.options.get(option.dest)
        return known is not None and known.names != option.names

    def interface(self, parser: str, script: str = "") -> Interface:
        """Return what was collected."""
        if self.opaque:
            return Interface(parser=parser, script=script)
        return Interface(
            parser=parser,
            options=tuple(_joined(self.options.values())),
            positionals=tuple(self.positionals),
            complete=self.complete,
            interspersed=self.interspersed,
            commands={name: level.interface(parser) for name, level in self.commands.items()},
            script=script,
        )


def _joined(options: Any) -> Iterator[Option]:
    """Two flags for one value are one option with both words."""
    by_dest: dict[str, list[Option]] = {}
    for option in options:
        by_dest.setdefault(option.dest, []).append(option)
    for dest, group in by_dest.items():
        if len(group) == 1:
            yield group[0]
            continue
        names = tuple(name for option in group for name in option.names)
        ons, offs = [one.on for one in group if one.on], [one.off for one in group if one.off]
        if all(one.kind == "flag" for one in group) and len(ons) == len(offs) == 1:
            yield Option(dest=dest, names=names, kind="flag", on=ons[0], off=offs[0])
        else:
            yield Option(dest=dest, names=names, kind=UNKNOWN)


# --- click


class _Click:
    """Collects the options of click's commands and groups."""

    def __init__(self, sources: list[_Source]) -> None:
        self.sources = sources

    def read(self) -> Interface:
        """The one command, or the one group with its commands; anything else is unknown."""
        commands: dict[str, tuple[str, _Level]] = {}
        roots: list[str] = []
        for source in self.sources:
            for node in source.nodes():
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    self._function(node, source, commands, roots)
        for source in self.sources:
            for node in source.nodes():
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr == "add_command"
                ):
                    self._added(node, commands, roots)
        if len(roots) != 1:
            return Interface(parser="click")
        return commands[roots[0]][1].interface("click")

    def _function(
        self, node: Any, source: _Source, commands: dict[str, tuple[str, _Level]], roots: list[str]
    ) -> None:
        level, made = _Level(), False
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            target = call.func if call else decorator
            dotted = source.dotted(target)
            if dotted in ("click.command", "click.group"):
                made = True
                roots.append(node.name)
                commands[node.name] = (self._name(node, call), level)
                self._settings(level, call)
            elif (
                isinstance(target, ast.Attribute)
                and target.attr in ("command", "group")
                and isinstance(target.value, ast.Name)
            ):
                made = True
                name = self._name(node, call)
                commands[node.name] = (name, level)
                owner = commands.get(target.value.id)
                if owner:
                    owner[1].commands[name] = level
                self._settings(level, call)
            elif dotted == "click.option" and call:
                level.add(self._option(call, source))
            elif dotted == "click.argument" and call:
                name = _literal(call.args[0] if call.args else None)
                starred = "nargs" in _keywords(call)
                level.add(None if not isinstance(name, str) else f"*{name}" if starred else name)
            elif dotted not in (
                "click.pass_context",
                "click.pass_obj",
                "click.version_option",
                "click.help_option",
            ):
                level.complete = False
        if made and node.args.kwarg and not level.options:
            level.complete = False

    def _name(self, node: Any, call: ast.Call | None) -> str:
        name: Any = (
            _literal(call.args[0])
            if call and call.args
            else _literal(_keywords(call).get("name"))
            if call
            else _MISSING
        )
        if isinstance(name, str):
            return name
        words = str(node.name).lower().replace("_", "-")
        return words.removesuffix("-command").removesuffix("-cmd") or words

    def _settings(self, level: _Level, call: ast.Call | None) -> None:
        given = _keywords(call) if call else {}
        text = ast.unparse(call) if call else ""
        if "allow_interspersed_args" in text or "ignore_unknown_options" in text:
            level.interspersed = False
        if "params" in given or "chain" in given or "cls" in given or (call and _spread(call)):
            level.complete = False
            level.opaque = True
        if "auto_envvar_prefix" in text or "default_map" in text or "token_normalize_func" in text:
            level.opaque = True

    def _added(self, call: ast.Call, commands: dict[str, tuple[str, _Level]], roots: list[str]) -> None:
        group, added = ast.unparse(call.func.value), ast.unparse(call.args[0]) if call.args else ""  # type: ignore[attr-defined]
        if group in commands and added in commands:
            name = _literal(call.args[1]) if len(call.args) > 1 else _literal(_keywords(call).get("name"))
            commands[group][1].commands[name if isinstance(name, str) else commands[added][0]] = commands[added][1]
            roots[:] = [root for root in roots if root != added]
        else:
            roots.append("?")
            commands["?"] = ("", _Level(opaque=True))

    def _option(self, call: ast.Call, source: _Source) -> Option | None:
        words = [_literal(argument) for argument in call.args]
        given = _keywords(call)
        if not words or not all(isinstance(word, str) for word in words):
            return None
        explicit = [word for word in words if not word.startswith("-")]
        pairs = [word for word in words if "/" in word]
        names = [part.strip() for word in words if word.startswith("-") for part in word.split("/")]
        firsts = [word.partition("/")[0].strip() for word in words if word.startswith("-")]
        longest = max(firsts, key=lambda name: (name.startswith("--"), len(name)))
        named = next((name for name in firsts if name.startswith("--")), firsts[0])
        dest = explicit[0] if explicit else named.lstrip("-").replace("-", "_").lower()
        base = Option(dest=dest, names=tuple(sorted(names, key=len, reverse=True)), kind=UNKNOWN)
        if _spread(call) or {"callback", "cls", "count", "flag_value", "envvar", "prompt"} & set(given):
            return base
        return self._by_settings(base, longest, pairs, given, source)

    def _by_settings(
        self, base: Option, first: str, pairs: list[str], given: dict[str, ast.AST], source: _Source
    ) -> Option:
        default = _literal(given["default"]) if "default" in given else None
        multiple = _literal(given["multiple"]) if "multiple" in given else False
        nargs = _literal(given["nargs"]) if "nargs" in given else 1
        flag = _literal(given["is_flag"]) if "is_flag" in given else False
        if _MISSING in (multiple, nargs, flag) or (multiple and nargs != 1):
            return base
        if pairs:
            on, _, off = (part.strip() for part in pairs[0].partition("/"))
            return replace(
                base, kind="flag", on=on, off=off, **_with_default(bool(default) if default is None else default)
            )
        if flag:
            return replace(base, kind="flag", on=first, **_with_default(False if default is None else default))
        kind = self._type(given, default, source)
        if multiple:
            return replace(base, kind="append", default=[], has_default="default" not in given, **kind)
        base = replace(base, **kind, **_with_default(default))
        if isinstance(nargs, int) and nargs > 1:
            return replace(base, kind="list", count=nargs)
        return replace(base, kind="value" if nargs == 1 else UNKNOWN)

    def _type(self, given: dict[str, ast.AST], default: Any, source: _Source) -> dict[str, Any]:
        if "type" in given:
            dotted = source.dotted(given["type"])
            if dotted in ("bool", "click.BOOL"):
                return {"type": "words", "words": ("true", "false")}
            return _type_of(given["type"], source, self.sources)
        if isinstance(default, bool):
            return {"type": "words", "words": ("true", "false")}
        if default is _MISSING:
            return {"type": UNKNOWN}
        return {"type": {int: "int", float: "float"}.get(type(default), "str")}


# --- absl


_ABSL = {"string": "str", "integer": "int", "float": "float", "enum": "str"}


def _read_absl(sources: list[_Source]) -> Interface:
    level = _Level(interspersed=False)
    for source in sources:
        for node in source.nodes():
            if not isinstance(node, ast.Call):
                continue
            verb = source.dotted(node.func)
            if verb.startswith("absl.flags.DEFINE_"):
                level.add(_absl_flag(node, verb.removeprefix("absl.flags.DEFINE_")))
            elif verb.endswith(("set_gnu_getopt", "config_flags.DEFINE_config_file")):
                level.complete = False
    return level.interface("absl")


def _absl_flag(call: ast.Call, verb: str) -> Option | None:
    given = _keywords(call)
    name = _literal(call.args[0] if call.args else given.get("name"))
    if not isinstance(name, str):
        return None
    default = _literal(call.args[1] if len(call.args) > 1 else given.get("default"))
    base = Option(dest=name, names=(f"--{name}", f"-{name}"), **_with_default(default))
    if verb in ("bool", "boolean"):
        return replace(base, kind="flag", on=f"--{name}", off=f"--no{name}")
    if verb in _ABSL:
        return replace(base, type=_ABSL[verb])
    if verb.startswith("multi_") and verb.removeprefix("multi_") in _ABSL:
        return replace(base, kind="append", type=_ABSL[verb.removeprefix("multi_")])
    return replace(base, type="csv") if verb == "list" else replace(base, kind=UNKNOWN)


# --- Functions and data classes: Fire, jsonargparse, tyro


def _read_functions(family: str, *callers: str) -> Callable[[list[_Source]], Interface]:
    def read(sources: list[_Source]) -> Interface:
        calls = [
            (node, source)
            for source in sources
            for node in source.nodes()
            if isinstance(node, ast.Call) and source.dotted(node.func) in callers
        ]
        if len(calls) != 1:
            return Interface(parser=family)
        call, _ = calls[0]
        given = call.args[0] if call.args else None
        if not isinstance(given, ast.Name) or len(call.args) > 1 or (call.keywords and family != "fire"):
            return Interface(parser=family)
        found = _definition(given.id, sources)
        if isinstance(found, ast.FunctionDef):
            return _of_function(found, family)
        if isinstance(found, ast.ClassDef) and family == "tyro" and not found.bases:
            return _of_class(found)
        return Interface(parser=family)

    return read


def _of_function(function: ast.FunctionDef, family: str) -> Interface:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    lacking: list[ast.AST | None] = [None] * (
        len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    )
    defaults = [*lacking, *arguments.defaults, *arguments.kw_defaults]
    level = _Level(complete=not (arguments.kwarg or arguments.vararg or function.decorator_list))
    for argument, default in zip(named, defaults, strict=True):
        level.add(_of_field(argument.arg, argument.annotation, default, family))
        if family == "fire":
            level.positionals.append(argument.arg)
    return level.interface(family)


def _of_class(found: ast.ClassDef) -> Interface:
    level = _Level()
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            level.add(_of_field(node.target.id, node.annotation, node.value, "tyro"))
    return level.interface("tyro")


def _of_field(name: str, annotation: ast.AST | None, default: ast.AST | None, family: str) -> Option:
    names = (f"--{name}",) if family != "tyro" else (f"--{name.replace('_', '-')}", f"--{name}")
    base = Option(dest=name, names=names, kind=UNKNOWN, **_with_default(_literal(default)))
    if family == "fire":
        return replace(base, kind="value", type="literal", may_be_none=True)
    text = ast.unparse(annotation).replace(" ", "") if annotation is not None else ""
    optional = "None" in text or text.startswith("Optional[")
    text = text.removeprefix("Optional[").removesuffix("]") if text.startswith("Optional[") else text
    text = "|".join(part for part in text.split("|") if part != "None")
    text = text.replace("typing.", "").replace("List[", "list[").replace("Tuple[", "tuple[")
    kinds = {"int": "int", "float": "float", "str": "str", "bool": "bool"}
    item = text.partition("[")[2].removesuffix("]")
    if family == "jsonargparse":
        if default is None or (text not in kinds and not (text.startswith("list[") and item in kinds)):
            return base
        return replace(base, kind="value", type="yaml", words=(text,), may_be_none=optional)
    if text == "bool" and default is not None and not optional:
        return replace(base, kind="flag", on=names[0], off=f"--no-{names[0][2:]}")
    if default is None or (text not in kinds and not text.startswith("list[")) or text == "bool":
        return base
    if text.startswith("list["):
        return replace(
            base,
            kind="list" if item in kinds and item != "bool" and not optional else UNKNOWN,
            type=item,
            may_be_empty=True,
        )
    return replace(base, kind="value", type=kinds[text], may_be_none=optional)


# --- Hydra, and nanoGPT's configurator


def _read_hydra(_sources: list[_Source]) -> Interface:
    return Interface(parser="hydra")


def _read_configurator(sources: list[_Source], script: Path) -> Interface | None:
    """A script that runs `exec(open("configurator.py").read())` lets `--name=value` set its own variables."""
    source = sources[0]
    for node in source.nodes():
        if isinstance(node, ast.Call) and source.dotted(node.func) == "exec":
            opened = [_literal(one) for one in ast.walk(node) if isinstance(one, ast.Constant)]
            files = [script.parent / one for one in opened if isinstance(one, str) and one.endswith(".py")]
            if len(files) == 1 and _is_configurator(files[0]):
                return _globals_of(source)
    return None


def _is_configurator(file: Path) -> bool:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return all(part in text for part in ("sys.argv", "literal_eval", "globals()", "startswith('--')"))


def _globals_of(source: _Source) -> Interface:
    level = _Level(complete=True)
    for node in source.tree.body:
        if isinstance(node, ast.Expr) and "exec(" in ast.unparse(node):
            break
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            default = _literal(node.value)
            name = node.targets[0].id
            kind = UNKNOWN if default is _MISSING or isinstance(default, (tuple, dict, set)) else "value"
            known = Option(dest=name, names=(f"--{name}",), kind=kind, type="literal", **_with_default(default))
            level.options[name] = replace(known, may_be_none=default is None)
    return level.interface("configurator")


def _unknown_options(family: str) -> Callable[[list[_Source]], Interface]:
    return lambda _: Interface(parser=family)


def _read_jsonargparse(sources: list[_Source]) -> Interface:
    if any(isinstance(node, ast.Call) and source.dotted(node.func).endswith(".ArgumentParser")
           for source in sources for node in source.nodes()):  # fmt: skip
        return Interface(parser="jsonargparse")
    callers = ("jsonargparse.CLI", "jsonargparse.auto_cli")
    return _read_functions("jsonargparse", *callers)(sources)


_READERS: dict[str, Callable[[list[_Source]], Interface]] = {
    "argparse": lambda sources: _Argparse(sources).read(),
    "click": lambda sources: _Click(sources).read(),
    "absl": _read_absl,
    "fire": _read_functions("fire", "fire.Fire"),
    "jsonargparse": _read_jsonargparse,
    "lightning": _unknown_options("jsonargparse"),
    "tyro": _read_functions("tyro", "tyro.cli"),
    "hydra": _read_hydra,
    "transformers": _unknown_options("argparse"),
}


def nearest(name: str, known: Any) -> str:
    """Return the known name that is most like this one, or nothing."""
    import difflib

    names = {plain(one): one for one in known}
    initials = [one for one in names if _stands_for(one, plain(name)) or _stands_for(plain(name), one)]
    found = initials or difflib.get_close_matches(plain(name), list(names), n=1, cutoff=0.6)
    return names[found[0]] if found else ""


def _stands_for(short: str, long: str) -> bool:
    """Whether `lr` stands for `learning_rate`, `bs` for `batch_size`."""
    words = [word for word in long.split("_") if word]
    return len(words) > 1 and short == "".join(word[0] for word in words)
