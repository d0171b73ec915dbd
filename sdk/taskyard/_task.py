"""`Task`: what Python programs use to create, enqueue, follow and compare tasks."""

from __future__ import annotations

import codecs
import dataclasses
import functools
import os
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from taskyard import asking, wire
from taskyard.client import Client
from taskyard.config import Connection, connection
from taskyard.errors import NotFound, UsageError
from taskyard.submission import Wanted, changed_parameters, submit
from taskyard.wire import TaskState

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
FOLLOW_PATIENCE_SECONDS = 600.0


class Task:
    """A task on the server. Its fields are those of the last answer; `status` and `reload()` ask again.

    Server and token are found as the command line finds them. Every method raises the errors of
    `taskyard.errors`; what cannot be reached for a moment is tried again inside.
    """

    def __init__(self, record: wire.Task, client: Client | None = None) -> None:
        self._record = record
        self._given_client = client

    # --- making and finding

    @classmethod
    def create(
        cls,
        script: str = "",
        *,
        module: str = "",
        executable: str = "",
        args: Sequence[str] = (),
        folder: str | Path = ".",
        name: str = "",
        project: str = "",
        description: str = "",
        tags: Iterable[str] = (),
        queue: str | None = None,
        gpus: int | None = None,
        gpu_memory: str | int | None = None,
        memory: str | float | None = None,
        resources: Mapping[str, float] | None = None,
        require: Mapping[str, str] | None = None,
        on_worker: str | None = None,
        image: str | None = None,
        docker_args: str | Sequence[str] | None = None,
        setup_script: str | Path | None = None,
        apt: str | Sequence[str] = (),
        torch_backend: str | None = None,
        max_idle_gpu: str | float | None = None,
        give_up_after: str | float | None = None,
        python: str | None = None,
        packages: Iterable[str] = (),
        requirements: str | Path | None = None,
        manager: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        include: Iterable[str] = (),
        ship_code: bool = False,
        output: str | Iterable[str] = (),
        with_packages: str | Iterable[str] = (),
        timeout: str | float | None = None,
        retries: int = 0,
        retry_delay: str | float | None = None,
        grace: str | float | None = None,
        on_lost: str | None = None,
        exclusive: bool = False,
        client: Client | None = None,
    ) -> Task:
        """Captures the code in `folder` as it stands and makes a task of it, in `queue` where one is named.

        Sizes and times are written as for `taskyard run`; `setup_script` is a file. `output` are patterns of files
        that are kept once the command has ended.
        Give exactly one of `script` (relative to `folder`), `module` and `executable`; `args` follow it.
        """
        asked = asking.Asked(
            gpus=gpus,
            gpu_memory=gpu_memory,
            memory=memory,
            resources=resources or {},
            require=require or {},
            on_worker=on_worker,
            image=image,
            docker_args=docker_args,
            setup_script=setup_script,
            apt=apt,
            torch_backend=torch_backend,
        )
        wanted = Wanted(
            command=_command(script, module, executable, args),
            folder=Path(folder),
            name=name,
            project=project,
            description=description,
            tags=tuple(tags),
            resources=asking.resources(asked, wire.Resources()),
            container=asking.container(asked, None),
            python=python,
            packages=tuple(packages),
            added_packages=tuple(with_packages.split() if isinstance(with_packages, str) else with_packages),
            requirements=Path(requirements) if requirements else None,
            manager=wire.Manager(manager) if manager else None,
            torch_backend=asking.environment(asked, wire.Environment()).torch_backend,
            parameters=parameters or {},
            env=dict(env or {}),
            secret_values=dict(secrets or {}),
            include=tuple(include),
            ship_code=ship_code,
            outputs=_patterns(output),
            policy=asking.policy(
                asking.AskedPolicy(
                    timeout=timeout,
                    max_idle_gpu=max_idle_gpu,
                    give_up_after=give_up_after,
                    grace=grace,
                    retries=retries,
                    retry_delay=retry_delay,
                    on_lost=on_lost,
                    exclusive=exclusive,
                ),
                wire.Policy(),
            ),
        )
        client = client or _default_client()
        queue_id = client.resolve_queue(queue).id if queue else None  # before anything is captured and sent
        return cls(submit(client, wanted, queue=queue_id), client)

    @classmethod
    def get(cls, ref: str, *, client: Client | None = None) -> Task:
        """The task with this id, unique prefix of an id, or unique name. Raises NotFound."""
        client = client or _default_client()
        return cls(client.resolve_task(ref), client)

    @classmethod
    def list(
        cls,
        *,
        states: Iterable[str] = (),
        queue: str | None = None,
        project: str | None = None,
        tag: str | None = None,
        name: str | None = None,
        name_contains: str | None = None,
        limit: int | None = 100,
        client: Client | None = None,
    ) -> Sequence[Task]:
        """Tasks, newest first, at most `limit` of them; None for all. `queue` is a name or an id."""
        client = client or _default_client()
        records = client.all_tasks(
            limit=limit,
            states=[TaskState(state) for state in states],
            queue=client.resolve_queue(queue).id if queue else None,
            project=project,
            tag=tag,
            name=name,
            name_contains=name_contains,
        )
        return [cls(record, client) for record in records]

    # --- what it is

    @property
    def id(self) -> str:
        """32 hexadecimal digits."""
        return self._record.id

    @property
    def name(self) -> str:
        """The name for people."""
        return self._record.spec.name

    @property
    def project(self) -> str:
        """The project that it belongs to."""
        return self._record.spec.project

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags."""
        return self._record.spec.tags

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """Section → name → value; the section `Args` mirrors the command line: what was not set there is text."""
        return wire.typed_parameters(self._record.spec)

    @property
    def record(self) -> wire.Task:
        """The whole record as the server last answered it."""
        return self._record

    @property
    def outcome(self) -> wire.Outcome | None:
        """How its latest run ended; None while it has not."""
        return self._record.run.outcome if self._record.run else None

    @property
    def status(self) -> TaskState:
        """The state as of now: asks the server."""
        return self.reload()._record.state

    def reload(self) -> Task:
        """Asks the server for the record, and returns the task itself."""
        self._record = self._client.task(self.id)
        return self

    # --- what can be done with it

    def enqueue(
        self: Task | str | None = None,
        queue: str | None = None,
        *,
        queue_name: str | None = None,
        queue_id: str | None = None,
        task: Task | str | None = None,
        client: Client | None = None,
    ) -> Task:
        """Puts the task at the end of a queue: `task.enqueue("gpu")`, or for a task or an id
        `Task.enqueue(task_or_id, queue_name="gpu")`, `Task.enqueue(task=…, queue_id=…)`.
        """
        chosen = self if self is not None else task
        if chosen is None or (self is not None and task is not None):
            raise UsageError("name one task to enqueue")
        target = _one_of(queue=queue, queue_name=queue_name, queue_id=queue_id)
        found = chosen if isinstance(chosen, Task) else Task.get(chosen, client=client)
        found._record = found._client.enqueue(found.id, target)
        return found

    def dequeue(self) -> Task:
        """Takes it out of its queue: it is a draft again."""
        self._record = self._client.dequeue(self.id)
        return self

    def set_parameters(self, parameters: Mapping[str, Any]) -> Task:
        """Merge into a draft's parameters: `{"lr": 0.1}`, `{"Model/depth": 3}`, `{"Model": {"depth": 3}}`.

        Raises UsageError where the script might not see a value; the message names the line to write.
        """
        changes = changed_parameters(self._record.spec, parameters)
        self._record = self._client.change_task(self.id, changes)
        return self

    def set(self, **asked: Any) -> Task:
        """Changes what a draft asks for: the fields of `taskyard.asking.Asked` and `taskyard.asking.AskedPolicy`.

        `task.set(image="python:3.12", memory="8GB", gpus=2, timeout="2h")`; what is not named stays.
        """
        self._record = self._client.change_task(self.id, self._asked(asked))
        return self

    def _asked(self, given: Mapping[str, Any]) -> wire.TaskChanges:
        spec, rest = self._record.spec, dict(given)
        limits = [each.name for each in dataclasses.fields(asking.AskedPolicy)]
        asked_policy = asking.AskedPolicy(**{name: rest.pop(name, None) for name in limits})
        try:
            asked = asking.Asked(**rest)
        except TypeError as error:
            known = ", ".join([*(each.name for each in dataclasses.fields(asking.Asked)), *limits])
            raise UsageError(f"a task can ask for {known}: {error}") from error
        container = asking.container(asked, spec.container)
        environment = asking.environment(asked, spec.environment)
        return wire.TaskChanges(
            environment=None if environment == spec.environment else environment,
            resources=asking.resources(asked, spec.resources),
            policy=asking.policy(asked_policy, spec.policy),
            container=None if container == spec.container else container or wire.Container(),
        )

    def clone(
        self,
        *,
        name: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        tags: Iterable[str] | None = None,
        queue: str | None = None,
        output: str | Iterable[str] | None = None,
        **asked: Any,
    ) -> Task:
        """Copies it with changes, as a draft or into `queue`; `asked` is as in `set`, and `output` takes the place
        of the task's patterns."""
        changes = dataclasses.replace(
            self._asked(asked),
            name=self._name_with(parameters) if name is None and parameters else name,
            tags=None if tags is None else tuple(tags),
            **self._set(parameters),
            env=dict(env) if env else None,
            outputs=None if output is None else _patterns(output),
        )
        request = wire.CloneRequest(changes=changes, queue=queue)
        return Task(self._client.clone_task(self.id, request), self._client)

    def variants(
        self,
        grid: Mapping[str, Sequence[Any]],
        *,
        name: str | None = None,
        queue: str | None = None,
        **asked: Any,
    ) -> Sequence[Task]:
        """Copies it once for each combination of a grid, all or none; `asked` is as in `set`.

        `task.variants({"lr": [0.1, 0.01], "opt": ["adam", "sgd"]})`; each is named by what differs.
        """
        from taskyard import variants

        combinations = list(variants.combinations(variants.grid_of(grid)))
        changes = self._asked(asked)
        requests = [
            wire.CloneRequest(
                id=uuid.uuid4().hex,
                changes=dataclasses.replace(changes, name=each, **self._set(combination)),
                queue=queue,
            )
            for combination, each in zip(
                combinations, variants.names(name or self.name, combinations), strict=True
            )
        ]
        made = self._client.clone_task_often(self.id, requests)
        return [Task(record, self._client) for record in made]

    def _name_with(self, parameters: Mapping[str, Any]) -> str:
        from taskyard import variants
        from taskyard.rewriting import given

        flat = {
            f"{name}/{below}" if below else name: given(value).value
            for name, each in parameters.items()
            for below, value in (each.items() if isinstance(each, Mapping) else (("", each),))
        }
        return variants.name_of(self.name, {name: wire.as_text(value) for name, value in flat.items()})

    def _set(self, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
        changes = changed_parameters(self._record.spec, parameters or {})
        return {name: getattr(changes, name) for name in ("command", "parameters", "values")}

    def stop(self, *, requeue: bool = False) -> Task:
        """Asks for the end of its run; with `requeue` it goes back into its queue."""
        self._record = self._client.stop_task(self.id, requeue=requeue)
        return self

    def retry(self) -> Task:
        """Runs it once more after it ended."""
        self._record = self._client.retry_task(self.id)
        return self

    def delete(self) -> None:
        """Removes it with its runs and logs."""
        self._client.delete_task(self.id)

    def wait(self, timeout: float | None = None) -> Task:
        """Waits until it has ended, see `outcome`.

        Raises TimeoutError after `timeout` seconds, and UsageError for a draft, which nothing would end.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = FIRST_PAUSE_SECONDS
        while not self.reload()._record.state.terminal:
            self._refuse_draft()
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"task {self.id} is {self._record.state} after {timeout} s")
            time.sleep(min(pause, left))
            pause = min(1.5 * pause, LONGEST_PAUSE_SECONDS)
        return self

    def explain(self) -> wire.Explanation:
        """Why it waits, worker by worker."""
        return self._client.explain(self.id)

    # --- its output

    @overload
    def logs(
        self, *, follow: Literal[False] = False, tail: int | None = None, attempt: int | None = None
    ) -> str: ...

    @overload
    def logs(self, *, follow: Literal[True], attempt: int | None = None) -> Iterator[str]: ...

    def logs(
        self, *, follow: bool = False, tail: int | None = None, attempt: int | None = None
    ) -> str | Iterator[str]:
        """The log of the latest attempt or of the one named: as one text, or with `follow` its pieces as they
        come, to the end of the run. Raises NotFound when there was no such attempt, and UsageError where a draft
        would have to run first.
        """
        if follow:
            return self._follow(attempt)
        run_id = self._run_id(attempt)
        if tail is not None:
            return self._client.tail_log(run_id, tail).data.decode(errors="replace")
        return b"".join(part.data for part in self._client.whole_log(run_id)).decode(errors="replace")

    def _follow(self, attempt: int | None) -> Iterator[str]:
        self._wait_for_attempt(attempt or 1)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        run_id = self._run_id(attempt)
        for piece in self._client.follow_log(run_id, patience_seconds=FOLLOW_PATIENCE_SECONDS):
            text = decoder.decode(piece) if isinstance(piece, bytes) else decoder.decode(b"", final=True)
            if text:
                yield text

    def _wait_for_attempt(self, number: int) -> None:
        pause = FIRST_PAUSE_SECONDS
        while self.reload()._record.run_count < number and not self._record.state.terminal:
            self._refuse_draft()
            time.sleep(pause)
            pause = min(1.5 * pause, LONGEST_PAUSE_SECONDS)

    def _refuse_draft(self) -> None:
        if self._record.state is TaskState.DRAFT:
            raise UsageError(f"task {self.id} is a draft and in no queue; call enqueue(QUEUE) first")

    def _run_id(self, attempt: int | None) -> str:
        run_count = self.reload()._record.run_count
        number = attempt or run_count
        if not 1 <= number <= run_count:
            raise NotFound(404, "not_found", f"task {self.id} has had {run_count} attempts")
        return f"{self.id}.{number}"

    # --- parts

    @property
    def _client(self) -> Client:
        if self._given_client is None:
            self._given_client = _default_client()
        return self._given_client

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Task) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Task {self.id} {self.name!r} {self._record.state}>"


def _patterns(given: str | Iterable[str]) -> tuple[str, ...]:
    return asking.outputs([given] if isinstance(given, str) else given)


def _default_client() -> Client:
    """One client for each server and login, in one process: connections do not survive a fork."""
    where = connection()
    if where.passed_over:
        warnings.warn(where.passed_over, stacklevel=3)
    return _client_of(where, os.getpid())


@functools.cache
def _client_of(where: Connection, _pid: int) -> Client:
    return Client.of(where)


def _one_of(**names: str | None) -> str:
    given = [value for value in names.values() if value is not None]
    if len(given) != 1:
        raise UsageError(f"name one queue: by {', '.join(names)}")
    return given[0]


def _command(script: str, module: str, executable: str, args: Sequence[str]) -> wire.Command:
    kinds = {
        wire.CommandKind.SCRIPT: script,
        wire.CommandKind.MODULE: module,
        wire.CommandKind.EXECUTABLE: executable,
    }
    given = [(kind, target) for kind, target in kinds.items() if target]
    if len(given) != 1:
        raise UsageError("give exactly one of script, module and executable")
    kind, target = given[0]
    return wire.Command(kind=kind, target=target, args=tuple(map(str, args)))
