"""Writes changed parameters into a command line, in the form that the script's parser reads, or refuses.

What is known of the script is an `Interface`. Where it does not say how a value is written, one that stands on
the line is replaced in the form found there; a new option, or a changed flag, is refused with the line to type.
"""

from __future__ import annotations

import ast
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from taskyard.arguments import HYDRA_FLAGS, NUMBER, is_option, override_of, parse, values_after
from taskyard.errors import UsageError
from taskyard.interface import NOTHING_KNOWN, UNKNOWN, Interface, Option, plain
from taskyard.wire import as_text

_JSON_START = re.compile(r'-?\d|\[|"|(true|false|null)$')
_SAFE_WORD = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)
_BOOLEAN_PAIRS = (("true", "false"), ("True", "False"), ("TRUE", "FALSE"), ("yes", "no"), ("on", "off"))
_LITERAL = re.compile(r"(?:(?P<command>[A-Za-z][\w-]*) )?(?P<words>-{1,2}[A-Za-z].*)", re.DOTALL)
_LARGEST_INTEGER = 2**63 - 1
_LITERALS = ("None", "True", "False", "null", "true", "false")
_YAML_WORDS = ("", "~", "null", "Null", "NULL")
_PYTHON_FAMILIES = ("fire", "configurator")
_WORDS_OF_PARSERS = ("true", "false", "none", "null", "inf", "nan", "yes", "no", "on", "off")


class Unwritable(UsageError):
    """The value cannot be written so that the script is sure to see it; the message names the line to type."""


@dataclass(frozen=True)
class Given:
    """A parameter's value, and how it was typed where a person typed it."""

    value: Any
    text: str | None = None


def typed(text: str) -> Given:
    """Read what a person typed: `true`, `3`, `0.1`, `null`, `[4, 5]` and `"a text"` as JSON does, else a word."""
    if _JSON_START.match(text):
        try:
            value = json.loads(text)
        except ValueError:
            return Given(text, text)
        if isinstance(value, str):
            return Given(value)  # quoted: a text, whatever it looks like
        if _is_value(value):
            return Given(value, text)
    return Given(text, text)


def given(value: Any) -> Given:
    """Take a value as a program gave it: JSON's are themselves, tuples are lists, anything else is its text."""
    if isinstance(value, Given):
        return value
    if isinstance(value, (tuple, list, set, frozenset, range)):
        return Given([given(item).value for item in value])
    item = getattr(value, "item", None)  # a number of numpy's or torch's
    if not isinstance(value, (bool, int, float, str)) and callable(item) and not getattr(value, "shape", ()):
        value = item()
    return Given(value if _is_value(value) else str(value))


