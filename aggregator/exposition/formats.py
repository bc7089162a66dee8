"""Which format a body is in, by its Content-Type and never by guess."""

from __future__ import annotations

from enum import Enum

from aggregator.errors import RejectedError


class Format(Enum):
    """The two formats that are read."""

    TEXT = "text"
    OPENMETRICS = "openmetrics"


#: A missing header means the text format: the oldest exporters send none.
_FORMATS = {"": Format.TEXT, "text/plain": Format.TEXT, "application/openmetrics-text": Format.OPENMETRICS}
_MOST_CHARACTERS_SHOWN = 100


def choose_format(content_type: str) -> Format:
    """The format that a Content-Type header names; parameters (version, charset, escaping) decide nothing.

    Raises RejectedError(`content_type`).
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in _FORMATS:
        shown = media_type[:_MOST_CHARACTERS_SHOWN]
        raise RejectedError(
            "content_type",
            f"the target sends {shown!r}, which is no metrics format; point the target's address at its metrics page, "
            "which sends text/plain or application/openmetrics-text",
        )
    return _FORMATS[media_type]
