"""What PostgreSQL's types become in JSON, and that it is always JSON."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.storage.json_values import json_value

INDIA = timezone(timedelta(hours=5, minutes=30))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (2**70, 2**70),
        ("é", "é"),
        (1.5, 1.5),
        (float("nan"), None),
        (float("-inf"), None),
        (Decimal("10.00"), 10),
        (Decimal("0.1"), 0.1),
        (Decimal(12345678901234567890), 12345678901234567890),
        (Decimal("1E+400"), None),
        (Decimal("NaN"), None),
        (datetime(2026, 3, 1, 5, 30, tzinfo=INDIA), "2026-03-01T00:00:00+00:00"),
        (datetime(2026, 3, 1, 5, 30), "2026-03-01T05:30:00"),  # noqa: DTZ001 - a timestamp without a zone
        (datetime.max.replace(tzinfo=UTC), None),
        (date(2026, 3, 1), "2026-03-01"),
        (time(5, 30), "05:30:00"),
        (timedelta(minutes=1, milliseconds=500), 60.5),
        ([1, None, [Decimal("2.5")]], [1, None, [2.5]]),
        ({"a": {"b": float("inf")}}, {"a": {"b": None}}),
        (memoryview(b"\x00\xff"), "\\x00ff"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_a_value_becomes_what_json_has_for_it(value: Any, expected: Any) -> None:
    assert json_value(value) == expected


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.decimals(), st.timedeltas(),
    st.binary(), st.times(), st.dates(), st.datetimes(timezones=st.just(UTC)),
)  # fmt: skip


@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
def test_whatever_a_column_holds_can_be_written_as_json(value: Any) -> None:
    text = json.dumps(json_value(value), allow_nan=False)
    assert json.loads(text) == json_value(value)
