"""`taskyard agent …`: the daemon, one task run or made ready here, joining a server, the doctor, the cache."""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import json
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from taskyard import exit_codes, log_lines
from taskyard.cli import output
from taskyard.cli.session import complete_tasks
from taskyard.client import Client
from taskyard.config import CONNECTION_SETTINGS, Connection, add_settings, connection, server_address
from taskyard.wire import Gpu, Obstacle, to_json

from . import abandoned, account, batch, doctor, means, scaffold
from .answers import until_answered
from .build import build, exit_code
from .checkout import CachedMirror, list_mirrors, prune_mirrors
from .config import (
    BUILD_SETTINGS,
    CACHE_SETTINGS,
    DAEMON_SETTINGS,
    EXECUTE_SETTINGS,
    AgentSettings,
    add_groups,
    read_settings,
)
from .containers import ContainerSettings, kept
from .daemon import Daemon
from .environments import cache, downloads
from .errors import RunFailed, RunStopped, SettingsError
from .execute import execute
from .journal import Journal
from .keeper.processes import hide_memory
from .life import detached, log_file
from .life.pool import Member, Pool, places
from .life.running import LOG, on_this_machine
from .part_settings import agents_folder, checkout_settings, environment_settings

JOIN_PATIENCE_SECONDS = 2.0
IN_PLACE = ("--foreground", "--no-detached")
"""What an agent that starts anew is told last: it is in the background already, where it was to be."""


def add_parser(subparsers: Any) -> None:
    """Adds `agent` with its verbs."""
    parser = subparsers.add_parser(
        "agent", help="run tasks on this machine", description="Runs tasks on this machine."
    )
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", dest="agent_command", required=True)
    _add_daemon(verbs)
    _add_execute(verbs)
    _add_build(verbs)
    _add_join(verbs)
    _add_doctor(verbs)
    _add_cache(verbs)
    _add_init(verbs)


def _add_json(parser: argparse.ArgumentParser, help_text: str = "print a record") -> None:
    parser.add_argument("--json", action="store_true", help=help_text)


def _verb(verbs: Any, name: str, help_text: str, handler: Any) -> Any:
    parser = verbs.add_parser(name, help=help_text, description=f"{help_text[:1].upper()}{help_text[1:]}.")
    parser.set_defaults(handler=handler)
    return parser


# --- daemon, execute


def _add_daemon(verbs: Any) -> None:
    parser = _verb(verbs, "daemon", "claim and run tasks until told to end", _run_daemon)
    others = parser.add_argument_group("agents that run here already")
    chosen = others.add_mutually_exclusive_group()
    chosen.add_argument("--stop", nargs="?", const="", metavar="NAME", help="drain it, and wait for its end")
    chosen.add_argument(
        "--status", nargs="?", const="", metavar="NAME", help="show it; exit code 1 when none runs"
    )
    others.add_argument("--all", action="store_true", help="with --stop: every agent of this folder")
    others.add_argument("--json", action="store_true", help="with --status: print records")
    add_groups(parser, DAEMON_SETTINGS)


def _run_daemon(namespace: argparse.Namespace) -> int:
    _refuse_lone_words(namespace)
    if namespace.stop is not None:
        place = read_settings(namespace, DAEMON_SETTINGS).local_dir
        return detached.stop(place, namespace.stop or None, everything=namespace.all, say=_say)
    if namespace.status is not None:
        return _show_agents(namespace)
    settings = _in_job(_started(namespace, DAEMON_SETTINGS))
    _refuse_outliving(settings)
    devices = means.choose_gpus(settings)
    settings = dataclasses.replace(settings, name=settings.name or means.default_name(settings, devices))
    folder = Journal(agents_folder(settings), str(settings.name)).folder

    def live() -> int:
        with log_file.kept_small(folder / LOG):
            return _live(settings, devices)

    return detached.go_on_in_background(folder, live, _say) if settings.detached else live()


def _refuse_outliving(settings: AgentSettings) -> None:
    """Raises SettingsError for what a batch job has no place for."""
    if settings.job and settings.detached:
        raise SettingsError("--detached: a batch job ends with its script; write `exec taskyard agent daemon`")
    if settings.job and settings.workers:
        raise SettingsError("--workers: in a batch job give one agent --slots, or start several with `srun`")


