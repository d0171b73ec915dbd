"""Who may send, name and read what; limits; and what is forgotten when."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from taskyard.wire import (
    PART_BYTES,
    ArtifactFile,
    FinishRequest,
    MissingRequest,
    NewArtifact,
    NewArtifacts,
    NewTask,
    OutputsState,
    Run,
    RunArtifacts,
    RunOutputs,
    SkippedOutput,
    TaskChanges,
    TokenKind,
)
from taskyard_server.artifacts.service import PREFIXES_AT_ONCE, UNUSED_SECONDS, Artifacts
from taskyard_server.errors import Conflict, Forbidden, Invalid, NotFound, Stale, TooLarge
from taskyard_server.tasks import Tasks

from tests.support.services import ADA, BOB, COMPLETED, START, FakeAgent, Services, open_services, spec

DATA = b"weights"
DIGEST = hashlib.sha256(DATA).hexdigest()
KEPT = RunOutputs(state=OutputsState.KEPT, files=1, bytes=7)


async def stream(data: bytes) -> AsyncIterator[bytes]:
    yield data


def new(name: str = "out/model.pt", data: bytes = DATA, **fields: Any) -> NewArtifact:
    digest = hashlib.sha256(data).hexdigest()
    parts = (digest,) if data else ()
    file = ArtifactFile(path=name.rpartition("/")[2], size=len(data), sha256=digest, parts=parts)
    return NewArtifact(name=name, files=(replace(file, **fields),))


class Sender:
    """An agent with a run, as far as artifacts go."""

    def __init__(self, services: Services, agent: FakeAgent, run: Run) -> None:
        self.services, self.agent, self.run = services, agent, run

    @property
    def token(self) -> str:
        return self.agent.held[self.run.id]

    async def missing(self, *digests: str) -> tuple[str, ...]:
        request = MissingRequest(run=self.run.id, digests=digests or (DIGEST,))
        return (await self.services.artifacts.missing(request, self.token, self.agent.actor)).digests

    async def put(self, data: bytes = DATA, digest: str | None = None) -> None:
        digest = digest or hashlib.sha256(data).hexdigest()
        await self.services.artifacts.put(digest, stream(data), self.run.id, self.token, self.agent.actor)

    async def attach(self, *artifacts: NewArtifact) -> RunArtifacts:
        body = NewArtifacts(artifacts=artifacts or (new(),))
        return await self.services.artifacts.attach(self.run.id, body, self.token, self.agent.actor)

    async def report(self, outputs: RunOutputs = KEPT) -> Run:
        return await self.services.artifacts.report(self.run.id, outputs, self.token, self.agent.actor)


async def sender(services: Services, name: str = "host:cpu:0", actor: Any = ADA, **agent: Any) -> Sender:
    """An agent that has started a task of this account."""
    await services.enqueue(actor=actor, outputs=("out",))
    fake = services.agent(name, **agent)
    return Sender(services, fake, await fake.take_and_start())


async def content(services: Services, run: Run, name: str = "out/model.pt") -> bytes:
    found = await services.artifacts.content(run.id, name, None)
    return b"".join([chunk async for chunk in found.stretch(0, found.file.size)])


# --- Sent, named, read


async def test_parts_are_sent_once_then_named_then_read(services: Services) -> None:
    ada = await sender(services)

    assert await ada.missing(DIGEST, DIGEST) == (DIGEST,)
    with pytest.raises(Conflict, match="ask which are missing"):
        await ada.attach()
    await ada.put()
    assert await ada.missing() == ()
    await ada.attach()

    assert await content(services, ada.run) == DATA
    listed = await services.artifacts.of_run(ada.run)
    assert [(each.name, each.size, each.kind) for each in listed.artifacts] == [("out/model.pt", 7, "output")]


async def test_a_later_run_of_the_account_sends_nothing_again(services: Services) -> None:
    first = await sender(services)
    await first.put()
    await first.attach()
    await first.agent.finish_and_forget(first.run)

    second = await sender(services)

    assert await second.missing() == ()
    await second.attach()


async def test_two_accounts_with_one_digest_learn_nothing_of_each_other(services: Services) -> None:
    ada = await sender(services)
    await ada.put()
    await ada.attach()
    bob = await sender(services, "host:cpu:1", BOB)

    assert await bob.missing() == (DIGEST,)
    with pytest.raises(Conflict):
        await bob.attach()  # a digest is no right
    with pytest.raises(Invalid):
        await bob.put(b"", DIGEST)  # nor is having it said
    assert await bob.missing() == (DIGEST,)

    await bob.put()
    await bob.attach()
    assert await content(services, bob.run) == DATA
    await ada.agent.finish(ada.run)
    await services.tasks.delete(ada.run.task, ADA)
    assert await content(services, bob.run) == DATA
    assert (await services.artifacts.of_run(bob.run)).artifacts[0].created_at == START


async def test_a_part_of_another_account_is_refused_as_one_that_is_nowhere(services: Services) -> None:
    bob = await sender(services, "host:cpu:1", BOB)
    with pytest.raises(Conflict) as nowhere:
        await bob.attach()

    ada = await sender(services)
    await ada.put()

    with pytest.raises(Conflict) as elsewhere:
        await bob.attach()
    assert str(elsewhere.value) == str(nowhere.value)


async def test_only_the_run_s_own_agent_sends(services: Services) -> None:
    ada = await sender(services)
    other = services.agent("host:cpu:1", token="another-agent")
    other.held[ada.run.id] = ada.token
    stranger = Sender(services, other, ada.run)

    for act in (stranger.missing, stranger.put, stranger.attach, stranger.report):
        with pytest.raises(Stale):
            await act()
    ada.agent.held[ada.run.id] = "not its control token"
    for act in (ada.missing, ada.put, ada.attach, ada.report):
        with pytest.raises(Stale):
            await act()


async def test_a_token_of_another_project_s_run_reads_nothing(services: Services) -> None:
    ada = await sender(services)
    actor = replace(ADA, kind=TokenKind.RUN, project="another", task="other")

    with pytest.raises(Forbidden):
        await services.tasks.require_readable_run(ada.run.id, actor)


# --- Refused


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a\\b", "a\nb", "a\x00", "x" * 1001, "\u202eexe"]
)
async def test_names_that_not_every_system_takes_are_refused(services: Services, name: str) -> None:
    ada = await sender(services)
    await ada.put()

    with pytest.raises(Invalid):
        await ada.attach(replace(new(), name=name))
    with pytest.raises(Invalid):
        await ada.attach(new(path=name))


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 6},
        {"size": -1},
        {"size": PART_BYTES + 1},
        {"parts": ()},
        {"parts": (DIGEST, DIGEST)},
        {"sha256": "0" * 64},
        {"parts": ("../x",)},
    ],
    ids=repr,
)
async def test_a_manifest_that_does_not_add_up_is_refused(services: Services, wrong: dict[str, Any]) -> None:
    ada = await sender(services)
    await ada.put()

    with pytest.raises((Invalid, Conflict)):
        await ada.attach(new(**wrong))
    assert (await services.artifacts.of_run(ada.run)).artifacts == ()


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        ({"max_output_file_bytes": 6}, 0),
        ({"max_output_bytes": 13}, 1),
        ({"max_output_files": 1}, 1),
    ],
    ids=repr,
)
async def test_the_server_s_limits_hold(tmp_path: Path, limits: dict[str, int], allowed: int) -> None:
    async with open_services(tmp_path / "data", **limits) as services:
        ada = await sender(services)
        await ada.put()

        for number in range(2):
            if number < allowed:
                await ada.attach(new(f"{number}"))
                await ada.attach(new(f"{number}"))  # a repeat counts once
            else:
                with pytest.raises(TooLarge):
                    await ada.attach(new(f"{number}"))


async def test_too_much_at_once_is_refused(services: Services) -> None:
    ada = await sender(services)

    with pytest.raises(TooLarge):
        await ada.attach(*(new(str(number)) for number in range(101)))
    with pytest.raises(TooLarge):
        await ada.missing(*(f"{number:064x}" for number in range(1001)))


# --- What the run says


async def test_the_state_is_final_before_the_outputs_are_there(services: Services) -> None:
    ada = await sender(services)
    with pytest.raises(Conflict):
        await ada.report()
    uploading = RunOutputs(files=1, bytes=7)

    request = FinishRequest(control_token=ada.token, outcome=COMPLETED, log_bytes=0, outputs=uploading)
    ended = await services.runs.finish(ada.run.id, request, ada.agent.actor)

    assert ended.outputs == uploading
    assert (await services.task(ada.run.task)).state.terminal
    await ada.put()
    await ada.attach()
    assert (await ada.report()).outputs == KEPT
    await ada.report()
    story = await services.tasks.story(ada.run.task, ADA)
    assert [event.detail for event in story.events if event.kind == "outputs_kept"] == ["1 file, 7 bytes"]


async def test_a_report_is_kept_within_bounds(services: Services) -> None:
    ada = await sender(services)
    await ada.agent.finish(ada.run)
    skipped = tuple(SkippedOutput(name="x" * 5000, reason="y" * 5000) for _ in range(200))

    run = await ada.report(replace(KEPT, skipped=skipped, skipped_files=200))

    assert run.outputs is not None
    assert (len(run.outputs.skipped), run.outputs.skipped_files) == (100, 200)
    assert len(run.outputs.skipped[0].name) == 1000
    with pytest.raises(Invalid):
        await ada.report(replace(KEPT, files=-1))


async def test_outputs_are_refused_where_there_is_no_folder(services: Services) -> None:
    none = Artifacts(services.stores.store, services.stores.artifacts, None, services.clock, services.config)
    stores = services.stores
    tasks = Tasks(stores.store, services.claims, services.runs.logs, stores.blobs, services.clock, artifacts=none)

    with pytest.raises(Invalid, match="--artifacts FOLDER"):
        await tasks.create(NewTask(spec=spec(outputs=("out",))), ADA)
    draft = await tasks.create(NewTask(spec=spec()), ADA)
    with pytest.raises(Invalid, match="--artifacts FOLDER"):
        await tasks.change(draft.id, TaskChanges(outputs=("out",)), ADA)
    assert none.limits is None


@pytest.mark.parametrize("pattern", ["", "/etc/*", "../x", "a/../../b", "a\nb", "x" * 501])
async def test_patterns_that_lead_out_are_refused(services: Services, pattern: str) -> None:
    with pytest.raises(Invalid, match="outputs"):
        await services.enqueue(outputs=(pattern,))


# --- Forgotten


def age(services: Services, digest: str) -> Path:
    """Makes a part one that nothing has used for long."""
    path = services.config.data / "artifacts" / digest[:2] / digest
    os.utime(path, (1.0, 1.0))
    return path


async def clean(services: Services) -> None:
    """As many rounds as the whole folder takes, a good day from now."""
    services.clock.move(UNUSED_SECONDS + 1.0)
    for _ in range(256 // PREFIXES_AT_ONCE):
        await services.artifacts.clean(services.clock())


async def test_a_part_that_nothing_names_goes_after_a_day(services: Services) -> None:
    ada = await sender(services)
    await ada.put()
    await ada.put(b"named")
    await ada.attach(new(data=b"named"))
    unnamed, named = age(services, DIGEST), age(services, hashlib.sha256(b"named").hexdigest())

    await clean(services)

    assert not unnamed.exists()
    assert named.exists()
    assert await ada.missing() == (DIGEST,)


async def test_the_parts_of_a_deleted_task_go_unless_another_names_them(services: Services) -> None:
    ada, bob = await sender(services), await sender(services, "host:cpu:1", BOB)
    for each in (ada, bob):
        await each.put()
        await each.attach()
        await each.agent.finish(each.run)
    part = age(services, DIGEST)

    await services.tasks.delete(ada.run.task, ADA)
    await clean(services)
    assert part.exists()
    with pytest.raises(NotFound):
        await content(services, ada.run)

    await services.tasks.delete(bob.run.task, BOB)
    await clean(services)
    assert not part.exists()
