from taskyard.wire import WorkerState
from taskyard_agent.allotment import Means
from taskyard_agent.worker import SERVER, QueueOrder, Worker


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


def test_a_held_worker_offers_nothing_until_its_last_reason_is_lifted() -> None:
    worker = Worker("here", Means(slots=2), ("default",))
    worker.known = True

    worker.hold("memory", "memory is 95% full")
    worker.hold("hours", "outside its hours")
    worker.hold("memory", None)
    held = worker.report()
    worker.hold("hours", None)

    assert (held.state, held.paused_reason, held.free.slots) == (WorkerState.PAUSED, "outside its hours", 0)
    assert (worker.paused, worker.report().free.slots) == (False, 2)


def test_the_servers_own_pause_is_not_told_back_to_it() -> None:
    worker = Worker("here", Means(), ("default",))
    worker.known = True

    worker.hold(SERVER, "three failures in a row")

    assert (worker.report().state, worker.report().paused_reason) == (WorkerState.PAUSED, "")


def test_a_worker_that_is_held_from_the_start_says_that_it_starts() -> None:
    worker = Worker("here", Means(), ("default",))

    worker.hold("hours", "outside its hours")

    report = worker.report()
    assert (report.state, report.paused_reason) == (WorkerState.STARTING, "outside its hours")
