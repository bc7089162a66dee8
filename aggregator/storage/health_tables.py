"""The health of tables: how far ahead their partitions reach, and how large they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

if TYPE_CHECKING:
    from datetime import datetime

_PARTITIONS_END = text(
    r"""
    SELECT parent.relname, max(CAST(
        substring(pg_get_expr(child.relpartbound, child.oid) FROM 'TO \(''([^'']+)''\)') AS timestamptz
    ))
    FROM pg_partitioned_table AS partitioned
    JOIN pg_class AS parent ON parent.oid = partitioned.partrelid
    LEFT JOIN pg_inherits AS inheritance ON inheritance.inhparent = parent.oid
    LEFT JOIN pg_class AS child ON child.oid = inheritance.inhrelid
    WHERE parent.relnamespace = to_regnamespace('aggregator') AND partitioned.partstrat = 'r'
        AND parent.relname !~ '^((sealed|clock)_.*|sample_(sealed|clock))$'
    GROUP BY parent.relname
    ORDER BY parent.relname
    """
)

_TABLE_BYTES = text(
    """
    SELECT coalesce(parent.relname, leaf.relname), CAST(sum(pg_total_relation_size(leaf.oid)) AS bigint)
    FROM pg_class AS leaf
    LEFT JOIN pg_inherits AS inheritance ON inheritance.inhrelid = leaf.oid
    LEFT JOIN pg_class AS parent ON parent.oid = inheritance.inhparent
    WHERE leaf.relnamespace = to_regnamespace('aggregator') AND leaf.relkind = 'r'
    GROUP BY 1
    ORDER BY 1
    """
)


def partitions_end(connection: Connection) -> dict[str, datetime | None]:
    """Where the last partition of each table ends that is partitioned by time (tiers of `rollup` apart).

    Sealed tables get theirs when something is sealed into them, and never ahead.
    """
    return dict(connection.execute(_PARTITIONS_END).all())


def table_bytes(connection: Connection) -> dict[str, int]:
    """Bytes of each table with its indexes; a partition counts for its parent. Costly: keep the answer."""
    return dict(connection.execute(_TABLE_BYTES).all())
