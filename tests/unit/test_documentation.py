"""The documentation against what is there: command lines by the real parser, modules by their files."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from taskyard.cli.app import parse
from taskyard.errors import UsageError
from taskyard_agent.config import DAEMON_SETTINGS, read_settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md")))
MODULES = sorted(
    (
        *ROOT.glob("agent/taskyard_agent/[!_]*.py"),
        *ROOT.glob("agent/taskyard_agent/keeper/[!_]*.py"),
        *ROOT.glob("agent/taskyard_agent/life/[!_]*.py"),
        *ROOT.glob("server/taskyard_server/[!_]*.py"),
    )
)
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
TYPED = re.compile(r"(?:^(?:\$ )?|\| |&& |sudo )((?:taskyard|agent) [^\n]*)", re.MULTILINE)
END = frozenset(("|", "||", "&&", ";", ">", "<", "&", ")"))
OPERANDS_LACK = re.compile("arguments are required|expected (at least )?one argument")
EXAMPLES = {"N": "1", "PORT": "9090", "URL": "https://yard.example.org"}


def typed() -> Iterator[tuple[str, str]]:
    """Page and command line of the blocks that somebody copies to a terminal."""
    for page in PAGES:
        for language, block in FENCED.findall(page.read_text(encoding="utf-8")):
            if language in ("sh", "console"):
                joined = re.sub(r" *\\?\n +", " ", block)
                yield from ((page.name, line) for line in TYPED.findall(joined))


def mentioned() -> Iterator[tuple[str, str]]:
    """Page and command line within sentences and tables, which may leave its operands out."""
    for page in PAGES:
        sentences = FENCED.sub("", page.read_text(encoding="utf-8"))
        for span in re.findall(r"`([^`]+)`", sentences):
            line = re.sub(r"\s+", " ", span)
            if TYPED.match(line) and line.split()[1] not in ("…", "COMMAND"):
                yield page.name, line


def words(line: str) -> list[str]:
    """What the shell would pass on; of `[this]` and `one|other` it is what most people would type."""
    line = re.sub(r" ?…| \| [^\]]*(?=\])", "", line.replace("\\|", "|"))
    line = re.sub(r"[\[\]]|(?<=\w)(\|[\w.]+)+", "", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[str] = []
    for word in lexer:
        if word in END:
            break
        found.append(EXAMPLES.get(word, word))
    return found[1:] if found[0] == "taskyard" else found


def understand(line: str) -> None:
    """Reads the line as far as it can be read without a server. Raises UsageError; asking for help exits."""
    argv = words(line)
    namespace = parse(argv)
    if argv[:2] == ["agent", "daemon"]:
        read_settings(namespace, DAEMON_SETTINGS)


@pytest.mark.parametrize(("page", "line"), sorted(set(typed())))
def test_a_command_line_to_be_typed_is_one(page: str, line: str) -> None:
    understand(line)


@pytest.mark.parametrize(("page", "line"), sorted(set(mentioned())))
def test_a_command_that_is_mentioned_exists(page: str, line: str) -> None:
    with contextlib.suppress(SystemExit):  # --help
        try:
            understand(line)
        except UsageError as error:
            if not OPERANDS_LACK.search(str(error)):
                raise


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_the_architecture_has_a_place_for_every_module(module: Path) -> None:
    page = (ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")

    assert f"`{module.stem}`" in page


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
