"""What other applications import: read a summary that the aggregator keeps in Redis, without its database."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from aggregator.errors import ServerUnreachableError, UnknownSummaryError, UsageError

CACHE_URL_VARIABLE = "AGGREGATOR_CACHE_URL"
NAMESPACE_VARIABLE = "AGGREGATOR_NAMESPACE"
TIMEOUT_SECONDS = 2.0
#: A summary that missed so many refreshes is stale.
REFRESHES_MISSED = 3


@dataclass(frozen=True)
class Summary:
    """A precomputed answer. `value`: its rows, each a mapping from column to value; instants are UTC.

    `completeness`: the share of due samples that are in it, 0 to 1; `is_final`: no late sample can change it any more.
    """

    name: str
    value: tuple[dict[str, Any], ...]
    as_of: datetime
    computed_at: datetime
    tier: str | None
    completeness: float | None
    is_final: bool
    version: int
    refresh_seconds: float

    def is_stale(self, *, now: datetime | None = None) -> bool:
        """Whether it missed three refreshes by `now` (the present unless given)."""
        age = (now or datetime.now(UTC)) - self.computed_at
        return age > timedelta(seconds=REFRESHES_MISSED * self.refresh_seconds)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Summary:
        """A summary from its JSON document as it is kept in Redis."""
        return cls(
            name=document["name"],
            value=tuple(document["value"]),
            as_of=datetime.fromisoformat(document["as_of"]),
            computed_at=datetime.fromisoformat(document["computed_at"]),
            tier=document["tier"],
            completeness=document["completeness"],
            is_final=bool(document["is_final"]),
            version=int(document["version"]),
            refresh_seconds=float(document["refresh_seconds"]),
        )


def summary_key(namespace: str, name: str) -> str:
    """Under which key of Redis a summary is kept."""
    return f"{namespace}:summary:{name}"


def read(name: str, *, url: str | None = None, namespace: str | None = None) -> Summary:
    """Read a summary from Redis; `url` and `namespace` default to AGGREGATOR_CACHE_URL and AGGREGATOR_NAMESPACE.

    Raises UnknownSummaryError where it is not kept, ServerUnreachableError where Redis does not answer, and UsageError
    where no URL is known.
    """
    url = url or os.environ.get(CACHE_URL_VARIABLE)
    if not url:
        raise UsageError(f"no cache is configured; set {CACHE_URL_VARIABLE}, such as redis://127.0.0.1:6379/0")
    namespace = namespace or os.environ.get(NAMESPACE_VARIABLE) or "aggregator"
    try:
        with connect(url, timeout_seconds=TIMEOUT_SECONDS) as client:
            found = client.get(summary_key(namespace, name))
    except (redis.RedisError, OSError) as error:
        raise ServerUnreachableError(f"the cache cannot be reached: {error}; see {CACHE_URL_VARIABLE}") from error
    if not isinstance(found, bytes | str):
        raise UnknownSummaryError(
            f"no summary {name!r} is kept; add it to [[summaries]], or wait for its first refresh"
        )
    return Summary.from_document(json.loads(found))


def connect(url: str, *, timeout_seconds: float) -> redis.Redis:
    """A client that connects when it is first used, and never waits longer than `timeout_seconds`.

    Celery writes a Unix socket as `redis+socket://`, redis-py as `unix://`: both are understood. Raises UsageError for
    any other URL that is not Redis'.
    """
    if url.startswith("redis+socket://"):
        url = url.replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=")
    try:
        return redis.Redis.from_url(url, socket_timeout=timeout_seconds, socket_connect_timeout=timeout_seconds)
    except ValueError as error:
        raise UsageError(f"the URL of Redis cannot be read: {error}") from None


__all__ = ["Summary", "connect", "read", "summary_key"]
