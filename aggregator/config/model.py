"""The validated, frozen settings: what every other part is told, as data."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from aggregator.config.duration import months_in, parse_duration
from aggregator.config.selector import Selector, parse_selector

#: The rule that every series meets.
EVERYTHING = ".*"
MINIMUM_INTERVAL = timedelta(seconds=1)
#: How a URL of PostgreSQL may begin.
POSTGRESQL_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg2")
#: Below the soft limit of a task (240 s), which would end a collection without a word about its targets.
MAXIMUM_TIMEOUT = timedelta(seconds=180)


def _duration(value: Any) -> Any:  # noqa: ANN401 - what a TOML file holds may be anything; pydantic checks the rest
    if isinstance(value, str) and not value.startswith("P"):  # "P...": ISO 8601, as our own JSON writes it
        return parse_duration(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, int) and value >= 0:
            raise ValueError(f'{value} has no unit; write it as "{value}s"')
        return parse_duration(str(value))  # which says what would be right
    return value


def _selector(value: Any) -> Any:  # noqa: ANN401 - as above
    if isinstance(value, str):
        parse_selector(value)
    return value


def _rule(value: Any) -> Any:  # noqa: ANN401 - as above
    if isinstance(value, str):
        parse_selector(value, anchored_name=True)
    return value


def _rules_or_all(value: Any) -> Any:  # noqa: ANN401 - as above
    if isinstance(value, bool):
        return (EVERYTHING,) if value else ()
    if not isinstance(value, tuple | list):
        raise ValueError(f'{value!r} is neither true nor a list of selectors such as ["node_load.*"]')  # noqa: TRY004 - pydantic wants it
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
#: Prometheus' selector as text; checked when the settings are read.
SelectorText = Annotated[str, BeforeValidator(_selector)]
#: As above, with a name that may be a regular expression, for `keep` and `drop`.
RuleText = Annotated[str, BeforeValidator(_rule)]
#: A list of those; `true` stands for all series, `false` for none.
Rules = Annotated[tuple[RuleText, ...], BeforeValidator(_rules_or_all)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
#: As it stands in a variable's name, so without signs that a variable cannot have.
DatabaseName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
LabelName = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]


class Model(BaseModel):
    """What all settings share: frozen, and an unknown key is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Limits(Model):
    """What one scrape may cost; a breach rejects the whole scrape and gives `up 0` with the reason."""

    body_bytes: int = Field(default=10_000_000, gt=0)
    samples: int = Field(default=50_000, gt=0)
    labels: int = Field(default=30, gt=0)
    name_bytes: int = Field(default=128, gt=0)
    value_bytes: int = Field(default=1_024, gt=0, le=2_000)


class BaseSource(Model):
    """What every kind of source has."""

    name: Name
    interval: Duration = Field(default=timedelta(seconds=15), ge=MINIMUM_INTERVAL, le=timedelta(days=1))
    timeout: Duration = Field(default=timedelta(seconds=10), gt=timedelta(0), le=MAXIMUM_TIMEOUT)
    labels: dict[LabelName, str] = {}
    keep: tuple[RuleText, ...] = ()
    drop: tuple[RuleText, ...] = ()
    #: Which gauges keep a sketch of how their samples are distributed.
    quantiles: Rules = ()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _timeout_within_interval(self) -> BaseSource:
        if self.timeout > self.interval and "timeout" in self.model_fields_set:
            raise ValueError("timeout is longer than interval; make it at most the interval")
        if "job" in self.labels or "instance" in self.labels:
            raise ValueError("labels job and instance are set by the aggregator; choose another label name")
        return self

    @property
    def deadline(self) -> timedelta:
        """How long one target may take in all: the timeout, at most the interval."""
        return min(self.timeout, self.interval)

    def keep_selectors(self) -> tuple[Selector, ...]:
        """What is kept before a series is registered; empty keeps all."""
        return tuple(parse_selector(text, anchored_name=True) for text in self.keep)

    def drop_selectors(self) -> tuple[Selector, ...]:
        """What is dropped of what `keep` has kept."""
        return tuple(parse_selector(text, anchored_name=True) for text in self.drop)

    def quantile_selectors(self) -> tuple[Selector, ...]:
        """Gauges that any of these matches keep sketches."""
        return tuple(parse_selector(text, anchored_name=True) for text in self.quantiles)


class PrometheusSource(BaseSource):
    """Endpoints that expose metrics in the text format or as OpenMetrics."""

    kind: Literal["prometheus"] = "prometheus"
    targets: tuple[Annotated[str, Field(pattern=r"^https?://[^\s/]+.*$")], ...] = ()
    file_sd: tuple[str, ...] = ()
    honor_labels: bool = False
    honor_timestamps: bool = True

    @model_validator(mode="after")
    def _has_targets(self) -> PrometheusSource:
        if not self.targets and not self.file_sd:
            raise ValueError(
                'has neither targets nor file_sd; name one, such as targets = ["http://10.0.0.5:9100/metrics"]'
            )
        return self


class HostSource(BaseSource):
    """The machines that run workers, as node_exporter would name what it measures."""

    kind: Literal["host"] = "host"
    nodes: tuple[Name, ...] = ()


class RegexParse(Model):
    """Named groups of a regular expression become samples; `(?P<value>...)` with `(?P<name>...)` names its own."""

    regex: str

    @model_validator(mode="after")
    def _compiles_with_groups(self) -> RegexParse:
        try:
            groups = re.compile(self.regex, re.MULTILINE).groupindex
        except re.error as error:
            raise ValueError(f"regex does not compile: {error}") from None
        if not groups:
            raise ValueError("regex has no named group; write (?P<blocks>\\d+) for what is to become the metric blocks")
        return self


class CommandSource(BaseSource):
    """A command that prints numbers, run without a shell on the nodes it names."""

    kind: Literal["command"] = "command"
    command: tuple[str, ...] = Field(min_length=1)
    parse: Literal["key_value", "json", "none"] | RegexParse = "none"
    nodes: tuple[Name, ...] = ()
    environment: dict[str, str] = {}
    directory: str = "/"
    output_bytes: int = Field(default=1_000_000, gt=0)


class SelftestSource(BaseSource):
    """Values that are a pure function of the time, by which `verify` can check the whole way for ever."""

    kind: Literal["selftest"] = "selftest"


Source = Annotated[PrometheusSource | HostSource | CommandSource | SelftestSource, Field(discriminator="kind")]


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
    worker_concurrency: int = Field(default=2, gt=0, le=64)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    sample_retention: Duration = timedelta(days=2)
    #: How long after its end a bucket may still receive samples before it is called final.
    lateness: Duration = timedelta(minutes=2)
    #: How far back a counter's previous sample may lie for their delta to count.
    lookback: Duration = timedelta(minutes=5)
    sources: tuple[Source, ...] = ()
    tiers: tuple[Tier, ...] = ()
    summaries: tuple[Summary, ...] = ()
    #: What summaries in SQL may ask; a node's own.
    databases: tuple[NamedDatabase, ...] = ()
    #: The file that was read; None where the defaults are in force.
    file: Path | None = None
