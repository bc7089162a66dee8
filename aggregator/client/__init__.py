"""What other applications import: read a summary that the aggregator keeps in Redis, without its database."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import redis

from aggregator.client.connections import connect, fetch, shared
from aggregator.client.keys import is_name, names_key, summary_key, wanted_key
from aggregator.client.summary import REFRESHES_MISSED, UNREADABLE, Summary
from aggregator.errors import (
    AggregatorError,
    ServerUnreachableError,
    SummaryNotReadyError,
    UnknownSummaryError,
    UsageError,
)

CACHE_URL_VARIABLE = "AGGREGATOR_CACHE_URL"
NAMESPACE_VARIABLE = "AGGREGATOR_NAMESPACE"
#: For so long a summary that was asked for is not asked for again.
ASKED_SECONDS = 60

#: The newest document of each key that this process has read, for `fallback`.
_last_read: dict[tuple[str, str], bytes] = {}


def read(
    name: str, *, url: str | None = None, namespace: str | None = None, fallback: timedelta | None = None
) -> Summary:
    """Read a summary from Redis; `url` and `namespace` default to AGGREGATOR_CACHE_URL and AGGREGATOR_NAMESPACE.

    One round trip over a connection that this process keeps; never a computation, and never longer than a second or two
    where Redis hangs. With `fallback`, where Redis does not answer or has lost its memory, the value that this process
    has read last is given, unless it was computed longer ago than that.

    Raises UnknownSummaryError where no summary has this name, SummaryNotReadyError where it has no value yet (it is
    then computed at the next wake), ServerUnreachableError where Redis does not answer, and UsageError where no URL is
    known.
    """
    url = url or _configured_url()
    namespace = namespace or os.environ.get(NAMESPACE_VARIABLE) or "aggregator"
    key = summary_key(namespace, name)
    try:
        document = _document(url, namespace, name)
    except (ServerUnreachableError, SummaryNotReadyError) as error:
        return _fallen_back(url, key, fallback, error)
    try:
        found = Summary.from_document(json.loads(document))
    except UNREADABLE:
        garbage = SummaryNotReadyError(f"what the cache holds as {name!r} is no summary; the next refresh replaces it")
        return _fallen_back(url, key, fallback, garbage)
    if fallback is not None:
        _last_read[url, key] = document
    return found


def _configured_url() -> str:
    if url := os.environ.get(CACHE_URL_VARIABLE):
        return url
    if file := os.environ.get(f"{CACHE_URL_VARIABLE}_FILE"):
        return _content(Path(file))
    raise UsageError(f"no cache is configured; set {CACHE_URL_VARIABLE}, such as redis://127.0.0.1:6379/0")


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"{CACHE_URL_VARIABLE}_FILE names {path}, which cannot be read: {error}") from None


def _document(url: str, namespace: str, name: str) -> bytes:
    try:
        found = fetch(url, summary_key(namespace, name))
        if found is not None:
            return found
        raise _missing(shared(url), namespace, name)
    except (redis.RedisError, OSError) as error:
        raise ServerUnreachableError(f"the cache cannot be reached: {error}; see {CACHE_URL_VARIABLE}") from error


def _missing(client: redis.Redis, namespace: str, name: str) -> AggregatorError:
    """The error for a summary that is not there; one that may exist is asked for."""
    with client.pipeline(transaction=False) as pipeline:
        pipeline.exists(names_key(namespace))
        pipeline.sismember(names_key(namespace), name)
        are_known, is_known = pipeline.execute()
    if not is_name(name) or (are_known and not is_known):
        return UnknownSummaryError(f"no summary {name!r} is kept; add it to [[summaries]], or read one of those")
    # Whoever asks first sets the mark, everybody else finds it: one computation, however many readers.
    client.set(wanted_key(namespace, name), 1, nx=True, ex=ASKED_SECONDS)
    return SummaryNotReadyError(f"no summary {name!r} is ready; it was asked for, try again in a minute")


def _fallen_back(url: str, key: str, fallback: timedelta | None, error: AggregatorError) -> Summary:
    document = _last_read.get((url, key))
    if fallback is not None and document is not None:
        last = Summary.from_document(json.loads(document))
        if datetime.now(UTC) - last.computed_at <= fallback:
            return last
    raise error


__all__ = ["REFRESHES_MISSED", "Summary", "connect", "read", "summary_key"]
