"""The validated, frozen settings: what every other part is told, as data."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, model_validator

from aggregator.config.duration import months_in
from aggregator.config.fields import (
    MAXIMUM_TIMEOUT,
    MINIMUM_INTERVAL,
    DatabaseName,
    Duration,
    LabelName,
    MetricName,
    Model,
    Name,
    SelectorText,
)
from aggregator.config.selector import parse_selector
from aggregator.config.source_model import Source


class Tier(Model):
    """A step with its retention. `timezone`: the zone at whose midnight days, weeks and months begin."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,15}$")]
    step: Duration = Field(gt=timedelta(0))
    retention: Duration
    timezone: str = "UTC"

    @model_validator(mode="after")
    def _zone_exists(self) -> Tier:
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"timezone {self.timezone!r} does not exist; write a name such as Europe/Berlin") from None
        return self

    @property
    def months(self) -> int:
        """How many calendar months the step has; 0 for any other step. `step` is then their average length."""
        return months_in(self.step)


class Summary(Model):
    """A named, precomputed answer: over a selector, or from a query in SQL."""

    name: Name
    select: SelectorText | None = None
    #: The answer is a ratio: what `select` gives divided by what this gives, both by the same labels.
    divide_by: SelectorText | None = None
    stat: Literal["avg", "min", "max", "sum", "last", "rate", "increase"] = "avg"
    by: tuple[LabelName, ...] = ()
    window: Duration = Field(default=timedelta(hours=1), gt=timedelta(0))
    top: int = Field(default=10, gt=0, le=1_000)
    #: Which come first, and stay when there are more than `top`.
    order: Literal["highest", "lowest"] = "highest"
    #: Each row also has so many points of the window; 0: none.
    trend: int = Field(default=0, ge=0, le=500)
    #: Each row also has the value of the window before.
    compare: bool = False
    #: One statement that gives rows, instead of a selector.
    sql: str | None = Field(default=None, min_length=1)
    #: In which of [databases] it runs; None: in the aggregator's own.
    database: DatabaseName | None = None
    #: A query that gives more rows than this is refused: a part of an answer is none.
    max_rows: int = Field(default=1_000, gt=0, le=10_000)
    #: How large the answer may be as JSON.
    max_bytes: int = Field(default=1_000_000, gt=0, le=16_000_000)
    #: How long one refresh may take.
    timeout: Duration = Field(default=timedelta(seconds=30), gt=timedelta(0), le=MAXIMUM_TIMEOUT)
    refresh: Duration = Field(default=timedelta(seconds=30), ge=MINIMUM_INTERVAL)

    @model_validator(mode="after")
    def _selector_or_sql(self) -> Summary:
        if (self.select is None) == (self.sql is None):
            raise ValueError("select is wanted, or sql instead of it; write one of the two")
        misplaced = _SELECTOR_KEYS if self.sql is not None else _SQL_KEYS
        for key in misplaced:
            if key in self.model_fields_set:
                belongs = "a selector" if self.sql is not None else "sql"
                raise ValueError(f"{key} belongs to {belongs}, which this summary has not; leave it out")
        if self.trend and self.window / self.trend % timedelta(seconds=1):
            raise ValueError("trend must divide window into whole seconds; write one such as 12 with a window of 1h")
        return self


_SELECTOR_KEYS = ("divide_by", "stat", "by", "window", "top", "order", "trend", "compare")
_SQL_KEYS = ("database", "max_rows")


class NamedDatabase(Model):
    """A database that summaries may ask, as this node reaches it; it is never published."""

    name: DatabaseName
    url: SecretStr


class Rule(Model):
    """New series named `name`: what `select` matches, added up over all series that agree in some labels."""

    name: MetricName
    select: SelectorText
    #: The labels that outputs keep, or those that they lose; exactly one of the two is given.
    by: tuple[LabelName, ...] | None = None
    without: tuple[LabelName, ...] | None = None
    #: Labels that all outputs have besides.
    labels: dict[LabelName, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_one_grouping(self) -> Rule:
        if (self.by is None) == (self.without is None):
            raise ValueError('give either by or without, such as by = ["instance"]; by = [] makes one series of all')
        reserved = sorted(name for name in (*(self.by or ()), *self.labels) if name.startswith("__"))
        if reserved:
            place = "labels" if reserved[0] in self.labels else "by"
            raise ValueError(f"{place} names {reserved[0]}, but what begins with __ is reserved; choose another label")
        if parse_selector(self.select).metric == self.name:
            raise ValueError("name is that of the metric it selects, which would then count twice; choose another")
        return self


class Settings(Model):
    """All of the configuration. URLs are None where the embedded servers are to be used."""

    database_url: SecretStr | None = None
    broker_url: SecretStr | None = None
    cache_url: SecretStr | None = None
    result_backend: SecretStr | None = None
    data_dir: Path
    namespace: Name = "aggregator"
    node: Name
    exporter_listen: str = "127.0.0.1:9811"
    web_listen: str = "127.0.0.1:9810"
    #: Where the PostgreSQL that `aggregator up` brings along listens, on 127.0.0.1.
    postgres_port: int = Field(default=25_439, gt=0, le=65_535)
    #: Which published commands this node runs: any, only those of its own file, or none.
    run_commands: Literal["published", "local", "never"] = "published"
    #: Which published sources may name files for this node to read: any, or only those of its own file.
    read_files: Literal["published", "local"] = "published"
    #: Whether this node's worker obeys Celery's control commands, `inspect` and `shutdown` among them.
    remote_control: Literal["on", "off"] = "on"
    worker_concurrency: int = Field(default=2, gt=0, le=64)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "text", "json"] = "auto"
    sample_retention: Duration = timedelta(days=2)
    #: How long after its end a bucket may still receive samples before it is called final.
    lateness: Duration = timedelta(minutes=2)
    #: How far back a counter's previous sample may lie for their delta to count.
    lookback: Duration = timedelta(minutes=5)
    sources: tuple[Source, ...] = ()
    tiers: tuple[Tier, ...] = ()
    summaries: tuple[Summary, ...] = ()
    rules: tuple[Rule, ...] = ()
    #: What summaries in SQL may ask; a node's own.
    databases: tuple[NamedDatabase, ...] = ()
    #: The file that was read; None where the defaults are in force.
    file: Path | None = None