def _refuse_lone_words(namespace: argparse.Namespace) -> None:
    """Raises SettingsError for a word of `--stop` or `--status` without its verb: it must not start an agent."""
    if namespace.all and namespace.stop is None:
        raise SettingsError("--all belongs to --stop: write `agent daemon --stop --all`")
    if namespace.all and namespace.stop:
        raise SettingsError(f"--stop {namespace.stop} is one agent and --all is every one; give one of them")
    if namespace.json and namespace.status is None:
        raise SettingsError("--json belongs to --status: write `agent daemon --status --json`")


def _say(line: str) -> None:
    print(line, flush=True)


def _show_agents(namespace: argparse.Namespace) -> int:
    found = on_this_machine(read_settings(namespace, DAEMON_SETTINGS).local_dir)
    shown = [row for row in detached.rows(found) if namespace.status in ("", row["name"])]
    if namespace.json:
        print(json.dumps(shown, indent=2))
    else:
        cells = [(row["name"], row["pid"], row["server"], _since(row), " ".join(row["runs"])) for row in shown]
        output.print_table(("name", "pid", "server", "since", "runs"), cells, empty="no agent runs here")
        for row in shown:
            if row["trouble"]:
                print(f"{row['name']}: {row['trouble']}")
    return 0 if shown else 1


def _since(row: dict[str, Any]) -> str:
    return output.ago(row["started_at"]) if row["known"] else "the server has not heard of it yet"


def _live(settings: AgentSettings, devices: tuple[Gpu, ...]) -> int:
    """The agent itself, or the pool that keeps several."""
    if settings.workers:
        return _keep_pool(settings, devices)
    account.await_server(settings)
    client = until_answered(lambda: account.connect(settings))
    daemon = Daemon(settings, client, clearing=abandoned.giving_back(settings, client))
    code = daemon.run()
    if daemon.begins_anew:
        _begin_anew()
    return code


def _keep_pool(settings: AgentSettings, devices: tuple[Gpu, ...]) -> int:
    agents = agents_folder(settings)
    command = ("agent", "daemon", *sys.argv[sys.argv.index("daemon") + 1 :])
    members = [Member(place, command) for place in places(settings, devices, agents)]
    return Pool(settings, members, Journal(agents, str(settings.name))).run()


def _begin_anew() -> NoReturn:
    """Starts this command line again in this very process, with what was installed meanwhile."""
    logging.shutdown()
    flags = [flag for flag in sys.orig_argv[1:] if flag not in IN_PLACE]
    os.execv(sys.executable, [sys.executable, *flags, *IN_PLACE])  # noqa: S606 - no shell is meant


def _add_execute(verbs: Any) -> None:
    parser = _verb(verbs, "execute", "run one task here and now", _run_execute)
    _add_id(parser)
    _add_json(parser, "print a record of the run at its end; the log goes to standard error")
    add_groups(parser, EXECUTE_SETTINGS)


def _add_id(parser: argparse.ArgumentParser) -> None:
    complete_tasks(
        parser.add_argument(
            "--id", required=True, metavar="TASK", help="the task's id, unique prefix or unique name"
        )
    )


def _run_execute(namespace: argparse.Namespace) -> int:
    settings = _in_job(_started(namespace, EXECUTE_SETTINGS))
    task = account.task_id(namespace.id, settings)
    log = (sys.stderr if namespace.json else sys.stdout).buffer
    client = until_answered(lambda: account.connect(settings)) if settings.job else account.connect(settings)
    ended = execute(task, settings, client, log=log)
    if isinstance(ended, Obstacle):
        output.note(f"taskyard: nothing to do: task {task}: {ended.detail}")
        return 0
    if namespace.json:
        output.print_json(ended)
    return exit_codes.exit_code(ended.outcome)


def _add_build(verbs: Any) -> None:
    parser = _verb(verbs, "build", "make the environment or image of a task before it runs", _run_build)
    _add_id(parser)
    parser.add_argument("--target", metavar="NAME", help="make an image of this name with all that the task needs")
    _add_json(parser)
    add_groups(parser, BUILD_SETTINGS)


def _run_build(namespace: argparse.Namespace) -> int:
    settings = _started(namespace, BUILD_SETTINGS)
    task = account.task_id(namespace.id, settings)
    try:
        with account.reader(settings) as client:
            made = build(task, settings, client, target=namespace.target, say=output.note)
    except (RunFailed, RunStopped) as error:
        output.note(f"taskyard: {error}")
        return exit_code(error)
    if namespace.json:
        output.print_json(made)
        return 0
    image = f", in image {made.target or made.image}" if made.image else ""
    found = "was here already" if made.reused else "made"
    print(f"environment {made.key}{image}: {found}, {made.seconds:.1f} s")
    return 0


