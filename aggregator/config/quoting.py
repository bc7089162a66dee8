"""Prometheus' quoted strings: read with their escapes, and written."""

from __future__ import annotations

import re

_QUOTED = re.compile(r"""(?s:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|`[^`]*`)""")
_ESCAPE = re.compile(
    r"\\(?:(?P<letter>[abfnrtv\\'\"])|x(?P<hex>[0-9a-fA-F]{2})|(?P<octal>[0-7]{3})"
    r"|u(?P<short>[0-9a-fA-F]{4})|U(?P<long>[0-9a-fA-F]{8})|(?P<unknown>.))",
    re.DOTALL,
)
_LETTERS = {"a": b"\a", "b": b"\b", "f": b"\f", "n": b"\n", "r": b"\r", "t": b"\t", "v": b"\v", "\\": b"\\"}


def quoted_at(text: str, position: int) -> re.Match[str] | None:
    """The quoted string that begins at `position`, with its quotes; None where it is not closed."""
    return _QUOTED.match(text, position)


def unquote(quoted: str) -> str:
    r"""What a string in "...", '...' or `...` stands for; a backtick's has no escapes.

    Raises ValueError that says what would be right for an escape that Prometheus does not know (`\.` is the usual one),
    a newline within plain quotes, or bytes that are not UTF-8.
    """
    quote, inner = quoted[0], quoted[1:-1]
    if quote == "`":
        return inner
    if "\n" in inner:
        raise ValueError("a newline cannot stand in a quoted string; write \\n")
    parts: list[bytes] = []
    position = 0
    for escape in _ESCAPE.finditer(inner):
        parts += (inner[position : escape.start()].encode(), _unescape(escape, quote))
        position = escape.end()
    parts.append(inner[position:].encode())
    try:
        return b"".join(parts).decode()
    except UnicodeDecodeError:
        raise ValueError("the escapes of a string give bytes that are not UTF-8") from None


def _unescape(escape: re.Match[str], quote: str) -> bytes:
    letter = escape["letter"]
    if letter in ("'", '"'):
        if letter != quote:
            raise ValueError(f"\\{letter} is needed only between {letter}...{letter}; write {letter}")
        return letter.encode()
    if letter:
        return _LETTERS[letter]
    if escape["hex"] or escape["octal"]:
        return _byte(int(escape["hex"] or escape["octal"], 16 if escape["hex"] else 8), escape[0])
    if escape["short"] or escape["long"]:
        return _code_point(int(escape["short"] or escape["long"], 16), escape[0])
    raise ValueError(f"{escape[0]} is no escape; write \\{escape[0]}, or put the string in `...`")


def _byte(value: int, text: str) -> bytes:
    if not 0 < value < 256:  # noqa: PLR2004 - a byte; NUL cannot be stored
        raise ValueError(f"{text} is no byte that a label can hold")
    return bytes([value])


def _code_point(value: int, text: str) -> bytes:
    try:
        return chr(value).encode() if value else _byte(0, text)
    except (ValueError, OverflowError, UnicodeEncodeError):
        raise ValueError(f"{text} is no character that a label can hold") from None


def quote_text(text: str) -> str:
    """The text in double quotes, on one line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
