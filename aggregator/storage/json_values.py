"""What PostgreSQL's types become in JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

#: What psycopg2 makes of `infinity`, which no calendar has.
_INFINITY = datetime.max.replace(tzinfo=UTC)
#: A longer whole number is rounded as others are.
_MOST_DIGITS = 40
_MINUS_INFINITY = datetime.min.replace(tzinfo=UTC)


def json_value(value: Any) -> Any:  # noqa: ANN401, PLR0911 - whatever a column holds; one for each kind
    """A value as JSON has it: numbers, texts, true, false, null, lists and objects.

    NaN and the infinities, which JSON lacks, become null; instants are ISO 8601, in UTC where they have a zone;
    intervals are seconds; bytes are hexadecimal, as PostgreSQL writes them; what is left is text.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, datetime):
        return _instant(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, list | tuple):
        return [json_value(element) for element in value]
    if isinstance(value, Mapping):
        return {str(key): json_value(element) for key, element in value.items()}
    if isinstance(value, bytes | memoryview):
        return f"\\x{bytes(value).hex()}"
    return str(value)


def _number(value: Decimal) -> int | float | None:
    """Whole numbers exactly, others as the nearest double."""
    if not value.is_finite():
        return None
    if value.adjusted() < _MOST_DIGITS and value == value.to_integral_value():
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None


def _instant(value: datetime) -> str | None:
    if value.tzinfo is None:
        return value.isoformat()
    in_utc = value.astimezone(UTC)
    return None if in_utc in (_INFINITY, _MINUS_INFINITY) else in_utc.isoformat()
