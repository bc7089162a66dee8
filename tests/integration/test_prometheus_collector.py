"""The prometheus collector against real sockets: targets that answer well, badly, late, and never."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from aggregator.collectors.prometheus import PrometheusCollector
from aggregator.collectors.protocol import Collected, Target
from aggregator.config.source_model import PrometheusSource
from aggregator.exposition.series import Kind
from tests.hostile_server import GOOD, Hostile, hostile_server


@pytest.fixture
def server() -> Iterator[str]:
    with hostile_server() as place:
        yield place


def source(**changes: Any) -> PrometheusSource:
    return PrometheusSource(**{"name": "test", "targets": ("http://127.0.0.1:9/",), "timeout": "15s", **changes})


def targets(server: str, *paths: str) -> list[Target]:
    labels = [(("instance", path), ("job", "test")) for path in paths]
    return [Target(place, f"http://{server}/{path}", labels[place]) for place, path in enumerate(paths)]


def collect_one(server: str, path: str, collector: PrometheusCollector | None = None, **changes: Any) -> Collected:
    (one,) = (collector or PrometheusCollector()).collect(source(**changes), targets(server, path))
    return one


def by_name(one: Collected, batch: int = 0) -> dict[str, float]:
    keys, values = one.batches[batch].keys, one.batches[batch].values
    return {key.metric: value for key, value in zip(keys, values.tolist(), strict=True)}


def test_a_good_target_gives_its_samples_and_the_report(server: str) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    one = collect_one(server, "good")
    assert (one.error, one.reason, one.samples, one.rejected) == (None, None, 2, {})
    assert before <= one.started_at <= datetime.now(UTC)
    assert one.started_at.microsecond % 1_000 == 0
    (batch,) = one.batches
    assert batch.at == one.started_at
    values = by_name(one)
    assert values.pop("scrape_duration_seconds") == one.duration_seconds > 0
    assert values == {"up": 1, "scrape_samples_scraped": 2, "a_total": 5, "b": 1.5}
    assert {key.kind for key in batch.keys if key.metric == "a_total"} == {Kind.COUNTER}
    assert all(key.labels == (("instance", "good"), ("job", "test")) for key in batch.keys)


def test_a_target_is_asked_as_prometheus_asks(server: str) -> None:
    collect_one(server, "good")
    (headers,) = Hostile.seen
    assert headers["accept"].startswith("application/openmetrics-text;version=1.0.0")
    assert headers["accept-encoding"] == "gzip"
    assert headers["user-agent"].startswith("aggregator/")
    assert headers["x-prometheus-scrape-timeout-seconds"] == "15"
    assert "authorization" not in headers


def test_a_packed_answer_in_two_parts_is_read(server: str) -> None:
    assert collect_one(server, "gzipped").samples == 2


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("slow", "timeout"), ("dribble", "timeout"), ("huge", "body_too_large"), ("bomb", "body_too_large"),
        ("brotli", "content_encoding"), ("lie", "compression"), ("halfzip", "truncated"), ("short", "truncated"),
        ("cut", "truncated"), ("latin", "encoding"), ("html", "content_type"), ("page", "parse"), ("moved", "redirect"),
        ("gone", "http_status"), ("hangup", "connection"), ("gibberish", "protocol"),
    ],
)  # fmt: skip
def test_a_bad_target_is_down_with_its_reason_and_no_sample(server: str, path: str, reason: str) -> None:
    timeout = "300ms" if reason == "timeout" else "15s"
    one = collect_one(server, path, timeout=timeout, limits={"body_bytes": 100_000})
    assert (one.reason, one.samples) == (reason, 0)
    assert one.error
    assert "hidden" not in one.error
    assert {**by_name(one), "scrape_duration_seconds": 0} == {
        "up": 0,
        "scrape_duration_seconds": 0,
        "scrape_samples_scraped": 0,
    }


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:1/", "refused"),
        ("http://nowhere.invalid/", "dns"),
        ("http://127.0.0.1:99999/", "address"),
        ("http://[::1/", "address"),
    ],
)
def test_a_target_that_cannot_be_reached_says_why(address: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = socket.getaddrinfo

    def answer(host: Any, *arguments: Any, **named: Any) -> Any:
        if host == "nowhere.invalid":  # whatever name servers this machine has
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return find(host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with_password = address.replace("://", "://user:hidden@")
    (one,) = PrometheusCollector().collect(source(), [Target(1, with_password, ())])
    assert one.reason == reason
    assert one.error
    assert "hidden" not in one.error


def test_plain_http_behind_https_is_a_tls_fault(server: str) -> None:
    (one,) = PrometheusCollector().collect(source(), [Target(1, f"https://{server}/", ())])
    assert one.reason == "tls"


def test_user_and_password_of_the_address_are_sent(server: str) -> None:
    (one,) = PrometheusCollector().collect(source(), [Target(1, f"http://us%20er:p%40ss@{server}/good", ())])
    assert one.samples == 2
    assert Hostile.seen[0]["authorization"] == "Basic dXMgZXI6cEBzcw=="


def test_one_slow_target_of_a_hundred_delays_nobody(server: str) -> None:
    chosen = targets(server, "slow", *(f"good/{number}" for number in range(99)))
    arriving = PrometheusCollector().collect(source(timeout="15s"), chosen)
    first = [next(arriving) for _ in range(99)]
    assert all(one.error is None and one.target.id != 0 for one in first)
    Hostile.release.set()
    (last,) = arriving
    assert (last.target.id, last.error, last.samples) == (0, None, 2)


def test_an_abandoned_collection_leaves_no_thread(server: str) -> None:
    before = set(threading.enumerate())
    arriving = PrometheusCollector().collect(source(timeout="15s"), targets(server, "slow", "good"))
    next(arriving)
    assert any(thread.name == "scrape" for thread in set(threading.enumerate()) - before)
    arriving.close()  # type: ignore[attr-defined] # it is a generator
    assert not any(thread.name == "scrape" for thread in set(threading.enumerate()) - before)


def test_no_targets_give_nothing() -> None:
    assert list(PrometheusCollector().collect(source(), [])) == []


def test_keys_stay_the_same_object_while_the_series_do(server: str) -> None:
    collector = PrometheusCollector()
    first = collect_one(server, "good", collector)
    Hostile.bodies["/good"] = GOOD.replace(b"1.5", b"2.5")
    second = collect_one(server, "good", collector)
    assert second.batches[0].keys is first.batches[0].keys
    assert by_name(second)["b"] == 2.5
    Hostile.bodies["/good"] = GOOD + b"c 1\n"
    assert collect_one(server, "good", collector).batches[0].keys is not first.batches[0].keys
    down = [collect_one(server, "gone", collector).batches[0].keys for _ in range(2)]
    assert down[0] is down[1]


def test_another_rule_makes_the_collector_choose_anew(server: str) -> None:
    collector = PrometheusCollector()
    assert collect_one(server, "good", collector).samples == 2
    assert collect_one(server, "good", collector, drop=("b",)).samples == 1


def test_keep_and_drop_change_what_is_kept_and_not_what_was_scraped(server: str) -> None:
    values = by_name(collect_one(server, "good", keep=("a_.*", "b"), drop=("b",)))
    assert (values["scrape_samples_scraped"], values["up"]) == (2, 1)
    assert {"a_total"} == set(values) - {"up", "scrape_samples_scraped", "scrape_duration_seconds"}


def test_a_clash_of_labels_is_renamed_or_honoured(server: str) -> None:
    Hostile.bodies["/good"] = b'a{job="theirs",instance=""} 1\n'
    renamed = collect_one(server, "good").batches[0].keys[-1]
    assert renamed.labels == (("exported_job", "theirs"), ("instance", "good"), ("job", "test"))
    assert collect_one(server, "good", honor_labels=True).batches[0].keys[-1].labels == (("job", "theirs"),)


def test_duplicates_are_counted_and_the_first_is_kept(server: str) -> None:
    Hostile.bodies["/good"] = b"a 1\na 2\nup 7\nb 3\n"
    one = collect_one(server, "good")
    assert one.rejected == {"duplicate": 2}
    assert (by_name(one)["a"], by_name(one)["up"], one.samples) == (1, 1, 2)


def test_a_nan_is_no_sample(server: str) -> None:
    Hostile.bodies["/good"] = b"a NaN\nb 3\n"
    one = collect_one(server, "good")
    assert one.samples == 1
    assert np.isnan(by_name(one)["a"])


def test_samples_with_instants_of_their_own_come_in_batches_of_their_own(server: str) -> None:
    later = int(time.time() * 1_000) - 5_000
    far = int(time.time() * 1_000) + 700_000
    early = later - 1_000
    lines = [f"a 1 {later}", f"b 2 {early}", "c 3", f"a 4 {early}", f"d 5 {far}", "d 6 0", f"b 7 {early}"]
    Hostile.bodies["/good"] = ("\n".join(lines) + "\n").encode()
    collector = PrometheusCollector()
    one, again = (collect_one(server, "good", collector) for _ in range(2))
    assert [batch.at.timestamp() * 1_000 for batch in one.batches[1:]] == [early, later]
    assert [by_name(one, batch) for batch in (1, 2)] == [{"b": 2, "a": 4}, {"a": 1}]
    assert by_name(one)["c"] == 3
    assert (one.samples, one.rejected) == (4, {"duplicate": 1, "timestamp": 2})
    assert all(b.keys is a.keys for a, b in zip(one.batches, again.batches, strict=True))
    plain = collect_one(server, "good", collector, honor_timestamps=False)
    assert len(plain.batches) == 1
    assert (plain.samples, plain.rejected) == (4, {"duplicate": 3})


def test_a_target_with_a_timestamp_for_every_sample_is_refused(server: str) -> None:
    now_ms = int(datetime.now(UTC).timestamp() * 1_000)
    lines = (f'a{{n="{place}"}} 1 {now_ms - place}\n' for place in range(1_001))
    Hostile.bodies["/good/stamped"] = "".join(lines).encode()
    one = collect_one(server, "good/stamped")
    assert one.reason == "too_many_timestamps"
    assert by_name(one)["up"] == 0
    assert collect_one(server, "good/stamped", honor_timestamps=False).samples == 1_001
