"""What helps a person to the next command: groups, examples, and the words of other systems."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskyard.wire import Task

GROUPS = {
    "run something": ("run", "clone", "retry", "stop", "edit", "enqueue", "dequeue", "delete", "shell", "attach"),
    "look": ("ps", "show", "logs", "artifact", "diff", "explain", "story", "events", "metrics"),
    "queues and machines": ("queue", "queues", "workers", "worker", "agent"),
    "server and access": ("up", "server", "login", "logout", "invite", "token"),
    "this command line": ("use", "config", "completion", "doctor"),
}
"""The help's order; a command that is in none of them stands in a group of its own at the end."""
FAMILIAR = {
    "abort": "stop TASK",
    "add": "run -- COMMAND",
    "attempts": "story TASK",
    "cancel": "stop TASK",
    "describe": "show TASK",
    "exec": "run -- COMMAND",
    "get": "show TASK",
    "history": "events",
    "info": "show TASK",
    "inspect": "show TASK",
    "jobs": "ps",
    "kill": "stop TASK",
    "list": "ps",
    "log": "logs TASK",
    "ls": "ps",
    "nodes": "workers",
    "remove": "delete TASK",
    "rerun": "retry TASK",
    "rm": "delete TASK",
    "squeue": "ps",
    "scancel": "stop TASK",
    "sbatch": "run -- COMMAND",
    "start": "run -- COMMAND",
    "stat": "show TASK",
    "status": "ps",
    "submit": "run -- COMMAND",
    "tail": "logs -f TASK",
    "tasks": "ps",
    "top": "ps --watch",
    "why": "explain TASK",
}
"""What the commands of other systems are here."""
EXAMPLES = {
    "run": ("run -- python train.py --lr 0.1", "run --wait --gpus 1 --queue night -- python train.py"),
    "up": ("up", "up --port 8421 --data /data/taskyard"),
    "server": ("server --host 0.0.0.0 --data /srv/taskyard",),
    "server status": ("server status",),
    "server adopt": ("server adopt --all",),
    "server give-up": ("server give-up 1f3a.1",),
    "server resume": ("server resume",),
    "server backup": ("server backup /backup/taskyard.tar",),
    "server restore": ("server restore /backup/taskyard.tar --data /srv/taskyard",),
    "agent daemon": ("agent daemon --gpus 0,1 --queue urgent night", "agent daemon --stop"),
    "agent execute": ("agent execute --id 1f3a",),
    "agent build": ("agent build --id 1f3a",),
    "agent join": ("agent join https://taskyard.example.org",),
    "agent doctor": ("agent doctor",),
    "agent cache list": ("agent cache list",),
    "agent cache prune": ("agent cache prune",),
    "agent cache verify": ("agent cache verify",),
    "agent init": ("agent init my-agent",),
    "login": ("login https://taskyard.example.org",),
    "logout": ("logout",),
    "invite": ("invite user --name ada", "invite agent --queue night"),
    "token list": ("token list",),
    "token create": ("token create user --name ci --expires 30d",),
    "token revoke": ("token revoke 1f3a",),
    "ps": ("ps --mine --state running", "ps --params --sort param.lr", "ps --columns +metric.memory_bytes,exit"),
    "show": ("show @last", "show 1f3a --json=run"),
    "stop": ("stop 1f3a", "stop --requeue 1f3a 9c01"),
    "retry": ("retry @last",),
    "clone": ("clone @last --set lr=0.01 --queue default",),
    "diff": ("diff 1f3a 9c01",),
    "shell": ("shell @last", "shell 1f3a -- nvidia-smi"),
    "attach": ("attach @last",),
    "edit": ("edit 1f3a --set lr=0.01",),
    "enqueue": ("enqueue --queue night 1f3a 9c01",),
    "dequeue": ("dequeue 1f3a",),
    "delete": ("delete --yes 1f3a",),
    "logs": ("logs -f @last", "logs --tail 20 1f3a"),
    "artifact list": ("artifact list @last",),
    "artifact get": ("artifact get @last 'best*.pt' -o results",),
    "explain": ("explain @last",),
    "story": ("story @last",),
    "events": ("events -f", "events --since 2h --kind lost"),
    "metrics": ("metrics @last", "metrics --worker gpu-1 --since 2h"),
    "queue list": ("queue list",),
    "queue create": ("queue create night --description 'long runs'",),
    "queue show": ("queue show night",),
    "queue describe": ("queue describe night 'long runs'",),
    "queue rename": ("queue rename night weekend",),
    "queue delete": ("queue delete --force night",),
    "queue pause": ("queue pause night",),
    "queue resume": ("queue resume night",),
    "queue move": ("queue move 1f3a --first",),
    "queue remove": ("queue remove 1f3a",),
    "queues": ("queues",),
    "workers": ("workers", "workers show gpu-1"),
    "worker": ("worker drain 'pool:*'", "worker pause gpu-1 --reason 'new fan'"),
    "use": ("use work",),
    "config": ("config connection",),
    "completion": ("completion bash",),
    "doctor": ("doctor",),
}
"""Command → lines that can be typed, without `taskyard`."""


def examples(prog: str) -> str:
    """Return the examples of a command, for the end of its help; empty where it has none."""
    lines = EXAMPLES.get(prog.partition(" ")[2], ())
    return "\n".join(("\nexamples:", *(f"  taskyard {line}" for line in lines), "")) if lines else ""


def grouped(
    actions: Iterable[argparse.Action], groups: dict[str, tuple[str, ...]]
) -> list[tuple[str, list[argparse.Action]]]:
    """Return the commands of the help by group, those of no group last."""
    known = {action.dest: action for action in actions}
    found = [(title, [known.pop(name) for name in names if name in known]) for title, names in groups.items()]
    return [(title, there) for title, there in (*found, ("other commands", list(known.values()))) if there]


def meant(word: str, known: Iterable[str]) -> str:
    """Return what a person probably meant by a command that is not there, as the end of a sentence."""
    import difflib

    if word in FAMILIAR:
        return f"; that is `taskyard {FAMILIAR[word]}` here"
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean `taskyard {near[0]}`?" if near else "; `taskyard --help` lists them"


def next_commands(task: Task) -> list[tuple[str, str]]:
    """Return what to type next about a task in this state, each with what it does."""
    ref, run = task.id[:8], task.run
    queue = shlex.quote(task.queue) if task.queue else "QUEUE"
    if task.state == "draft" or (task.state == "waiting" and task.wake_at is None):
        return [(f"enqueue --queue {queue} {ref}", "queues it")]
    if task.state in ("queued", "waiting"):
        return [(f"explain {ref}", "says why it waits"), (f"dequeue {ref}", "takes it out of its queue")]
    if task.state.active:
        return [(f"logs -f {ref}", "follows it"), (f"stop {ref}", "ends it")]
    found = [(f"logs {ref}", "shows what it wrote")] if run is not None and run.log_bytes else []
    if task.state == "completed":
        return [*found, (f"clone {ref} --set NAME=VALUE --queue {queue}", "runs it with another value")]
    again = f"retry {ref}" if task.queue else f"clone {ref} --queue {queue}"
    return [*found, (again, "runs it again")]
