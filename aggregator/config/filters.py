"""`keep`, `drop` and `quantiles` as they are written: what could never match anything is a fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.config.contradiction import contradiction, covers
from aggregator.config.selector import Selector, parse_selector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aggregator.config.document import Document
    from aggregator.errors import Fault


def check_filters(document: Document) -> Iterator[Fault]:
    """Faults of these selectors in every source of the file, whether or not the rest of the source is right."""
    sources = document.table.get("sources")
    for index, source in enumerate(sources if isinstance(sources, list) else ()):
        if isinstance(source, dict):
            for path, message in _faults(source):
                field = "".join(f"[{part}]" if isinstance(part, int) else part for part in path)
                yield document.fault(
                    ("sources", index, *path), f'[[sources]] "{source.get("name", "")}": {field}', message
                )


def _faults(source: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    keep, drop = _selectors(source.get("keep")), _selectors(source.get("drop"))
    if source.get("keep") == []:
        yield ("keep",), "is empty, which would keep nothing; leave it out to keep everything"
    for name, selectors in (("keep", keep), ("quantiles", _selectors(source.get("quantiles")))):
        for index, selector in selectors.items():
            reason = contradiction(selector, _fixed_labels(source))
            if reason:
                yield (name, index), f"{source[name][index]!r} matches nothing: {reason}"
    if source.get("keep") and not keep:
        return  # what is not understood yet cannot be said to be dropped
    for index, selector in drop.items():
        if covers(selector, tuple(keep.values())):
            yield ("drop", index), f"{source['drop'][index]!r} drops all that is kept, so nothing is left; narrow it"


def _selectors(written: object) -> dict[int, Selector]:
    """The selectors that can be read, by their place; the others have been complained about."""
    selectors = {}
    for index, text in enumerate(written if isinstance(written, list) else ()):
        try:
            selectors[index] = parse_selector(text, anchored_name=True)
        except (TypeError, ValueError):
            continue
    return selectors


def _fixed_labels(source: Mapping[str, Any]) -> dict[str, str]:
    """Labels that every series of the source has: its name as job and its own, unless the target's may win."""
    if source.get("honor_labels"):
        return {}
    labels = source.get("labels")
    written = {"job": source.get("name")} | (labels if isinstance(labels, dict) else {})
    return {name: value for name, value in written.items() if isinstance(value, str)}
