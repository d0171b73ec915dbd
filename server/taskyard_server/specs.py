"""What a task may ask for: checks of a spec, and changes to one.

The agent checks again what it acts on; here a mistake is refused while its author still looks.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from taskyard.wire import (
    Code,
    Command,
    CommandKind,
    Container,
    Environment,
    Policy,
    QueueKind,
    Resources,
    TaskChanges,
    TaskSpec,
    as_text,
    to_json,
    too_large_to_start,
)

from taskyard_server.errors import Invalid, TooLarge
from taskyard_server.names import checked_name
from taskyard_server.schemas import adapter
from taskyard_server.store.base import QueueRecord

MAX_DESCRIPTION = 20_000
MAX_TAGS, MAX_TAG = 50, 100
MAX_DIFF = 300 << 10
MAX_PATCH = 1 << 20
ARGUMENTS = "Args"
"""The section of parameters that mirrors the command line."""
MAX_INTERFACE = 64 << 10
MAX_DEPTH = 4
"""Of lists in a parameter's value."""
MAX_TEXT = 1 << 20
"""Characters of arguments, parameters, variables, packages and secrets, each."""
MAX_SPEC = 4 << 20
"""Bytes of a whole task: lists of a thousand are read, and each claim hands one out."""
MAX_IMAGE = 500
MAX_CONTAINER_ARGS = 200
MAX_APT = 200
MAX_SCRIPT = 256 << 10
MAX_GPUS = 1024
MAX_BYTES = 1 << 50
MAX_AMOUNT = 1e9
MAX_KEYS = 50
"""Labels, and kinds of custom amounts, that one task asks for."""
MAX_RETRIES = 1000
MAX_OUTPUTS, MAX_PATTERN = 100, 500
MAX_SECONDS = 366 * 86_400.0

_SPEC = adapter(TaskSpec)
_COMMIT = re.compile(r"[0-9a-f]{40,64}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PYTHON = re.compile(r"3\.[0-9]{1,2}(\.[0-9]{1,3})?", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_BACKEND = re.compile(r"[a-z0-9.]{1,20}", re.ASCII)
_IMAGE = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?/)?"
    r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
"""As Docker writes references: host and port, path, tag, digest."""
_APT = re.compile(r"[a-z0-9][a-z0-9+.-]{1,99}(:[a-z0-9]+)?(=[\w.+:~-]+|/[\w.-]+)?", re.ASCII)
"""Debian's pattern of names, with an architecture, a version or a release as apt-get takes them."""
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SCP_LIKE = re.compile(r"(?:[^@/:\s]+@)?(?:\[[^\]/]+\]|[^/:@\[\s]+):(?!//)[^:].*")
_HELPER = re.compile(r"[^/]*::")
_BAD_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)")
_FETCHED_SCHEMES = ("https", "ssh", "git+ssh", "ssh+git", "file")

_GPUS = "the agent picks the GPUs; ask for so many with --gpus N, and for none with --gpus 0"
_REFUSED_VARIABLES: Mapping[str, str] = {
    "LD_PRELOAD": "it would load code into every program",
    "LD_AUDIT": "it would load code into every program",
    "DYLD_INSERT_LIBRARIES": "it would load code into every program",
    "PYTHONSTARTUP": "it would run code in other interpreters",
    "PYTHONHOME": "it would take the interpreter's own library away",
    "BASH_ENV": "it would run code in every shell",
    "ENV": "it would run code in every shell",
    "SHELLOPTS": "it would change every shell",
    "BASHOPTS": "it would change every shell",
    "PS4": "it would run code in traced shells",
    "PROMPT_COMMAND": "it would run code in shells",
    "SSH_ASKPASS": "it would be started for passwords",
    "CUDA_VISIBLE_DEVICES": _GPUS,
    "CUDA_DEVICE_ORDER": _GPUS,
    "NVIDIA_VISIBLE_DEVICES": _GPUS,
}
_REFUSED_PREFIXES: Mapping[str, str] = {
    "GIT_": "git takes programs from it",
    "TASKYARD_": "the agent sets those",
    "BASH_FUNC_": "it would replace commands in every shell",
}


