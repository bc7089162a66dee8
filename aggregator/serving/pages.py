"""The status page: one self-contained document without scripts, that asks for itself again every few seconds."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from http import HTTPStatus
from typing import Any

from aggregator.serving.responses import Response
from aggregator.serving.sparkline import is_trend, sparkline

REFRESH_SECONDS = 5
#: A page of ten thousand targets helps nobody; those that are down come first.
MOST_TARGETS_SHOWN = 200

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #888; --bad: #c62828; --good: #2e7d32; --soft: #8881; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff7b72; --good: #6fce7a; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
header p { color: var(--dim); margin: .2rem 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--dim); font-size: .85rem; }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; } .bad { color: var(--bad); } .good { color: var(--good); } .dim { color: var(--dim); }
.box { border: 1px solid var(--line); border-left: .3rem solid var(--good); border-radius: .3rem;
  background: var(--soft); padding: .6rem 1rem; }
.box.wrong { border-left-color: var(--bad); } .box ul { margin: 0; padding-left: 1.1rem; }
.wide { overflow-x: auto; } nav a { margin-right: 1rem; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_CONTENT_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; frame-ancestors 'none'"

Document = Mapping[str, Any]
_Row = Sequence[str]


def render_page(status: Document, summaries: Sequence[Document]) -> Response:
    """The page for a status as its JSON document, and the stored summaries with their values."""
    as_of = status["as_of"]
    parts = [
        f"<header><h1>aggregator</h1><p>{_text(as_of)} · version {_text(status['version'])} · {_servers(status)}</p>",
        _problems(status["problems"]),
        "</header>",
        _section("Machines", ("Instance", "CPU busy", "Load", "Memory used", "Fullest disk"), _glances(status)),
        _section("Sources", ("Source", "Kind", "Interval", "Up", "Series", "Last success", "Missed"), _sources(status)),
        _section("Tiers", ("Tier", "Step", "Newest bucket", "Lag", "Backfill lag", "Backlog"), _tiers(status)),
        _section("Stored", ("Tier", "Form", "Bytes", "Empty", "Samples or rollups", "Bytes each"), _stored(status)),
        _section("Stored of each source", ("Source", "Series", "Bytes", "Bytes each"), _stored_of_sources(status)),
        *(_summary(summary, as_of) for summary in summaries),
        _section("Nodes", ("Node", "Last seen", "Configuration", "Version"), _nodes(status)),
        _section("Targets", ("Source", "Instance", "State", "Since", "Last error"), _targets(status)),
        '<nav><h2>More</h2><a href="/metrics">metrics</a><a href="/api/v1/status">status as JSON</a></nav>',
    ]
    page = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>aggregator</title>'
        f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    return Response(HTTPStatus.OK, page.encode(), "text/html; charset=utf-8", _CONTENT_POLICY)


def _servers(status: Document) -> str:
    shown = ((name, server["up"]) for name, server in status["servers"].items() if server["up"] is not None)
    return " · ".join(f"{_text(name)} {_mark(is_up, 'up', 'down')}" for name, is_up in shown)


def _problems(problems: Sequence[str]) -> str:
    if not problems:
        return '<div class="box">All is well.</div>'
    items = "".join(f"<li>{_text(problem)}</li>" for problem in problems)
    return f'<div class="box wrong"><ul>{items}</ul></div>'


def _section(title: str, heads: Sequence[str], rows: Iterable[_Row]) -> str:
    """A table, or nothing where there are no rows; cells are HTML already."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    return f'<section><h2>{_text(title)}</h2><div class="wide"><table><tr>{head}</tr>{body}</table></div></section>'


def _glances(status: Document) -> Iterable[_Row]:
    for glance in status["glance"]:
        disk = f"{_percent(glance['disk_fullest_ratio'])} {_text(glance['disk_mountpoint'])}"
        load = _number(glance["load1"])
        cpu, memory = _percent(glance["cpu_busy_ratio"]), _percent(glance["memory_used_ratio"])
        yield _text(glance["instance"]), cpu, load, memory, disk


