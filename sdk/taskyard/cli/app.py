"""Finds the command, runs it, and turns every error into one line and an exit code.

A command's module is imported only when it is asked for, so that `taskyard --version` is quick. Such a module
has `add_parser(subparsers)`; each parser that it adds has `set_defaults(handler=…)`, a function that takes the
namespace and returns the exit code, or None for 0.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from taskyard.cli import guidance, output
from taskyard.errors import TaskyardError, UsageError

EXIT_FAILURE = 1
EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130
MOST_IN_USAGE = 10

MODULES: dict[str, tuple[str, ...]] = {
    "taskyard.cli.run": ("run",),
    "taskyard.cli.up": ("up",),
    "taskyard.cli.server": ("server",),
    "taskyard_agent.cli": ("agent",),
    "taskyard.cli.access": ("login", "logout", "invite", "token"),
    "taskyard.cli.ps": ("ps",),
    "taskyard.cli.tasks": (
        "show",
        "stop",
        "retry",
        "edit",
        "enqueue",
        "dequeue",
        "delete",
    ),
    "taskyard.cli.clone": ("clone",),
    "taskyard.cli.comparison": ("diff",),
    "taskyard.cli.logs": ("logs",),
    "taskyard.cli.artifacts": ("artifact",),
    "taskyard.cli.shell": ("shell", "attach"),
    "taskyard.cli.story": ("explain", "story"),
    "taskyard.cli.events": ("events",),
    "taskyard.cli.metrics": ("metrics",),
    "taskyard.cli.queues": ("queue", "queues"),
    "taskyard.cli.workers": ("workers", "worker"),
    "taskyard.cli.profiles": ("use",),
    "taskyard.cli.settings": ("config", "completion"),
    "taskyard.cli.doctor": ("doctor",),
}
"""Which module adds which commands, in the order of the help."""
KNOWN = tuple(name for names in MODULES.values() for name in names)
EXTRAS = {"taskyard.cli.server": "server", "taskyard_agent.cli": "agent", "taskyard.cli.up": "agent,server"}
"""Modules that need an extra of the distribution."""


def execute(argv: Sequence[str]) -> int:
    """Runs one command line and returns its exit code; never raises for what a user or a server did."""
    output.make_printable()
    try:
        return _execute(argv)
    except _agents_usage_error() as error:
        return _fail(error, EXIT_MISTAKE)
    except TaskyardError as error:
        return _fail(error, EXIT_MISTAKE if error.mistake else EXIT_FAILURE)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except EOFError:
        print(file=sys.stderr)  # the question stands at the end of its line
        return _fail("the input ended where an answer was asked for; nothing was done", EXIT_MISTAKE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the exit's flush is quiet
        return EXIT_FAILURE
    except OSError as error:  # a full disk, a folder that may not be written, a current folder that is gone
        return _fail(output.trouble(error), EXIT_FAILURE)


def _execute(argv: Sequence[str]) -> int:
    if list(argv) in (["--version"], ["agent", "--version"]):  # of a machine whose script is `agent`
        from taskyard import __version__

        print(f"taskyard {__version__}")
        return 0
    namespace = parse(argv or ["--help"])
    try:
        return namespace.handler(namespace) or 0
    except ModuleNotFoundError as error:
        raise _missing(namespace.subcommand, error) from error


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads a command line and does nothing of it. Raises UsageError, or SystemExit where it asks for help."""
    if "_ARGCOMPLETE" in os.environ:
        _complete(argv)
    command = _command(argv)
    parser = _parser(command, argv)
    own, rest = _split(argv) if command == "run" else (list(argv), None)
    own, fields = output.without_fields(own)
    own = _with_set_joined(own)
    namespace = parser.parse_args(own)
    output.choose(fields, csv=getattr(namespace, "csv", False))
    if command == "run" and (job := _of_job(own, rest, namespace, parser)) is not None:
        return job
    if rest is not None:
        namespace.rest = [*namespace.rest, "--", *rest] if namespace.rest else rest
    return namespace


