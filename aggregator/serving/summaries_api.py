"""`/api/v1/summaries`: from Redis, and from PostgreSQL where Redis cannot; never computed for whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aggregator import client
from aggregator.errors import (
    AggregatorError,
    ServerUnreachableError,
    SummaryNotReadyError,
    UnknownSummaryError,
)
from aggregator.serving.responses import Response, json_error, json_response
from aggregator.serving.status import plain

if TYPE_CHECKING:
    from aggregator.serving.observer import Observer

#: When to ask again for what is not ready: it is computed at the next wake.
RETRY_AFTER_SECONDS = 10


class SummariesApi:
    """The two paths, over what an observer reaches."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def all(self) -> Response:
        """Every summary that has a value, without the value."""
        try:
            found = self._observer.stored_summaries()
        except ServerUnreachableError as error:
            return _not_now(str(error))
        now = datetime.now(UTC)
        documents = [client.Summary.from_document(plain(one)).as_document(now=now) for one in found]
        return json_response([{key: one[key] for key in one if key != "value"} for one in documents])

    def one(self, name: str, environment: Mapping[str, Any]) -> Response:
        """A summary with its ETag; 304 where the client has it, 404 where there is none, 503 where it is not ready."""
        try:
            summary = self._read(name)
        except UnknownSummaryError as error:
            return json_error(str(error), HTTPStatus.NOT_FOUND)
        except (SummaryNotReadyError, ServerUnreachableError) as error:
            return _not_now(str(error))
        return _conditional(summary, environment.get("HTTP_IF_NONE_MATCH", ""), now=datetime.now(UTC))

    def _read(self, name: str) -> client.Summary:
        try:
            return self._cached(name)
        except (UnknownSummaryError, SummaryNotReadyError, ServerUnreachableError) as error:
            return self._stored(name, error)

    def _cached(self, name: str) -> client.Summary:
        addresses = self._observer.addresses
        if addresses.cache_url is None:
            raise ServerUnreachableError("no cache is configured; see AGGREGATOR_CACHE_URL")
        return client.read(name, url=addresses.cache_url, namespace=addresses.namespace)

    def _stored(self, name: str, cached: AggregatorError) -> client.Summary:
        """PostgreSQL keeps the last good value of every summary; raises what says best why there is none."""
        try:
            found = self._observer.stored_summaries(name)
        except ServerUnreachableError:
            if isinstance(cached, UnknownSummaryError):
                raise cached from None  # Redis knows the names
            raise
        if found:
            return client.Summary.from_document(plain(found[0]))
        if self._observer.is_summary(name):
            raise SummaryNotReadyError(f"summary {name!r} has no value yet; try again in a minute")
        raise UnknownSummaryError(f"there is no summary {name!r}; see /api/v1/summaries")


def _conditional(summary: client.Summary, if_none_match: str, *, now: datetime) -> Response:
    # Weak: the same document is sent compressed or not.
    tag = f'W/"{summary.version}{"-stale" if summary.is_stale(now=now) else ""}"'
    age_seconds = (now - summary.computed_at).total_seconds()
    # Until the next refresh; one that is overdue may come at any moment.
    fresh_seconds = max(1, round(summary.refresh_seconds - age_seconds))
    headers = (("ETag", tag), ("Cache-Control", f"max-age={fresh_seconds}"))
    if _names(if_none_match, tag):
        return Response(HTTPStatus.NOT_MODIFIED, b"", headers=headers)
    answer = json_response(summary.as_document(now=now))
    return Response(answer.status, answer.body, answer.content_type, headers=headers)


def _names(if_none_match: str, tag: str) -> bool:
    """Whether the header names a tag, by the weak comparison of RFC 9110."""
    given = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return "*" in given or tag.removeprefix("W/") in given


def _not_now(message: str) -> Response:
    refused = json_error(message, HTTPStatus.SERVICE_UNAVAILABLE)
    headers = (("Retry-After", str(RETRY_AFTER_SECONDS)),)
    return Response(refused.status, refused.body, refused.content_type, headers=headers)
