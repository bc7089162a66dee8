"""TLS and authentication of targets as they are configured: what is right, what is refused, and no secret shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.config.load import load_settings
from aggregator.config.source_model import PrometheusSource
from aggregator.errors import ConfigurationError

SECRET = "hunter2-of-the-test"


def load(tmp_path: Path, body: str, targets: str = '["https://h:1/"]') -> PrometheusSource:
    path = tmp_path / "a.toml"
    path.write_text(f'[[sources]]\nname = "s"\nkind = "prometheus"\ntargets = {targets}\n{body}')
    (source,) = load_settings(path, environment={"HOME": "/"}).sources
    assert isinstance(source, PrometheusSource)
    return source


def faults(tmp_path: Path, body: str, targets: str = '["https://h:1/"]') -> str:
    with pytest.raises(ConfigurationError) as raised:
        load(tmp_path, body, targets)
    assert SECRET not in str(raised.value)
    return str(raised.value).removeprefix(f"{tmp_path}/")


def test_files_count_from_the_configuration(tmp_path: Path) -> None:
    source = load(tmp_path, 'bearer_token_file = "t"\ntls = { ca_file = "/x/ca.pem", cert_file = "c", key_file = "k" }')
    assert source.bearer_token_file == str(tmp_path / "t")
    assert source.tls is not None
    assert (source.tls.ca_file, source.tls.cert_file) == ("/x/ca.pem", str(tmp_path / "c"))
    basic = load(tmp_path, 'basic_auth = { username = "u", password_file = "p" }').basic_auth
    assert basic is not None
    assert basic.password_file == str(tmp_path / "p")


def test_what_is_not_given_is_not_published(tmp_path: Path) -> None:
    source = load(tmp_path, 'tls = { ca_file = "ca" }')
    dumped = source.model_dump(mode="json", exclude_unset=True)
    assert dumped["tls"] == {"ca_file": str(tmp_path / "ca")}
    assert "basic_auth" not in dumped


@pytest.mark.parametrize(
    ("body", "place", "words"),
    [
        (f'bearer_token = "{SECRET}"', 'a.toml:5: [[sources]] "s": bearer_token:', "write bearer_token_file ="),
        (
            f'basic_auth = {{ username = "u", password = "{SECRET}" }}',
            'a.toml:5: [[sources]] "s": basic_auth.password:',
            "write password_file =",
        ),
        (f'basic_auth = "u:{SECRET}"', 'a.toml:5: [[sources]] "s": basic_auth:', "this is given where a table"),
        ('basic_auth = { username = "u:v", password_file = "p" }', "a.toml:5:", "this is not allowed"),
        ('basic_auth = { username = "u" }', 'a.toml:5: [[sources]] "s": basic_auth.password_file:', "is missing"),
        ('tls = { cert_file = "c" }', 'a.toml:5: [[sources]] "s": tls:', "cert_file is given without key_file"),
        ('tls = { ca_fiel = "c" }', 'a.toml:5: [[sources]] "s": tls.ca_fiel:', "did you mean ca_file?"),
        ('tls = { ca_file = "c", insecure_skip_verify = true }', "a.toml:5:", "of no use"),
        (
            'bearer_token_file = "t"\nbasic_auth = { username = "u", password_file = "p" }',
            'a.toml:5: [[sources]] "s": bearer_token_file:',
            "takes one of the two",
        ),
        ("series_limit = 0", 'a.toml:5: [[sources]] "s": series_limit:', "must be more than 0"),
    ],
)
def test_what_cannot_be_right_is_a_fault_with_its_line_and_field(
    tmp_path: Path, body: str, place: str, words: str
) -> None:
    found = faults(tmp_path, body)
    assert place in found
    assert words in found


def test_tls_for_targets_that_have_none_is_a_fault(tmp_path: Path) -> None:
    found = faults(tmp_path, 'tls = { ca_file = "c" }', targets='["http://h:1/"]')
    assert "no target begins with https://" in found


@pytest.mark.parametrize(
    "targets",
    ['["htp://u:{}@h:1/"]', '"http://u:{}@h:1/"', '["h:1", "u:{}@h:1"]', '["http:/u:{}@h"]'],
)
def test_the_password_of_a_mistyped_target_is_not_shown(tmp_path: Path, targets: str) -> None:
    assert faults(tmp_path, "", targets.format(SECRET)).startswith('a.toml:4: [[sources]] "s": targets')
