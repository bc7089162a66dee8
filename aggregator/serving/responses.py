"""What web answers with: status, headers and body, with the headers that keep a browser safe."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from prometheus_client.exposition import gzip_accepted

#: The page is one document with its own style and nothing else: no script, no picture, no frame.
_DEFAULTS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)
NO_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"
#: Below this, compressing costs more than it saves.
LEAST_COMPRESSED_BYTES = 1_000


@dataclass(frozen=True)
class Response:
    """One answer, before it is fitted to what the client accepts."""

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    content_policy: str = NO_CONTENT_POLICY
    headers: tuple[tuple[str, str], ...] = field(default=())

    def encoded(self, accept_encoding: str) -> tuple[list[tuple[str, str]], bytes]:
        """Headers and body, compressed where the client accepts that."""
        body, own = self.body, {name for name, _ in self.headers}
        headers = [
            ("Content-Type", self.content_type),
            *(pair for pair in _DEFAULTS if pair[0] not in own),
            *self.headers,
        ]
        headers += [("Content-Security-Policy", self.content_policy), ("Vary", "Accept, Accept-Encoding")]
        if self.status is HTTPStatus.NOT_MODIFIED:
            return headers, b""
        if len(body) >= LEAST_COMPRESSED_BYTES and gzip_accepted(accept_encoding):
            body = gzip.compress(body, compresslevel=5)
            headers.append(("Content-Encoding", "gzip"))
        return [*headers, ("Content-Length", str(len(body)))], body


def text_response(text: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """A line of plain text."""
    return Response(status, f"{text}\n".encode())


def json_response(document: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:  # noqa: ANN401 - what JSON can hold
    """A JSON document; NaN and the infinities are not JSON and are refused."""
    body = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    return Response(status, body, "application/json")


def json_error(message: str, status: HTTPStatus) -> Response:
    """An error as the API tells it."""
    return json_response({"error": message}, status)
