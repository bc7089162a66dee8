"""What is sent to a target to prove who we are, and whom we trust: read from files anew for each collection."""

from __future__ import annotations

import base64
import os
import re
import ssl
import stat
from dataclasses import dataclass, field
from typing import Self

from aggregator.config.access_model import TlsSettings
from aggregator.config.source_model import PrometheusSource
from aggregator.errors import RejectedError
from aggregator.known_secrets import HIDDEN, SHORTEST, remember_secrets

#: A token is a few kilobytes, the bundle of a system's authorities 300; what is longer is another file.
LONGEST_SECRET_BYTES = 65_536
LONGEST_BUNDLE_BYTES = 4_000_000
REASON = "credentials"


@dataclass(frozen=True, eq=False)
class Access:
    """How the targets of one source are asked. `secrets` is what no message, and nothing that is kept, may hold."""

    authorization: str | None = field(default=None, repr=False)
    context: ssl.SSLContext | None = None
    server_name: str | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, source: PrometheusSource) -> Self:
        """What the source says, with its files read now. Raises RejectedError, with the file and the reason."""
        context = None if source.tls is None else _context(source.tls)
        server_name = None if source.tls is None else source.tls.server_name
        if source.basic_auth is not None:
            password = _secret(source.basic_auth.password_file)
            return cls(*_basic(source.basic_auth.username, password, context, server_name))
        if source.bearer_token_file is not None:
            token = _secret(source.bearer_token_file)
            if not token.isascii() or not token.isprintable() or " " in token:
                message = f"{source.bearer_token_file} holds no token: a token is one word of ASCII"
                raise RejectedError(REASON, message)
            remember_secrets(token)
            return cls(f"Bearer {token}", context, server_name, (token,))
        return cls(None, context, server_name)

    def with_user(self, user: str | None, password: str | None) -> Access:
        """The same with the user and password of an address, where the source says nothing of its own."""
        if self.authorization is not None or (user is None and password is None):
            return self
        return Access(*_basic(user or "", password or "", self.context, self.server_name))

    def hide(self, text: str) -> str:
        """The text without the secrets: a target may repeat in its answer what it was sent, in capitals or not."""
        for secret in self.secrets:
            text = re.sub(re.escape(secret), HIDDEN, text, flags=re.IGNORECASE)
        return text

    def hiding(self, error: RejectedError) -> RejectedError:
        """The same error without the secrets."""
        return RejectedError(error.reason, self.hide(str(error)))

    def refuse_echo(self, body: bytes) -> None:
        """Refuse an answer that repeats what was sent: as a label it would be stored for years.

        A password that is shorter than eight characters may stand in any answer, and is not looked for. Raises
        RejectedError.
        """
        sought = [secret for secret in self.secrets if len(secret) >= SHORTEST]
        escaped = [secret.replace("\\", r"\\").replace('"', r"\"") for secret in sought]
        if any(form.encode() in body for form in (*sought, *escaped)):
            raise RejectedError(
                "secret_echoed", "the answer repeats the credentials that it was asked with; nothing of it is kept"
            )


def _basic(
    user: str, password: str, context: ssl.SSLContext | None, server_name: str | None
) -> tuple[str, ssl.SSLContext | None, str | None, tuple[str, ...]]:
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    hidden = tuple(secret for secret in (encoded, password) if secret)
    remember_secrets(*hidden)
    return f"Basic {encoded}", context, server_name, hidden


def _secret(path: str) -> str:
    """The content of a file without the space around it, as Prometheus reads it."""
    try:
        secret = _read(path, LONGEST_SECRET_BYTES).decode().strip()
    except UnicodeDecodeError:
        raise RejectedError(REASON, f"{path} is not UTF-8; it holds something else than a secret") from None
    if not secret:
        raise RejectedError(REASON, f"{path} is empty; write the secret into it")
    return secret


def _read(path: str, longest_bytes: int) -> bytes:
    """A regular file of a sensible size: a pipe or a device would hold up the collection, or fill the memory."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise RejectedError(REASON, f"{path} is not a regular file")
            content = file.read(longest_bytes + 1)
    except (OSError, ValueError) as error:
        raise RejectedError(REASON, f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > longest_bytes:
        raise RejectedError(REASON, f"{path} is longer than {longest_bytes} bytes; it is another file than is wanted")
    return content


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; opening a pipe would wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _context(tls: TlsSettings) -> ssl.SSLContext:
    """Whom we trust, and our own certificate."""
    try:
        authorities = None if tls.ca_file is None else _authorities(tls.ca_file)
        context = ssl.create_default_context(cadata=authorities)
    except (ssl.SSLError, ValueError):
        raise RejectedError(REASON, f"{tls.ca_file} holds no certificate in PEM format") from None
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert_file is not None and tls.key_file is not None:
        _present(context, tls.cert_file, tls.key_file)
    return context


def _authorities(path: str) -> str:
    """The certificates of a file as text; what is around them in a bundle may be in any encoding."""
    text = _read(path, LONGEST_BUNDLE_BYTES).decode("ascii", "replace").replace("\ufffd", "?")
    if not text.strip():  # which would be taken for none, and the system's authorities be trusted
        raise RejectedError(REASON, f"{path} is empty; write the authority's certificate into it")
    return text


def _present(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    """Take a client certificate. OpenSSL says no file name, and would ask the terminal for a passphrase."""
    for path in (cert_file, key_file):
        _read(path, LONGEST_BUNDLE_BYTES)

    def refuse() -> str:
        raise RejectedError(REASON, f"{key_file} is encrypted; write the key without a passphrase")

    try:
        context.load_cert_chain(cert_file, key_file, password=refuse)
    except (OSError, ValueError) as error:
        said = getattr(error, "reason", None) or type(error).__name__
        message = f"{cert_file} and {key_file} are no certificate with its key: {said}"
        raise RejectedError(REASON, message) from None