def _started(namespace: argparse.Namespace, settings: Any) -> AgentSettings:
    """Reads the settings, begins to log, and hides the agent's memory from tasks of the same user."""
    read = account.as_joined(read_settings(namespace, settings))
    log_lines.begin(read.log_level, read.log_format, "agent")
    hide_memory()
    return read


def _in_job(settings: AgentSettings) -> AgentSettings:
    """The settings with the batch job that this process is in, if any."""
    job = batch.found(settings.environ, wanted=settings.batch, kill_wait_seconds=settings.kill_wait)
    return dataclasses.replace(settings, job=job)


# --- join


def _add_join(verbs: Any) -> None:
    parser = _verb(verbs, "join", "let this machine's agent into a server", _run_join)
    parser.add_argument("url", metavar="URL", help="the server's address")
    parser.add_argument(
        "--name", default=socket.gethostname(), help="what the token is called; default: the host's name"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--token-file", metavar="FILE", help="take a ready token from this file instead of a code")
    source.add_argument("--token-stdin", action="store_true", help="take a ready token from standard input")
    _add_json(parser)
    add_settings(parser, [setting for setting in CONNECTION_SETTINGS if setting.name != "server"])


def _run_join(namespace: argparse.Namespace) -> int:
    link = _link(namespace)
    by_token = bool(namespace.token_file or namespace.token_stdin)
    secret = account.read_token(namespace.token_file) if by_token else _ask_for_code(link.server)
    client = account.join(link, secret, is_code=not by_token, name=namespace.name)
    token = client.whoami()
    account.remember_server(link.server)
    if namespace.json:
        output.print_json(token)
        return 0
    queues = ", ".join(token.queues) or "any queue"
    print(f"joined {link.server} as {token.name!r}, for {queues}; start it with: taskyard agent daemon")
    return 0


def _link(namespace: argparse.Namespace) -> Connection:
    """The way to the server, tried: a wrong address is found before anybody types a code."""
    try:
        namespace.server = server_address(namespace.url)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    link = connection(namespace, in_project=False)
    Client.of(link).info(patience_seconds=JOIN_PATIENCE_SECONDS)
    return link


def _ask_for_code(server: str) -> str:
    if not sys.stdin.isatty():
        raise SettingsError("no terminal to ask for the code on; give --token-file FILE or --token-stdin")
    print(f"Where you are logged in to {server}, `taskyard invite agent` prints a code.", file=sys.stderr)
    return getpass.getpass("Code: ").strip()


# --- init


def _add_init(verbs: Any) -> None:
    parser = _verb(
        verbs, "init", "write a custom worker: an image with an agent and what its tasks need", _run_init
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the files go")
    parser.add_argument("--name", default="worker", help="the worker's name; default: worker")
    parser.add_argument("--queue", help="the queue that it serves; default: its name")
    parser.add_argument("--base", default=scaffold.BASE, metavar="IMAGE", help=f"default: {scaffold.BASE}")
    parser.add_argument("--force", action="store_true", help="overwrite files that are there")
    _add_json(parser)
    add_settings(parser, CONNECTION_SETTINGS)


def _run_init(namespace: argparse.Namespace) -> int:
    worker = scaffold.CustomWorker(
        name=namespace.name,
        queue=namespace.queue or namespace.name,
        base=namespace.base,
        link=connection(namespace, in_project=False),
    )
    paths = scaffold.write(namespace.folder, worker, force=namespace.force)
    if namespace.json:
        output.print_json({"name": worker.name, "queue": worker.queue, "files": list(map(str, paths))})
    else:
        print(*paths, sep="\n")
    print(f"the next three commands are in {namespace.folder / 'README.md'}", file=sys.stderr)
    return 0


# --- doctor


def _add_doctor(verbs: Any) -> None:
    parser = _verb(verbs, "doctor", "check that this machine can run tasks", _run_doctor)
    parser.add_argument("--repo", metavar="URL", help="check the access to this repository too")
    parser.add_argument("--json", action="store_true", help="print records")
    add_groups(parser, BUILD_SETTINGS)


def _run_doctor(namespace: argparse.Namespace) -> int:
    settings = account.as_joined(read_settings(namespace, BUILD_SETTINGS))
    findings = []
    for finding in doctor.examine(settings, repository=namespace.repo):
        findings.append(finding)
        if not namespace.json:
            print(finding.line, flush=True)
    if namespace.json:
        print(json.dumps([finding.record for finding in findings], indent=2))
    return 0 if all(finding.ok for finding in findings) else 1


# --- cache


def _add_cache(verbs: Any) -> None:
    parser = verbs.add_parser(
        "cache", help="the environments, repositories, images and downloads kept on this machine"
    )
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", dest="cache_command", required=True)
    shown = _verb(actions, "list", "list what is kept on this machine", _list_cache)
    pruned = _verb(actions, "prune", "remove what is beyond the limits, or all that is unused", _prune_cache)
    pruned.add_argument("--all", action="store_true", help="remove everything that is not in use")
    verified = _verb(actions, "verify", "compare each environment with what was built", _verify_cache)
    verified.add_argument("--repair", action="store_true", help="remove what is broken and not in use")
    for parser in (shown, pruned, verified):
        parser.add_argument("--json", action="store_true", help="print records")
        add_settings(parser, CACHE_SETTINGS)


def _list_cache(namespace: argparse.Namespace) -> int:
    settings = read_settings(namespace, CACHE_SETTINGS)
    environments = cache.list_environments(environment_settings(settings))
    mirrors = list_mirrors(checkout_settings(settings))
    images = kept.list_images(_images(settings))
    fetched = downloads.list_downloads(environment_settings(settings))
    return _show_kept(environments, mirrors, images, fetched, as_json=namespace.json)


def _prune_cache(namespace: argparse.Namespace) -> int:
    settings = read_settings(namespace, CACHE_SETTINGS)
    # Downloads make room before an environment has to; no interpreter is needed once its environments are gone.
    fetched = () if namespace.all else downloads.prune(environment_settings(settings))
    environments = cache.prune(environment_settings(settings), everything=namespace.all)
    if namespace.all:
        fetched = downloads.prune(environment_settings(settings), everything=True)
    mirrors = prune_mirrors(checkout_settings(settings), everything=namespace.all)
    images = kept.prune(_images(settings), everything=namespace.all)
    return _show_kept(environments, mirrors, images, fetched, as_json=namespace.json)


def _images(settings: AgentSettings) -> ContainerSettings:
    return ContainerSettings(
        kept_images=settings.cache_environments, folder=settings.local_dir, environ=settings.environ
    )


def _verify_cache(namespace: argparse.Namespace) -> int:
    settings = environment_settings(read_settings(namespace, CACHE_SETTINGS))
    verdicts = cache.verify(settings, repair=namespace.repair)
    if namespace.json:
        print(json.dumps(to_json(list(verdicts)), indent=2))
    else:
        rows = [(one.key[:12], one.manager, _said_of(one)) for one in verdicts]
        output.print_table(("key", "manager", "state"), rows, empty="none")
    return 1 if any(one.problems and not one.removed for one in verdicts) else 0


def _said_of(verdict: cache.Verdict) -> str:
    if not verdict.problems:
        return "whole"
    return f"{'removed' if verdict.removed else 'broken'}: {'; '.join(verdict.problems)}"


def _show_kept(
    environments: Sequence[cache.CachedEnvironment],
    mirrors: Sequence[CachedMirror],
    images: Sequence[kept.PreparedImage],
    fetched: Sequence[downloads.Download],
    *,
    as_json: bool,
) -> int:
    if as_json:
        records = {"environments": environments, "mirrors": mirrors, "images": images, "downloads": fetched}
        print(json.dumps({noun: to_json(list(found)) for noun, found in records.items()}, indent=2))
        return 0
    rows: list[tuple[Any, ...]] = [
        (one.key[:12], one.manager, one.python, len(one.packages), output.size(one.size_bytes), _used(one))
        for one in environments
    ]
    output.print_table(("environment", "manager", "python", "packages", "size", "used"), rows, empty="none")
    if mirrors:
        print()
        rows = [(one.key, one.trees, output.size(one.size_bytes), _used(one)) for one in mirrors]
        output.print_table(("repository", "trees", "size", "used"), rows)
    if images:
        print()
        rows = [(one.image, output.size(one.size_bytes), _used(one)) for one in images]
        output.print_table(("image with its set-up", "size", "used"), rows)
    if fetched:
        print()
        rows = [(one.name, output.size(one.size_bytes), _used(one)) for one in fetched]
        output.print_table(("downloads", "size", "used"), rows)
    return 0


def _used(one: cache.CachedEnvironment | CachedMirror | kept.PreparedImage | downloads.Download) -> str:
    return "now" if one.in_use else output.ago(one.used_at)
