"""Celery's banners: for people at a terminal, and not for what collects log lines."""

from __future__ import annotations

import sys
from typing import Any

from celery.apps.beat import Beat


def is_seen() -> bool:
    """Whether somebody reads what this process prints."""
    return sys.stdout.isatty()


class QuietBeat(Beat):
    """Beat, whose banner has a dozen lines, without it."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - Celery's own
        super().__init__(*args, **{**options, "quiet": options.get("quiet") or not is_seen()})
