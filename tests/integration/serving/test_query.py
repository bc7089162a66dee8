"""`query`, `status` and `summary` as they are typed, against a real database and a real cache."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from aggregator import client
from aggregator.cli.app import run
from aggregator.client import summary_key
from aggregator.errors import ServerUnreachableError, SummaryNotReadyError, UnknownSummaryError, UsageError
from aggregator.storage.query import QueryTier, choose_tier, similar_names

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.serving.conftest import Past

NOW = datetime(2026, 3, 1, tzinfo=UTC)
Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(shared: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Run a command line in this process; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AGGREGATOR_DATABASE_URL", shared.url)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def rows(typed: Typed, selector: str, *options: str) -> list[dict[str, Any]]:
    code, out, _ = typed("query", selector, "--format", "json", *options)
    assert code == 0
    found: list[dict[str, Any]] = json.loads(out)
    return found


def test_json_has_the_promised_shape(typed: Typed) -> None:
    found = rows(typed, 'temperature{instance="t1"}', "--from", "-10m", "--step", "1m", "--stat", "avg,max")
    assert found
    keys = ["time", "metric", "labels", "avg", "max", "completeness", "is_final", "tier"]
    assert [list(row) for row in found] == [keys] * len(found)
    assert found[-1]["labels"] == {"instance": "t1", "job": "scripted", "path": "/a"}
    assert (found[-1]["metric"], found[-1]["tier"]) == ("temperature", "1m")
    assert {row["avg"] for row in found} <= {10.0, 11.0, 12.0, 13.0}


@pytest.mark.parametrize(
    ("selector", "instances"),
    [
        ("temperature", {"t0", "t1"}),
        ('temperature{instance=~"t."}', {"t0", "t1"}),
        ('temperature{instance=~"t"}', set()),
        ('temperature{instance!="t1"}', {"t0"}),
        ('temperature{instance!~".*1"}', {"t0"}),
        ('temperature{absent=""}', {"t0", "t1"}),
        ('temperature{absent!=""}', set()),
        ('{__name__=~"temp.*",instance="t0"}', {"t0"}),
        (r'temperature{instance=~"t\\d"}', {"t0", "t1"}),
        ('temperature{instance="t0\' OR true --"}', set()),
    ],
)
def test_a_selector_finds_what_prometheus_would(typed: Typed, selector: str, instances: set[str]) -> None:
    assert {row["labels"]["instance"] for row in rows(typed, selector, "--step", "raw")} == instances


def test_samples_are_raw_values_in_order_of_time(typed: Typed) -> None:
    found = rows(typed, 'requests_total{instance="t0"}', "--step", "raw")
    assert [row["value"] for row in found] == [0.0, 30.0, 60.0, 90.0]
    assert [row["time"] for row in found] == sorted(row["time"] for row in found)
    assert {row["tier"] for row in found} == {"raw"}


def test_a_statistic_that_a_kind_lacks_is_null(typed: Typed) -> None:
    assert all(row["avg"] is None for row in rows(typed, "requests_total", "--step", "1m"))
    assert any(row["rate"] == pytest.approx(1 / 3) for row in rows(typed, "requests_total", "--step", "1m"))


def test_the_end_of_the_interval_is_not_in_it(typed: Typed) -> None:
    found = rows(typed, 'temperature{instance="t0"}', "--step", "raw")
    first, second = found[0]["time"], found[1]["time"]
    cut = rows(typed, 'temperature{instance="t0"}', "--step", "raw", "--from", first, "--to", second)
    assert [row["time"] for row in cut] == [first]


def test_csv_and_table_show_the_same_rows(typed: Typed) -> None:
    expected = rows(typed, "temperature", "--step", "1m")
    _, out, _ = typed("query", "temperature", "--step", "1m", "--format", "csv")
    found = list(csv.DictReader(io.StringIO(out)))
    assert [row["time"] for row in found] == [row["time"] for row in expected]
    assert json.loads(found[0]["labels"]) == expected[0]["labels"]
    _, out, _ = typed("query", "temperature", "--step", "1m")
    assert 'temperature{instance="t0",job="scripted",path="/a"}' in out
    assert all(row["time"] in out for row in expected)


@pytest.mark.parametrize(
    ("selector", "hint"),
    [
        ("temperatur", "similar names: temperature"),
        ('temperature{instance="t9"}', 'one has temperature{instance="t'),
        ('temperature{instance=~"t.",path!="/a"}', "no series of temperature matches"),
    ],
)
def test_nothing_found_is_an_empty_result_with_a_hint(typed: Typed, selector: str, hint: str) -> None:
    code, out, errors = typed("query", selector, "--format", "json")
    assert (code, json.loads(out)) == (0, [])
    assert hint in errors


def test_nothing_in_the_interval_is_told_apart(typed: Typed) -> None:
    _, _, errors = typed("query", "temperature", "--from", "-3d", "--to", "-2d", "--format", "json")
    assert "nothing in this interval" in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("temperature{", ), "selector"),
        (("temperature", "--from", "2026-01-01T00:00:00"), "no offset"),
        (("temperature", "--from", "now", "--to", "-1h"), "not before"),
        (("temperature", "--step", "7m"), "one of 1m, 5m, 1h, 1d, raw or auto"),
        (("temperature", "--stat", "avg,mean"), "mean"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_line_and_exit_code_2(typed: Typed, arguments: tuple[str, ...], words: str) -> None:
    code, out, errors = typed("query", *arguments)
    assert (code, out, len(errors.splitlines())) == (2, "", 1)
    assert words in errors


def test_auto_takes_the_finest_tier_with_few_points_that_is_still_kept() -> None:
    minutes, days = timedelta(minutes=1), timedelta(days=1)
    tiers = [
        QueryTier("1m", minutes, NOW - 14 * days),
        QueryTier("5m", 5 * minutes, NOW - 90 * days),
        QueryTier("1h", 60 * minutes, NOW - 730 * days),
        QueryTier("1d", days, NOW - 3_650 * days),
    ]

    def chosen(start: timedelta, finish: timedelta = timedelta()) -> str:
        return choose_tier(tiers, "auto", start=NOW - start, finish=NOW - finish)

    assert chosen(timedelta(hours=1)) == "1m"
    assert chosen(500 * minutes) == "1m"
    assert chosen(501 * minutes) == "5m"
    assert chosen(20 * days, 20 * days - minutes) == "5m"
    assert chosen(15 * days) == "1h"
    assert chosen(4_000 * days) == "1d"


def test_similar_names_are_those_that_contain_it_and_those_that_resemble_it() -> None:
    assert similar_names("load1", ["node_load1", "node_load15", "other"]) == ["node_load1", "node_load15"]
    assert similar_names("nod_load1", ["node_load1", "x"]) == ["node_load1"]


def test_status_is_0_when_all_is_well_and_1_when_something_is_stale(
    typed: Typed, installation: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGGREGATOR_DATABASE_URL", installation.url)
    code, out, _ = typed("status", "--json")
    assert (code, json.loads(out)["ok"]) == (0, True)
    code, out, _ = typed("status")
    assert code == 0
    assert "All is well." in out
    old = text("UPDATE aggregator.wakes SET woken_at = woken_at - interval '1 hour'")
    installation.database.run(lambda connection: connection.execute(old) and None)
    code, out, _ = typed("status")
    assert code == 1
    assert "beat has woken nothing" in out


def test_status_without_a_server_names_the_setting(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGGREGATOR_DATABASE_URL", "postgresql://u:hidden@127.0.0.1:1/d")
    code, out, errors = typed("status")
    assert (code, out) == (3, "")
    assert "AGGREGATOR_DATABASE_URL" in errors
    code, out, _ = typed("status", "--json")
    assert (code, json.loads(out)["servers"]["database"]["up"]) == (3, False)
    assert "hidden" not in out


def test_a_summary_is_read_from_the_cache(
    typed: Typed, cache_url: str, monkeypatch: pytest.MonkeyPatch, now: datetime
) -> None:
    monkeypatch.setenv("AGGREGATOR_CACHE_URL", cache_url)
    code, _, errors = typed("summary", "busiest")
    assert (code, len(errors.splitlines())) == (1, 1)
    assert "it was asked for" in errors
    document = {
        "name": "busiest",
        "value": [{"instance": "a[b]", "value": 0.25}],
        "as_of": now.isoformat(),
        "computed_at": (now - timedelta(minutes=2)).isoformat(),
        "tier": "1m",
        "completeness": 0.5,
        "is_final": False,
        "version": 9,
        "refresh_seconds": 30,
    }
    with client.connect(cache_url, timeout_seconds=1) as cache:
        cache.set(summary_key("aggregator", "busiest"), json.dumps(document))
    code, out, _ = typed("summary", "busiest", "--json")
    assert code == 0
    assert json.loads(out) == {**document, "stale": True, "error": None, "failed_at": None}
    _, out, _ = typed("summary", "busiest")
    assert "a[b]" in out
    assert "stale, as of" in out
    found = client.read("busiest")
    assert (found.value, found.version, found.completeness) == (({"instance": "a[b]", "value": 0.25},), 9, 0.5)
    assert not found.is_stale(now=now - timedelta(minutes=1))


def test_the_client_says_what_is_missing(cache_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGGREGATOR_CACHE_URL", raising=False)
    with pytest.raises(UsageError, match="AGGREGATOR_CACHE_URL"):
        client.read("x")
    with pytest.raises(SummaryNotReadyError, match="'x'"):
        client.read("x", url=cache_url)
    with client.connect(cache_url, timeout_seconds=1) as cache:
        cache.sadd("aggregator:summaries", "y")
    with pytest.raises(UnknownSummaryError, match="'x'"):
        client.read("x", url=cache_url)
    with pytest.raises(SummaryNotReadyError, match="'y'"):
        client.read("y", url=cache_url)
    with pytest.raises(ServerUnreachableError, match="AGGREGATOR_CACHE_URL"):
        client.read("x", url="redis://127.0.0.1:1/0")
    with pytest.raises(UsageError, match="cannot be read"):
        client.read("x", url="ftp://x")
