"""A message in the worker's parent: where its child was lost, this node is told, which counts it (docs/adr/0018)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import structlog
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.worker import state
from celery.worker.request import Request
from kombu.exceptions import OperationalError

from aggregator.tasks import progress
from aggregator.tasks.naming import PREFIX, job_of, short

log = structlog.get_logger(__name__)

#: After so long nobody counts any more.
_EXPIRES_SECONDS = 3_600
_STATUS = re.compile(r"signal \d+ \(SIG\w+\)|exitcode -?\d+")
REPORT = f"{PREFIX}report_lost"
_HARD_LIMIT = "hard time limit"


class ReportingRequest(Request):
    """A request that says when its child was lost.

    The parent has no connection to the database and must not get one: it sends a message to its own node.
    """

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - Celery's own
        """Report a child that was killed, or that ended itself."""
        self._report_if_lost(exc_info.exception)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def _report_if_lost(self, error: BaseException) -> None:
        error = getattr(error, "exc", error)
        if isinstance(error, SystemExit | KeyboardInterrupt):
            # What we ended ourselves, because the broker was gone or because somebody revoked it, is no loss.
            if not (self._already_cancelled or self._already_revoked):
                self._report("exit")
        elif isinstance(error, WorkerLostError):
            found = _STATUS.search(str(error))
            self._report(found.group() if found else "unknown")
        elif isinstance(error, TimeLimitExceeded):
            self._report(_HARD_LIMIT)

    def _report(self, reason: str) -> None:
        # A worker that stops ends its children on purpose.
        if state.should_stop is not None or state.should_terminate is not None:
            return
        task = str(self.task_name)
        if not task.startswith(PREFIX) or task == REPORT:
            return  # nothing of ours, or what would report itself for ever
        job = job_of(task, self.args or (), self.kwargs or {})
        shard = progress.of_process(self.worker_pid) if self.worker_pid else None
        if job == ("rollup", "") and shard is not None:
            job = ("rollup", str(shard))
        name, subject = short(task), job[1] if job else ""
        log.warning("process_lost", task=name, subject=subject, reason=reason, task_id=self.id)
        try:
            # A child that was forked since has closed the parent's connection to RabbitMQ: that is tried again, as all
            # publishing is (task_publish_retry_policy).
            self._app.send_task(
                REPORT,
                kwargs={
                    "task": name,
                    "subject": subject,
                    "reason": reason,
                    "counted": job is not None,
                    "at": datetime.now(UTC).isoformat(),
                },
                expires=_EXPIRES_SECONDS,
                ignore_result=True,
            )
        except OperationalError as error:
            log.warning("loss_unreported", task=name, subject=subject, reason=reason, error=str(error))
