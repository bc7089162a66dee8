"""What holds for every task and every message: Celery ignores options that it does not know, so they are looked at."""

from __future__ import annotations

import inspect
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery.beat import PersistentScheduler

from aggregator.errors import AggregatorError
from aggregator.storage.engine import STATEMENT_TIMEOUT
from aggregator.tasks.base import PolicyTask
from aggregator.tasks.scheduler import ClockScheduler

ROOT = Path(__file__).parents[3]
NAMES = {"announce", "collect", "maintain", "verify", "report_lost", "rollup", "summarize", "wake"}


@pytest.fixture(scope="module")
def app() -> Any:
    """The app; imported late, for it reads the environment."""
    from aggregator.tasks import app as made  # noqa: PLC0415 - as above

    return made


@pytest.fixture(scope="module")
def tasks(app: Any) -> dict[str, Any]:
    return {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}


def test_exactly_these_tasks_are_registered_under_our_name(tasks: dict[str, Any]) -> None:
    assert set(tasks) == {f"aggregator.{name}" for name in NAMES}


def test_every_task_has_the_policy(tasks: dict[str, Any]) -> None:
    for task in tasks.values():
        assert isinstance(task, PolicyTask)
        assert task.acks_late
        assert task.retry_on_worker_lost
        assert 0 < task.max_retries <= 3
        assert task.default_retry_delay == 0  # an ETA would need delayed delivery
        assert task.serializer == "json"
        assert task.throws == (AggregatorError,)


def test_no_task_has_an_option_that_celery_does_not_know(tasks: dict[str, Any]) -> None:
    """Celery makes an attribute of whatever a decorator is given, a misspelt option too."""
    known = {*dir(PolicyTask), "__wrapped__", "__header__", "__annotations__", "__trace__"}
    known |= {"_decorated", "_decorated_fun", "store_eager_result"}  # Celery's own
    for task in tasks.values():
        assert set(vars(type(task))) - known == set(), task.name


def test_a_misspelt_option_would_be_seen(app: Any) -> None:
    def misspelt() -> None:
        """A task with an option that there is not."""

    task = app._task_from_fun(misspelt, name="aggregator.misspelt", ignore_results=True)
    try:
        assert "ignore_results" in vars(type(task))
        assert "ignore_results" not in dir(PolicyTask)
    finally:
        del app._tasks[task.name]


#: What a message may say: names of what is configured or published, the id of a shard, instants; and why a process of
#: a job was lost, of which no more is made than a line of `aggregator quarantine list`.
ARGUMENTS = frozenset({"source", "node", "name", "shard", "slot", "started_at"})
OF_A_LOSS = frozenset({"task", "subject", "reason", "at", "counted"})


def test_a_task_takes_names_ids_and_instants_and_nothing_else(tasks: dict[str, Any]) -> None:
    for task in tasks.values():
        parameters = inspect.signature(task.run).parameters.values()
        allowed = OF_A_LOSS if task.name == "aggregator.report_lost" else ARGUMENTS
        assert {one.name for one in parameters} - {"self"} <= allowed, task.name
        assert all(one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) for one in parameters), task.name


def test_messages_and_results_are_json_and_nothing_else(app: Any) -> None:
    assert app.conf.accept_content == ["json"]
    assert app.conf.result_accept_content in (None, ["json"])
    assert (app.conf.task_serializer, app.conf.result_serializer) == ("json", "json")


def test_limits_stand_in_their_order(app: Any) -> None:
    soft, hard = app.conf.task_soft_time_limit, app.conf.task_time_limit
    assert STATEMENT_TIMEOUT.total_seconds() < soft < hard


def test_the_visibility_timeout_is_twice_the_hard_limit_on_redis() -> None:
    settings, hard = conf("broker_transport_options", "task_time_limit", AGGREGATOR_BROKER_URL="redis://127.0.0.1/0")
    assert settings["visibility_timeout"] > 2 * hard
    assert settings["socket_timeout"] > 0
    assert settings["global_keyprefix"] == "aggregator:"


def test_a_poison_task_does_not_come_back_for_ever(app: Any) -> None:
    assert app.conf.task_acks_on_failure
    assert app.conf.task_acks_on_timeout
    assert not app.conf.task_reject_on_worker_lost


def test_beat_is_in_memory_and_its_messages_end(app: Any) -> None:
    assert app.conf.beat_scheduler == "aggregator.tasks.scheduler:ClockScheduler"
    assert not issubclass(ClockScheduler, PersistentScheduler)
    assert app.conf.timezone == "UTC"
    assert app.conf.enable_utc
    assert app.conf.beat_schedule
    for entry in app.conf.beat_schedule.values():
        assert entry["task"] in app.tasks
        assert entry["options"]["expires"] > 0
        assert entry["options"]["ignore_result"] is True


def test_queues_and_control_carry_the_namespace() -> None:
    exchange, default, queues = conf(
        "control_exchange", "task_default_queue", "task_queues", AGGREGATOR_NAMESPACE="other", AGGREGATOR_NODE="n"
    )
    assert exchange == "other"
    assert default == "other.collect"
    for name in ("collect", "rollup", "summarize", "maintain", "node.n"):
        assert any(f"other.{name} " in queue for queue in queues)


def test_on_rabbitmq_queues_are_quorum_queues_and_publishing_is_confirmed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AGGREGATOR_BROKER_URL", "pyamqp://127.0.0.1//")
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = runpy.run_path(str(ROOT / "celeryconfig.py"))
    assert settings["broker_transport_options"] == {"confirm_publish": True}
    assert all(queue.queue_arguments == {"x-queue-type": "quorum"} for queue in settings["task_queues"])


def conf(*names: str, folder: Path | None = None, **environment: str) -> list[Any]:
    """Settings of the app in a process of its own, which has no configuration but what is given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AGGREGATOR_")}
    code = (
        "import json, sys; from aggregator.tasks import app;"
        " print(json.dumps([app.conf[name] for name in sys.argv[1:]], default=str))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        cwd=folder or "/",
        env={**inherited, "PYTHONPATH": str(ROOT), "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_a_strangers_celeryconfig_in_the_working_directory_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "celeryconfig.py").write_text("raise SystemExit('the wrong file was read')\n")
    assert conf("task_time_limit", folder=tmp_path) == [300]


def test_a_users_own_settings_are_applied_after_ours(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("import os\ntask_time_limit = 4321\nIGNORED = _private = 1\n")
    assert conf("task_time_limit", "task_soft_time_limit", AGGREGATOR_CELERYCONFIG=str(own)) == [4321, 240]


def test_own_settings_that_are_no_file_are_refused_with_the_variables_name(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"AGGREGATOR_CELERYCONFIG: .*none\.py is no file"):
        conf("task_time_limit", AGGREGATOR_CELERYCONFIG=str(tmp_path / "none.py"))
