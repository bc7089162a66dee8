"""Which keys of Redis summaries have: a promise, for whoever reads them without this client."""

from __future__ import annotations

import re

#: As in the configuration: a key for any other name would only be litter.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def is_name(name: str) -> bool:
    """Whether a summary can have this name."""
    return _NAME.fullmatch(name) is not None


def summary_key(namespace: str, name: str) -> str:
    """Under which key a summary's document is kept."""
    return f"{namespace}:summary:{name}"


def names_key(namespace: str) -> str:
    """Under which key the set of all summaries' names is kept."""
    return f"{namespace}:summaries"


def wanted_key(namespace: str, name: str) -> str:
    """The mark that a reader wants a summary that has no value."""
    return f"{namespace}:wanted:{name}"
