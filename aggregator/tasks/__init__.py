"""The tasks; importing this makes the app, so that `.delay()` uses the configured broker in any process."""

from aggregator.tasks import ending, process  # noqa: F401 - connect what happens when workers and children start and end
from aggregator.tasks.app import app
from aggregator.tasks.jobs import announce, collect, maintain, report_lost, rollup, summarize, verify, wake

__all__ = ["announce", "app", "collect", "maintain", "report_lost", "rollup", "summarize", "verify", "wake"]
