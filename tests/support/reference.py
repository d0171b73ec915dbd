"""Writes docs/reference/agent.md and server.md from the places where their settings are declared.

`python -m tests.support.reference` rewrites the pages; a test holds them against the code.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from taskyard.cli.server import server_settings
from taskyard.config import CA_FILE, Setting
from taskyard_agent.config import DAEMON_ALONE, GROUPS

FOLDER = Path(__file__).resolve().parents[2] / "docs/reference"
FOLDERS = {"local_dir": "the user's cache folder", "data": "the user's data folder"}
"""Defaults that differ from machine to machine."""
SERVER = """# The server's settings

`taskyard server`. Made from the code by `python -m tests.support.reference`. A setting is looked for as a flag, as
its variable, then in `~/.config/taskyard/config.toml`; a project's file has no say. Switches have a `--no-…` form.
`taskyard up` takes those for address, data, store and certificate, the others as variables. A store's address with
a password belongs in `TASKYARD_STORE`: arguments can be read by every account of the machine.

| flag | variable | default | meaning |
|---|---|---|---|
"""
AGENT = """# The agent's commands and settings

`taskyard agent …`, also installed as `agent …`. Made from the code by `python -m tests.support.reference`.

| command | what it does |
|---|---|
| `agent daemon` | claims and runs tasks until told to end |
| `agent daemon --status [NAME] [--json]` | the agents that run here; exit code 1 when none does |
| `agent daemon --stop [NAME]`, `--stop --all` | drains them, waits for their end; exit code 1 when there is none |
| `agent execute --id TASK` | runs one task here and now, with its log and exit code; a closed terminal ends it |
| `agent build --id TASK [--target NAME]` | makes the environment or the image of a task before it runs |
| `agent join URL` | lets this machine in, with a code of `taskyard invite agent` or a token |
| `agent doctor [--repo URL] …` | checks the machine, and what `--docker`, `--run-as` … need, with each cure |
| `agent cache list`, `prune [--all]`, `verify [--repair]` | environments, repositories and images kept here |
| `agent init DIR` | writes a custom worker: an image with an agent and what its tasks need |

The daemon's first Ctrl-C or SIGTERM drains; the second stops the runs with grace and puts them back into their
queues; the third kills them; SIGUSR1 hands them over to the next daemon. In a batch job SIGTERM and SIGUSR2 end
the runs with the job, and SIGUSR1 drains.

A setting is looked for as a flag, then as its variable, then in the `--preset`, then in
`~/.config/taskyard/config.toml`; a project's file has no say. Switches have a `--no-…` form. The daemon takes
every setting, `execute`, `build` and `doctor` those with a ●, `agent cache` those of the folder and the caches.
"""


def pages() -> dict[Path, str]:
    """The text of each page."""
    sections = "".join(_section(title, settings) for title, settings in GROUPS.items())
    rows = "".join(_row(*_cells(setting), setting.help) for setting in (*server_settings(), CA_FILE))
    return {FOLDER / "agent.md": AGENT + sections, FOLDER / "server.md": SERVER + rows}


def _section(title: str, settings: Iterable[Setting]) -> str:
    rows = "".join(_row(*_cells(setting), _executes(setting), setting.help) for setting in settings)
    return (
        f"\n## {title[:1].upper()}{title[1:]}\n\n"
        f"| flag | variable | default | execute | meaning |\n|---|---|---|:-:|---|\n{rows}"
    )


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def _cells(setting: Setting) -> tuple[str, str, str]:
    default = f"`{setting.shown_default}`" if setting.shown_default else ""
    return (
        f"`{'`, `'.join(setting.all_flags)}`",
        f"`{setting.variable}`",
        FOLDERS.get(setting.name, default),
    )


def _executes(setting: Setting) -> str:
    return "" if setting in DAEMON_ALONE else "●"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
