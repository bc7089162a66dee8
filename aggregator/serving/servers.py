"""Whether broker and cache answer, and how many messages wait: asked with short timeouts."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aggregator.client import connect
from aggregator.serving.amqp import amqp_connection
from aggregator.serving.status import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import redis

TIMEOUT_SECONDS = 1.0
#: Where the Redis transport keeps messages of the priorities 0, 3, 6 and 9 of a queue.
_PRIORITY_SUFFIXES = ("", "\x06\x163", "\x06\x166", "\x06\x169")
_QUEUES = ("collect", "rollup", "summarize", "maintain")


@dataclass(frozen=True)
class Answer:
    """How a server answered; `queue_messages` by queue, for a broker that could be asked."""

    server: Server
    queue_messages: dict[str, int]


def queue_names(namespace: str, nodes: Sequence[str]) -> list[str]:
    """The queues of an installation: one per stage, and one per node for what reads that machine."""
    return [f"{namespace}.{name}" for name in (*_QUEUES, *(f"node.{node}" for node in nodes))]


class Prober:
    """Asks one server whether it answers, and keeps a Redis connection for the next time."""

    def __init__(self, url: str | None, *, setting: str) -> None:
        self._url = url
        self._setting = setting
        self._client: redis.Redis | None = None

    def ask(self, queues: Sequence[str] = ()) -> Answer:
        """Whether the server answers, and the length of each queue (one that is not there yet has no messages)."""
        if self._url is None:
            return Answer(Server(None), {})
        url = self._url
        count: Callable[[str, Sequence[str]], dict[str, int]] = (
            _amqp_counts if urlsplit(url).scheme.startswith(("amqp", "pyamqp")) else self._redis_counts
        )
        try:
            return Answer(Server(is_up=True), count(url, queues))
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the server did not answer
            reason = _without_credentials(str(error).strip().split("\n")[0], url) or type(error).__name__
            what = f"{self._setting.removeprefix('AGGREGATOR_').removesuffix('_URL').lower()} cannot be reached"
            return Answer(Server(is_up=False, error=f"the {what}: {reason}; see {self._setting}"), {})

    def _redis_counts(self, url: str, queues: Sequence[str]) -> dict[str, int]:
        if self._client is None:
            self._client = connect(url, timeout_seconds=TIMEOUT_SECONDS)
        if not queues:
            self._client.ping()
            return {}
        with self._client.pipeline(transaction=False) as pipeline:
            for queue in queues:
                for suffix in _PRIORITY_SUFFIXES:
                    pipeline.llen(queue + suffix)
            lengths = pipeline.execute()
        width = len(_PRIORITY_SUFFIXES)
        return {queue: sum(lengths[width * place : width * (place + 1)]) for place, queue in enumerate(queues)}


def _amqp_counts(url: str, queues: Sequence[str]) -> dict[str, int]:
    """Lengths by passive declaration, each on a channel of its own: a queue that is not there closes the channel."""
    not_found: type[Exception] = import_module("amqp.exceptions").NotFound  # only where there is a RabbitMQ
    with amqp_connection(url, timeout_seconds=TIMEOUT_SECONDS) as connection:
        connection.connect()
        return {queue: _amqp_count(connection, queue, not_found) for queue in queues}


def _amqp_count(connection: Any, queue: str, not_found: type[Exception]) -> int:  # noqa: ANN401 - kombu is untyped
    with closing(connection.channel()) as channel:
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except not_found:
            return 0


def _without_credentials(text: str, url: str) -> str:
    password = urlsplit(url).password
    return text.replace(password, "***") if password else text
