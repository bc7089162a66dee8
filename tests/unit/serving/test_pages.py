"""The page escapes whatever comes from outside, and shows what it is given."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aggregator.serving.pages import render_page

NOW = "2026-03-01T12:00:00.000Z"
TEXTS = st.text(max_size=40) | st.just('<script>alert("&")</script>')


def status(text: str) -> dict[str, Any]:
    return {
        "as_of": NOW,
        "version": text,
        "ok": False,
        "problems": [text],
        "servers": {"database": {"up": True}, "broker": {"up": False}, "cache": {"up": None}},
        "sources": [
            {
                "name": text,
                "kind": text,
                "interval_seconds": 5.0,
                "targets": 2,
                "up": 1,
                "down": 1,
                "series": 1_000,
                "last_success": NOW,
                "slots_missed": 3,
                "stale": False,
            }
        ],
        "targets": [{"source": text, "instance": text, "up": False, "since": NOW, "last_error": text}],
        "tiers": [
            {
                "name": text,
                "step_seconds": 60.0,
                "newest_bucket": NOW,
                "lag_seconds": 0.0,
                "backfill_lag_seconds": 1.0,
                "backlog": 0,
                "stale": True,
            }
        ],
        "stored": [
            {
                "tier": text,
                "form": text,
                "bytes": 5,
                "empty_bytes": 1,
                "items": 2,
                "bytes_each": 2.5,
                "is_estimate": True,
            },
            {
                "tier": text,
                "form": text,
                "bytes": 5,
                "empty_bytes": 0,
                "items": 0,
                "bytes_each": None,
                "is_estimate": False,
            },
        ],
        "stored_of_sources": [{"source": text, "series": 3, "bytes": 7, "bytes_each": {text: 64.2}}],
        "nodes": [{"name": text, "last_seen": NOW, "config_hash": text, "version": text, "alive": True}],
        "glance": [
            {
                "instance": text,
                "cpu_busy_ratio": 0.5,
                "load1": None,
                "memory_used_ratio": 0.25,
                "disk_fullest_ratio": None,
                "disk_mountpoint": None,
            }
        ],
    }


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}


def elements(page: bytes) -> Elements:
    parser = Elements()
    parser.feed(page.decode())
    return parser


@given(TEXTS, TEXTS)
def test_no_text_from_outside_becomes_markup(text: str, column: str) -> None:
    summary = {"name": text, "computed_at": NOW, "value": [{column: text, "v": 1.5}]}
    plain = {"name": "x", "computed_at": NOW, "value": [{"c": "x", "v": 1.5}]}
    found = elements(render_page(status(text), [summary]).body)
    if column not in ("v", "c"):
        assert found.tags == elements(render_page(status("x"), [plain]).body).tags
    assert found.attributes <= {"lang", "charset", "http-equiv", "content", "name", "class", "href"}


def test_the_page_lists_problems_and_values_and_refreshes_itself() -> None:
    summary = {"name": "busiest", "computed_at": NOW, "value": [{"instance": "web1", "value": 12_345.678}]}
    page = render_page(status("some<thing>"), [summary]).body.decode()
    assert "<li>some&lt;thing&gt;</li>" in page
    assert "1.235e+04" in page
    assert "Summary busiest" in page
    assert 'http-equiv="refresh"' in page
    assert "1 of 2" in page


def test_the_style_is_the_only_content_that_a_browser_may_load() -> None:
    response = render_page(status("x"), [])
    assert re.search(r"default-src 'none'; style-src 'sha256-[^']+'", response.content_policy)
    assert datetime.fromisoformat(NOW) == datetime(2026, 3, 1, 12, tzinfo=UTC)
