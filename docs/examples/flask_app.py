"""A web application that shows summaries: no database, no Celery, no computation in a request. See docs/webapp.md."""

from __future__ import annotations

from datetime import timedelta

from flask import Flask, Response, jsonify, render_template_string

from aggregator.client import Summary, read
from aggregator.errors import AggregatorError, UnknownSummaryError

app = Flask(__name__)

#: While Redis is away, what this process has read last is shown for so long; then an error.
FALLBACK = timedelta(minutes=10)

PAGE = """
<!DOCTYPE html>
<title>{{ summary.name }}</title>
<h1>{{ summary.name }}</h1>
{% if summary.is_stale() %}<p>As of {{ summary.as_of }}: the newest figures are missing.</p>{% endif %}
<table>
{% for row in summary.value %}<tr>{% for cell in row.values() %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
"""


@app.get("/")
@app.get("/<name>")
def page(name: str = "cpu-busy-by-host") -> str:
    """A summary as a table."""
    return render_template_string(PAGE, summary=_summary(name))


@app.get("/api/<name>")
def api(name: str) -> Response:
    """A summary as JSON."""
    return jsonify(_summary(name).as_document())


def _summary(name: str) -> Summary:
    return read(name, fallback=FALLBACK)  # AGGREGATOR_CACHE_URL says where


@app.errorhandler(UnknownSummaryError)
def unknown(error: UnknownSummaryError) -> tuple[dict[str, str], int]:
    """Nobody has configured it."""
    return {"error": str(error)}, 404


@app.errorhandler(AggregatorError)
def not_now(error: AggregatorError) -> tuple[dict[str, str], int, dict[str, str]]:
    """It has no value yet, or Redis is away: worth asking again."""
    return {"error": str(error)}, 503, {"Retry-After": "10"}
