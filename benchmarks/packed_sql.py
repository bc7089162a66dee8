"""SQL that reads sealed rows: an element of a packed statistic, and all of them."""

from __future__ import annotations

from packed_tables import BLOCKS_OF_A_TARGET, CLOCKED, OWN, SCHEMA, SHARED


def element(row: str, statistic: str, place: str) -> str:
    """SQL (float8): a statistic's value at a place from 0 of an unpacked row; NULL where there is nothing.

    Short, because PostgreSQL parses and plans all of it for each query. Adding 0 changes no bit: no quotient is -0.
    """
    of = f"{row}.{statistic}_"
    offset = f"coalesce({of}shorts[{place} + 1], get_byte({of}bytes, {place}), {of}ints[{place} + 1])"
    quotient = f"({of}base + {offset}) / {of}divisor"
    if statistic in CLOCKED:
        return f"coalesce({quotient}, {of}base)"
    correction = f"coalesce((get_byte({of}corrections, {place}) - 128) * {of}unit, 0)"
    return f"coalesce({quotient} + {correction}, {of}doubles[{place} + 1], {of}singles[{place} + 1], {of}base)"


def elements_at(own: str, clock: str, place: str) -> str:
    """SQL: every statistic at a place; what is derived from them then repeats their names and not their cases."""
    found = {name: element(clock, name, place) for name in SHARED} | {name: element(own, name, place) for name in OWN}
    return ", ".join(f"{sql} AS {name}" for name, sql in found.items())


def all_elements() -> str:
    """SQL: every number of the tables `sealed_rollups` and `clock_rollups` of the first target, in order."""
    return f"""
    SELECT v.* FROM {SCHEMA}.sealed_rollups AS s
    JOIN {SCHEMA}.clock_rollups AS c USING (block_id, start, clock)
    CROSS JOIN LATERAL generate_series(0, c.buckets - 1) AS place
    CROSS JOIN LATERAL (SELECT {elements_at("s", "c", "place")} OFFSET 0) AS v
    WHERE s.block_id < {BLOCKS_OF_A_TARGET} AND v.count > 0
    ORDER BY s.block_id, s.position, s.start, place"""  # noqa: S608 - as above
