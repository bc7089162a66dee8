"""`/api/v1/range`: what `aggregator query --format json` prints, for programs that speak HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from aggregator.config.instants import parse_instant
from aggregator.config.selector import EXAMPLE, parse_selector
from aggregator.errors import AggregatorError, SelectorError, ServerUnreachableError, UsageError
from aggregator.serving.points import DEFAULT_STATISTICS, parse_statistics, point_document
from aggregator.serving.responses import Response, json_error, json_response
from aggregator.storage.query import Point, choose_tier, read_points, read_tiers

if TYPE_CHECKING:
    from aggregator.serving.observer import Observer
    from aggregator.storage.engine import Connection

#: An answer is made whole in memory; more than this is for SQL, or for `aggregator query`, which stream.
MOST_ROWS = 50_000
_DEFAULTS = {"from": "-1h", "to": "now", "step": "auto", "stat": DEFAULT_STATISTICS}


class RangeApi:
    """The path, over what an observer reaches."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def answer(self, environment: Mapping[str, Any]) -> Response:
        """The rows of a selector; 400 where the question is wrong, 503 where PostgreSQL is away."""
        try:
            work = _question(environment.get("QUERY_STRING", ""), now=datetime.now(UTC))
            points = self._observer.read(work)
        except ServerUnreachableError as error:
            return json_error(str(error), HTTPStatus.SERVICE_UNAVAILABLE)
        except AggregatorError as error:
            return json_error(str(error), HTTPStatus.BAD_REQUEST)
        return json_response([point_document(point) for point in points])


def _question(query: str, *, now: datetime) -> Callable[[Connection], list[Point]]:
    """What is to be read; raises UsageError or SelectorError that say what to write."""
    given = _parameters(query)
    start, finish = parse_instant(given["from"], now=now), parse_instant(given["to"], now=now)
    if start >= finish:
        raise UsageError(f"from={given['from']} is not before to={given['to']}; turn them round")
    statistics = parse_statistics(given["stat"])
    try:
        selector = parse_selector(given["selector"])
    except ValueError as error:
        raise SelectorError(str(error)) from None

    def work(connection: Connection) -> list[Point]:
        tier = choose_tier(read_tiers(connection, now=now), given["step"], start=start, finish=finish)
        found = read_points(connection, selector, tier=tier, start=start, finish=finish, statistics=statistics)
        points = list(islice(found, MOST_ROWS + 1))
        if len(points) > MOST_ROWS:
            raise UsageError(f"more than {MOST_ROWS:,} rows; narrow the selector or the times, or take a longer step")
        return points

    return work


def _parameters(query: str) -> dict[str, str]:
    given = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    unknown = sorted(given.keys() - _DEFAULTS.keys() - {"selector"})
    if unknown:
        raise UsageError(f"no parameter is called {unknown[0]}; there are selector, {', '.join(_DEFAULTS)}")
    if not given.get("selector"):
        raise UsageError(f"selector is missing; write one such as selector={EXAMPLE}, with its signs escaped")
    return _DEFAULTS | given
