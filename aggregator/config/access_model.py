"""How a source's targets are proved to be who they are, and how we say who we are: TLS and authentication."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from aggregator.config.fields import Model

if TYPE_CHECKING:
    from collections.abc import Callable

#: A file on the node that collects; in the configuration a relative one counts from the configuration's folder.
FilePath = Annotated[str, Field(min_length=1)]


class BasicAuth(Model):
    """A user name, and the file that holds the password; it is read at each collection."""

    username: str = Field(min_length=1, pattern=r"^[^:\x00-\x1f\x7f]+$")
    password_file: FilePath


class TlsSettings(Model):
    """What Prometheus calls tls_config. Without `ca_file` the system's authorities are trusted."""

    ca_file: FilePath | None = None
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    server_name: str | None = Field(default=None, min_length=1)
    insecure_skip_verify: bool = False

    @model_validator(mode="after")
    def _is_whole(self) -> TlsSettings:
        if (self.cert_file is None) != (self.key_file is None):
            given, missing = ("cert_file", "key_file") if self.key_file is None else ("key_file", "cert_file")
            raise ValueError(f"{given} is given without {missing}; a client certificate needs both")
        if self.insecure_skip_verify and self.ca_file is not None:
            raise ValueError("ca_file is of no use with insecure_skip_verify = true; leave one of them out")
        return self


#: The keys that are refused, for what they hold would be published and stored, and what to write instead.
INLINE_SECRETS = {"password": "password_file", "bearer_token": "bearer_token_file", "key": "key_file"}


def refused_inline(key: str) -> str | None:
    """What is said of a secret in the configuration itself; None where the key is no such."""
    instead = INLINE_SECRETS.get(key)
    if instead is None:
        return None
    return f'a secret does not stand in the configuration, which is published; write {instead} = "/path/of/a/file"'


def with_absolute_files(settings: dict[str, Any], absolute: Callable[[str], str]) -> dict[str, Any]:
    """The same values with every `*_file` made absolute."""
    return {
        key: absolute(value) if key.endswith("_file") and isinstance(value, str) else value
        for key, value in settings.items()
    }
