"""What is stored now, measured: bytes on disk by tier, form and source, and of how many rollups and samples.

Sizes are the file system's. How much is in them is counted on some pages, the same ones while a table does not grow,
and so is whose it is: an estimate, unless a table is so small that all of it was looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select, text

from aggregator.storage import tables
from aggregator.storage.costs import SAMPLES_NAME, Layer, Price, Prices
from aggregator.storage.health_sources import series_counts
from aggregator.storage.sampled_pages import (
    OPEN_ROLLUPS,
    OPEN_SAMPLES,
    SEALED_ROLLUPS,
    SEALED_SAMPLES,
    Counted,
    Leaf,
    count_items,
)

#: Of fewer rollups or samples, a page more or less of a table decides what one takes.
FEWEST_ITEMS = 10_000

_LEAVES = text(
    """
    SELECT parent.relname AS "table", leaf.relname AS name,
        pg_relation_size(leaf.oid) / CAST(current_setting('block_size') AS bigint) AS pages,
        pg_total_relation_size(leaf.oid) AS size_bytes
    FROM pg_inherits AS inheritance
    JOIN pg_class AS leaf ON leaf.oid = inheritance.inhrelid AND leaf.relkind = 'r'
    JOIN pg_class AS parent ON parent.oid = inheritance.inhparent
    WHERE parent.relnamespace = to_regnamespace('aggregator')
    ORDER BY leaf.relname
    """
)


@dataclass(frozen=True)
class Stored:
    """What is stored of a layer in one form. `filled_bytes`: without partitions that hold nothing.

    `items`: samples, or rollups of one series each.
    """

    layer: str
    form: str
    size_bytes: int
    filled_bytes: int
    counted: Counted

    @property
    def items(self) -> int:
        """How many samples or rollups there are."""
        return round(self.counted.items)

    @property
    def bytes_each(self) -> float | None:
        """What one takes on disk, without pages that are empty; None where there is none."""
        return self.filled_bytes * self.counted.filled / self.counted.items if self.counted.items else None

    @property
    def empty_bytes(self) -> int:
        """What is empty since its rows were sealed: it is used again, or goes with its partition."""
        return round(self.filled_bytes * (1 - self.counted.filled))

    def bytes_of(self, source_id: int) -> float:
        """A source's part of it, by the rows that were looked at."""
        return self.size_bytes * self.counted.share_of(source_id)

    def bytes_each_of(self, source_id: int) -> float | None:
        """What one of a source takes; None where none of it was seen."""
        factor = self.counted.relative_size_of(source_id)
        return None if factor is None or self.bytes_each is None else self.bytes_each * factor


@dataclass(frozen=True)
class Measured:
    """All that is stored: each layer in each form, samples first, then the tiers from the finest."""

    stored: tuple[Stored, ...]
    #: By source id; exact.
    series: Mapping[int, int]
    names: Mapping[int, str]

    def bytes_of(self, source_id: int) -> int:
        """What a source takes, in all layers and forms."""
        return round(sum(one.bytes_of(source_id) for one in self.stored))

    def prices(self, layers: Sequence[Layer]) -> Prices:
        """What samples and rollups of these layers take here, as far as there is enough of them to tell."""
        of_layer: dict[str, Price] = {}
        of_source: dict[tuple[str, str], Price] = {}
        for layer in layers:
            both = {one.form: one for one in self.stored if one.layer == layer.name and one.items >= FEWEST_ITEMS}
            if not both:
                continue
            each = {form: one.bytes_each for form, one in both.items()}
            of_layer[layer.name] = _price(layer.price, each)
            for source_id, name in self.names.items():
                own = {form: one.bytes_each_of(source_id) for form, one in both.items()}
                of_source[layer.name, name] = _price(of_layer[layer.name], own)
        return Prices(of_layer, of_source)


def _price(otherwise: Price, each: Mapping[str, float | None]) -> Price:
    return Price(each.get("open") or otherwise.open, each.get("sealed") or otherwise.sealed)


def measure(connection: Connection, *, series: Mapping[int, int] | None = None) -> Measured:
    """Measure what is stored; `series`: their number by source id, where it is known already.

    Reads the catalog, and at most some pages of each table by their number.
    """
    leaves: dict[str, list[Leaf]] = {}
    for row in connection.execute(_LEAVES):
        leaves.setdefault(row.table, []).append(Leaf(row.name, row.pages or 0, row.size_bytes or 0))
    tiers = connection.execute(select(tables.tiers).where(tables.tiers.c.active).order_by(tables.tiers.c.step_seconds))
    sources = connection.execute(select(tables.sources.c.id, tables.sources.c.name))
    found = [_stored(connection, SAMPLES_NAME, "sample_frame", ("sample_sealed", "sample_clock"), leaves)]
    found += [
        _stored(connection, tier.name, f"rollup_{tier.name}", (f"sealed_{tier.name}", f"clock_{tier.name}"), leaves)
        for tier in tiers
    ]
    return Measured(
        tuple(one for both in found for one in both),
        series_counts(connection) if series is None else series,
        {row.id: row.name for row in sources},
    )


def _stored(
    connection: Connection, layer: str, is_open: str, is_sealed: Sequence[str], leaves: Mapping[str, list[Leaf]]
) -> list[Stored]:
    """Both forms of a layer. A clock counts for the sealed rows beside it."""
    is_samples = layer == SAMPLES_NAME
    forms = (
        ("open", OPEN_SAMPLES if is_samples else OPEN_ROLLUPS, [is_open]),
        ("sealed", SEALED_SAMPLES if is_samples else SEALED_ROLLUPS, [*is_sealed]),
    )
    found = []
    for form, kind, names in forms:
        parts = [leaf for name in names for leaf in leaves.get(name, ())]
        counted = count_items(connection, kind, leaves.get(names[0], ()))
        filled = sum(leaf.size_bytes for leaf in parts if leaf.pages)
        found.append(Stored(layer, form, sum(leaf.size_bytes for leaf in parts), filled, counted))
    return found
