"""How a connection to the broker is given up and made anew: within seconds, however long the broker was away."""

from __future__ import annotations

from typing import Any

from celery.app.amqp import AMQP
from kombu.connection import Connection

#: Kombu's own pauses grow to 30 s: after an hour without a broker the first collection would wait so long again.
FIRST_PAUSE_SECONDS = 0.5
PAUSE_STEP_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 2.0


class PatientConnection(Connection):
    """Kombu's connection with short pauses between the tries to connect; `clone` keeps the class.

    A channel that could not be closed for want of a broker gives nothing back when it is closed again.
    """

    def maybe_close_channel(self, channel: Any) -> None:  # noqa: ANN401 - kombu is untyped
        """Close a channel; errors of the connection and of the channel are no errors here.

        A worker closes a lost connection twice. With Redis the first time may fail before the messages that nobody has
        acknowledged are put back; the second time there is no transport to do it through, which kombu does not expect:
        an AttributeError that ended the worker (docs/pitfalls.md#lost-redis). They come back by themselves.
        """
        try:
            channel.close()
        except self.connection_errors + self.channel_errors:
            channel.do_restore = False

    def _ensure_connection(
        self,
        errback: Any = None,  # noqa: ANN401 - kombu is untyped
        max_retries: Any = None,  # noqa: ANN401 - as above
        interval_start: Any = FIRST_PAUSE_SECONDS,  # noqa: ANN401 - as above
        interval_step: Any = PAUSE_STEP_SECONDS,  # noqa: ANN401 - as above
        interval_max: Any = LONGEST_PAUSE_SECONDS,  # noqa: ANN401 - as above
        *others: Any,  # noqa: ANN401 - as above
        **options: Any,  # noqa: ANN401 - as above
    ) -> Any:  # noqa: ANN401 - as above
        pauses = interval_start, interval_step, interval_max
        return super()._ensure_connection(errback, max_retries, *pauses, *others, **options)  # type: ignore[no-untyped-call] # as above


class PatientAMQP(AMQP):
    """Celery's AMQP with that connection: of the worker, of beat, and of whoever sends."""

    Connection = PatientConnection
