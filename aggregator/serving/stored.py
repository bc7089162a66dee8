"""What is stored, as the status tells it: by tier and form, and by source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.storage.measured_bytes import Measured


def stored_lists(measured: Measured | None) -> dict[str, list[dict[str, Any]]]:
    """Rows of two lists: `stored` by tier and form, `stored_of_sources` by source; both empty where nothing is known.

    `items`: samples, or rollups of one series each. `is_estimate`: they were counted on some pages only.
    """
    if measured is None:
        return {"stored": [], "stored_of_sources": []}
    return {"stored": list(_layers(measured)), "stored_of_sources": list(_sources(measured))}


def _layers(measured: Measured) -> Iterator[dict[str, Any]]:
    for one in measured.stored:
        yield {
            "tier": one.layer,
            "form": one.form,
            "bytes": one.size_bytes,
            "empty_bytes": one.empty_bytes,
            "items": one.items,
            "bytes_each": one.bytes_each,
            "is_estimate": not one.counted.is_exact,
        }


def _sources(measured: Measured) -> Iterator[dict[str, Any]]:
    """Sources with series; what one of theirs takes in each tier and form in which some was seen."""
    for source_id, name in sorted(measured.names.items(), key=lambda item: item[1]):
        if measured.series.get(source_id):
            each = {f"{one.layer} {one.form}": one.bytes_each_of(source_id) for one in measured.stored}
            yield {
                "source": name,
                "series": measured.series[source_id],
                "bytes": measured.bytes_of(source_id),
                "bytes_each": {where: size for where, size in each.items() if size is not None},
            }
