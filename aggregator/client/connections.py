"""Connections to Redis that a process keeps: a new one for each read would cost more than the read."""

from __future__ import annotations

import threading

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from aggregator.errors import UsageError

#: How long a reader waits for Redis to connect, and again for its answer.
TIMEOUT_SECONDS = 1.0

_making = threading.Lock()
_shared: dict[str, redis.Redis] = {}


def shared(url: str) -> redis.Redis:
    """This process' client of a Redis, with its pool of connections: for any number of threads, and again after a fork.

    Raises UsageError for a URL that is none.
    """
    client = _shared.get(url)
    if client is None:
        with _making:
            client = _shared.setdefault(url, connect(url, timeout_seconds=TIMEOUT_SECONDS))
    return client


def connect(url: str, *, timeout_seconds: float) -> redis.Redis:
    """A client that connects when it is first used, and never waits longer than `timeout_seconds`.

    Celery writes a Unix socket as `redis+socket://`, redis-py as `unix://`: both are understood. Raises UsageError for
    any other URL that is not Redis'.
    """
    if url.startswith("redis+socket://"):
        url = url.replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=")
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            # Once more, at once, where a restart has closed a kept connection; who hangs is not asked again.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
    except ValueError as error:
        raise UsageError(f"the URL of Redis cannot be read: {error}") from None