def checked(spec: TaskSpec) -> TaskSpec:
    """Returns the spec as it is kept. Raises Invalid or TooLarge, naming the field and what to do."""
    _check_code(spec.code)
    _check_command(spec.command, spec.code.working_dir)
    _check_environment(spec.environment)
    if spec.container is not None:
        _check_container(spec.container)
    _check_resources(spec.resources)
    _check_policy(spec.policy)
    _check_outputs(spec.outputs)
    spec = with_texts(spec)
    _check_parameters(spec.parameters)
    _check_values(spec.values)
    _check_variables(spec.env, "env")
    check_secret_names(spec.secrets)
    _check_start(spec)
    _check_size(spec.description, MAX_DESCRIPTION, "description")
    return replace(
        spec,
        name=checked_name(spec.name, "the task's name"),
        project=checked_name(spec.project, "the project's name"),
        tags=_checked_tags(spec.tags),
        secrets=tuple(dict.fromkeys(spec.secrets)),
    )


def check_total(spec: TaskSpec, secret_values: Mapping[str, str]) -> None:
    """Each part may be large, all of them together not. Raises TooLarge naming the heaviest part."""
    secrets = sum(len(value.encode("utf-8", "surrogatepass")) for value in secret_values.values())
    try:
        size = len(_SPEC.dump_json(spec)) + secrets
    except ValueError as error:
        raise Invalid(f"the task holds text that is not valid Unicode: {error}") from error
    if size <= MAX_SPEC:
        return
    weights = {"secret_values": secrets, **_weights("", to_json(spec))}
    part, weight = max(weights.items(), key=lambda each: each[1])
    raise TooLarge(
        f"the task takes {size} bytes, {MAX_SPEC} are allowed; the heaviest part is {part} with {weight}: put it"
        " into a file of the code"
    )


def _weights(path: str, value: Any) -> dict[str, int]:
    """Bytes of the parts of a spec, by their names."""
    if path.count(".") < 2 and isinstance(value, Mapping):
        parts = [_weights(f"{path}.{name}".lstrip("."), part) for name, part in value.items()]
        return {name: weight for part in parts for name, weight in part.items()}
    return {path: len(json.dumps(value))}


def changed(spec: TaskSpec, changes: TaskChanges) -> TaskSpec:
    """The spec with the changes; parameters and variables are merged, value by value."""
    given = {name: getattr(changes, name) for name in _REPLACED if getattr(changes, name) is not None}
    if changes.container is not None:
        given["container"] = None if changes.container == Container() else changes.container
    if changes.parameters is not None or changes.values is not None:
        given |= _with_parameters(spec, changes)
    if changes.env is not None:
        given["env"] = {**spec.env, **changes.env}
    if changes.secret_values is not None:
        given["secrets"] = tuple(dict.fromkeys((*spec.secrets, *changes.secret_values)))
    return replace(spec, **given)


_REPLACED = (
    "name",
    "project",
    "description",
    "tags",
    "code",
    "command",
    "environment",
    "resources",
    "policy",
    "outputs",
)


def _with_parameters(spec: TaskSpec, changes: TaskChanges) -> dict[str, Any]:
    """Section by section, value by value; the given ones win, and a text takes its old typed value away."""
    values = changes.values or {}
    texts = _merged(_texts_of(values), changes.parameters or {})
    held, written = dict(spec.parameters), changes.command is not None and changes.command.written
    if written and ARGUMENTS in texts:
        held[ARGUMENTS] = {}
    untyped = {
        section: {name: value for name, value in typed.items() if name not in texts.get(section, {})}
        for section, typed in spec.values.items()
    }
    given: dict[str, Any] = {"parameters": _merged(held, texts), "values": _merged(untyped, values)}
    if ARGUMENTS in texts and not written:
        given["command"] = replace(changes.command or spec.command, written=False)
    return given


def with_texts(spec: TaskSpec) -> TaskSpec:
    """The spec with a text for each typed parameter that has none, unless its line holds the parameters."""
    lacking = {
        section: {
            name: as_text(value) for name, value in typed.items() if name not in spec.parameters.get(section, {})
        }
        for section, typed in spec.values.items()
        if not (section == ARGUMENTS and spec.command.written) and isinstance(typed, Mapping)
    }
    return replace(spec, parameters=_merged(spec.parameters, lacking)) if any(lacking.values()) else spec


