"""The commands, declared as data: a new one is a line here and a module."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command: `attribute` of `module` is its function, or a `typer.Typer` with commands of its own."""

    name: str
    module: str
    attribute: str
    help: str
    is_group: bool = False


COMMANDS = (
    Command("up", "aggregator.cli.up", "up", "Run everything here: servers, beat, worker, exporter and web."),
    Command("init", "aggregator.cli.init", "init", "Write a commented sample configuration."),
    Command("check", "aggregator.cli.check", "check", "Check the configuration and estimate what it will store."),
    Command("plan", "aggregator.cli.plan", "plan", "Show what this configuration would change in the database."),
    Command("db", "aggregator.cli.db", "app", "The database: its schema and its URL.", is_group=True),
    Command("collect", "aggregator.cli.collect", "collect", "Collect a source once, now."),
    Command("rollup", "aggregator.cli.rollup", "rollup", "Roll up what is due, now."),
    Command("summarize", "aggregator.cli.summarize", "summarize", "Refresh the summaries, now."),
    Command("maintain", "aggregator.cli.maintain", "maintain", "Make partitions ahead and apply retention, now."),
    Command(
        "status", "aggregator.cli.status", "status", "Show sources, lag and backlog; exit 1 when something is stale."
    ),
    Command("query", "aggregator.cli.query", "query", "Show what Grafana would see of a selector."),
    Command("import", "aggregator.cli.import_", "import_file", "Import historical samples from a file."),
    Command("explain", "aggregator.cli.explain", "explain", "Show what made a number: its samples, resets and runs."),
    Command("recompute", "aggregator.cli.recompute", "recompute", "Roll up again from what is kept."),
    Command("verify", "aggregator.cli.verify", "verify", "Recompute buckets and compare; exit 1 where one differs."),
    Command("doctor", "aggregator.cli.doctor", "doctor", "Find what is wrong with servers, rights, clock or disk."),
    Command(
        "quarantine",
        "aggregator.cli.quarantine",
        "app",
        "Jobs that were set aside: they kept losing their process.",
        is_group=True,
    ),
    Command("summary", "aggregator.cli.summary", "summary", "Show a cached summary."),
    Command("exporter", "aggregator.cli.exporter", "exporter", "Serve this node's own metrics."),
    Command("web", "aggregator.cli.web", "web", "Serve the installation's metrics, health and status page."),
)