def _is_value(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_value, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= _LARGEST_INTEGER
    return value is None or isinstance(value, (bool, str)) or (isinstance(value, float) and math.isfinite(value))


@dataclass(frozen=True, kw_only=True)
class Written:
    """A command line that holds the parameters."""

    args: tuple[str, ...]
    parameters: dict[str, str]
    """What the line says, as text."""
    values: dict[str, Any]
    """Of the changed parameters, those whose value is not the text on the line."""


def write(args: Sequence[str], wanted: Mapping[str, Given], interface: Interface = NOTHING_KNOWN) -> Written:
    """Return `args` with the wanted values written in. Raises Unwritable where the script might not see one."""
    for_launcher = _for_launcher(args, wanted, interface)
    if for_launcher:
        end = args.index(interface.script)
        before = write(args[:end], for_launcher).args
        args = (*before, *args[end:])
        wanted_here = {name: value for name, value in wanted.items() if name not in for_launcher}
    else:
        wanted_here = dict(wanted)
    line = _Line.read(args, interface)
    for name, value in wanted_here.items():
        _Change(line, name, value).apply()
    words = [word for piece in line.pieces for word in piece.words]
    parameters = parse(words)
    values: dict[str, Any] = {}
    for name, value in wanted.items():
        key, seen = _recorded(name, value, line, parameters)
        if parameters.get(key) != seen:
            values[key] = seen
    return Written(args=tuple(words), parameters=parameters, values=values)


def _for_launcher(args: Sequence[str], wanted: Mapping[str, Given], interface: Interface) -> dict[str, Given]:
    """What stands before the script, as an option of the program that starts it, and is none of the script's."""
    if not interface.script or interface.script not in args:
        return {}
    own = {plain(name) for name in parse(args[: args.index(interface.script)]) if not name.isdecimal()}
    return {name: value for name, value in wanted.items() if plain(name) in own and interface.find(name) is None}


def _recorded(name: str, value: Given, line: _Line, parameters: Mapping[str, str]) -> tuple[str, Any]:
    """The name under which a changed parameter is kept, and its value."""
    match = _LITERAL.fullmatch(name)
    if match:
        key = match["words"].partition(" ")[0].lstrip("-")
        return next((one for one in parameters if plain(one) == plain(key)), key), parameters.get(key, value.value)
    option = next((found for level in line.levels for found in [level.interface.find(name)] if found), None)
    names = {plain(name)} | ({plain(one) for one in option.names} if option else set())
    return next((one for one in parameters if plain(one) in names), name), value.value


# --- The line


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Neighbouring words that belong together."""

    form: str
    """`space equals flag override positional command dashes other`."""
    words: tuple[str, ...]
    key: str = ""
    values: tuple[str, ...] = ()
    option: Option | None = None
    level: int = 0
    fresh: bool = False

    @property
    def name(self) -> str:
        name = self.key.lstrip("-").lstrip("+")
        return name.removeprefix("no-") if self.form == "flag" and self.option is None else name


@dataclass
class _Level:
    interface: Interface
    command: str = ""


@dataclass
class _Line:
    interface: Interface
    pieces: list[_Piece] = field(default_factory=list)
    levels: list[_Level] = field(default_factory=list)

    @classmethod
    def read(cls, args: Sequence[str], interface: Interface) -> _Line:
        """Take a command line apart as its parser would."""
        whole, start = interface, 0
        if interface.script:
            start = args.index(interface.script) + 1 if interface.script in args else 0
            interface = interface if start else NOTHING_KNOWN
        line = cls(
            whole, [_Piece(form="other", words=(word,), level=-1) for word in args[:start]], [_Level(interface)]
        )
        rest = list(args[start:])
        while rest:
            piece = line._next(rest)
            line.pieces.append(piece)
            del rest[: len(piece.words)]
        return line

    def _next(self, rest: Sequence[str]) -> _Piece:
        word, level = rest[0], len(self.levels) - 1
        interface = self.levels[-1].interface
        if any(piece.form == "dashes" for piece in self.pieces):
            return _Piece(form="positional", words=(word,), values=(word,), level=level)
        if word == "--":
            return _Piece(form="dashes", words=(word,), level=level)
        if is_option(word):
            option = interface.at(word)
            if option is not None and option.kind != UNKNOWN:
                return replace(_known(option, rest), level=level)
            return replace(_guessed(rest), level=level, option=option)
        if word in interface.commands:
            self.levels.append(_Level(interface.commands[word], word))
            return _Piece(form="command", words=(word,), values=(word,), level=level)
        found = override_of(word) if interface.parser in ("hydra", UNKNOWN) else None
        if found:
            name, value = found
            return _Piece(form="override", words=(word,), key=name, values=(value,), level=level)
        return _Piece(form="positional", words=(word,), values=(word,), level=level)

    def is_read_as_written(self) -> bool:
        """Whether the parser would take the line apart as it is here; a list, say, takes what follows it."""
        words = [word for piece in self.pieces for word in piece.words]
        read = _Line.read(words, self.interface)
        return set(self._places(fresh=False)) <= set(read._places(fresh=True))

    def _places(self, *, fresh: bool) -> Iterator[tuple[int, tuple[str, ...], bool]]:
        """Yield where each piece stands, and whether it is a word without a name; new ones only with `fresh`."""
        place = 0
        for piece in self.pieces:
            if fresh or not piece.fresh:
                yield place, piece.words, piece.form in ("positional", "command")
            place += len(piece.words)

    def positionals(self) -> list[int]:
        """The places of the pieces that are numbered."""
        return [n for n, piece in enumerate(self.pieces) if piece.form in ("positional", "command")]

    def end_of(self, level: int) -> int:
        """Where a new option of this level goes."""
        first = next((n for n, piece in enumerate(self.pieces) if piece.level >= 0), len(self.pieces))
        if level:
            commands = [n for n, piece in enumerate(self.pieces) if piece.form == "command"]
            first = commands[level - 1] + 1
        if not self.levels[level].interface.interspersed:
            return first
        for place in range(first, len(self.pieces)):
            if self.pieces[place].form == "dashes" or (self.pieces[place].form == "command"):
                return place
        return len(self.pieces)

    def put(self, places: Sequence[int], level: int, words: Sequence[str], last: bool = True) -> None:
        """Write words in the place of these pieces, of which one is replaced, or as a new piece of the level."""
        made = [_Piece(form="other", words=tuple(words), level=level, fresh=True)] if words else []
        if not places:
            place = self.end_of(level)
            self.pieces[place:place] = made
            return
        kept = places[-1] if last else places[0]
        for place in sorted(places, reverse=True):
            self.pieces[place : place + 1] = made if place == kept else []


def _known(option: Option, rest: Sequence[str]) -> _Piece:
    word = rest[0]
    key, equals, value = word.partition("=")
    if equals:
        return _Piece(form="equals", words=(word,), key=key, values=(value,), option=option)
    if option.kind == "flag":
        return _Piece(form="flag", words=(word,), key=word, option=option)
    if option.kind == "list":
        values = _run(rest[1:], option.count)
        return _Piece(form="space", words=(word, *values), key=key, values=values, option=option)
    values = tuple(rest[1:2])
    if option.type in ("literal", "words") and values and is_option(values[0]):
        values = ()  # Fire's flag without a value, an option whose value may be left out
    return _Piece(form="space" if values else "flag", words=(word, *values), key=key, values=values, option=option)


def _run(words: Sequence[str], count: int | None) -> tuple[str, ...]:
    taken: list[str] = []
    for word in words if count is None else words[:count]:
        if word == "--" or is_option(word):
            break
        taken.append(word)
    return tuple(taken)


def _guessed(rest: Sequence[str]) -> _Piece:
    """An option that the source does not explain, as `arguments.parse` reads it."""
    word = rest[0]
    key, equals, value = word.partition("=")
    if equals:
        return _Piece(form="equals", words=(word,), key=key, values=(value,))
    values = () if word.startswith("--no-") else values_after(rest, 0)
    if values:
        return _Piece(form="space", words=(word, *values), key=word, values=values)
    return _Piece(form="flag", words=(word,), key=word)


# --- One change


class _Refused(Exception):
    """Why a value cannot be written; becomes Unwritable, with the line to type."""


@dataclass
class _Change:
    line: _Line
    name: str
    given: Given

    def apply(self) -> None:
        """Write the value into the line. Raises Unwritable."""
        literal = _LITERAL.fullmatch(self.name)
        if literal:
            self._write_literally(literal["command"] or "", literal["words"])
            return
        try:
            self._write()
            if not self.line.is_read_as_written():
                raise _Refused("the words beside it would be read differently")
        except _Refused as refusal:
            raise Unwritable(self._refusal(f"{refusal}{self._nearest()}")) from None

    def _write(self) -> None:
        if self.name.isdecimal():
            self._write_positional(int(self.name))
            return
        level, option = self._declared()
        if option is not None and option.kind != UNKNOWN:
            self._write_option(level, option)
            return
        places = self._places(option)
        if places:
            self._replace(places)
        elif self.line.levels[0].interface.parser == "hydra" or self._is_override():
            self._add_override()
        elif not self._write_named_positional():
            self._refuse_new(option)

    def _declared(self) -> tuple[int, Option | None]:
        """Return level and declaration of the option that is meant; of two, argparse keeps the deeper one's."""
        found = [
            (number, option)
            for number, level in enumerate(self.line.levels)
            for option in [level.interface.find(self.name)]
            if option is not None
        ]
        if len(found) > 1 and self.line.levels[0].interface.parser != "argparse":
            raise _Refused("it is an option of the command and of its sub-command")
        return found[-1] if found else (len(self.line.levels) - 1, None)

    def _places(self, option: Option | None) -> list[int]:
        names = {plain(self.name), self.name}
        return [
            place
            for place, piece in enumerate(self.line.pieces)
            if piece.form in ("space", "equals", "flag", "override")
            and (
                (option is not None and piece.option == option) or plain(piece.name) in names or piece.key in names
            )
        ]

    # --- an option that the source declares

    def _write_option(self, level: int, option: Option) -> None:
        family = self.line.levels[level].interface.parser
        places = [
            place
            for place, piece in enumerate(self.line.pieces)
            if piece.option == option and piece.level == level and not piece.fresh
        ]
        if family == "fire" and not places and self._write_for_fire(option):
            return
        if option.kind == "flag":
            self.line.put(places, level, self._flag(option, family))
        elif option.kind in ("list", "append"):
            self._write_list(level, option, family, places)
        elif (self.given.value is None and not option.may_be_none and self.given.text is None) or (
            self.given.value is None
            and option.type not in ("str", "literal", "yaml", "json")
            and not option.may_be_none
        ):
            self._leave_out(level, option, places)
        else:
            text = _spelled(option, family, self.given)
            self.line.put(places, level, _assigned(self._key(option, places), text, self._form(places), family))

    def _key(self, option: Option, places: Sequence[int]) -> str:
        pieces = [self.line.pieces[place] for place in places]
        return pieces[-1].key if pieces and pieces[-1].key in option.names else option.names[0]

    def _form(self, places: Sequence[int]) -> str:
        return self.line.pieces[places[-1]].form if places else "equals"

    def _flag(self, option: Option, family: str) -> list[str]:
        value = self.given.value
        if not isinstance(value, bool):
            raise _Refused("it is a flag, which is true or false")
        word = option.on if value else option.off
        if word:
            return [word]
        if option.has_default and option.default is value:
            return []  # left out, it is just that
        raise _Refused(f"it is a flag that cannot say {as_text(value)}")

    def _leave_out(self, level: int, option: Option, places: Sequence[int]) -> None:
        """None, where no word stands for it: what the script sees if the option is not there."""
        if not (option.has_default and option.default is None):
            raise _Refused("no word of its own stands for None")
        self.line.put(places, level, [])

    def _write_list(self, level: int, option: Option, family: str, places: Sequence[int]) -> None:
        items = self.given.value
        if items is None:
            self._leave_out(level, option, places)
            return
        if not isinstance(items, list):
            texts = [_spelled(option, family, self.given)]
        else:
            texts = [
                _spelled(option, family, Given(item, item if isinstance(item, str) else None)) for item in items
            ]
        key = self._key(option, places)
        if option.kind == "append":
            self._write_repeated(level, option, key, texts, places)
            return
        if option.count not in (None, len(texts)):
            raise _Refused(f"it takes {option.count} values")
        if not texts and not option.may_be_empty:
            raise _Refused("it takes one value at least")
        if any(is_option(text) or text == "--" for text in texts):
            raise _Refused("one of the values would be read as an option")
        self.line.put(places, level, [key, *texts])

    def _write_repeated(
        self, level: int, option: Option, key: str, texts: Sequence[str], places: Sequence[int]
    ) -> None:
        if not texts:
            if not (option.has_default and option.default in ([], ())):
                raise _Refused("an empty list cannot be written")
            self.line.put(places, level, [])
            return
        if option.default not in (None, [], ()) and option.has_default and self._family(level) == "argparse":
            raise _Refused("what is given is added to the script's own list")
        form = self._form(places)
        words = [word for text in texts for word in _assigned(key, text, form, self._family(level))]
        self.line.put(places, level, words)

    def _family(self, level: int) -> str:
        return self.line.levels[level].interface.parser

    def _write_for_fire(self, option: Option) -> bool:
        """Fire gives a function's arguments to positionals in their order, past those that are named."""
        interface = self.line.levels[0].interface
        places = [place for place in self.line.positionals() if self.line.pieces[place].level == 0]
        named = {piece.option.dest for piece in self.line.pieces if piece.option is not None}
        free = [dest for dest in interface.positionals if dest not in named]
        if not interface.complete and places:
            raise _Refused("a word without a name may be its value already")
        if option.dest not in free[: len(places)]:
            return False
        text = _spelled(option, "fire", self.given)
        if is_option(text):
            raise _Refused("without its name it would be read as an option")
        self.line.put([places[free.index(option.dest)]], 0, [text])
        return True

    # --- what is not declared

    def _replace(self, places: Sequence[int]) -> None:
        """Replace what stands on the line, in its form."""
        pieces = [self.line.pieces[place] for place in places]
        last, value = pieces[-1], self.given.value
        if any(piece.form == "flag" for piece in pieces):
            raise _Refused("it stands there as a flag, and what the script makes of it is not known")
        if isinstance(value, list) and not self._has_one_value(pieces):
            self._replace_list(places, pieces, value)
            return
        if len(pieces) > 1 or len(last.values) > 1:
            raise _Refused("several values stand there: give a list")
        if last.form == "override" or self._family(0) == "hydra":
            text = _for_hydra(self.given)
        else:
            text = _in_form_of(last.values[0], self.given)
        words = (
            [f"{last.key}={text}"]
            if last.form == "override"
            else _assigned(last.key, text, last.form, self._family(0))
        )
        self.line.put(places, last.level, words)

    def _has_one_value(self, pieces: Sequence[_Piece]) -> bool:
        return len(pieces) == 1 and len(pieces[0].values) == 1

    def _replace_list(self, places: Sequence[int], pieces: Sequence[_Piece], items: Sequence[Any]) -> None:
        texts = [as_text(item) for item in items]
        if not texts:
            raise _Refused("an empty list cannot be written")
        if len(pieces) > 1:
            words = [
                word
                for text in texts
                for word in _assigned(pieces[-1].key, text, pieces[-1].form, self._family(0))
            ]
        elif any(is_option(text) for text in texts):
            raise _Refused("one of the values would be read as an option")
        else:
            words = [pieces[0].key, *texts]
        self.line.put(places, pieces[-1].level, words)

    def _is_override(self) -> bool:
        """Whether it is spelled as Hydra's, or all that the line says is."""
        if self.name.startswith(("+", "~")):
            return True
        own = {piece.form for piece in self.line.pieces if piece.key.partition("=")[0] not in _HYDRA_KEYS}
        return self._family(0) == UNKNOWN and "override" in own and not own & {"space", "equals", "flag"}

    def _add_override(self) -> None:
        if self.name.startswith("~") and self.given.value in ("", True):
            words = [self.name]
        else:
            words = [f"{self.name}={_for_hydra(self.given)}"]
        self.line.put([], 0, words)

    def _write_named_positional(self) -> bool:
        """Write a positional by the name that the source gives it."""
        for number, level in enumerate(self.line.levels):
            names = level.interface.positionals
            if level.interface.parser == "fire" or self.name not in names:
                continue
            before = names[: names.index(self.name)]
            places = [place for place in self.line.positionals() if self.line.pieces[place].level == number]
            if any(name.startswith("*") for name in before) or len(before) >= len(places):
                raise _Refused("it is a word without a name, whose place is not certain")
            self._put_positional(places[len(before)])
            return True
        return False

    def _write_positional(self, number: int) -> None:
        places = self.line.positionals()
        if not 1 <= number <= len(places):
            raise _Refused("the line has no such word")
        if self.line.pieces[places[number - 1]].form == "command":
            raise _Refused("it is a sub-command")
        self._put_positional(places[number - 1])

    def _put_positional(self, place: int) -> None:
        piece = self.line.pieces[place]
        family = self._family(0)
        if family in _PYTHON_FAMILIES:
            text = _python(self.given)
        elif isinstance(self.given.value, (bool, list)) or self.given.value is None:
            if self.given.text is None:
                raise _Refused("a word without a name has no such value")
            text = self.given.text
        else:
            text = self.given.text if self.given.text is not None else as_text(self.given.value)
        dashes = any(one.form == "dashes" for one in self.line.pieces[:place])
        misleading = is_option(text) or text == "--" or text in self.line.levels[0].interface.commands
        if not dashes and (
            misleading or (family == UNKNOWN and override_of(text) and not override_of(piece.words[0]))
        ):
            raise _Refused("it would be read as an option")
        self.line.put([place], piece.level, [text])

    def _refuse_new(self, option: Option | None) -> None:
        if option is not None or not all(level.interface.complete for level in self.line.levels):
            raise _Refused("how the script reads it is not known")
        deepest = self.line.levels[-1].command
        raise _Refused(f"the script has no such option{f' of {deepest}' if deepest else ''}")

    def _nearest(self) -> str:
        """A name that was perhaps meant, where the script and the line have none that is this one."""
        from taskyard.script_options import nearest

        known = [name for level in self.line.levels for name in level.interface.every_name()]
        known += [
            piece.name for piece in self.line.pieces if piece.form in ("space", "equals", "flag", "override")
        ]
        if plain(self.name) in map(plain, known):
            return ""
        close = nearest(self.name, known)
        return f"; the nearest name is {close}" if close else ""

    # --- as it was typed

    def _write_literally(self, command: str, words: str) -> None:
        value = self.given
        if value.value is not True:
            words = f"{words}={value.text if value.text is not None else as_text(value.value)}"
        head = words.partition("=")[0]
        parts = shlex.split(words) if " " in head else [words]
        level = self._level_of(command)
        key = parts[0].partition("=")[0]
        option = self.line.levels[level].interface.at(key)
        names = {plain(key), plain(key).removeprefix("no_")}
        places = [
            place
            for place, piece in enumerate(self.line.pieces)
            if piece.form in ("space", "equals", "flag")
            and piece.level == level
            and ((option is not None and piece.option == option) or plain(piece.key) in names
                 or plain(piece.key).removeprefix("no_") in names)
        ]  # fmt: skip
        self.line.put(places, level, parts)

    def _level_of(self, command: str) -> int:
        if not command:
            return 0
        for number, level in enumerate(self.line.levels):
            if level.command == command:
                return number
        raise Unwritable(f"--set '{self.name}': the command line has no sub-command {command}")

    def _refusal(self, why: str) -> str:
        value = self.given
        text = value.text if value.text is not None else as_text(value.value)
        typed_text = {"true": "True", "false": "False", "null": "None"}.get(text, text)
        deepest = self.line.levels[-1].command
        name = self.name if not self.name.isdecimal() else "NAME"
        literal = f"{deepest + ' ' if deepest else ''}--{name.lstrip('-+~')}={typed_text}"
        return (
            f"{self.name}={text}: {why}. Type the option as the script reads it, "
            f"like --set {shlex.quote(literal) if shlex.quote(literal) != literal else repr(literal)}"
        )


_HYDRA_KEYS = (*HYDRA_FLAGS, "-c", "--cfg", "-cn", "--config-name", "-cp", "--config-path", "-cd", "--config-dir")


# --- Spelling


def _assigned(key: str, text: str, form: str, family: str) -> list[str]:
    """The words of an option with one value."""
    if form == "space" and not text.startswith("-") and family != "configurator":
        return [key, text]
    if form == "space" and NUMBER.fullmatch(text) and family not in ("fire", "configurator"):
        return [key, text]
    if form == "space" and family == UNKNOWN:
        raise _Refused("it would be read as an option")
    if len(key) == 2 and family in ("argparse", "click"):
        return [f"{key}{text}"] if text else [key, text]
    if not key.startswith("--") and family not in ("absl", "argparse", "fire") and form == "space":
        raise _Refused("after its short name it would be read as an option")
    return [f"{key}={text}"]


def _spelled(option: Option, family: str, wanted: Given) -> str:
    """The text of one value of an option whose type is known. Raises _Refused."""
    value, text = wanted.value, wanted.text
    if family == "fire":
        return _python(wanted)
    if option.type == "literal":
        return _python_like(option, wanted)
    if option.type == "yaml":
        return _for_yaml(option, wanted)
    if option.type == "json":
        return text if text is not None and not isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if option.type == "words":
        return _word_of(option, value)
    if option.type == "csv":
        return _for_csv(value)
    if value is None and family == "tyro" and option.may_be_none:
        return "None"
    if option.type == "str":
        if isinstance(value, (bool, list)) or value is None:
            if text is None:
                raise _Refused("it takes a text")
            return text
        if family == "tyro" and option.may_be_none and value == "None":
            raise _Refused("the word None stands for no value")
        return text if text is not None else as_text(value)
    return _number_or_text(option, wanted)


def _number_or_text(option: Option, wanted: Given) -> str:
    value = wanted.value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if option.type == "int" and not (number and isinstance(value, int)):
        raise _Refused("it takes a whole number")
    if option.type == "float" and not number and not (wanted.text and NUMBER.fullmatch(wanted.text)):
        raise _Refused("it takes a number")
    if isinstance(value, (bool, list)) or value is None:
        raise _Refused("how the script reads such a value is not known")
    return wanted.text if wanted.text is not None else as_text(value)


def _word_of(option: Option, value: Any) -> str:
    if not isinstance(value, bool):
        raise _Refused("it is true or false")
    return option.words[0] if value else option.words[1]


def _for_csv(value: Any) -> str:
    items = [as_text(item) for item in (value if isinstance(value, list) else [value])]
    if isinstance(value, bool) or value is None or any(re.search(r'[,"\n]|^\s|\s$', item) for item in items):
        raise _Refused("a list with commas between its items cannot hold that")
    if items == [""]:
        raise _Refused("a list of one empty text cannot be written")
    return ",".join(items)


def _python(wanted: Given) -> str:
    """What Fire, which reads Python's literals, takes for the value."""
    if (
        wanted.text is not None
        and isinstance(wanted.value, (str, int, float))
        and not isinstance(wanted.value, bool)
    ):
        return wanted.text
    value = wanted.value
    if isinstance(value, str) and _SAFE_WORD.fullmatch(value) and value not in ("True", "False", "None"):
        return value
    return repr(value)


def _python_like(option: Option, wanted: Given) -> str:
    """What `ast.literal_eval` takes for the value; nanoGPT's configurator wants the type that the default has."""
    value = wanted.value
    default = option.default if option.has_default else None
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if option.has_default and type(value) is not type(default):
        raise _Refused(f"the script takes a {type(default).__name__} for it")
    if not isinstance(value, str):
        return repr(value)
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    return repr(value)


def _for_yaml(option: Option, wanted: Given) -> str:
    """What jsonargparse, which reads YAML where the type allows, takes for the value."""
    kind, value = option.words[0], wanted.value
    if value is None:
        if not option.may_be_none:
            raise _Refused("it cannot be None")
        return "null"
    if kind == "str":
        if (not isinstance(value, (str, int, float)) or isinstance(value, bool)) and wanted.text is None:
            raise _Refused("it takes a text")
        text = wanted.text if wanted.text is not None else as_text(value)
        if option.may_be_none and (text in _YAML_WORDS[1:] or text.lstrip().startswith("#")):
            raise _Refused("the word stands for no value")
        return text
    items = value if isinstance(value, list) else [value]
    if (kind.startswith("list[")) is not isinstance(value, list):
        raise _Refused("it takes a list" if kind.startswith("list[") else "it takes one value")
    types: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}
    item = kind.removeprefix("list[").removesuffix("]")
    if not all(isinstance(one, types[item]) and (item == "bool") is isinstance(one, bool) for one in items):
        raise _Refused(f"it takes {'a list of ' * isinstance(value, list)}{item}")
    return json.dumps(value)


