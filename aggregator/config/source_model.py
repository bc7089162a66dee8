"""The kinds of sources, as they are configured."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, model_validator

from aggregator.config.access_model import BasicAuth, FilePath, TlsSettings
from aggregator.config.fields import (
    MAXIMUM_TIMEOUT,
    MINIMUM_INTERVAL,
    Duration,
    Filters,
    FilterText,
    LabelName,
    Model,
    Name,
)
from aggregator.config.selector import Selector, parse_selector


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
    labels: dict[LabelName, str] = Field(default_factory=dict)
    keep: tuple[FilterText, ...] = ()
    drop: tuple[FilterText, ...] = ()
    #: Which gauges keep a sketch of how their samples are distributed.
    quantiles: Filters = ()
    limits: Limits = Limits()
    #: More series than this are never registered for the source: a scrape that brings new ones is refused as a whole.
    series_limit: int | None = Field(default=None, gt=0)

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
    basic_auth: BasicAuth | None = None
    bearer_token_file: FilePath | None = None
    tls: TlsSettings | None = None

    @property
    def names_files(self) -> bool:
        """Whether a node reads files of its own in order to collect it."""
        return any((self.basic_auth, self.bearer_token_file, self.tls))

    @model_validator(mode="after")
    def _access_fits(self) -> PrometheusSource:
        if self.basic_auth is not None and self.bearer_token_file is not None:
            raise ValueError("bearer_token_file and basic_auth are both given; a target takes one of the two")
        is_plain = bool(self.targets) and not self.file_sd and not any(t.startswith("https:") for t in self.targets)
        if self.tls is not None and is_plain:
            raise ValueError("tls is given, but no target begins with https://; write it so, or leave tls out")
        return self

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
    environment: dict[str, str] = Field(default_factory=dict)
    directory: str = "/"
    output_bytes: int = Field(default=1_000_000, gt=0)


class SelftestSource(BaseSource):
    """Values that are a pure function of the time, by which `verify` can check the whole way for ever."""

    kind: Literal["selftest"] = "selftest"


Source = Annotated[PrometheusSource | HostSource | CommandSource | SelftestSource, Field(discriminator="kind")]
