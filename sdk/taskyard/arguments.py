"""Turns a command line into named parameters and writes changed ones back, for scripts that know nothing of us.

`--lr 0.1`, `--lr=0.1`, `-b 8`   lr = 0.1, b = 8
`--amp`, `--no-amp`              amp = true, amp = false; the opposite value takes the flag off the line
`--tag a --tag b`                tag = ["a", "b"], and so is `--layers 64 32`, where all are numbers
`model.lr=0.1 +seed=1 ~sched`    Hydra's: model.lr = 0.1, +seed = 1, ~sched = true
`data.csv`, all after `--`       1 = data.csv: positionals are numbered

Without the script's own parser `--amp data.csv` could be a flag and a positional or an option with its value;
it is read as the latter, and `--no-amp` always as a flag. A wrong reading does no harm while that parameter is
not changed.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from taskyard.errors import UsageError
from taskyard.wire import Command, CommandKind

NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(inf|nan)", re.IGNORECASE)
_OVERRIDE = re.compile(r"(?P<name>(?:\+{1,2}|~)?[A-Za-z_][\w.@:/-]*)=(?P<value>.*)", re.DOTALL)
_DELETION = re.compile(r"~[A-Za-z_][\w.@:/-]*")
_INTERPRETER = re.compile(r"(python|pypy)(\d+(\.\d+)?)?(\.exe)?")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
HYDRA_FLAGS = ("-m", "--multirun")
_HYDRA_OPTIONS = (
    *HYDRA_FLAGS,
    "-c",
    "--cfg",
    "-cn",
    "--config-name",
    "-cp",
    "--config-path",
    "-cd",
    "--config-dir",
)
_PYTHON_OPTIONS_WITH_VALUE = ("-X", "-W", "--check-hash-based-pycs")


class _Form(enum.Enum):
    """How a parameter stands on the command line."""

    SPACE = "--name value"
    EQUALS = "--name=value"
    FLAG = "--name"
    NEGATED = "--no-name"
    OVERRIDE = "name=value"
    DELETION = "~name"
    POSITIONAL = "value"
    DASHES = "--"


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Neighbouring words that belong together."""

    form: _Form
    words: tuple[str, ...]
    key: str = ""
    """As it is spelled: `--lr`, `+model.lr`; for a positional, its number."""
    name: str = ""
    values: tuple[str, ...] = ()


@dataclass(kw_only=True)
class _Group:
    """All pieces of one parameter."""

    name: str
    pieces: list[_Piece] = field(default_factory=list)

    @property
    def is_list(self) -> bool:
        return sum(len(piece.values) for piece in self.pieces) > 1

    @property
    def value(self) -> str:
        values = [value for piece in self.pieces for value in piece.values]
        return json.dumps(values, ensure_ascii=False) if self.is_list else values[0]


def parse(args: Sequence[str]) -> dict[str, str]:
    """Returns the parameters that a command line holds, in its order: name → value."""
    return {name: group.value for name, group in _groups(_read(args)).items()}


def write_back(args: Sequence[str], parameters: Mapping[str, str]) -> tuple[str, ...]:
    """Returns `args` with the values of `parameters`, the words of unchanged ones as they were.

    A parameter that is new is added, one that is missing is taken off; no parameters at all mean that nobody
    recorded any, and leave everything as it is. Names may be written with dashes or underscores alike.
    """
    if not parameters:
        return tuple(args)
    pieces = _read(args)
    groups = _groups(pieces)
    wanted = _aligned(parameters, groups)
    rewritten = {name: _rewrite(group, wanted.get(name)) for name, group in groups.items()}
    kept = [iter(rewritten[name]) for name in groups]
    words = _in_place(pieces, dict(zip(groups, kept, strict=True)))
    added = [word for name in wanted if name not in groups for word in _new(name, wanted[name], pieces)]
    end = words.index("--") if _has_dashes(pieces) else len(words)
    return (*words[:end], *added, *words[end:])


def read_command(words: Sequence[str] | str) -> Command:
    """Reads `python train.py --lr 0.1`, `python -m pkg.mod`, `train.py` or `./tool --x` as a command.

    Raises UsageError where the words name nothing that an agent could start.
    """
    parts = shlex.split(words) if isinstance(words, str) else list(words)
    if not parts:
        raise UsageError("give the command after `--`, as in `taskyard run -- python train.py`")
    if _ASSIGNMENT.match(parts[0]):
        raise UsageError(f"{parts[0]}: give variables with `--env {parts[0]}`, before `--`")
    if _INTERPRETER.fullmatch(parts[0].replace("\\", "/").rpartition("/")[2]):
        return _read_python(parts[1:])
    kind = CommandKind.SCRIPT if parts[0].endswith(".py") else CommandKind.EXECUTABLE
    return Command(kind=kind, target=parts[0], args=tuple(parts[1:]))


