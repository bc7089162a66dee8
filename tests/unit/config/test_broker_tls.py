"""TLS to brokers: checked unless the URL says otherwise, and what cannot be read is told without a part of it."""

from __future__ import annotations

import ssl

import pytest

from aggregator.config.broker_tls import amqp_tls, checked, fault_of
from aggregator.config.load import load_settings
from aggregator.errors import ConfigurationError


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://:p@h/0", "redis://:p@h/0"),
        ("rediss://:p@h/0", "rediss://:p@h/0?ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_ca_certs=/ca", "rediss://h/0?ssl_ca_certs=/ca&ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_cert_reqs=none"),
        ("redis+socket:///run/r.sock?virtual_host=0", "redis+socket:///run/r.sock?virtual_host=0"),
    ],
)
def test_a_certificate_of_redis_is_verified_unless_the_url_says_otherwise(url: str, wanted: str) -> None:
    assert checked(url) == wanted


def test_rabbitmq_is_verified_with_its_name_unless_the_url_says_otherwise() -> None:
    assert amqp_tls("amqp://h//") == ("amqp://h//", None)
    url, options = amqp_tls("amqps://u:p%40@h:5671//?ssl_ca_certs=/ca&heartbeat=10")
    assert url == "amqps://u:p%40@h:5671//?heartbeat=10"
    assert options == {"ca_certs": "/ca", "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "h"}
    _, options = amqp_tls("amqps://h//?ssl_certfile=/c&ssl_keyfile=/k&ssl_check_hostname=false")
    assert options == {"certfile": "/c", "keyfile": "/k", "cert_reqs": ssl.CERT_REQUIRED}
    _, options = amqp_tls("amqps://h//?ssl_cert_reqs=none")
    assert options == {"cert_reqs": ssl.CERT_NONE}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("amqps://h//?ssl_ca=/x", "the parameter ssl_ca, which there is not"),
        ("amqps://h//?ssl_cert_reqs=yes", "write required, optional or none"),
        ("rediss://h/?ssl_cert_reqs=CERT", "write required, optional or none"),
        ("redis://:hunter/2@h:6379/0", "%2F"),
        ("redis://[::1/0", "can be read"),
    ],
)
def test_what_is_wrong_with_a_url_is_told_without_it(url: str, words: str) -> None:
    said = fault_of(url) or ""
    assert words in said
    assert "hunter" not in said
    with pytest.raises(ConfigurationError, match="AGGREGATOR_BROKER_URL"):
        load_settings(environment={"HOME": "/", "AGGREGATOR_BROKER_URL": url})


@pytest.mark.parametrize("url", ["redis://h", "amqps://h//", "sentinel://a:1;sentinel://b:2", "memory://"])
def test_what_is_right_is_let_through(url: str) -> None:
    assert fault_of(url) is None
