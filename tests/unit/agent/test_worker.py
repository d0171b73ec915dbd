from taskyard_agent.worker import QueueOrder


def test_strict_priority_never_changes_the_order() -> None:
    order = QueueOrder(["a", "b", "c"], fair=False)

    order.served("a")

    assert order.queues == ("a", "b", "c")


def test_round_robin_begins_behind_the_queue_served_last() -> None:
    order = QueueOrder(["a", "b", "c"], fair=True)

    order.served("b")

    assert order.queues == ("c", "a", "b")


def test_round_robin_ignores_a_queue_that_is_not_served() -> None:
    order = QueueOrder(["a", "b"], fair=True)

    order.served("renamed meanwhile")

    assert order.queues == ("a", "b")
