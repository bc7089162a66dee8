"""What this process knows to be secret, so that it can be hidden by its value wherever text leaves the process."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

HIDDEN = "***"
#: A shorter one is left to whoever hides by name: `guest` or `admin` would be struck out of words that are no secret.
SHORTEST = 8
#: A secret that rotates daily must not let a process grow for months; the oldest is forgotten.
MOST_KNOWN = 256

#: Of URLs: few, and in use for as long as the process lives. The others are those of targets.
_of_urls: dict[str, None] = {}
_known: dict[str, None] = {}
_changing = threading.Lock()


def remember_secrets(*values: str) -> None:
    """Hide these from now on, as they are, as they stand in a URL, and as they stand in a line of a log."""
    _remember(_known, values)


def remember_url(url: str) -> None:
    """Hide the password of a URL from now on, for good."""
    _remember(_of_urls, tuple(passwords_of(url)))


def _remember(known: dict[str, None], values: tuple[str, ...]) -> None:
    with _changing:
        for form in (form for value in values for form in _forms(value)):
            if len(form) >= SHORTEST:
                known.pop(form, None)
                known[form] = None
        while len(known) > MOST_KNOWN:
            del known[next(iter(known))]


def _forms(value: str) -> Iterator[str]:
    """A value as it is, quoted for a URL, and escaped by JSON or by `repr`."""
    escaped = (json.dumps(value)[1:-1], repr(value)[1:-1])
    yield from dict.fromkeys((value, quote(value, safe=""), quote(value), *escaped))


def passwords_of(url: str) -> Iterator[str]:
    """The password of a URL, as it is written and as it is meant; also one that a query holds (`?password=`)."""
    try:
        parts = urlsplit(url)
        written = [parts.password or ""]
    except ValueError:
        return
    written += [value for key, _, value in (pair.partition("=") for pair in parts.query.split("&")) if "pass" in key]
    for password in written:
        if password:
            yield password
            yield unquote(password)


def hide_known(text: str) -> str:
    """The text with every known secret in it replaced."""
    for secret in (*_of_urls, *_known):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text
