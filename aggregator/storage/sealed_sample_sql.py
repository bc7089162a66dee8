"""SQL that reads sealed samples: the instants of a clock, and the values of a row at them."""

from __future__ import annotations

from aggregator.storage.sealed_columns import SAMPLE_OWN, element, unpacked
from aggregator.storage.sealed_spans import SAMPLES_LENGTH
from aggregator.storage.tables import SCHEMA

#: Rows that begin this long before an instant may reach it.
SPAN = f"interval '{int(SAMPLES_LENGTH.total_seconds())} seconds'"
_MILLISECONDS = "interval '1 millisecond'"


def instants(clock: str) -> str:
    """SQL: joins that give, as `p`, the instants of a clock: `p.k` is the place from 0, `p.at` the instant.

    OFFSET 0: a clock is unpacked once, and what is asked of instants is asked before values are read.
    """
    return f"""
    CROSS JOIN LATERAL (SELECT {unpacked(clock, ("at",))} OFFSET 0) AS times
    CROSS JOIN LATERAL (
        SELECT k, {clock}.start + {element("times", "at", "k")} * {_MILLISECONDS} AS at
        FROM generate_series(0, {clock}.samples - 1) AS k
        OFFSET 0
    ) AS p"""  # noqa: S608 - text of our own


def samples(row: str) -> str:
    """SQL: joins that give, beside `p` as `instants` does, the clock `c` of a sealed row, and its values for `VALUE`.

    Uses index: sample_clock_pkey.
    """
    return f"""
    JOIN {SCHEMA}.sample_clock AS c
        ON c.target_id = {row}.target_id AND c.map_id = {row}.map_id AND c.start = {row}.start AND c.clock = {row}.clock
    CROSS JOIN LATERAL (SELECT {unpacked(row, SAMPLE_OWN)} OFFSET 0) AS own_values
    {instants("c")}"""


#: SQL (float8): the value of a row at an instant of `samples`.
VALUE = element("own_values", "value", "p.k")


def received_at() -> str:
    """SQL (timestamptz): when the frame of an instant of `samples` was received; for few rows, as none is unpacked."""
    return f"p.at + {element('c', 'received', 'p.k')} * {_MILLISECONDS}"
