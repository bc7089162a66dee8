"""TLS to the broker, as its URL says it: checked unless the URL says otherwise, which no library does by itself."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

#: As redis-py names them in a URL; the same words serve for RabbitMQ, whose URLs have none of their own.
_CERT_REQS = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
_AMQP_NAMES = {"ssl_ca_certs": "ca_certs", "ssl_certfile": "certfile", "ssl_keyfile": "keyfile"}
_PREFIX = "ssl_"


def checked(url: str) -> str:
    """A Redis URL that asks for a certificate which can be verified, unless it says `ssl_cert_reqs` itself.

    Celery takes any certificate for `rediss://` without a word (docs/pitfalls.md#broker-tls); other URLs are unchanged.
    """
    parts = urlsplit(url)
    if parts.scheme != "rediss" or "ssl_cert_reqs=" in parts.query:
        return url
    query = "&".join(filter(None, (parts.query, "ssl_cert_reqs=required")))
    return urlunsplit(parts._replace(query=query))


def amqp_tls(url: str) -> tuple[str, dict[str, Any] | None]:
    """The URL without its `ssl_` parameters, and what py-amqp calls `ssl`; None where the URL is not `amqps://`.

    The certificate must be of an authority of `ssl_ca_certs` (without it: of one that the system trusts) and of the
    host's name, unless `ssl_cert_reqs` or `ssl_check_hostname` says otherwise.
    """
    parts = urlsplit(url)
    if parts.scheme != "amqps":
        return url, None
    given = parse_qsl(parts.query)
    said = {name: value for name, value in given if name.startswith(_PREFIX)}
    rest = urlencode([(name, value) for name, value in given if name not in said])
    options: dict[str, Any] = {_AMQP_NAMES[name]: value for name, value in said.items() if name in _AMQP_NAMES}
    options["cert_reqs"] = _CERT_REQS[said.get("ssl_cert_reqs", "required")]
    if options["cert_reqs"] == ssl.CERT_REQUIRED and said.get("ssl_check_hostname", "true").lower() != "false":
        options["server_hostname"] = parts.hostname
    return urlunsplit(parts._replace(query=rest)), options


def fault_of(url: str) -> str | None:
    """What is wrong with a broker's or cache's URL; None where nothing is.

    A password with a slash in it ends the host too early, and libraries then show a part of it as the port.
    """
    if ";" in url:  # several servers: Celery reads them one by one
        is_tls = "amqps:" in url or "rediss:" in url
        return "names several servers with TLS, of which only one would be verified; name one" if is_tls else None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "has no host and port that can be read; write / : @ in a user or password as %2F %3A %40"
    if parts.scheme not in ("amqps", "rediss"):
        return None
    said = {name: value for name, value in parse_qsl(parts.query) if name.startswith(_PREFIX)}
    if parts.scheme == "amqps":
        known = (*_AMQP_NAMES, "ssl_cert_reqs", "ssl_check_hostname")
        unknown = next((name for name in said if name not in known), None)
        if unknown is not None:
            return f"has the parameter {unknown}, which there is not; known are {', '.join(known)}"
    requirement = said.get("ssl_cert_reqs", "required")
    if requirement not in _CERT_REQS:
        return f"has ssl_cert_reqs={requirement}; write required, optional or none"
    return None