def _for_hydra(wanted: Given) -> str:
    """What Hydra's grammar reads as the value; what a person typed is in that grammar already."""
    if wanted.text is not None:
        return wanted.text
    value = wanted.value
    if isinstance(value, list):
        return f"[{','.join(_for_hydra(Given(item)) for item in value)}]"
    if not isinstance(value, str):
        return json.dumps(value)
    if "${" in value:
        raise _Refused("Hydra would put another value in")
    if _SAFE_WORD.fullmatch(value) and value.lower() not in _WORDS_OF_PARSERS:
        return value
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def _in_form_of(old: str, wanted: Given) -> str:
    """The text of a value in the form that another one has on the line."""
    value = wanted.value
    pair = next((pair for pair in _BOOLEAN_PAIRS if old in pair), None)
    if pair and not isinstance(value, bool) and (wanted.text or "").lower() not in pair:
        raise _Refused(f"{old} stands there, so it is true or false")
    if old.startswith("[") and old.endswith("]") and not isinstance(value, list):
        raise _Refused("a list stands there")
    if NUMBER.fullmatch(old) and (value is None or isinstance(value, (bool, list))):
        raise _Refused(f"{old} stands there, a number")
    if isinstance(value, str) and wanted.text is None and (NUMBER.fullmatch(value) or value in _LITERALS):
        raise _Refused("whether the script reads it as a text is not known")
    if isinstance(value, bool):
        if pair:
            return pair[0] if value else pair[1]
    elif isinstance(value, list):
        if _is_list_like(value, old):
            return json.dumps(value)
        raise _Refused("one value stands there, and how the script reads several is not known")
    elif value is None:
        if old in ("None", "null"):
            return old
    elif NUMBER.fullmatch(old) and not _is_number_like(value, old):
        raise _Refused(f"{old} stands there, which is a number of another kind")
    elif isinstance(value, str) or wanted.text is not None:
        return wanted.text if wanted.text is not None else str(value)
    else:
        return as_text(value)
    if wanted.text is None:
        raise _Refused("how the script reads such a value is not known")
    return wanted.text


