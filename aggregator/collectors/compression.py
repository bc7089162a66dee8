"""Unpacking an answer's body, never further than its limit."""

from __future__ import annotations

import zlib

from aggregator.collectors.http import too_large
from aggregator.errors import RejectedError

#: zlib's window size for a gzip header and trailer.
_GZIP_WINDOW_BITS = 31
#: A body may be several gzip members in a row; thousands of empty ones are an attack.
_MOST_MEMBERS = 100


def unpack(body: bytes, content_encoding: str, *, body_bytes: int) -> bytes:
    """The body as the target wrote it, of at most `body_bytes`.

    Raises RejectedError(`content_encoding`, `compression`, `truncated`, `body_too_large`).
    """
    encoding = content_encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise RejectedError("content_encoding", f"the target packs its answer as {encoding[:40]!r}; only gzip is read")
    try:
        return _gunzip(body, body_bytes)
    except zlib.error:
        raise RejectedError("compression", "the answer is said to be gzip, and is not") from None


def _gunzip(packed: bytes, body_bytes: int) -> bytes:
    unpacked = bytearray()
    for _ in range(_MOST_MEMBERS):
        member = zlib.decompressobj(_GZIP_WINDOW_BITS)
        unpacked += member.decompress(packed, body_bytes + 1 - len(unpacked))
        if len(unpacked) > body_bytes:
            raise too_large(body_bytes)
        if not member.eof:
            raise RejectedError("truncated", "the packed answer was cut off on its way")
        packed = member.unused_data
        if not packed:
            return bytes(unpacked)
    raise RejectedError("compression", f"the answer is made of more than {_MOST_MEMBERS} gzip members")
