"""Log lines: static event names with fields, in UTC, to stderr, one line each, as text or JSON (docs/logs.md)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, MutableMapping
from typing import Literal
from urllib.parse import urlsplit

import structlog

from aggregator.log_repeats import RepeatsHandler

Level = Literal["debug", "info", "warning", "error"]
#: auto: text on a terminal, JSON where something else reads it.
Format = Literal["auto", "text", "json"]
Event = MutableMapping[str, object]

_HIDDEN = "***"
_SECRET_WORDS = ("password", "passwd", "secret", "token", "credential")


def configure_logging(level: Level, log_format: Format = "auto") -> None:
    """Send this process' log lines, ours and those of libraries, to stderr; a second call replaces the first.

    A line that comes again and again is written once a minute (`aggregator.log_repeats`). Fields whose name says that
    they are secret, and passwords within URLs, are hidden.
    """
    shared = _shared_processors()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a worker configures again after it has forked
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[take_repeated, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_endings(log_format)],
    )
    handler = RepeatsHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for replaced in root.handlers:
        if isinstance(replaced, RepeatsHandler):
            replaced.close()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _shared_processors() -> list[structlog.types.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        hide_secrets,
    ]


def _endings(log_format: Format) -> Iterable[structlog.types.Processor]:
    """What makes a line of the fields. Both escape control characters: no value can begin a line or colour a screen."""
    if log_format == "json" or (log_format == "auto" and not sys.stderr.isatty()):
        return [structlog.processors.JSONRenderer(default=str)]
    return [structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"], drop_missing=True)]


def take_repeated(_logger: object, _method: str, event: Event) -> Event:
    """How many lines a library's line stands for, as a field."""
    record = event.get("_record")
    if (repeated := getattr(record, "repeated", None)) is not None:
        event["repeated"] = repeated
    return event


def hide_secrets(_logger: object, _method: str, event: Event) -> Event:
    """Replace what must not be in a log: it is read, shipped and kept by others."""
    for name, value in event.items():
        if any(word in name.lower() for word in _SECRET_WORDS):
            event[name] = _HIDDEN
        elif isinstance(value, str) and "://" in value:
            event[name] = " ".join(_without_password(word) for word in value.split(" "))
    return event


def _without_password(word: str) -> str:
    try:
        password = urlsplit(word).password
    except ValueError:
        return word
    return word.replace(f":{password}@", f":{_HIDDEN}@") if password else word
