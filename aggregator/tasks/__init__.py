"""The tasks; importing this makes the app, so that `.delay()` uses the configured broker in any process."""

from aggregator.tasks import process  # noqa: F401 - connects what happens when a worker or its children start
from aggregator.tasks.app import app
from aggregator.tasks.jobs import announce, collect, maintain, report_lost, rollup, summarize, verify, wake

__all__ = ["announce", "app", "collect", "maintain", "report_lost", "rollup", "summarize", "verify", "wake"]