def _sources(status: Document) -> Iterable[_Row]:
    for source in status["sources"]:
        last = _ago(source["last_success"], status["as_of"])
        yield (
            _text(source["name"]),
            _text(source["kind"]),
            _seconds(source["interval_seconds"]),
            _mark(source["down"] == 0, f"{source['up']} of {source['targets']}"),
            f"{source['series']:,}",
            _mark(not source["stale"], last),
            f"{source['slots_missed']:,}",
        )


def _tiers(status: Document) -> Iterable[_Row]:
    for tier in status["tiers"]:
        newest = _text(tier["newest_bucket"] or "none yet")
        lags = (_seconds(tier["lag_seconds"]), _seconds(tier["backfill_lag_seconds"]))
        step = _seconds(tier["step_seconds"])
        yield _text(tier["name"]), step, _mark(not tier["stale"], newest), *lags, f"{tier['backlog']:,}"


def _stored(status: Document) -> Iterable[_Row]:
    """Both forms of a tier as far as anything is in them."""
    for one in status["stored"]:
        if one["items"]:
            about = "about " if one["is_estimate"] else ""
            held = f"{about}{one['items']:,}"
            sizes = f"{one['bytes']:,}", f"{one['empty_bytes']:,}"
            yield _text(one["tier"]), _text(one["form"]), *sizes, held, _number(one["bytes_each"])


def _stored_of_sources(status: Document) -> Iterable[_Row]:
    for one in status["stored_of_sources"]:
        each = ", ".join(f"{_text(where)} {_number(size)}" for where, size in one["bytes_each"].items())
        yield _text(one["source"]), f"{one['series']:,}", f"about {one['bytes']:,}", each


def _nodes(status: Document) -> Iterable[_Row]:
    for node in status["nodes"]:
        seen = _mark(node["alive"], _ago(node["last_seen"], status["as_of"]))
        yield _text(node["name"]), seen, _text(node["config_hash"]), _text(node["version"])


def _targets(status: Document) -> Iterable[_Row]:
    order = {False: 0, None: 1, True: 2}
    for target in sorted(status["targets"], key=lambda target: order[target["up"]])[:MOST_TARGETS_SHOWN]:
        state = '<span class="dim">unknown</span>' if target["up"] is None else _mark(target["up"], "up", "down")
        since = _ago(target["since"], status["as_of"])
        yield _text(target["source"]), _text(target["instance"]), state, since, _text(target["last_error"] or "")
    if len(status["targets"]) > MOST_TARGETS_SHOWN:
        yield f"and {len(status['targets']) - MOST_TARGETS_SHOWN:,} more", "", "", "", ""


def _summary(summary: Document, as_of: str) -> str:
    rows: Sequence[Document] = [row for row in summary["value"] or () if isinstance(row, Mapping)]
    heads = list(dict.fromkeys(name for row in rows for name in row))
    cells = ([_cell(row.get(name)) for name in heads] for row in rows)
    title = f"Summary {summary['name']}, computed {_age(summary['computed_at'], as_of)}"
    shown = _section(title, heads, cells) or f"<section><h2>{_text(title)}</h2><p>It has no rows.</p></section>"
    error = summary.get("error")
    return shown + (f'<p class="bad">The last refresh failed: {_text(error)}</p>' if error else "")


def _cell(value: Any) -> str:  # noqa: ANN401 - what JSON can hold
    if is_trend(value):
        return _text(sparkline(value))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return _number(value) if is_number else _text("" if value is None else value)


def _text(value: object) -> str:
    return escape(str(value))


def _mark(is_good: Any, good: str, bad: str | None = None) -> str:  # noqa: ANN401 - JSON's true and false
    """Text in the colour of its state; `good` and `bad` are HTML already."""
    return f'<span class="{"good" if is_good else "bad"}">{good if is_good or bad is None else bad}</span>'


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"


def _percent(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.0%}"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.3g} s" if seconds < 1_000 else f"{seconds:,.0f} s"  # noqa: PLR2004 - three digits, then whole


def _ago(instant: str | None, as_of: str) -> str:
    return '<span class="dim">never</span>' if instant is None else _text(_age(instant, as_of))


def _age(instant: str, as_of: str) -> str:
    age = datetime.fromisoformat(as_of) - datetime.fromisoformat(instant)
    return f"{_seconds(max(0.0, age.total_seconds()))} ago"
