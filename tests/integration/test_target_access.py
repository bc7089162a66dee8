"""Targets over TLS and with authentication: real servers, certificates of the test's own, secrets from files."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from aggregator.collectors.prometheus import PrometheusCollector
from aggregator.collectors.protocol import Collected, Target
from aggregator.config.source_model import PrometheusSource
from tests.tls_server import Asking, Certificates, asking_server

TOKEN = "s3cret-token-of-the-test"
PASSWORD = 'pass"wörd-of-the-test'


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.below(tmp_path_factory.mktemp("ours"), "localhost")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.below(tmp_path_factory.mktemp("theirs"), "localhost")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.fixture
def silent_log() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


def collect(url: str, collector: PrometheusCollector | None = None, **settings: Any) -> Collected:
    source = PrometheusSource(name="test", targets=(url,), **settings)
    (one,) = (collector or PrometheusCollector()).collect(source, [Target(1, url, ())])
    return one


def test_a_target_whose_authority_is_trusted_is_read(certificates: Certificates) -> None:
    with asking_server(certificates.server_context()) as port:
        one = collect(f"https://localhost:{port}/", tls={"ca_file": certificates.ca})
    assert (one.error, one.samples) == (None, 2)


@pytest.mark.parametrize("settings", [{}, {"tls": {"ca_file": "theirs"}}], ids=["the system's", "another"])
def test_a_target_of_an_authority_that_is_not_trusted_is_down(
    certificates: Certificates, strangers: Certificates, settings: dict[str, Any], token_file: Path
) -> None:
    if settings:
        settings = {"tls": {"ca_file": strangers.ca}}
    with asking_server(certificates.server_context()) as port:
        one = collect(f"https://localhost:{port}/", bearer_token_file=str(token_file), **settings)
        assert Asking.seen == []  # the token has not left
    assert one.reason == "tls"
    assert "unable to get local issuer certificate" in (one.error or "")


def test_a_certificate_of_another_name_is_refused_and_of_the_one_that_was_said_taken(
    certificates: Certificates,
) -> None:
    with asking_server(certificates.server_context()) as port:
        wrong = collect(f"https://127.0.0.1:{port}/", tls={"ca_file": certificates.ca})
        said = collect(f"https://127.0.0.1:{port}/", tls={"ca_file": certificates.ca, "server_name": "localhost"})
        skipped = collect(f"https://127.0.0.1:{port}/", tls={"insecure_skip_verify": True})
    assert wrong.reason == "tls"
    assert "not valid for '127.0.0.1'" in (wrong.error or "")
    assert (said.error, skipped.error) == (None, None)


def test_a_target_that_asks_for_a_certificate_gets_ours(certificates: Certificates, strangers: Certificates) -> None:
    with asking_server(certificates.server_context(asks_clients=True)) as port:
        url, trust = f"https://localhost:{port}/", {"ca_file": certificates.ca}
        ours = {"cert_file": certificates.client, "key_file": certificates.client_key}
        theirs = {"cert_file": strangers.client, "key_file": strangers.client_key}
        assert collect(url, tls={**trust, **ours}).error is None
        for refused in (collect(url, tls=trust), collect(url, tls={**trust, **theirs})):
            assert refused.reason in ("tls", "connection")
            assert refused.samples == 0


def test_a_certificate_without_its_key_is_told(certificates: Certificates, strangers: Certificates) -> None:
    pair = {"cert_file": certificates.client, "key_file": strangers.client_key}
    one = collect("https://localhost:1/", tls=pair)
    assert one.reason == "credentials"
    assert f"{certificates.client} and {strangers.client_key} are no certificate with its key" in (one.error or "")


def test_a_token_is_sent_and_a_changed_one_at_the_next_collection(token_file: Path) -> None:
    collector = PrometheusCollector()
    with asking_server(wanted=f"Bearer {TOKEN}") as port:
        url, settings = f"http://localhost:{port}/", {"bearer_token_file": str(token_file)}
        assert collect(url, collector, **settings).error is None
        token_file.write_text("the-one-of-yesterday")
        refused = collect(url, collector, **settings)
        assert (refused.reason, refused.error) == ("http_status", "the target answered 401 Unauthorized")
        assert refused.batches[0].values[0] == 0  # up
        token_file.write_text(TOKEN)
        assert collect(url, collector, **settings).error is None


def test_a_user_and_password_are_sent_as_prometheus_sends_them(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(f" {PASSWORD}\n")
    sent = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    with asking_server(wanted=f"Basic {sent}") as port:
        basic = {"username": "me", "password_file": str(path)}
        assert collect(f"http://localhost:{port}/", basic_auth=basic).error is None
        # What the source says beats what a file of targets may have put into an address.
        assert collect(f"http://other:one@localhost:{port}/", basic_auth=basic).error is None


def make_pipe(path: Path) -> None:
    import os  # noqa: PLC0415 - for this alone

    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "cannot be read: No such file"),  # noqa: ARG005 - nothing is made
        (lambda path: path.mkdir(), "Is a directory"),
        (make_pipe, "not a regular file"),
        (lambda path: path.write_text(" \n"), "is empty"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not UTF-8"),
        (lambda path: path.write_text("two\nlines: of\nheaders"), "holds no token"),
        (lambda path: path.write_text("x" * 70_000), "is longer than"),
    ],
    ids=["missing", "folder", "pipe", "empty", "bytes", "lines", "long"],
)
def test_a_file_that_cannot_be_used_fails_the_collection_at_once(tmp_path: Path, make: Any, words: str) -> None:
    path = tmp_path / "token"
    make(path)
    with asking_server() as port:
        one = collect(f"http://localhost:{port}/", bearer_token_file=str(path))
        assert Asking.seen == []
    assert one.reason == "credentials"
    assert (one.error or "").startswith(str(path))
    assert words in (one.error or "")


def test_an_empty_file_of_authorities_is_not_all_authorities(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    for content, words in (("\n", "is empty"), ("no certificate\n", "holds no certificate in PEM format")):
        path.write_text(content)
        one = collect("https://localhost:1/", tls={"ca_file": str(path)})
        assert (one.reason, one.error) == ("credentials", one.error)
        assert words in (one.error or "")


@pytest.mark.parametrize("path", ["label", "text", "reason", "long", "type", "encoding", "moved"])
def test_a_target_that_repeats_what_it_was_sent_gives_it_to_nobody(
    path: str, token_file: Path, silent_log: list[Any]
) -> None:
    with asking_server() as port:
        one = collect(f"http://localhost:{port}/{path}", bearer_token_file=str(token_file))
        assert Asking.seen == [f"Bearer {TOKEN}"]  # once: where it redirects, nobody is asked
    assert one.error
    assert one.samples == 0
    shown = repr((one, silent_log)).lower()
    assert TOKEN not in shown
    assert TOKEN[:9] not in shown  # a part of it neither


def test_a_node_reads_files_only_where_it_may(token_file: Path) -> None:
    collector = PrometheusCollector(may_read=lambda _: False)
    with asking_server() as port:
        one = collect(f"http://localhost:{port}/", collector, bearer_token_file=str(token_file))
        assert Asking.seen == []
        assert collect(f"http://localhost:{port}/", collector).error is None
    assert one.reason == "credentials"
    assert 'read_files = "local"' in (one.error or "")
