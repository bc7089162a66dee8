"""How a worker reads its queues: without delayed messages, with a word for unknown tasks, and an end to its stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from celery.exceptions import InvalidTaskError
from celery.worker import consumer
from celery.worker.state import active_requests

from aggregator.tasks.ending import see_to_the_end

log = structlog.get_logger(__name__)

#: What a child gets between the signal to end and its end, once its time is over (worker_soft_shutdown_timeout).
KILL_AFTER_SECONDS = 3.0
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
    messages with an ETA: we send none. A task that is not registered is said to be so in one line. And a child that
    does not end when it has to is killed.
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

    def cancel_active_requests(self) -> None:
        """Cancel what runs when the worker has to end; it is called when the time for an orderly end is over.

        Celery would wait for ever for a child that is in a loop in C and never gets to the signal that it is sent. The
        children are killed from a thread: nothing is forked any more, and the main one waits for the pool.
        """
        see_to_the_end(os.EX_TEMPFAIL, heeds_tasks=False)
        process_ids = [request.worker_pid for request in tuple(active_requests) if request.worker_pid is not None]
        super().cancel_active_requests()
        timer = threading.Timer(KILL_AFTER_SECONDS, _kill, (process_ids,))
        timer.daemon = True
        timer.start()


def _kill(process_ids: list[int]) -> None:
    for process_id in process_ids:
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)
