"""A summary as readers get it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

#: What `Summary.from_document(json.loads(...))` raises for anything that is no document of ours.
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
#: A summary that missed so many refreshes is stale.
REFRESHES_MISSED = 3


@dataclass(frozen=True)
class Summary:
    """A precomputed answer. `value`: its rows, each a mapping from column to value; instants are UTC.

    `completeness`: the share of due samples that are in it, 0 to 1; `is_final`: no late sample can change it any more.
    `tier` and `completeness` are None for a summary in SQL. `version` rises with every change of the document.
    `has_failed`: the last refresh failed, at `failed_at`, for the reason `error`, and the value is an earlier one.
    """

    name: str
    value: tuple[dict[str, Any], ...]
    as_of: datetime
    computed_at: datetime
    tier: str | None
    completeness: float | None
    is_final: bool
    version: int
    refresh_seconds: float
    has_failed: bool = False
    error: str | None = None
    failed_at: datetime | None = None

    def is_stale(self, *, now: datetime | None = None) -> bool:
        """Whether the last refresh failed, or three were missed by `now` (the present unless given)."""
        return self.has_failed or self.goes_stale_at <= (now or datetime.now(UTC))

    @property
    def goes_stale_at(self) -> datetime:
        """When it will have missed three refreshes."""
        return self.computed_at + timedelta(seconds=REFRESHES_MISSED * self.refresh_seconds)

    def as_document(self, *, now: datetime | None = None) -> dict[str, Any]:
        """Plain JSON, as it is in Redis, with `stale` as it is by `now` (the present unless given)."""
        return {
            "name": self.name,
            "value": list(self.value),
            "as_of": self.as_of.isoformat(),
            "computed_at": self.computed_at.isoformat(),
            "tier": self.tier,
            "completeness": self.completeness,
            "is_final": self.is_final,
            "version": self.version,
            "refresh_seconds": self.refresh_seconds,
            "stale": self.is_stale(now=now),
            "error": self.error,
            "failed_at": None if self.failed_at is None else self.failed_at.isoformat(),
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Summary:
        """A summary from its JSON document as it is kept in Redis, which others may have written to.

        Raises one of `UNREADABLE` for anything else.
        """
        failed_at = document.get("failed_at")
        if not all(isinstance(row, dict) for row in document["value"]):
            raise TypeError("a row is no object")
        return cls(
            name=document["name"],
            value=tuple(document["value"]),
            as_of=_instant(document["as_of"]),
            computed_at=_instant(document["computed_at"]),
            tier=None if document["tier"] is None else str(document["tier"]),
            completeness=None if document["completeness"] is None else float(document["completeness"]),
            is_final=bool(document["is_final"]),
            version=int(document["version"]),
            refresh_seconds=float(document["refresh_seconds"]),
            has_failed=bool(document.get("stale", False)),
            error=None if document.get("error") is None else str(document["error"]),
            failed_at=None if failed_at is None else _instant(failed_at),
        )


def _instant(text: str) -> datetime:
    """An instant with its zone; ValueError where it has none."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("an instant without a zone")
    return found