def _of_job(
    own: Sequence[str], rest: Sequence[str] | None, namespace: argparse.Namespace, parser: argparse.ArgumentParser
) -> argparse.Namespace | None:
    """What a job of the repository says, where `run` names one."""
    if not namespace.rest:
        return None
    from taskyard.cli import jobs

    return jobs.expanded(own, rest, namespace, lambda words: parser.parse_args(_with_set_joined(words)))


def _with_set_joined(words: Sequence[str]) -> list[str]:
    """`--set '--amp=False'` as one word: argparse would take the value for an option of its own."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] in ("--set", "--grid") and word.startswith("-"):
            joined[-1] = f"{joined[-1]}={word}"
        else:
            joined.append(word)
    return joined


def _complete(argv: Sequence[str]) -> NoReturn:
    """Answers the shell, which has the line to be completed in COMP_LINE, and ends the process.

    `argv` is empty but for the script `agent`, whose words are those behind `taskyard agent`.
    """
    import argcomplete

    _, *words = os.environ["COMP_LINE"].split(" ")
    begun = argv[0] if argv[0] in KNOWN else next(iter(words[:-1]), None)  # the last word is not typed to its end
    parser = _parser(begun if begun in KNOWN else None, argv)
    if argv[0] in KNOWN:
        (below,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = below.choices[argv[0]]
    argcomplete.autocomplete(parser)
    sys.exit(EXIT_FAILURE)


def _command(argv: Sequence[str]) -> str | None:
    """The command, where it is the first word; None where help is due. Raises UsageError for an unknown one."""
    if argv[0] in ("-h", "--help"):
        return None
    if argv[0] in KNOWN:
        return argv[0]
    if argv[0].startswith("-"):
        raise UsageError(f"the command comes first, its flags behind it, like: taskyard ps {argv[0]}")
    raise UsageError(f"there is no command {argv[0]!r}{guidance.meant(argv[0], KNOWN)}")


def _parser(command: str | None, argv: Sequence[str]) -> argparse.ArgumentParser:
    """A parser of the one command, or of all where none is named."""
    parser_class = _parser_class(argv, command)
    parser = parser_class(prog="taskyard", description="Runs machine-learning work on machines that you own.")
    parser.add_argument("--version", action="store_true", default=argparse.SUPPRESS, help="show the version")
    subparsers = parser.add_subparsers(
        title="commands",
        metavar="COMMAND",
        dest="subcommand",
        required=True,
        prog="taskyard",
        parser_class=parser_class,
    )
    for module, names in MODULES.items():
        if command is None or command in names:
            _add(module, subparsers, command)
    return parser


def _add(
    module: str, subparsers: argparse._SubParsersAction[argparse.ArgumentParser], command: str | None
) -> None:
    try:
        importlib.import_module(module).add_parser(_Only(subparsers, command) if command else subparsers)
    except ModuleNotFoundError as error:
        if command is not None:
            raise _missing(command, error) from error
        subparsers.add_parser(MODULES[module][0], help=f"needs: pip install {_requirement(module)}")


class _Only:
    """Adds the parser of the one command that was typed: those of its neighbours would take longer than it."""

    def __init__(self, subparsers: argparse._SubParsersAction[argparse.ArgumentParser], command: str) -> None:
        self._subparsers = subparsers
        self._command = command

    def add_parser(self, name: str, **options: Any) -> Any:
        """Return the command's parser, or what takes the flags of another and does nothing."""
        return self._subparsers.add_parser(name, **options) if name == self._command else _Unused()


