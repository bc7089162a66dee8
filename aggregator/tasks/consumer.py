"""How a worker reads its queues: without delayed messages, and with a cure for a task that nobody knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from celery.exceptions import InvalidTaskError
from celery.worker import consumer

log = structlog.get_logger(__name__)

_DELAYED_DELIVERY = "celery.worker.consumer.delayed_delivery:DelayedDelivery"


#: What a body of another form makes Celery's code raise. None of them is an error of the connection.
_MALFORMED = (ValueError, TypeError, AttributeError, LookupError, RecursionError)


def _refusing(strategy: Callable[..., Any]) -> Callable[..., Any]:
    """The same way to begin a task, where what cannot be read is an invalid message."""

    def begin(message: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Celery is untyped
        try:
            return strategy(message, *args, **kwargs)
        except _MALFORMED as error:
            raise InvalidTaskError(f"the body is no task's: {type(error).__name__}") from None

    return begin


class Consumer(consumer.Consumer):
    """Celery's consumer, but for three things.

    It makes none of the 28 exchanges and quorum queues outside of our namespace that Celery wants on RabbitMQ for
    messages with an ETA: we send none. And a task that is not registered is said to be so in one line.
    """

    class Blueprint(consumer.Consumer.Blueprint):
        """The steps without delayed delivery."""

        default_steps = tuple(step for step in consumer.Consumer.Blueprint.default_steps if step != _DELAYED_DELIVERY)

    def update_strategies(self) -> None:
        """As Celery does, but a body that is no task's is one message lost, and not the end of the worker.

        `[]` is JSON, and unpacking it raises what Celery takes for its own end; the message would come back, and end
        the next worker (docs/pitfalls.md#broker-rights).
        """
        super().update_strategies()
        for name, strategy in self.strategies.items():
            self.strategies[name] = _refusing(strategy)

    def on_unknown_task(self, body: Any, message: Any, exc: Any) -> None:  # noqa: ANN401 - Celery is untyped
        """Refuse the message as Celery does, and say which tasks there are."""
        registered = sorted(name for name in self.app.tasks if not name.startswith("celery."))
        log.error(
            "task_not_registered",
            task=str(exc.args[0] if exc.args else exc),
            registered=registered,
            remedy="send one of these, start this worker at the sender's version, or see `inspect registered`",
        )
        super().on_unknown_task(body, message, exc)
