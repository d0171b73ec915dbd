"""From a command in a folder to a task on the server: capture, requirements, parameters, upload."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any

from taskyard.errors import UsageError
from taskyard.interface import NOTHING_KNOWN, Interface, known_interface, plain, stored
from taskyard.wire import (
    Command,
    CommandKind,
    Container,
    Environment,
    Manager,
    NewTask,
    Policy,
    Resources,
    Task,
    TaskChanges,
    TaskSpec,
    as_text,
    to_json,
    too_large_to_start,
)

if TYPE_CHECKING:
    from taskyard.client import Client
    from taskyard.requirements import PythonPlan, RequirementsPlan
    from taskyard.rewriting import Given
    from taskyard.snapshot import Snapshot
    from taskyard.variants import Axis

ARGUMENTS_SECTION = "Args"
NOTEBOOK = ".ipynb"
LARGEST_INTERFACE_BYTES = 48 << 10
LARGEST_BULK_BYTES = 60 << 20
"""Of one submission; the server takes 64 MiB."""
_VERSIONED_PYTHON = re.compile(r"python(\d+\.\d+)(?:\.exe)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What somebody wants to run, and how."""

    command: Command
    folder: Path
    name: str = ""
    project: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    resources: Resources = field(default_factory=lambda: Resources(gpus=None))
    container: Container | None = None
    policy: Policy = field(default_factory=Policy)
    python: str | None = None
    packages: tuple[str, ...] = ()
    """What to install, instead of what the code asks for."""
    added_packages: tuple[str, ...] = ()
    """What to install besides."""
    requirements: Path | None = None
    manager: Manager | None = None
    """None: what the requirements' file is for, else uv."""
    torch_backend: str = "auto"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    grid: tuple[Axis, ...] = ()
    """Parameters of which each combination is a task of its own."""
    env: Mapping[str, str] = field(default_factory=dict)
    secret_values: Mapping[str, str] = field(default_factory=dict, repr=False)
    include: tuple[str, ...] = ()
    ship_code: bool = False
    outputs: tuple[str, ...] = ()
    """Patterns of files that are kept once the command has ended."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A task that is ready to be submitted; a context manager that removes the captured files."""

    spec: TaskSpec
    """The task, or the first of its variants."""
    variants: tuple[TaskSpec, ...] = ()
    """All of them, where there is a grid."""
    secret_values: Mapping[str, str] = field(repr=False)
    snapshot: Snapshot
    needs: RequirementsPlan
    python: PythonPlan

    @property
    def specs(self) -> tuple[TaskSpec, ...]:
        """Every task that is submitted."""
        return self.variants or (self.spec,)

    def __enter__(self) -> Prepared:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.snapshot.close()


def require_outputs(client: Client) -> None:
    """Raises UsageError where the server keeps no outputs: an older one would leave them out in silence."""
    info = client.info()
    if info.artifacts is None:
        raise UsageError(
            f"{client.server} (version {info.version}) keeps no outputs: a server on MongoDB needs --artifacts"
            " FOLDER, an older one has to be upgraded; until then leave --output out"
        )


def submit(client: Client, wanted: Wanted, *, queue: str | None = None) -> Task:
    """Captures, uploads and creates, in one go. Raises UsageError and what `Transport.request` raises."""
    if wanted.outputs:
        require_outputs(client)
    with prepare(wanted) as prepared:
        return submit_prepared(client, prepared, queue=queue)


def prepare(wanted: Wanted, *, memory: Path | None = None) -> Prepared:
    """Captures the code and finds out what it needs; nothing is sent. Raises UsageError.

    `memory` is the user's folder in which it is remembered what was uploaded before.
    """
    from taskyard.snapshot import capture

    command = _in_folder(wanted.command, wanted.folder)
    _check_start(command, {**wanted.env, **wanted.secret_values})
    snapshot = capture(
        wanted.folder,
        include=wanted.include,
        ship_code=wanted.ship_code,
        memory=memory,
        script=command.target if command.kind is CommandKind.SCRIPT else None,
    )
    try:
        environment, needs, python = _environment(wanted, command, snapshot.root)
        spec = TaskSpec(
            name=wanted.name or _name(command),
            project=wanted.project or snapshot.root.name,
            description=wanted.description,
            tags=wanted.tags,
            code=snapshot.code,
            command=command,
            environment=environment,
            container=wanted.container,
            resources=wanted.resources,
            policy=wanted.policy,
            env=_variables(wanted, needs),
            secrets=tuple(wanted.secret_values),
            outputs=wanted.outputs,
        )
        specs = _variants(spec, wanted, _interface(command, wanted.folder.absolute(), snapshot.root))
        for each in specs:
            _check_start(each.command, {**each.env, **wanted.secret_values})
    except BaseException:
        snapshot.close()
        raise
    return Prepared(
        spec=specs[0],
        variants=specs if wanted.grid else (),
        secret_values=wanted.secret_values,
        snapshot=snapshot,
        needs=needs,
        python=python,
    )


