"""Writes docs/reference/agent.md from the one place where the agent's settings are declared.

`python -m tests.support.reference` rewrites the page; a test holds it against the code.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from taskyard.config import Setting
from taskyard_agent.config import DAEMON_ALONE, GROUPS, LOCAL_DIR

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
| `agent cache list`, `prune [--all]`, `verify [--repair]` | the environments kept on this machine |
| `agent init DIR` | writes a custom worker: an image with an agent and what its tasks need |

The daemon's first Ctrl-C or SIGTERM drains, the second cancels with grace, the third kills; SIGUSR1 hands the runs
over to the next daemon.

A setting is looked for as a flag, then as its variable, then in the `--preset`, then in the project's
`[tool.taskyard]`, then in `~/.config/taskyard/config.toml`. Switches have a `--no-…` form. The daemon takes every
setting, `execute` and `doctor` those with a ●, `agent cache` those of the folder and the caches.
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_section(title, settings) for title, settings in GROUPS.items())


def _section(title: str, settings: Iterable[Setting]) -> str:
    rows = "".join(f"| {' | '.join(_cells(setting))} |\n" for setting in settings)
    return (
        f"\n## {title[:1].upper()}{title[1:]}\n\n"
        f"| flag | variable | default | execute | meaning |\n|---|---|---|:-:|---|\n{rows}"
    )


def _cells(setting: Setting) -> tuple[str, ...]:
    default = f"`{setting.shown_default}`" if setting.shown_default else ""
    return (
        f"`{'`, `'.join(setting.all_flags)}`",
        f"`{setting.variable}`",
        "the user's cache folder" if setting is LOCAL_DIR else default,
        "" if setting in DAEMON_ALONE else "●",
        setting.help,
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
