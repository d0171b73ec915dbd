from taskyard_agent.variables import compose, inherited


def test_only_listed_variables_of_the_agent_reach_a_task() -> None:
    environ = {"PATH": "/bin", "LC_ALL": "C", "NCCL_DEBUG": "INFO", "AWS_KEY": "x", "HISTFILE": "h"}

    assert inherited(environ) == {"PATH": "/bin", "LC_ALL": "C", "NCCL_DEBUG": "INFO"}


def test_pass_env_adds_patterns_but_never_the_agents_own_settings() -> None:
    environ = {"AWS_KEY": "x", "TASKYARD_TOKEN": "secret"}

    assert inherited(environ, ["AWS_*", "TASKYARD_*"]) == {"AWS_KEY": "x"}


def test_later_layers_win_and_the_environments_programs_come_first() -> None:
    merged = compose({"PATH": "/usr/bin", "A": "agent"}, {"A": "task"}, bin_folder="/env/bin")

    assert merged["A"] == "task"
    assert merged["PATH"] == "/env/bin:/usr/bin"


def test_python_is_unbuffered_unless_the_task_says_otherwise() -> None:
    assert compose({}, bin_folder="/b")["PYTHONUNBUFFERED"] == "1"
    assert compose({"PYTHONUNBUFFERED": ""}, bin_folder="/b")["PYTHONUNBUFFERED"] == ""


def test_tasks_may_fork_on_macos_unless_they_say_otherwise() -> None:
    switch = "OBJC_DISABLE_INITIALIZE_FORK_SAFETY"

    assert compose({}, bin_folder="/b", platform="darwin")[switch] == "YES"
    assert compose({switch: "NO"}, bin_folder="/b", platform="darwin")[switch] == "NO"
    assert switch not in compose({}, bin_folder="/b", platform="linux")
