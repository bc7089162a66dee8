"""What holds for every task: bounded, counted, logged with its name, and no option that Celery would ignore."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import structlog
from celery import Task
from celery.exceptions import Ignore, Retry

from aggregator import telemetry
from aggregator.errors import AggregatorError, QuarantinedError
from aggregator.tasks.naming import job_of, log_fields, short

log = structlog.get_logger(__name__)


class PolicyTask(Task):
    """The base of all tasks. A message is a hint: losing or doubling one is harmless, so retries are few."""

    abstract = True
    # A killed child takes its message with it: it is sent again, but not for ever (docs/pitfalls.md#worker-lost).
    acks_late = True
    retry_on_worker_lost = True
    max_retries = 2
    # At once: a delayed message would need an ETA, and we send none.
    default_retry_delay = 0
    # What a caller can act on is an error of ours; it is reported without a traceback.
    throws = (AggregatorError,)

    # Where a child was lost the parent says so (docs/adr/0018).
    Request = "aggregator.tasks.request:ReportingRequest"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - a task takes and gives anything
        """Run the task unless its job is set aside, with its metrics and its name in every log line."""
        name = short(str(self.name))
        job = job_of(str(self.name), args, kwargs)
        fields = {"task": name, "task_id": self.request.id, **log_fields(str(self.name), args, kwargs)}
        with structlog.contextvars.bound_contextvars(**fields):
            return _measured(name, lambda: _guarded(job, lambda: super(PolicyTask, self).__call__(*args, **kwargs)))


def _guarded(job: tuple[str, str] | None, run: Callable[[], Any]) -> Any:  # noqa: ANN401 - as above
    # Loaded at first use: beat and clients send messages without what the work needs.
    return import_module("aggregator.tasks.guard").run(job, run)


def _measured(task: str, run: Callable[[], Any]) -> Any:  # noqa: ANN401 - as above
    started = time.monotonic()
    telemetry.adjust("tasks_in_progress", 1, task=task)
    outcome = "failed"
    try:
        result = run()
        outcome = "ok"
    except QuarantinedError:
        outcome = "quarantined"
        return None
    except (Ignore, Retry):
        outcome = "passed_on"
        raise
    except AggregatorError as error:
        # What somebody can act on needs no traceback.
        log.warning("task_failed", error=str(error))
        raise
    except Exception:
        log.exception("task_failed")
        raise
    else:
        return result
    finally:
        telemetry.adjust("tasks_in_progress", -1, task=task)
        telemetry.count("task_runs_total", task=task, outcome=outcome)
        telemetry.observe("task_duration_seconds", time.monotonic() - started, task=task)
