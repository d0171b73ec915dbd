"""Which task an agent takes next: C01–C04, C24, D02."""

from __future__ import annotations

from pathlib import Path

from taskyard.wire import MoveRequest, MoveTo, QueueChanges, TaskState

from tests.support.agents import wait_until
from tests.support.yard import Yard


def note(order: Path, word: str) -> tuple[str, ...]:
    return ("sh", "-c", f"echo {word} >> {order}")


def test_tasks_run_in_the_order_of_their_queue_after_moves(yard: Yard, tmp_path: Path) -> None:
    order = tmp_path / "order"
    a, b, c = (yard.submit(*note(order, word)) for word in "abc")
    yard.client.move_task(c.id, MoveRequest(to=MoveTo.FIRST))
    yard.client.move_task(a.id, MoveRequest(to=MoveTo.LAST))

    with yard.agent():
        yard.wait_for_end(a, b, c)

    assert order.read_text().split() == ["c", "b", "a"]


def test_strict_priority_empties_the_first_queue_first(yard: Yard, tmp_path: Path) -> None:
    order = tmp_path / "order"
    for name in ("a", "b"):
        yard.queue(name)
    tasks = [yard.submit(*note(order, word), queue=word[0]) for word in ("b1", "b2", "a1", "a2")]

    with yard.agent("--queue", "a", "b"):
        yard.wait_for_end(*tasks)

    assert order.read_text().split() == ["a1", "a2", "b1", "b2"]


def test_round_robin_takes_one_task_from_each_queue_in_turn(yard: Yard, tmp_path: Path) -> None:
    order = tmp_path / "order"
    for name in ("a", "b", "c"):
        yard.queue(name)
    tasks = [yard.submit(*note(order, word), queue=word[0]) for word in ("a1", "a2", "a3", "b1", "b2", "c1")]

    with yard.agent("--queue", "a", "--queue", "b", "--queue", "c", "--order-fairness"):
        yard.wait_for_end(*tasks)

    assert order.read_text().split() == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_two_agents_on_two_queues_serve_them_all_once(yard: Yard, tmp_path: Path) -> None:
    order = tmp_path / "order"
    for name in ("a", "b"):
        yard.queue(name)
    words = [f"{queue}{number}" for number in range(5) for queue in "ab"]
    tasks = [yard.submit(*note(order, word), queue=word[0]) for word in words]

    with yard.agent("--queue", "a", "b", name="one"), yard.agent("--queue", "b", "a", name="two"):
        ended = yard.wait_for_end(*tasks)

    assert {task.state for task in ended} == {TaskState.COMPLETED}
    assert sorted(order.read_text().split()) == sorted(words)


def test_an_agent_runs_one_task_at_a_time(yard: Yard, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    tasks = [yard.submit("sh", "-c", f"mkdir {lock} && sleep 0.2 && rmdir {lock}") for _ in range(3)]

    with yard.agent():
        ended = yard.wait_for_end(*tasks)

    assert [task.state for task in ended] == [TaskState.COMPLETED] * 3


def test_a_queue_that_does_not_exist_is_created_when_asked_for(yard: Yard) -> None:
    with yard.agent("--queue", "fresh queue", "--create-queue"):
        wait_until(lambda: "fresh queue" in [queue.name for queue in yard.client.queues()])
        task = yard.submit("true", queue="fresh queue")

        assert yard.wait_for_end(task)[0].state is TaskState.COMPLETED


def test_an_agent_goes_on_serving_a_queue_that_is_renamed(yard: Yard) -> None:
    queue = yard.queue("vision")

    with yard.agent("--queue", "vision") as agent:
        wait_until(lambda: yard.client.queue(queue).workers, what="a worker")
        yard.client.change_queue(queue, QueueChanges(name="vision-2"))
        served = yard.wait_for_end(yard.submit("true", queue="vision-2"))
        agent.restart()
        code = agent.wait()
        agent.restart("--queue", queue)
        served += yard.wait_for_end(yard.submit("true", queue=queue))

    assert [task.state for task in served] == [TaskState.COMPLETED] * 2
    assert code == 2
    assert "no queue 'vision'; there is 'vision-2'" in agent.log


def test_an_agent_whose_token_is_for_other_queues_ends_with_a_word(yard: Yard) -> None:
    own = yard.queue("own")
    variables = {"TASKYARD_TOKEN": yard.server.issue("agent", queues=["own"])}

    with yard.agent("--queue", "default", own, variables=variables) as foreign:
        codes = [foreign.wait()]
    yard.client.delete_queue(own)
    with yard.agent(variables=variables) as bereft:
        codes.append(bereft.wait())

    assert codes == [2, 2]
    assert "this agent's token is for 'own', not for 'default'" in foreign.log
    assert "taskyard invite agent --queue own default" in foreign.log
    assert "the queues that this agent's token is for were deleted" in bereft.log


def test_an_unknown_queue_is_refused_with_the_nearest_name_and_the_cure(yard: Yard) -> None:
    yard.queue("single-gpu")

    with yard.agent("--queue", "singel-gpu") as agent:
        assert agent.wait() == 2

    assert "'single-gpu'" in agent.log
    assert "taskyard queue create" in agent.log
    assert "Traceback" not in agent.log