def _texts_of(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    return {section: {name: as_text(value) for name, value in typed.items()} for section, typed in values.items()}


def _merged(held: Mapping[str, Mapping[str, Any]], given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    sections = dict.fromkeys([*held, *given])
    merged = {section: {**held.get(section, {}), **given.get(section, {})} for section in sections}
    return {section: values for section, values in merged.items() if values or section in held}


def blobs_of(spec: TaskSpec) -> list[str]:
    """Digests of what must be uploaded before the task can run."""
    pack = [spec.code.pack.blob] if spec.code.pack is not None else []
    return pack + ([spec.code.archive] if spec.code.archive is not None else [])


def check_secrets(names: Iterable[str], values: Mapping[str, str]) -> None:
    """Every secret has a value, and every value belongs to a secret. Raises Invalid, TooLarge."""
    missing = [name for name in names if name not in values]
    if missing:
        raise Invalid(f"the values of the secrets {', '.join(missing)} are missing: send them in secret_values")
    check_secret_names(values)
    _check_texts(values.values(), "secret_values")
    _check_lengths(_assigned(values), "a secret")
    if any("\0" in value for value in values.values()):
        raise Invalid("a secret's value cannot hold a NUL character")


def check_secret_names(names: Iterable[str]) -> None:
    """Secrets are given to the run as variables, so they are named like them. Raises Invalid."""
    for name in names:
        _check_variable(name, "secrets")


# --- Code


def _check_code(code: Code) -> None:
    if code.archive is not None and (code.repository is not None or code.pack is not None):
        raise Invalid("code.archive stands alone: leave out repository and pack")
    if code.pack is not None and code.pack.needs and code.repository is None:
        raise Invalid("code.pack needs commits of a remote: name the repository, or ship the pack whole")
    if code.repository is not None:
        _check_repository(code.repository, fetched=code.pack is None or bool(code.pack.needs))
        if code.pack is None and code.commit is None and code.branch is None:
            raise Invalid("code.repository needs a commit or a branch")
    _check_commits(code)
    for digest in (code.archive, code.pack.blob if code.pack else None):
        if digest is not None and not _DIGEST.fullmatch(digest):
            raise Invalid(f"{digest!r} is not a SHA-256 digest: 64 lower-case hexadecimal digits")
    if code.branch is not None:
        _check_branch(code.branch)
    _check_size(code.diff, MAX_DIFF, "code.diff")
    _check_size(code.patch or "", MAX_PATCH, "code.patch")
    _check_inside(code.working_dir, "code.working_dir")
    for path in code.empty_submodules:
        _check_inside(path, "code.empty_submodules")
    _check_texts(code.empty_submodules, "code.empty_submodules")


def _check_commits(code: Code) -> None:
    commits = [code.commit] if code.commit is not None else []
    if code.pack is not None:
        commits += [code.pack.commit, *code.pack.needs]
        if code.pack.size < 0:
            raise Invalid("code.pack.size is a number of bytes")
    for commit in commits:
        if not _COMMIT.fullmatch(commit):
            raise Invalid(f"{commit!r} is not a commit: 40 to 64 lower-case hexadecimal digits")


def _check_repository(url: str, *, fetched: bool) -> None:
    """The allow-list; a repository that is only recorded, beside a whole pack, may have any plain address.

    Whether `file` is allowed is the agent's operator's word.
    """
    if not url or url.startswith("-") or url != url.strip() or _CONTROL.search(url) or _HELPER.match(url):
        raise Invalid(f"{url!r} is not the address of a repository: give an https:// or ssh address")
    if not fetched or url.startswith("/") or ("://" not in url and _SCP_LIKE.fullmatch(url)):
        return
    parts = _split(url)
    if parts.scheme not in _FETCHED_SCHEMES:
        raise Invalid(
            f"{url!r}: only https and ssh repositories are fetched; give such an address, or ship the code"
        )
    if parts.password is not None or (parts.scheme == "https" and parts.username is not None):
        raise Invalid("the repository's address holds credentials: leave them out, the agent has its own")


def _split(url: str) -> Any:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise Invalid(f"{url!r} is not an address: {error}") from error


def _check_branch(branch: str) -> None:
    """The rules of `git check-ref-format --branch`."""
    wrong = not branch or branch.startswith(("-", "/", ".")) or branch.endswith(("/", ".")) or branch == "@"
    if wrong or _BAD_IN_REF.search(branch):
        raise Invalid(f"{branch!r} is not a branch")


def _check_inside(path: str, what: str, base: str = ".") -> None:
    """Relative to the repository's root, and inside it."""
    if _CONTROL.search(path) or "\\" in path or re.match(r"[A-Za-z]:", path):
        raise Invalid(f"{what} {path!r} must be a plain relative path with slashes")
    if not path or path.startswith(("/", "-", "~")):
        raise Invalid(f"{what} {path!r} must be relative to the root of the code")
    if posixpath.normpath(posixpath.join(base, path)).split("/")[0] == "..":
        raise Invalid(f"{what} {path!r} leads out of the code: name a path inside it")


# --- Command and environment


def _check_command(command: Command, working_dir: str) -> None:
    target = command.target
    if not target or target.startswith("-") or _CONTROL.search(target):
        raise Invalid(f"command.target {target!r} must name what to start: a script, a module or a program")
    if command.kind is CommandKind.SCRIPT:
        _check_inside(target, "command.target", working_dir)
    if command.kind is CommandKind.MODULE and not _MODULE.fullmatch(target):
        raise Invalid(f"command.target {target!r} is not a module's name")
    if any(not option.startswith("-") or _CONTROL.search(option) for option in command.python_args):
        raise Invalid("command.python_args are options of the interpreter, such as -O or -Xdev")
    if any("\0" in argument for argument in (*command.args, *(command.typed or ()))):
        raise Invalid("command.args cannot hold a NUL character")
    _check_texts(command.args, "command.args")
    _check_texts(command.typed or (), "command.typed")
    if command.interface is not None:
        _check_size(json.dumps(command.interface), MAX_INTERFACE, "command.interface")


def _check_start(spec: TaskSpec) -> None:
    """The kernel would refuse to start it otherwise, once it had waited for its turn. Raises Invalid."""
    arguments = (spec.command.target, *spec.command.python_args, *spec.command.args)
    _check_lengths(arguments, "an argument")
    _check_lengths(_written_by_parameters(spec), "an option that parameters write")
    _check_lengths((*_assigned(spec.env), *arguments), "a variable")


def _check_lengths(texts: Iterable[str], what: str) -> None:
    problem = too_large_to_start(texts, what)
    if problem:
        raise Invalid(problem)


def _assigned(variables: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in variables.items()]


def _written_by_parameters(spec: TaskSpec) -> list[str]:
    """What the agent will write into the command line, where that is still to be done."""
    given = {} if spec.command.written else spec.parameters.get(ARGUMENTS, {})
    return [f"--{name}={value}" for name, value in given.items()]


def _check_environment(environment: Environment) -> None:
    if environment.python is not None and not _PYTHON.fullmatch(environment.python):
        raise Invalid(f"environment.python {environment.python!r} must look like 3.11 or 3.11.7")
    if not _BACKEND.fullmatch(environment.torch_backend):
        raise Invalid(f"environment.torch_backend {environment.torch_backend!r} must look like auto, cpu or cu126")
    if environment.path is not None:
        _check_inside(environment.path, "environment.path")
    for package in environment.packages:
        if not package.strip() or package.lstrip().startswith("-") or _CONTROL.search(package):
            raise Invalid(f"environment.packages: {package!r} is not a requirement such as numpy==2.1")
    _check_texts(environment.packages, "environment.packages")
    for folder in environment.import_from:
        _check_inside(folder, "environment.import_from")
    _check_texts(environment.import_from, "environment.import_from")


def _check_container(container: Container) -> None:
    """What is malformed; which arguments are let through is its agent's operator's word."""
    if container.image and (len(container.image) > MAX_IMAGE or not _IMAGE.fullmatch(container.image)):
        raise Invalid(f"container.image {container.image!r} is not an image: write it like python:3.12-slim")
    if len(container.args) > MAX_CONTAINER_ARGS:
        raise Invalid(f"container.args: {len(container.args)} are too many, {MAX_CONTAINER_ARGS} are allowed")
    for argument in container.args:
        if not argument or _CONTROL.search(argument):
            raise Invalid(f"container.args: {argument!r} is not an argument: leave out control characters")
    if container.args and not container.args[0].startswith("-"):
        raise Invalid(
            f"container.args: {container.args[0]!r} is not an option of `docker run`, such as --shm-size=8g"
        )
    _check_texts(container.args, "container.args")
    if len(container.apt) > MAX_APT:
        raise Invalid(f"container.apt: {len(container.apt)} packages are too many, {MAX_APT} are allowed")
    for package in container.apt:
        if not _APT.fullmatch(package):
            raise Invalid(f"container.apt: {package!r} is not the name of a Debian package, such as libgl1")
    _check_size(container.setup_script, MAX_SCRIPT, "container.setup_script")
    if "\0" in container.setup_script:
        raise Invalid("container.setup_script cannot hold a NUL character: give a shell script")


# --- Numbers


def _check_resources(resources: Resources) -> None:
    _check_gpus(resources)
    _check_memory(resources)
    _check_keys(resources.custom, "resources.custom")
    for name, amount in resources.custom.items():
        if not math.isfinite(amount) or not 0 <= amount <= MAX_AMOUNT:
            raise Invalid(f"resources.custom: {name} must be 0 to {MAX_AMOUNT:.0f}")
    _check_keys(resources.requires, "resources.requires")
    for name, value in resources.requires.items():
        if not checked_name(value, f"resources.requires: the label {name}"):
            raise Invalid(f"resources.requires: the label {name} needs the value that its worker must have")
    if resources.worker is not None and checked_name(resources.worker, "resources.worker") != resources.worker:
        raise Invalid("resources.worker must be the name of a worker, as `taskyard workers` shows it")
    if resources.worker == "":
        raise Invalid("resources.worker must name a worker, or be left out to let any take the task")


def _check_gpus(resources: Resources) -> None:
    if resources.gpus is not None and not 0 <= resources.gpus <= MAX_GPUS:
        raise Invalid(f"resources.gpus must be 0 to {MAX_GPUS}, or left out to take what the worker has")
    part = resources.gpu_memory_bytes
    if part is None:
        return
    if resources.gpus is not None:
        raise Invalid("give resources.gpus for whole GPUs or gpu_memory_bytes for a part of one, not both")
    if not 0 < part <= MAX_BYTES:
        raise Invalid(f"resources.gpu_memory_bytes must be 1 to {MAX_BYTES} bytes, or left out")


def _check_memory(resources: Resources) -> None:
    if resources.memory_bytes is not None and resources.memory_fraction is not None:
        raise Invalid("give resources.memory_bytes or memory_fraction, not both")
    if resources.memory_bytes is not None and not 0 <= resources.memory_bytes <= MAX_BYTES:
        raise Invalid(f"resources.memory_bytes must be 0 (no limit) to {MAX_BYTES}, or left out for a share")
    fraction = resources.memory_fraction
    if fraction is not None and not 0 < fraction <= 1:
        raise Invalid("resources.memory_fraction must be above 0 and at most 1: the part of its worker's memory")


def _check_keys(values: Mapping[str, object], what: str) -> None:
    """Names of labels and amounts: what an operator can write as NAME=VALUE."""
    if len(values) > MAX_KEYS:
        raise Invalid(f"{what}: {len(values)} names are too many, {MAX_KEYS} are allowed")
    for name in values:
        if not _KEY.fullmatch(name):
            raise Invalid(f"{what}: {name!r} must be 1 to 63 letters, digits, dots, dashes or underscores")


def check_queue(spec: TaskSpec, queue: QueueRecord) -> None:
    """A queue of services takes no training: that belongs where GPUs are given out. Raises Invalid."""
    resources = spec.resources
    if queue.kind is QueueKind.SERVICES and (resources.gpus or resources.gpu_memory_bytes):
        raise Invalid(
            f"queue {queue.name!r} is for services, which get no GPU, and the task asks for one: "
            "enqueue it in another queue, or leave the GPUs out"
        )


def _check_policy(policy: Policy) -> None:
    if not 0 <= policy.retries <= MAX_RETRIES:
        raise Invalid(f"policy.retries must be 0 to {MAX_RETRIES}")
    _check_seconds(policy.retry_delay_seconds, "policy.retry_delay_seconds")
    _check_seconds(policy.grace_seconds, "policy.grace_seconds")
    _check_seconds(policy.give_up_after_seconds, "policy.give_up_after_seconds")
    if policy.max_idle_gpu_seconds is not None:
        _check_seconds(policy.max_idle_gpu_seconds, "policy.max_idle_gpu_seconds")
        if policy.max_idle_gpu_seconds == 0:
            raise Invalid("policy.max_idle_gpu_seconds must be above 0, or left out to let GPUs idle")
    if policy.timeout_seconds is not None:
        _check_seconds(policy.timeout_seconds, "policy.timeout_seconds")
        if policy.timeout_seconds == 0:
            raise Invalid("policy.timeout_seconds must be above 0, or left out for no limit")


def _check_seconds(value: float, what: str) -> None:
    if not math.isfinite(value) or not 0 <= value <= MAX_SECONDS:
        raise Invalid(f"{what} must be 0 to {MAX_SECONDS:.0f} seconds")


def _check_outputs(patterns: tuple[str, ...]) -> None:
    """Relative to the working folder, and inside it."""
    if len(patterns) > MAX_OUTPUTS:
        raise Invalid(f"outputs: {len(patterns)} patterns are too many, {MAX_OUTPUTS} are allowed")
    for pattern in patterns:
        wrong = not pattern or pattern.startswith("/") or ".." in pattern.split("/") or _CONTROL.search(pattern)
        if wrong or len(pattern) > MAX_PATTERN:
            raise Invalid(
                f"outputs: {pattern[:MAX_PATTERN]!r} names no files inside the working folder; write it like"
                " 'out/**'"
            )


# --- Texts


def _check_parameters(parameters: Mapping[str, Mapping[str, str]]) -> None:
    for section, values in parameters.items():
        checked_name(section, "a section of parameters", required=True)
        if not isinstance(values, Mapping):
            raise Invalid(f"parameters.{section} must be an object of names and values")
        for name in values:
            checked_name(name, f"a parameter in {section}", required=True, longest=1000)
        _check_texts(values.values(), f"parameters.{section}")


def _check_values(values: Mapping[str, Mapping[str, Any]]) -> None:
    for section, typed in values.items():
        checked_name(section, "a section of parameters", required=True)
        if not isinstance(typed, Mapping):
            raise Invalid(f"values.{section} must be an object of names and JSON values")
        for name, value in typed.items():
            checked_name(name, f"a parameter in {section}", required=True, longest=1000)
            if not _is_value(value, MAX_DEPTH):
                raise Invalid(
                    f"values.{section}.{name} must be a boolean, a number, null, a text or a list of those"
                )
        _check_size(json.dumps(typed), MAX_TEXT, f"values.{section}")


def _is_value(value: Any, depth: int) -> bool:
    if isinstance(value, (list, tuple)):
        return depth > 0 and all(_is_value(item, depth - 1) for item in value)
    return (
        value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))
    )


