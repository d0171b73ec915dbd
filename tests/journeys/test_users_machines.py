"""A user's own machines: what others see of them before they enqueue, and what became of older tokens."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from tests.support.person import Person
from tests.support.servers import ServerProcess


def test_the_plan_says_whose_agents_may_take_the_task(tmp_path: Path) -> None:
    with ServerProcess() as server:
        person = Person(tmp_path / "ada").log_in(server)
        (person.work / "train.py").write_text("print(1)")
        with server.client(server.issue("user", name="bob")) as bob:
            bob.post("/queues", json={"name": "bobs"}).raise_for_status()

        ran = person.types("run", "--queue", "bobs", "--", "python", "train.py")

    assert ran.returncode == 0
    assert "bob created it: agents of bob may take the task, its code and its secrets" in ran.stderr


def test_an_enqueue_by_another_account_says_which_secrets_it_removed(tmp_path: Path) -> None:
    with ServerProcess() as server:
        person = Person(tmp_path / "root").log_in(server)
        body = {"spec": {"command": {"target": "a.py"}}, "secret_values": {"WANDB_KEY": "adas secret"}}
        with server.client(server.issue("user", name="ada")) as ada:
            draft = ada.post("/tasks", json=body).json()["id"]

        done = person.types("enqueue", draft, "--queue", "default")
        story = person.types("story", draft)

    assert "lost the secrets WANDB_KEY" in done.stderr
    assert "WANDB_KEY" in story.stdout
    assert "adas secret" not in done.stdout + done.stderr + story.stdout


def test_agents_tokens_of_before_are_listed_and_end_with_one_setting(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ServerProcess(data=data) as server:
        with server.client(server.issue("user", name="bob")) as bob:
            issued = bob.post("/tokens", json={"kind": "agent", "name": "bobs machine"}).json()
        server.stop()
        _unconfine(data, issued["token"]["id"])
        server.start()
        person = Person(tmp_path / "root").log_in(server)
        with server.client(issued["secret"]) as agent:
            before = agent.get("/whoami").status_code
        found = person.types("doctor", "--json")
    with ServerProcess("--end-old-agent-tokens", data=data) as strict, strict.client(issued["secret"]) as agent:
        after = agent.get("/whoami")

    (check,) = [one for one in json.loads(found.stdout) if one["name"] == "agents' tokens"]
    assert before == 200
    assert not check["good"]
    assert "bobs machine" in check["detail"]
    assert after.status_code == 401
    assert "ask an administrator" in after.json()["detail"]


def _unconfine(data: Path, token_id: str) -> None:
    """Makes a token one of before: such a record lacks the field."""
    with sqlite3.connect(data / "control.db") as database:
        (body,) = database.execute("SELECT body FROM tokens WHERE id = ?", (token_id,)).fetchone()
        record = json.loads(body)
        del record["own_queues"]
        database.execute("UPDATE tokens SET body = ? WHERE id = ?", (json.dumps(record).encode(), token_id))
    database.close()