def submit_prepared(client: Client, prepared: Prepared, *, queue: str | None = None) -> Task:
    """Uploads what the server lacks, then creates and enqueues in one request."""
    return submit_all(client, prepared, [uuid.uuid4().hex], queue=queue)[0]


def submit_all(client: Client, prepared: Prepared, ids: Sequence[str], *, queue: str | None = None) -> list[Task]:
    """Upload what the server lacks, then create and enqueue every variant, or none, in one request.

    A repeat with the same ids is answered with the tasks that are there.
    """
    secrets = dict(prepared.secret_values)
    new = [
        NewTask(id=task_id, spec=spec, queue=queue, secret_values=secrets)
        for task_id, spec in zip(ids, prepared.specs, strict=True)
    ]
    _check_bulk(new)
    for digest, path in prepared.snapshot.blobs.items():
        client.put_blob(digest, path)
    tasks = client.create_tasks(new) if prepared.variants else [client.create_task(new[0])]
    prepared.snapshot.uploaded()
    return tasks


def _check_bulk(new: Sequence[NewTask]) -> None:
    """One request carries all of them, so none is submitted without the others. Raises UsageError."""
    if len(new) == 1:
        return
    largest = max(len(json.dumps(to_json(task))) for task in new)
    if largest * len(new) > LARGEST_BULK_BYTES:
        raise UsageError(
            f"{len(new)} variants of {largest >> 10} KiB each are too large for one submission, in which about "
            f"{LARGEST_BULK_BYTES // largest} fit: commit and push the changes, or give --grid fewer values"
        )


# --- commands


def read_command(words: Sequence[str]) -> tuple[Command, str | None]:
    """Reads what stands behind `run --`, and the version that a name like `python3.11` asks for.

    `-m package` without `python` before it means the same. Raises UsageError.
    """
    from taskyard import arguments

    name = PurePosixPath(words[0].replace("\\", "/")).name if words else ""
    asked = _VERSIONED_PYTHON.fullmatch(name)
    command = arguments.read_command(["python", *words] if name == "-m" else words)
    return command, asked[1] if asked else None


def _in_folder(command: Command, folder: Path) -> Command:
    """The command with its script relative to the folder, checked to be there."""
    if command.target.endswith(NOTEBOOK):
        raise UsageError(_of_notebook(command.target))
    if command.kind is not CommandKind.SCRIPT:
        return command
    path = (folder / command.target).absolute()
    if path.is_dir():
        path /= "__main__.py"  # what Python runs of a folder
    if not path.is_file():
        raise UsageError(f"{path} does not exist; name a script that is there, relative to the current folder")
    target = Path(os.path.relpath(path, folder.absolute())).as_posix()
    return dataclasses.replace(command, target=target)


def _of_notebook(target: str) -> str:
    """What to type for a notebook, which Python does not run."""
    name, script = shlex.quote(target), shlex.quote(f"{target.removesuffix(NOTEBOOK)}.py")
    return (
        f"{target} is a notebook; make a script of it: jupyter nbconvert --to script {name}, then: "
        f"taskyard run -- python {script}; or run it cell by cell: "
        f"taskyard run --package nbconvert ipykernel PACKAGE… -- jupyter "
        f"nbconvert --to notebook --execute --stdout {name}"
    )


def _check_start(command: Command, variables: Mapping[str, str]) -> None:
    assigned = (f"{name}={value}" for name, value in variables.items())
    problem = too_large_to_start((command.target, *command.args), "an argument") or too_large_to_start(
        (*assigned, *command.args), "a variable"
    )
    if problem:
        raise UsageError(problem)


def _name(command: Command) -> str:
    """What the task is called when nobody says: the script's, module's or program's name."""
    name = PurePosixPath(command.target).name
    return name.removesuffix(".py") if command.kind is CommandKind.SCRIPT else name


