"""What this process knows to be secret, so that it can be hidden by its value wherever text leaves the process."""

from __future__ import annotations

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

_known: dict[str, None] = {}
_changing = threading.Lock()


def remember_secrets(*values: str) -> None:
    """Hide these from now on, as they are and as they stand in a URL."""
    forms = [form for value in values for form in dict.fromkeys((value, quote(value, safe=""), quote(value)))]
    with _changing:
        for form in forms:
            if len(form) >= SHORTEST:
                _known.pop(form, None)
                _known[form] = None
        while len(_known) > MOST_KNOWN:
            del _known[next(iter(_known))]


def remember_url(url: str) -> None:
    """Hide the password of a URL from now on."""
    remember_secrets(*passwords_of(url))


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
    for secret in tuple(_known):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text