class _Unused:
    """Has every method that a parser has, and all of them return such a thing again."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self


def _missing(command: str | None, error: ModuleNotFoundError) -> Exception:
    """Names the extra that a command needs; any other missing module is our own fault and stays as it is."""
    module = next((module for module, names in MODULES.items() if command in names), "")
    if module not in EXTRAS:
        return error
    cure = f"pip install {_requirement(module)}"
    return UsageError(f"`taskyard {command}` needs {error.name!r}, which is not installed; run: {cure}")


def _requirement(module: str) -> str:
    return f'"taskyard[{EXTRAS[module]}]"'


def _parser_class(argv: Sequence[str], command: str | None) -> type[argparse.ArgumentParser]:
    formatter = _formatter(argv)

    class Parser(argparse.ArgumentParser):
        """Commands share the help's form, take no abbreviated flags, and refuse in one line."""

        def __init__(self, **options: object) -> None:
            super().__init__(**{"formatter_class": formatter, "allow_abbrev": False, **options})  # type: ignore[arg-type]

        def format_help(self) -> str:
            """Leaves a usage that would fill the screen to the list below it."""
            if self.usage is None and len(self._actions) > MOST_IN_USAGE:
                names = (str(action.metavar or action.dest) for action in self._get_positional_actions())
                self.usage = " ".join(("%(prog)s [options]", *names))
            if self.prog == "taskyard" and command is None:
                return self._format_groups()
            return super().format_help() + guidance.examples(self.prog)

        def _format_groups(self) -> str:
            """The commands by what they are for, which argparse has no way to say."""
            formatter = self._get_formatter()
            formatter.add_usage("%(prog)s COMMAND [options]", [], [])
            formatter.add_text(self.description)
            (below,) = (one for one in self._actions if isinstance(one, argparse._SubParsersAction))
            for title, actions in guidance.grouped(below._get_subactions(), guidance.GROUPS):
                formatter.start_section(title)
                formatter.add_arguments(actions)
                formatter.end_section()
            formatter.add_text("`taskyard COMMAND --help` shows a command's flags and examples.")
            return formatter.format_help()

        def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
            """Refuses what is unknown here, where the flags that were meant are known."""
            known, unknown = super().parse_known_args(args, namespace)
            if unknown and not any(word.startswith("-") for word in unknown):
                unknown = self._taken(known, unknown)
            if unknown:
                near = _nearest(unknown[0].partition("=")[0], self._option_string_actions)
                self.error(f"{unknown[0]!r} is not known here" + (f"; did you mean {near}?" if near else ""))
            return known, unknown

        def _taken(self, known: Any, words: list[str]) -> list[str]:
            """Gives words behind a flag to the operand that argparse filled with nothing before the flag."""
            for operand in self._get_positional_actions()[-1:]:
                if operand.nargs == argparse.ZERO_OR_MORE and not getattr(known, operand.dest):
                    setattr(known, operand.dest, words)
                    return []
            return words

        def error(self, message: str) -> NoReturn:
            raise UsageError(f"{message}; see: {self.prog} --help")

    return Parser


def _nearest(given: str, flags: Iterable[str]) -> str | None:
    """The flag that was meant; dashes, which all of them have, make none alike."""
    import difflib

    names = {flag.lstrip("-"): flag for flag in flags}
    near = difflib.get_close_matches(given.lstrip("-"), names, n=1) if given.startswith("-") else []
    return names[near[0]] if near else None


def _formatter(argv: Sequence[str]) -> type[argparse.HelpFormatter]:
    """The coloured help only where somebody looks at it: it takes as long to import as all else together."""
    own = argv[: argv.index("--")] if "--" in argv else argv
    if sys.stdout.isatty() and (not own or "-h" in own or "--help" in own):
        from rich_argparse import RichHelpFormatter

        return RichHelpFormatter
    return argparse.HelpFormatter


def _agents_usage_error() -> tuple[type[Exception], ...]:
    """The agent's own class for an operator's mistake, where the agent was loaded at all."""
    errors = sys.modules.get("taskyard_agent.errors")
    return (errors.SettingsError,) if errors else ()


def _split(argv: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Cuts at the first `--`: behind it nothing is ours."""
    if "--" not in argv:
        return list(argv), None
    cut = list(argv).index("--")
    return list(argv[:cut]), list(argv[cut + 1 :])


def _fail(error: Exception | str, code: int) -> int:
    print(f"taskyard: {error}", file=sys.stderr)
    return code