def _read_python(words: list[str]) -> Command:
    """Reads what follows `python`; options may be clustered (`-um pkg`) or hold their value (`-Xdev`)."""
    options: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            return Command(target=word, args=tuple(rest), python_args=tuple(options))
        if word in _PYTHON_OPTIONS_WITH_VALUE:
            options += [word, next(rest, "")]
        elif not word.startswith(("--", "-X", "-W")) and (word == "-" or set(word) & set("mc")):
            return _read_cluster(word, list(rest), options)
        else:
            options.append(word)
    raise UsageError("python: name a script or a module, as in `python train.py` or `python -m package.module`")


def _read_cluster(word: str, rest: list[str], options: list[str]) -> Command:
    flags, letter, attached = re.fullmatch(r"(-[^mc]*)([mc]?)(.*)", word, re.DOTALL).groups()  # type: ignore[union-attr]
    words = [attached, *rest] if attached else rest
    if not letter or not words:
        raise UsageError("python: a program on standard input cannot be sent; put it into a file")
    before = (*options, *([flags] if flags != "-" else []))
    if letter == "c":
        return Command(kind=CommandKind.EXECUTABLE, target="python", args=(*before, "-c", *words))
    return Command(kind=CommandKind.MODULE, target=words[0], args=tuple(words[1:]), python_args=before)


# --- Reading ---------------------------------------------------------------------------------------------


def _read(args: Sequence[str]) -> list[_Piece]:
    pieces: list[_Piece] = []
    position = 0
    while position < len(args):
        if args[position] == "--":
            pieces.append(_Piece(form=_Form.DASHES, words=("--",)))
            pieces += [_positional(word) for word in args[position + 1 :]]
            break
        piece = _piece_at(args, position)
        pieces.append(piece)
        position += len(piece.words)
    return _named(pieces)


def _piece_at(args: Sequence[str], position: int) -> _Piece:
    word = args[position]
    if not is_option(word):
        return _override(word) or _positional(word)
    key, equals, value = word.partition("=")
    if equals:
        return _Piece(form=_Form.EQUALS, words=(word,), key=key, name=key.lstrip("-"), values=(value,))
    if word.startswith("--no-") and len(word) > len("--no-"):
        return _Piece(form=_Form.NEGATED, words=(word,), key=word, name=word[len("--no-") :], values=("false",))
    values = values_after(args, position)
    if values:
        return _Piece(form=_Form.SPACE, words=(word, *values), key=key, name=key.lstrip("-"), values=values)
    return _Piece(form=_Form.FLAG, words=(word,), key=word, name=word.lstrip("-"), values=("true",))


def is_option(word: str) -> bool:
    return len(word) > 1 and word.startswith("-") and word != "--" and not NUMBER.fullmatch(word)


def values_after(args: Sequence[str], position: int) -> tuple[str, ...]:
    """The option's value; a run of numbers belongs to it as a whole, as with argparse's `nargs`."""
    following = []
    for word in args[position + 1 :]:
        if word == "--" or is_option(word):
            break
        following.append(word)
    if args[position] in HYDRA_FLAGS and following and _override(following[0]):
        return ()
    if len(following) > 1 and all(NUMBER.fullmatch(word) for word in following):
        return tuple(following)
    return tuple(following[:1])


def _override(word: str) -> _Piece | None:
    match = _OVERRIDE.fullmatch(word)
    if match:
        name, value = match["name"], match["value"]
        return _Piece(form=_Form.OVERRIDE, words=(word,), key=name, name=name, values=(value,))
    if _DELETION.fullmatch(word):
        return _Piece(form=_Form.DELETION, words=(word,), key=word, name=word, values=("true",))
    return None


def override_of(word: str) -> tuple[str, str] | None:
    """Return name and value of `name=value` as Hydra writes it."""
    match = _OVERRIDE.fullmatch(word)
    return (match["name"], match["value"]) if match else None


def _positional(word: str) -> _Piece:
    return _Piece(form=_Form.POSITIONAL, words=(word,), values=(word,))


def _named(pieces: Iterable[_Piece]) -> list[_Piece]:
    """Numbers the positionals, and keeps `-lr` apart from `--lr`."""
    result: list[_Piece] = []
    keys: dict[str, tuple[str, bool]] = {}
    number = 0
    for piece in pieces:
        if piece.form is _Form.POSITIONAL:
            number += 1
            piece = dataclasses.replace(piece, key=str(number), name=str(number))
        if piece.form is not _Form.DASHES and keys.setdefault(piece.name, _identity(piece)) != _identity(piece):
            piece = dataclasses.replace(piece, name=piece.key)
        result.append(piece)
    return result