# --- parameters


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameters that are to be set: those of the command line, and the other sections'."""

    arguments: dict[str, Given] = field(default_factory=dict)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)


def sections(given: Mapping[str, Any], known: Iterable[str]) -> Parameters:
    """Sort `{"lr": 1}`, `{"Model/depth": 3}` and `{"Model": {"depth": 3}}` into sections.

    A bare name belongs to the command line, and so does one with a slash that the command line has (`known`), be
    it written there with dashes or underscores, and one that is written as on a command line: `--amp`.
    """
    from taskyard.rewriting import given as value_of

    arguments = {plain(name): name for name in known}
    sorted_in = Parameters()
    for name, value in given.items():
        if isinstance(value, Mapping) and name != ARGUMENTS_SECTION:
            section = sorted_in.sections.setdefault(name, {})
            section.update({str(key): value_of(item).value for key, item in value.items()})
            continue
        for one, item in value.items() if isinstance(value, Mapping) else ((name, value),):
            section_name, slash, rest = one.partition("/")
            if plain(one) in arguments or one.startswith("-") or not (slash and section_name and rest):
                section_name, rest = ARGUMENTS_SECTION, one
            if section_name == ARGUMENTS_SECTION:
                known_as = rest if rest.startswith("-") else arguments.get(plain(rest), rest)
                sorted_in.arguments[known_as] = value_of(item)
            else:
                sorted_in.sections.setdefault(section_name, {})[rest] = value_of(item).value
    return sorted_in


def changed_parameters(spec: TaskSpec, given: Mapping[str, Any]) -> TaskChanges:
    """Return the changes that set parameters of a recorded task. Raises Unwritable where its script might not see
    one: what is known of its options was stored with it when it was submitted.
    """
    from taskyard import arguments

    wanted = sections(given, {**arguments.parse(spec.command.args), **spec.parameters.get(ARGUMENTS_SECTION, {})})
    texts = {name: _texts(values) for name, values in wanted.sections.items()}
    values = {name: _untexts(section) for name, section in wanted.sections.items()}
    command = None
    if wanted.arguments:
        command, args_texts, args_values = _rewritten(spec, wanted.arguments)
        texts[ARGUMENTS_SECTION], values[ARGUMENTS_SECTION] = args_texts, args_values
    return TaskChanges(
        command=command,
        parameters=texts or None,
        values={name: section for name, section in values.items() if section} or None,
    )


def _rewritten(spec: TaskSpec, wanted: Mapping[str, Given]) -> tuple[Command, dict[str, str], dict[str, Any]]:
    """The command with the wanted arguments, and what it says as texts and as values."""
    from taskyard import arguments
    from taskyard.rewriting import write, write_back

    interface = known_interface(spec.command)
    texts, values = spec.parameters.get(ARGUMENTS_SECTION, {}), spec.values.get(ARGUMENTS_SECTION, {})
    before = spec.command.args
    if not spec.command.written:
        asked_again = {plain(name) for name in wanted}
        left = {name: text for name, text in texts.items() if plain(name) not in asked_again}
        if spec.command.interface is None and not values:  # an older client's, whose agents write it this way
            again = {name: text for name, text in arguments.parse(before).items() if plain(name) in asked_again}
            before = arguments.write_back(before, {**again, **left})
        else:
            before = write_back(before, left, values, interface).args
    written = write(before, wanted, interface)
    kept = {
        name: value
        for name, value in values.items()
        if written.parameters.get(name) == texts.get(name) and plain(name) not in map(plain, wanted)
    }
    values = {**kept, **written.values}
    gone = {name: as_text(value) for name, value in values.items() if name not in written.parameters}
    typed = spec.command.args if spec.command.args != written.args else None
    command = dataclasses.replace(spec.command, args=written.args, written=True, typed=typed)
    return command, {**gone, **written.parameters}, values


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: as_text(value) for name, value in values.items()}


def _untexts(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not isinstance(value, str)}


def _variants(spec: TaskSpec, wanted: Wanted, interface: Interface) -> tuple[TaskSpec, ...]:
    """The task with its parameters, or each combination of the grid, named by what differs. Raises Unwritable."""
    if not wanted.grid:
        return (_with_parameters(spec, wanted.parameters, interface),)
    from taskyard import variants

    found = list(variants.combinations(wanted.grid))
    variants.refuse_set_twice(wanted.grid, wanted.parameters)
    return tuple(
        dataclasses.replace(_with_parameters(spec, {**wanted.parameters, **combination}, interface), name=name)
        for combination, name in zip(found, variants.names(spec.name, found), strict=True)
    )


