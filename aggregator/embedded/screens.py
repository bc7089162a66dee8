"""Which screen `aggregator up` has: a live table on a terminal, else lines."""

from __future__ import annotations

import sys

from aggregator.embedded.screen import PlainScreen, Screen


def make_screen() -> Screen:
    """A live table on a terminal, else only lines."""
    if not sys.stdout.isatty():
        return PlainScreen()
    from aggregator.embedded.live_screen import LiveScreen  # noqa: PLC0415 - rich is 60 ms that only a terminal needs

    return LiveScreen()
