"""Parts of SQL that the functions of a range share: its series, its intervals, its blocks and their ledger.

Arguments: $1 selector, $2 start, $3 finish, $4 interval in milliseconds, $5 tier, $6 labels to group by, or NULL.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from aggregator.storage.selector_functions import selected_series
from aggregator.storage.tables import SCHEMA

#: SQL: the columns that a point has of its series.
OWN = ", ".join(f"own.{name}" for name in ("metric", "labels", "job", "instance", "group_id"))
TIER = "$5"


@dataclass(frozen=True)
class RangeSettings:
    """What of the settings a range depends on."""

    lateness: timedelta
    lookback: timedelta


def own_series(*, where: str = "true") -> str:
    """SQL: `own`, the series that are meant, found once; `where`: a condition on rows of `metric_series`."""
    grouped = "(SELECT jsonb_object_agg(name, labels -> name) FROM unnest($6) AS name WHERE labels ? name)"
    return f"""
    WITH own AS MATERIALIZED (
        SELECT
            series_id, block_id, position, metric, labels, labels ->> 'job' AS job, labels ->> 'instance' AS instance,
            CASE WHEN $6 IS NULL THEN 0 ELSE dense_rank() OVER (ORDER BY metric, labels) END AS group_id
        FROM (
            SELECT series_id, block_id, position, metric,
                CASE WHEN $6 IS NULL THEN labels ELSE coalesce({grouped}, '{{}}') END AS labels
            FROM {SCHEMA}.metric_series WHERE {selected_series("$1")} AND {where}
            OFFSET 0
        ) AS found
    )
    """  # noqa: S608 - as above


def start_of(instant: str, *, tier: str = TIER, interval_ms: str = "$4") -> str:
    """SQL (timestamptz): the start of the interval that holds an instant."""
    return f"{SCHEMA}.range_start({tier}, {instant}, {interval_ms})"


def end_of(instant: str, *, tier: str = TIER) -> str:
    """SQL (timestamptz): the end of the interval that holds an instant."""
    return f"{SCHEMA}.range_end({tier}, {instant}, $4)"


def start_of_row(of: str = "") -> str:
    """SQL (timestamptz): the start of the interval that a row belongs to, without a call where lengths are fixed.

    `of`: the alias of the row and a dot.
    """
    length_ms = f"{SCHEMA}.range_length_ms({TIER}, $4)"
    bins = f"make_interval(secs => {length_ms} / 1000.0), {of}time, {SCHEMA}.interval_origin({length_ms})"
    return f"CASE WHEN {length_ms} IS NULL THEN {start_of(f'{of}time')} ELSE date_bin({bins}) END"


def own_blocks(view: str, columns: str, *, since: str, until: str) -> str:
    """SQL: the rows of a view of blocks in which series of `own` lie, from `since` to before `until`.

    OFFSET 0: a block's row is read, and its interval and the ledger looked up, once and not for each of its series.
    Where there are no series, nothing is scanned.
    """
    return (
        f"SELECT {columns} FROM {SCHEMA}.{view} WHERE tier_id = {TIER} AND time >= {since} AND time < {until}"  # noqa: S608 - as above
        " AND block_id = ANY (ARRAY(SELECT DISTINCT block_id FROM own)) AND EXISTS (SELECT FROM own) OFFSET 0"
    )


def ledger_until(finish: str, *, of: str) -> str:
    """SQL: a join that says, as `ledger.is_clean`, whether nothing from a row's `start` to before `finish` is dirty.

    `of`: the row's alias; it has `shard_id` and `built_from`. Left out by PostgreSQL where nobody asks.
    """
    return f"""LEFT JOIN LATERAL (
        SELECT count(*) = 0 AS is_clean FROM (
            SELECT FROM {SCHEMA}.buckets_dirty AS d
            WHERE d.shard_id = {of}.shard_id AND d.time >= {of}.start AND d.time < {finish}
                AND d.tier_id = ANY ({of}.built_from)
            LIMIT 1
        ) AS found
    ) AS ledger ON true"""  # noqa: S608 - as above
