"""Connections to Redis that a process keeps: a new one for each read would cost more than the read."""

from __future__ import annotations

import os
import threading

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from aggregator.errors import UsageError

#: How long a reader waits for Redis to connect, and again for its answer.
TIMEOUT_SECONDS = 1.0


class _Kept(threading.local):
    """The connections of one thread, by URL, and which process made them."""

    def __init__(self) -> None:
        self.process_id = os.getpid()
        self.connections: dict[str, redis.Connection] = {}


_kept = _Kept()
_making = threading.Lock()
_shared: dict[str, redis.Redis] = {}


def fetch(url: str, key: str) -> bytes | None:
    """The value of a key, over a connection that this thread keeps; None where there is none.

    A third of what a command costs through a pool. Once more, at once, where a restart has closed the connection.
    Raises redis.RedisError, and UsageError for a URL that is none.
    """
    connection = _connection(url)
    try:
        return _exchange(connection, key)
    except redis.ConnectionError:
        return _exchange(connection, key)


def _connection(url: str) -> redis.Connection:
    """This thread's connection; a child has its own, for it would share its parent's answers."""
    if _kept.process_id != os.getpid():
        _kept.__init__()  # type: ignore[misc] # as for a thread that has just begun
    connection = _kept.connections.get(url)
    if connection is None:
        pool = shared(url).connection_pool
        connection = _kept.connections[url] = pool.connection_class(**pool.connection_kwargs)
    return connection


def _exchange(connection: redis.Connection, key: str) -> bytes | None:
    try:
        command = connection.pack_command("GET", key)  # type: ignore[no-untyped-call] # redis-py's
        connection.send_packed_command(command)  # type: ignore[no-untyped-call] # as above
        found = connection.read_response()
    except BaseException:
        # Whatever has cut it short: the answer may still come, and must not be taken for the next one's.
        connection.disconnect()  # type: ignore[no-untyped-call] # as above
        raise
    return found if isinstance(found, bytes) else None


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