def _with_parameters(spec: TaskSpec, given: Mapping[str, Any], interface: Interface) -> TaskSpec:
    """The spec of a new task with its parameters, written into its command line. Raises Unwritable."""
    from taskyard import arguments
    from taskyard.rewriting import write

    args = spec.command.args
    wanted = sections(given, arguments.parse(args))
    written = write(args, wanted.arguments, interface)
    texts = {ARGUMENTS_SECTION: written.parameters, **{name: _texts(one) for name, one in wanted.sections.items()}}
    values = {ARGUMENTS_SECTION: written.values, **{name: _untexts(one) for name, one in wanted.sections.items()}}
    command = dataclasses.replace(
        spec.command,
        args=written.args,
        written=True,
        typed=args if written.args != args else None,
        interface=_stored(interface),
    )
    return dataclasses.replace(
        spec,
        command=command,
        parameters={name: section for name, section in texts.items() if section},
        values={name: section for name, section in values.items() if section},
    )


def _stored(interface: Interface) -> dict[str, Any] | None:
    """What of it goes with the task; one that is too long is left out, and counts as unknown."""
    if interface == NOTHING_KNOWN:
        return None
    kept = stored(interface)
    return kept if len(json.dumps(kept)) <= LARGEST_INTERFACE_BYTES else None


def _interface(command: Command, folder: Path, root: Path) -> Interface:
    """What the source says of the options of the script that a command runs, be it through a launcher."""
    from taskyard.script_options import read_interface

    if command.kind is CommandKind.SCRIPT:
        path = folder / command.target
        return read_interface(path / "__main__.py" if path.is_dir() else path, root)
    if command.kind is CommandKind.MODULE:
        relative = Path(*command.target.split("."))
        names = (relative.with_suffix(".py"), relative / "__main__.py")
        for place in (folder / name for name in names):
            if place.is_file():
                return read_interface(place, root)
    for word in command.args:
        if word.endswith(".py") and (folder / word).is_file():
            return dataclasses.replace(read_interface(folder / word, root), script=word)
    return NOTHING_KNOWN


# --- environment


def _environment(wanted: Wanted, command: Command, root: Path) -> tuple[Environment, RequirementsPlan, PythonPlan]:
    """What to install on which interpreter, and why."""
    from taskyard.asking import with_packages
    from taskyard.config import environment as variables
    from taskyard.requirements import plan_requirements
    from taskyard.requirements.launchers import started_by

    folder = wanted.folder.absolute()
    started = started_by(command, folder, root)
    script = started.script
    needs = plan_requirements(
        root,
        script,
        module=started.module or None,
        launcher=started.launcher,
        start=folder,
        file=wanted.requirements,
        packages=wanted.packages,
        manager=wanted.manager,
        variables={**variables(), **wanted.env},
    )
    python = _interpreter(wanted, root, script)
    environment = Environment(
        manager=needs.manager,
        python=python.version,
        requirements=needs.kind,
        path=needs.path,
        packages=needs.packages,
        torch_backend=wanted.torch_backend,
        import_from=needs.import_from,
    )
    return with_packages(environment, wanted.added_packages), needs, python


def _variables(wanted: Wanted, needs: RequirementsPlan) -> dict[str, str]:
    """What the task is given, with the folders of the repository in which Python looks here."""
    from taskyard.requirements import SEARCH_PATH

    own = {SEARCH_PATH: needs.search_path} if needs.search_path else {}
    return {**own, **wanted.env}


def _interpreter(wanted: Wanted, root: Path, script: Path | None) -> PythonPlan:
    """The version to ask for; what is inherited, or an image, has its own, whatever this project uses."""
    from taskyard.requirements import PythonPlan, plan_python

    if wanted.manager is Manager.INHERIT and wanted.python is None:
        return PythonPlan(version=None, origin="--manager inherit")
    if wanted.container is not None and wanted.container.image and wanted.python is None:
        return PythonPlan(version=None, origin="the image's own")
    return plan_python(root, wanted.python, script=script, start=wanted.folder.absolute())
