"""The catalogue of events says what the code logs: every event, its levels and its fields."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}


def logged() -> tuple[dict[str, set[str]], dict[str, set[str | None]]]:
    """Levels and fields of each event that the code logs; None among the fields: others that are not written there."""
    levels, fields = defaultdict(set), defaultdict(set)
    for path in sorted((ROOT / "aggregator").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
                if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "log"):
                    continue
                (event,) = node.args
                assert isinstance(event, ast.Constant), f"{path}:{node.lineno}: an event is a static name"
                assert re.fullmatch(r"[a-z]+(_[a-z]+)*", str(event.value)), f"{path}:{node.lineno}: {event.value}"
                levels[str(event.value)].add(LEVELS[node.func.attr])
                fields[str(event.value)] |= {keyword.arg for keyword in node.keywords}
    return levels, fields


def documented() -> dict[str, tuple[set[str], set[str]]]:
    rows = re.findall(
        r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| .+ \|$", (ROOT / "docs" / "logs.md").read_text(), re.MULTILINE
    )
    return {event: (set(levels.split(", ")), set(re.findall(r"`(\w+)`", fields))) for event, levels, fields in rows}


def test_every_event_is_in_the_catalogue_with_its_levels() -> None:
    levels, _ = logged()
    assert {event: shown for event, (shown, _) in documented().items()} == dict(levels)
    assert len(levels) > 30


def test_every_field_of_an_event_is_in_the_catalogue() -> None:
    shown = documented()
    for event, fields in logged()[1].items():
        known = shown[event][1]
        assert fields - {None} == known if None not in fields else fields - {None} <= known, event


def test_nothing_else_logs_in_another_way() -> None:
    for path in sorted((ROOT / "aggregator").rglob("*.py")):
        text = path.read_text()
        assert not re.search(r"^(?!log)\w+ = structlog\.get_logger", text, re.MULTILINE), path
        assert not re.search(r"logging\.(debug|info|warning|error|exception)\(", text), path


def test_the_events_stand_in_the_order_of_the_alphabet() -> None:
    assert list(documented()) == sorted(documented())