def _is_number_like(value: Any, old: str) -> bool:
    """Whether a script that reads the old number surely reads the new one: a whole number may be asked for."""
    whole = old.lstrip("+-").isdecimal()
    if isinstance(value, str):
        return bool(NUMBER.fullmatch(value)) and (not whole or value.lstrip("+-").isdecimal())
    return isinstance(value, int) or not whole


def _is_list_like(items: Sequence[Any], old: str) -> bool:
    """Whether a JSON list of that kind stands there: texts for texts, numbers for numbers."""
    try:
        held = json.loads(old)
    except ValueError:
        return False
    if not isinstance(held, list):
        return False
    return {type(item) for item in items} <= {type(item) for item in held}


# --- For what is recorded already


def write_back(
    args: Sequence[str],
    texts: Mapping[str, str],
    values: Mapping[str, Any],
    interface: Interface = NOTHING_KNOWN,
) -> Written:
    """Write the recorded parameters that the line does not hold yet into it. Raises Unwritable."""
    on_line = {plain(name): value for name, value in parse(args).items()}
    changed = {name: text for name, text in texts.items() if on_line.get(plain(name)) != text}
    wanted = {name: Given(values[name]) if name in values else typed(text) for name, text in changed.items()}
    return write(args, wanted, interface)


def differences(before: Sequence[str], after: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words that are new in a line, and those that are gone from it."""
    import difflib

    new: list[str] = []
    gone: list[str] = []
    matcher = difflib.SequenceMatcher(a=list(before), b=list(after), autojunk=False)
    for tag, from_a, to_a, from_b, to_b in matcher.get_opcodes():
        if tag != "equal":
            gone += before[from_a:to_a]
            new += after[from_b:to_b]
    return new, gone