def _check_variables(variables: Mapping[str, str], what: str) -> None:
    for name in variables:
        _check_variable(name, what)
    _check_texts(variables.values(), what)
    if any("\0" in value for value in variables.values()):
        raise Invalid(f"{what}: a value cannot hold a NUL character")


def _check_variable(name: str, what: str) -> None:
    if not _VARIABLE.fullmatch(name) or len(name) > 200:
        raise Invalid(f"{what}: {name!r} is not the name of a variable")
    reason = _REFUSED_VARIABLES.get(name) or next(
        (why for prefix, why in _REFUSED_PREFIXES.items() if name.startswith(prefix)), None
    )
    if reason is not None:
        raise Invalid(f"{what}: a task may not set {name}: {reason}")


def _check_texts(texts: Iterable[str], what: str) -> None:
    texts = list(texts)
    if not all(isinstance(text, str) for text in texts):
        raise Invalid(f"{what}: every value must be a string")
    size = sum(len(text) for text in texts)
    if size > MAX_TEXT:
        raise TooLarge(f"{what}: {size} characters are too many, {MAX_TEXT} are allowed; put them into a file")


def _check_size(text: str, longest: int, what: str) -> None:
    if len(text) > longest:
        raise TooLarge(f"{what}: {len(text)} characters are too many, {longest} are allowed")


def _checked_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    if len(tags) > MAX_TAGS:
        raise Invalid(f"{len(tags)} tags are too many, {MAX_TAGS} are allowed")
    return tuple(dict.fromkeys(checked_name(tag, "a tag", required=True, longest=MAX_TAG) for tag in tags))
