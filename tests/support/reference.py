"""Writes docs/reference/agent.md from the one place where the agent's settings are declared.

`python -m tests.support.reference` rewrites the page; a test holds it against the code.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from taskyard.config import CONNECTION_SETTINGS, Setting
from taskyard_agent.config import (
    FOREGROUND,
    LIFE_SETTINGS,
    MACHINE_SETTINGS,
    PLACE_SETTINGS,
    QUEUE_SETTINGS,
    TOKEN_FILE,
    WORKER_SETTINGS,
)

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/agent.md"
HEAD = """# The agent's commands and settings

`taskyard agent …`, also installed as `agent …`. Made from the code by `python -m tests.support.reference`.

| command | what it does |
|---|---|
| `agent daemon` | claims and runs tasks until told to end |
| `agent daemon --status [NAME] [--json]` | the agents that run here; exit code 1 when none does |
| `agent daemon --stop [NAME]`, `--stop --all` | drains them, waits for their end; exit code 1 when there is none |
| `agent execute --id TASK` | runs one task here and now, with its log and its exit code |
| `agent join URL` | lets this machine in, with a code of `taskyard invite agent` or a token |
| `agent doctor [--repo URL]` | checks the machine; each failure names the command that mends it |
| `agent cache list`, `agent cache prune [--all]` | the environments kept on this machine |

The daemon's first Ctrl-C or SIGTERM drains, the second cancels with grace, the third kills; SIGUSR1 hands the runs
over to the next daemon.

A setting is looked for as a flag, then as its variable, then in the project's `[tool.taskyard]`, then in
`~/.config/taskyard/config.toml`. Switches have a `--no-…` form.
"""
SECTIONS: tuple[tuple[str, tuple[Setting, ...]], ...] = (
    ("Server", (*CONNECTION_SETTINGS, TOKEN_FILE)),
    ("Queues (`daemon`)", QUEUE_SETTINGS),
    ("Worker (`daemon`, `execute`)", WORKER_SETTINGS),
    ("Tasks at once (`daemon`)", PLACE_SETTINGS),
    ("A long life (`daemon`)", (FOREGROUND, *LIFE_SETTINGS)),
    ("Machine (all commands)", MACHINE_SETTINGS),
)


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_section(title, settings) for title, settings in SECTIONS)


def _section(title: str, settings: Iterable[Setting]) -> str:
    rows = "".join(
        f"| `{'`, `'.join(setting.all_flags)}` | `{setting.variable}` | {_default(setting)} | {setting.help} |\n"
        for setting in settings
    )
    return f"\n## {title}\n\n| flag | variable | default | meaning |\n|---|---|---|---|\n{rows}"


def _default(setting: Setting) -> str:
    if setting.name == "local_dir":
        return "the user's cache folder"
    if setting.default in (None, (), False):
        return ""
    return f"`{setting.default}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