def _identity(piece: _Piece) -> tuple[str, bool]:
    return piece.key, piece.form in (_Form.OVERRIDE, _Form.DELETION, _Form.POSITIONAL)


def _groups(pieces: Iterable[_Piece]) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    for piece in pieces:
        if piece.form is not _Form.DASHES:
            groups.setdefault(piece.name, _Group(name=piece.name)).pieces.append(piece)
    return groups


# --- Writing ---------------------------------------------------------------------------------------------


def _aligned(parameters: Mapping[str, str], groups: Mapping[str, _Group]) -> dict[str, str]:
    """Gives each parameter the name under which the command line has it; a changed value beats a recorded one."""
    names = {_plain(name): name for name in groups}
    aligned: dict[str, str] = {}
    for given, value in parameters.items():
        name = given if given in groups else names.get(_plain(given), given)
        if name in aligned and name in groups and value == groups[name].value:
            continue
        aligned[name] = value
    return aligned


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def _rewrite(group: _Group, value: str | None) -> list[tuple[str, ...]]:
    """Returns the new words of each of the group's pieces."""
    if value == group.value:
        return [piece.words for piece in group.pieces]
    gone: list[tuple[str, ...]] = [()] * (len(group.pieces) - 1)
    if value is None:
        return [(), *gone]
    first = group.pieces[0]
    if not group.is_list:
        return [_with_value(first, value)]
    values = _list_items(value)
    if len(group.pieces) > 1:  # given several times
        return [*gone, tuple(word for item in values for word in _with_value(first, item))]
    return [(first.key, *values)]


def _with_value(piece: _Piece, value: str) -> tuple[str, ...]:
    if piece.form in (_Form.FLAG, _Form.NEGATED, _Form.DELETION):
        return _with_flag(piece, value)
    if piece.form is _Form.EQUALS or piece.form is _Form.OVERRIDE:
        return (f"{piece.key}={value}",)
    if piece.form is _Form.POSITIONAL:
        return (value,)
    # A value that looks like an option would be taken for one.
    misleading = value.startswith("-") and not NUMBER.fullmatch(value)
    return (f"{piece.key}={value}",) if piece.key.startswith("--") and misleading else (piece.key, value)


def _with_flag(piece: _Piece, value: str) -> tuple[str, ...]:
    if value.lower() == piece.values[0]:
        return piece.words
    if value.lower() in ("true", "false"):
        return ()
    positive = f"--{piece.name}" if piece.form is _Form.NEGATED else piece.key
    return (f"{positive}={value}",) if positive.startswith(("--", "~")) else (positive, value)


def _list_items(value: str) -> list[str]:
    """Reads `["a", "b"]`, `[1, 2]` or `1 2`."""
    try:
        items = json.loads(value)
    except ValueError:
        return shlex.split(value) if value.count("'") % 2 == 0 and value.count('"') % 2 == 0 else value.split()
    if not isinstance(items, list):
        return [value]
    return [item if isinstance(item, str) else json.dumps(item) for item in items]


def _in_place(pieces: Iterable[_Piece], words: Mapping[str, Iterator[tuple[str, ...]]]) -> list[str]:
    result: list[str] = []
    for piece in pieces:
        result += piece.words if piece.form is _Form.DASHES else next(words[piece.name])
    return result


def _new(name: str, value: str, pieces: Sequence[_Piece]) -> tuple[str, ...]:
    """Returns the words of a parameter that the command line does not have yet, in its own style."""
    if name.isdecimal():
        return (value,)
    if name.startswith(("+", "~")) or _speaks_hydra(pieces):
        return (name,) if name.startswith("~") and value in ("", "true") else (f"{name}={value}",)
    key = name if name.startswith("-") else f"--{name}"
    if value.lower() == "true":
        return (key,)
    if value.lower() == "false":
        return (f"--no-{key.lstrip('-')}",)
    return (f"{key}={value}",)


def _speaks_hydra(pieces: Sequence[_Piece]) -> bool:
    forms = {piece.form for piece in pieces if piece.key not in _HYDRA_OPTIONS}
    return _Form.OVERRIDE in forms and not forms & {_Form.SPACE, _Form.EQUALS, _Form.FLAG, _Form.NEGATED}


def _has_dashes(pieces: Sequence[_Piece]) -> bool:
    return any(piece.form is _Form.DASHES for piece in pieces)
