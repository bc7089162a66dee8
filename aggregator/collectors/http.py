"""One HTTP exchange with a target, bounded in time and bytes; what may go wrong has a reason and a sentence."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import aiohttp
from yarl import URL

from aggregator import __version__
from aggregator.collectors.access import Access
from aggregator.config.duration import format_duration
from aggregator.errors import RejectedError

_ACCEPT = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
_OK = 200
_REDIRECTS = range(300, 400)
_MOST_CHARACTERS_SHOWN = 200
#: The first that fits is the reason; {cause} stands for the words of the operating system or of OpenSSL.
_EXPLANATIONS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, str], ...] = (
    (socket.gaierror, "dns", "the name {host} cannot be resolved; check the target's address and DNS"),
    ((aiohttp.ClientSSLError, ssl.SSLError), "tls", "no trusted TLS connection to {place}: {cause}"),
    (ConnectionRefusedError, "refused", "nothing listens on {place}; is the target running?"),
    (aiohttp.ClientPayloadError, "truncated", "the connection ended before the whole answer had come"),
    (aiohttp.InvalidURL, "address", "the target's address is not a valid URL; write http://host:port/path"),
    (aiohttp.ClientResponseError, "protocol", "what answers on {place} does not speak HTTP as it should"),
    (aiohttp.ServerDisconnectedError, "connection", "{place} closed the connection without an answer"),
    (Exception, "connection", "the connection to {place} failed: {cause}"),
)


@dataclass(frozen=True)
class Answer:
    """What a target sent: its body as it came over the wire, and the headers that say how to read it.

    `access` is how it was asked.
    """

    body: bytes
    content_type: str
    content_encoding: str
    access: Access


@asynccontextmanager
async def open_session() -> AsyncIterator[aiohttp.ClientSession]:
    """A session without proxies, cookies or limits of its own; every exchange has a connection of its own."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        auto_decompress=False,
        trust_env=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
    )
    async with session:
        yield session


async def fetch(
    session: aiohttp.ClientSession, address: str, *, deadline: timedelta, body_bytes: int, access: Access
) -> Answer:
    """Read a target's answer within `deadline` from now, whatever it does, and at most `body_bytes` of it.

    A user and password of the address are sent unless `access` has its own. Raises RejectedError with the reason
    `address`, `dns`, `refused`, `connection`, `tls`, `timeout`, `protocol`, `redirect`, `http_status`,
    `body_too_large` or `truncated`; no message holds what was sent as authorization.
    """
    url, access = _parsed(address, access)
    try:
        async with asyncio.timeout(deadline.total_seconds()):
            return await _exchange(session, url, access, deadline=deadline, body_bytes=body_bytes)
    except TimeoutError:
        raise RejectedError(
            "timeout",
            f"no complete answer within {format_duration(deadline)}; the target is slow or cut off: look there, or "
            "raise the source's timeout (and interval)",
        ) from None
    except RejectedError as error:
        raise access.hiding(error) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise access.hiding(explain(error, url)) from None


def _parsed(address: str, access: Access) -> tuple[URL, Access]:
    """The address without its user and password, which go where what is sent is."""
    try:
        url = URL(address)
        return url.with_user(None), access.with_user(url.user, url.password)
    except ValueError:
        raise RejectedError("address", "the target's address is not a valid URL; write http://host:port/path") from None


def _headers(access: Access, deadline: timedelta) -> dict[str, str]:
    headers = {
        "Accept": _ACCEPT,
        "Accept-Encoding": "gzip",
        "User-Agent": f"aggregator/{__version__}",
        "X-Prometheus-Scrape-Timeout-Seconds": f"{deadline.total_seconds():g}",
    }
    return headers if access.authorization is None else headers | {"Authorization": access.authorization}


async def _exchange(
    session: aiohttp.ClientSession, url: URL, access: Access, *, deadline: timedelta, body_bytes: int
) -> Answer:
    async with session.get(
        url,
        headers=_headers(access, deadline),
        allow_redirects=False,
        ssl=access.context or True,
        server_hostname=access.server_name,
    ) as response:
        _check_status(response, access)
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > body_bytes:
                raise too_large(body_bytes)
        content_type = response.headers.get("Content-Type", "")
        return Answer(bytes(body), content_type, response.headers.get("Content-Encoding", ""), access)


def _check_status(response: aiohttp.ClientResponse, access: Access) -> None:
    # What is shown is cut, so that the secrets are hidden before: a half of one would not be recognized.
    if response.status in _REDIRECTS:
        location = access.hide(response.headers.get("Location", ""))
        raise RejectedError("redirect", f"the target redirects{_where_to(location)}; redirects are not followed")
    if response.status != _OK:
        reason = access.hide(response.reason or "")[:_MOST_CHARACTERS_SHOWN]
        raise RejectedError("http_status", f"the target answered {response.status} {reason}".rstrip())


def _where_to(written: str) -> str:
    """Where a redirect leads, without what may be secret in it."""
    try:
        location = URL(written)
        shown = location.with_user(None).with_query(None).with_fragment(None) if location.absolute else location.path
    except ValueError:
        return ""
    return f" to {str(shown)[:_MOST_CHARACTERS_SHOWN]}: write the final address as the target" if str(shown) else ""


def too_large(body_bytes: int) -> RejectedError:
    """The refusal of a body that is longer than the source's limit."""
    return RejectedError(
        "body_too_large",
        f"the answer is longer than {body_bytes} bytes; raise limits.body_bytes of the source, or expose less",
    )


def explain(error: Exception, url: URL) -> RejectedError:
    """A reason and a sentence for an exchange that failed: from the kind of error, as its text may hold secrets."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    reason, sentence = next(
        (reason, sentence)
        for kinds, reason, sentence in _EXPLANATIONS
        if isinstance(error, kinds) or isinstance(cause, kinds)
    )
    return RejectedError(reason, sentence.format(host=url.host, place=f"{url.host}:{url.port}", cause=_cause(error)))


def _cause(error: Exception) -> str:
    """The operating system's or OpenSSL's words for an error, which hold no address."""
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    said = getattr(inner, "verify_message", None) or getattr(inner, "strerror", None) or type(inner).__name__
    return str(said)[:_MOST_CHARACTERS_SHOWN]
