"""What the fields of the settings are made of: durations, selectors, names, each checked as it is read."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from aggregator.config.duration import parse_duration
from aggregator.config.selector import parse_selector

#: The selector that every series meets.
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


def _filter(value: Any) -> Any:  # noqa: ANN401 - as above
    if isinstance(value, str):
        parse_selector(value, anchored_name=True)
    return value


def _filters_or_all(value: Any) -> Any:  # noqa: ANN401 - as above
    if isinstance(value, bool):
        return (EVERYTHING,) if value else ()
    if not isinstance(value, tuple | list):
        raise ValueError(f'{value!r} is neither true nor a list of selectors such as ["node_load.*"]')  # noqa: TRY004 - pydantic wants it
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
#: Prometheus' selector as text; checked when the settings are read.
SelectorText = Annotated[str, BeforeValidator(_selector)]
#: As above, with a name that may be a regular expression, for `keep` and `drop`.
FilterText = Annotated[str, BeforeValidator(_filter)]
#: A list of those; `true` stands for all series, `false` for none.
Filters = Annotated[tuple[FilterText, ...], BeforeValidator(_filters_or_all)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
#: As it stands in a variable's name, so without signs that a variable cannot have.
DatabaseName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]
LabelName = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]
MetricName = Annotated[str, Field(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$", max_length=128)]


class Model(BaseModel):
    """What all settings share: frozen, and an unknown key is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)
