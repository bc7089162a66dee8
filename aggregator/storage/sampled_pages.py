"""How much is in a table, counted on some of its pages: which are read by their number, whatever the table's size."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, TextClause, text
from sqlalchemy.exc import ProgrammingError

from aggregator.storage.sealed_columns import element
from aggregator.storage.tables import SCHEMA

#: So many pages of a table are read, and so many rows of what is on them are unpacked.
MOST_PAGES = 16
MOST_ROWS = 96
#: A frame has all values of a target: thousands.
MOST_FRAMES = 40
_UNDEFINED_TABLE = "42P01"


@dataclass(frozen=True)
class Leaf:
    """A partition: how many pages its rows take, and its bytes with indexes and TOAST."""

    name: str
    pages: int
    size_bytes: int


@dataclass(frozen=True)
class Part:
    """What of one source was seen: items, and the bytes of their rows."""

    items: float = 0
    row_bytes: float = 0


@dataclass(frozen=True)
class Counted:
    """How many samples or rollups there are, and which of those that were seen are whose; by source id.

    `filled`: the part of the pages that has any row; what was sealed leaves empty ones behind.
    """

    items: float
    is_exact: bool
    filled: float = 0
    parts: Mapping[int, Part] = field(default_factory=dict)

    def share_of(self, source_id: int) -> float:
        """The part of all bytes that rows of a source take; 0 to 1."""
        whole = sum(part.row_bytes for part in self.parts.values())
        return self.parts.get(source_id, Part()).row_bytes / whole if whole else 0.0

    def relative_size_of(self, source_id: int) -> float | None:
        """How much larger one of a source is than all are on average; None where none was seen."""
        own = self.parts.get(source_id, Part())
        items = sum(part.items for part in self.parts.values())
        return self.share_of(source_id) / (own.items / items) if own.items else None


NOTHING = Counted(0, is_exact=True)


@dataclass(frozen=True)
class Kind:
    """What a table holds, in SQL over its rows `r`: how they are told apart, how many items one has, whose it is.

    `joined`: what else that needs; its rows are `c`.
    """

    key: str
    items: str
    source_id: str
    joined: str = ""
    most_rows: int = MOST_ROWS


_SOURCE_OF_BLOCK = """(
    SELECT sh.source_id FROM aggregator.blocks AS b JOIN aggregator.shards AS sh ON sh.id = b.shard_id
    WHERE b.id = r.block_id
)"""
_SOURCE_OF_TARGET = "(SELECT t.source_id FROM aggregator.targets AS t WHERE t.id = r.target_id)"
OPEN_ROLLUPS = Kind("block_id, bucket", "(SELECT count(*) FROM unnest(r.count) AS one WHERE one > 0)", _SOURCE_OF_BLOCK)
_PRESENT = f"(SELECT count(*) FROM generate_series(0, c.buckets - 1) AS i WHERE {element('c', 'count', 'i')} > 0)"  # noqa: S608 - our own columns
SEALED_ROLLUPS = Kind(
    "block_id, start, position",
    "CASE WHEN num_nonnulls(c.count_bytes, c.count_shorts, c.count_ints) = 0 AND c.count_base > 0 THEN c.buckets"
    f" ELSE {_PRESENT} END",
    _SOURCE_OF_BLOCK,
    "JOIN aggregator.clock AS c USING (tier_id, block_id, start, clock)",
)
OPEN_SAMPLES = Kind(
    "target_id, at",
    "(SELECT count(*) FROM unnest(r.values) AS one WHERE one <> 'NaN')",
    _SOURCE_OF_TARGET,
    most_rows=MOST_FRAMES,
)
SEALED_SAMPLES = Kind(
    "target_id, map_id, start, place",
    "c.samples",
    _SOURCE_OF_TARGET,
    "JOIN aggregator.sample_clock AS c USING (target_id, map_id, start, clock)",
)


def count_items(connection: Connection, kind: Kind, leaves: Sequence[Leaf]) -> Counted:
    """Count what is in the partitions of a table that hold rows of a kind.

    A partition that is dropped meanwhile makes it look like an empty table: once, for a minute.
    """
    pages = sum(leaf.pages for leaf in leaves)
    if not pages:
        return NOTHING
    chosen = pages_of(leaves, random.Random(pages).sample(range(pages), min(pages, MOST_PAGES)))  # noqa: S311 - no secret
    try:
        with connection.begin_nested():
            rows = connection.execute(_statement(kind, chosen)).all()
    except ProgrammingError as error:
        if getattr(error.orig, "pgcode", None) != _UNDEFINED_TABLE:
            raise
        return NOTHING
    if not rows:
        return Counted(0, is_exact=len(chosen) == pages)
    parts: dict[int, Part] = {}
    for row in rows:
        part = parts.get(row.source_id, Part())
        parts[row.source_id] = Part(part.items + row.items, part.row_bytes + row.row_bytes)
    seen = sum(part.items for part in parts.values())
    items = seen / len(rows) * rows[0].on_pages * pages / len(chosen)
    is_exact = len(chosen) == pages and len(rows) == rows[0].on_pages
    return Counted(items, is_exact, rows[0].filled_pages / len(chosen), parts)


def pages_of(leaves: Sequence[Leaf], numbers: Sequence[int]) -> list[tuple[str, int]]:
    """By number from 0 over all partitions, which page of which partition it is."""
    ends = list(itertools.accumulate(leaf.pages for leaf in leaves))
    found = []
    for number in sorted(numbers):
        place = bisect.bisect_right(ends, number)
        found.append((leaves[place].name, number - (ends[place] - leaves[place].pages)))
    return found


def _statement(kind: Kind, pages: Sequence[tuple[str, int]]) -> TextClause:
    """One range of TIDs for each page; then only some rows of them are unpacked, always the same."""
    ranges = " UNION ALL ".join(
        f"SELECT {place} AS page, * FROM {SCHEMA}.\"{name}\" WHERE ctid >= '({page},0)' AND ctid < '({page + 1},0)'"  # noqa: S608 - our own names
        for place, (name, page) in enumerate(pages)
    )
    return text(
        f"WITH on_pages AS MATERIALIZED ({ranges}), r AS MATERIALIZED ("  # noqa: S608 - our own names
        f" SELECT * FROM on_pages ORDER BY md5(concat_ws(' ', {kind.key})) LIMIT {kind.most_rows})"
        " SELECT (SELECT count(*) FROM on_pages) AS on_pages,"
        " (SELECT count(DISTINCT page) FROM on_pages) AS filled_pages,"
        f" {kind.source_id} AS source_id, {kind.items} AS items,"
        f" pg_column_size(r.*) AS row_bytes FROM r {kind.joined}"
    )
